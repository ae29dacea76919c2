"""Rows through the circuit in batches of bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.engines.torch.fused import downward, upward
from pyjuice_bridge.engines.torch.program import Params, Program
from pyjuice_bridge.engines.torch.values import Evidence, Workspace

_CPU_TILE_BYTES = 16 * 2**20
_EVALUATION_ROWS = 1024

logger = logging.getLogger(__name__)


def tensor_of(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """The array on the device in its own, narrow type (shared memory on the CPU)."""
    if array.dtype not in (np.uint8, np.int8, np.int16, np.int32, np.int64):
        array = array.astype(np.int32)
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def evidence_of(latents: Mapping[str, NDArray[Any]], program: Program) -> Evidence:
    """Latent evidence on the device: int64 states or float weights."""
    evidence = {}
    for name, values in latents.items():
        soft = np.issubdtype(np.asarray(values).dtype, np.floating)
        dtype = program.dtype if soft else torch.int64
        evidence[name] = torch.as_tensor(np.asarray(values), device=program.device).to(dtype)
    return evidence


def micro_batch(program: Program) -> int:
    """Rows that go through the circuit together.

    On a CPU the widest layer's tile stays near the cache's size; on a GPU the kept activations
    take at most half of what is free, to other programs or within PyTorch's own reserve.
    """
    if program.device.type == "cpu":
        return max(8, _CPU_TILE_BYTES // program.largest_tile)
    free, _ = torch.cuda.mem_get_info(program.device)
    free += torch.cuda.memory_reserved(program.device)
    free -= torch.cuda.memory_allocated(program.device)
    per_row = 3 * program.activation_bytes + 4 * program.largest_tile
    return max(1, free // 2 // per_row)


def evaluate(
    program: Program, params: Params, x: torch.Tensor, evidence: Evidence, workspace: Workspace
) -> torch.Tensor:
    """log p of every row: float64 [rows, roots] on the device."""
    step = min(micro_batch(program), _EVALUATION_ROWS)
    parts = []
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        picked = _rows_of(evidence, rows)
        up = upward(program, params, x[rows], picked, workspace)
        up.run()
        scores = up.log_likelihood()
        doubt = up.doubtful()
        if doubt is not None:
            again = _numbers_of(doubt)
            part = (x[rows][again], _rows_of(picked, again))
            scores[again] = evaluate(program.in_double, params, *part, workspace.in_double)
        parts.append(scores)
    if not parts:
        roots = sum(b.count for b in program.roots)
        return torch.zeros(0, roots, dtype=torch.float64, device=program.device)
    return torch.cat(parts)


def collect(
    program: Program,
    params: Params,
    counts: Params,
    x: torch.Tensor,
    weights: torch.Tensor,
    evidence: Evidence,
    workspace: Workspace,
) -> torch.Tensor:
    """Add the rows' flows to ``counts``; returns Σ weight·log p as a float64 scalar.

    Counts are sums over rows, so a batch may be cut anywhere: it is cut to ``micro_batch`` rows,
    and in halves again where a GPU runs out of memory in the upward pass.
    """
    step = min(micro_batch(program), len(x))
    total = torch.zeros((), dtype=torch.float64, device=program.device)
    start = 0
    while start < len(x):
        rows = slice(start, start + step)
        picked = _rows_of(evidence, rows)
        try:
            up = upward(program, params, x[rows], picked, workspace)
            up.run()
            down = downward(up, counts)
        except torch.cuda.OutOfMemoryError:
            if step == 1:
                raise
            step = max(1, step // 2)
            torch.cuda.empty_cache()
            logger.warning("Out of GPU memory: continuing with %d rows at a time.", step)
            continue
        weight = weights[rows]
        doubt = up.doubtful()
        if doubt is not None:
            again = _numbers_of(doubt)
            once = weight[again].double()
            once[int(doubt.sum()) :] = 0.0
            part = (x[rows][again], once, _rows_of(picked, again))
            total += collect(program.in_double, params, counts, *part, workspace.in_double)
            weight = weight.masked_fill(doubt[:, None], 0.0)
        scores = up.log_likelihood()
        total += torch.where(weight > 0, scores * weight, 0.0).sum()
        down.run(weight.masked_fill(scores.isneginf(), 0.0))
        start += step
    return total


def _numbers_of(chosen: torch.Tensor) -> torch.Tensor:
    """Which samples are chosen; the last one again until they are 8, 32, 128 ….

    What is kept for a batch size is then of use for the next batch.
    """
    found = chosen.nonzero()[:, 0]
    size = min(s for s in (8 * 4**i for i in range(32)) if s >= len(found))
    return torch.cat([found, found[-1:].expand(min(size, len(chosen)) - len(found))])


def _rows_of(evidence: Evidence, rows: slice | torch.Tensor) -> Evidence:
    return {name: values[rows] for name, values in evidence.items()}
