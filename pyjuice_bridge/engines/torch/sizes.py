"""How much memory a training takes, read off the compiled circuit without its numbers."""

from __future__ import annotations

import torch

from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.engines.torch.batches import EVALUATION_ROWS, micro_batch
from pyjuice_bridge.engines.torch.compile import compile_circuit
from pyjuice_bridge.engines.torch.fused.banks import bytes_per_row, packed_bytes
from pyjuice_bridge.engines.torch.fused.layout import layout
from pyjuice_bridge.engines.torch.program import InputPlan, Program, SumPlan

_SIZES = 2
"""Batch sizes of training, and of scoring: a whole batch, and what is left at the end."""
_COPIES = 4
"""The circuit, its parameters on the device, the best so far, and counts or the result."""
_ANEMONE = 3
"""Momentum, the same corrected, and the counts of a row with every value missing."""


def training_bytes(
    circuit: Circuit,
    options: FitOptions,
    rows: int,
    valid: int,
    device: torch.device,
    dtype: torch.dtype,
) -> int:
    """Return the bytes that ``TorchEngine.fit`` takes at most, without the rows themselves.

    On a GPU, which takes what is free, activations are those of a whole batch, in its memory.

    Args:
        circuit: may be a structure without numbers.
        options: of the training.
        rows: training rows.
        valid: validation rows.
        device: of the engine.
        dtype: of parameters and values.
    """
    program = compile_circuit(circuit, torch.device("cpu"), dtype)
    copies = _COPIES + (_ANEMONE if options.optimizer == "anemone" else 0)
    batch = rows if options.optimizer == "full_em" else min(options.batch_size, rows)
    found = copies * circuit.num_parameters * dtype.itemsize
    if device.type != "cpu":
        return found + batch * (3 * program.activation_bytes + 8 * program.largest_tile)
    most = micro_batch(program, program.cut)
    sizes = min(batch, most), min(valid, EVALUATION_ROWS, most)
    rest = program if program.cut is None else program.cut.rest
    found += max(sizes) * _tile_bytes(rest)
    found += _SIZES * sum(sizes) * _sample_bytes(rest)
    if program.cut is not None:
        found += _SIZES * sum(sizes) * bytes_per_row(program.cut)
        found += packed_bytes(program.cut, torch.get_num_threads())
    return found


def _tile_bytes(program: Program) -> int:
    """Return the bytes of a sample in buffers that all batch sizes share: values and flows."""
    places = layout(program).places
    widest = dict.fromkeys(places.values(), 0)
    for layer, place in places.items():
        widest[place] = max(widest[place], program.tile_entries[layer])
    edges = [
        len(plan.block_of_edge) * plan.width
        for plan in program.layers
        if isinstance(plan, SumPlan) and not plan.direct
    ]
    values = sum(program.tile_entries) + sum(widest.values()) + max(edges, default=0)
    return values * program.dtype.itemsize


def _sample_bytes(program: Program) -> int:
    """Return the bytes of a sample in what each batch size has: scales, error bounds, rows."""
    blocks = 0
    for plan, size, values in zip(program.layers, program.sizes, program.tile_entries, strict=True):
        if values:
            blocks += size if isinstance(plan, SumPlan) and plan.direct else 2 * size
    inputs = any(isinstance(plan, InputPlan) for plan in program.layers)
    return 8 * blocks + 4 * program.num_vars * (2 if inputs else 1)
