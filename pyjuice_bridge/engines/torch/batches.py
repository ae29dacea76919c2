"""Rows through the circuit in batches of bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.engines.torch.candidates import Notes
from pyjuice_bridge.engines.torch.fused import Step, Trees, cut_of, downward, upward
from pyjuice_bridge.engines.torch.fused.banks import rows_at_once
from pyjuice_bridge.engines.torch.fused.trees import Cut
from pyjuice_bridge.engines.torch.program import Params, Program
from pyjuice_bridge.engines.torch.recording import Results
from pyjuice_bridge.engines.torch.values import Evidence, Workspace
from pyjuice_bridge.errors import UserError

_CPU_TILE_BYTES = 16 * 2**20
_TREES_PER_TILE = 8
"""Above trees, tiles may be so many times as large: cutting a batch costs reading all tables again,
and an M-step can only be taken while counting where a batch is whole."""
EVALUATION_ROWS = 1024

logger = logging.getLogger(__name__)


def tensor_of(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """Return the array on the device in its own, narrow type (shared memory on the CPU)."""
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


def micro_batch(program: Program, cut: Cut | None = None) -> int:
    """Rows that go through the circuit together, those of ``cut`` depth first.

    On a CPU the widest layer's tile stays near the cache's size; on a GPU the kept activations
    take at most half of what is free, to other programs or within PyTorch's own reserve.
    """
    if cut is not None:
        return min(_TREES_PER_TILE * micro_batch(cut.rest), rows_at_once(cut))
    if program.device.type == "cpu":
        return max(8, _CPU_TILE_BYTES // program.largest_tile)
    free, _ = torch.cuda.mem_get_info(program.device)
    free += torch.cuda.memory_reserved(program.device)
    free -= torch.cuda.memory_allocated(program.device)
    per_row = 3 * program.activation_bytes + 8 * program.largest_tile
    return max(1, free // 2 // per_row)


def evaluate(
    program: Program, params: Params, x: torch.Tensor, evidence: Evidence, workspace: Workspace
) -> torch.Tensor:
    """log p of every row: float64 [rows, roots] on the device."""
    step = min(_rows_at_once(program, workspace, evidence), EVALUATION_ROWS)
    parts = []
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        picked = _rows_of(evidence, rows)
        key = ("scores", *picked, *_places(params))
        inputs = (x[rows], *picked.values())
        work = partial(_scores, program, params, workspace, tuple(picked))
        scores, doubt = workspace.recordings.run(key, work, inputs)
        assert scores is not None
        if doubt is not None and bool(doubt.any()):
            again = _numbers_of(doubt)
            part = (x[rows][again], _rows_of(picked, again))
            scores[again] = evaluate(program.in_double, params, *part, workspace.in_double)
        parts.append(scores)
    if not parts:
        roots = sum(b.count for b in program.roots)
        return torch.zeros(0, roots, dtype=torch.float64, device=program.device)
    return torch.cat(parts)


def _scores(
    program: Program,
    params: Params,
    workspace: Workspace,
    names: tuple[str, ...],
    x: torch.Tensor,
    *given: torch.Tensor,
) -> Results:
    """log p of some rows, and which of them are doubtful."""
    up = upward(program, params, x, dict(zip(names, given, strict=True)), workspace)
    up.run()
    return up.log_likelihood(), up.doubtful()


def collect(
    program: Program,
    params: Params,
    counts: Params,
    x: torch.Tensor,
    weights: torch.Tensor,
    evidence: Evidence,
    workspace: Workspace,
    step: Step | None = None,
    notes: Notes | None = None,
) -> torch.Tensor:
    """Add the rows' flows to ``counts``; returns Σ weight·log p as a float64 scalar.

    If these are all rows of a ``step``, it is taken where that is cheapest while counting; what is
    left of it is up to the caller.  ``notes`` are taken of where the flow of the rows goes.

    Counts are sums over rows, so a batch may be cut anywhere: it is cut to ``micro_batch`` rows,
    and in halves again where a GPU runs out of memory in the upward pass.

    Raises:
        UserError: a GPU ran out of memory in the downward pass.
    """
    total = torch.zeros((), dtype=torch.float64, device=program.device)
    start = 0
    while start < len(x):
        size = min(_rows_at_once(program, workspace, evidence), len(x))
        rows = slice(start, start + size)
        picked = _rows_of(evidence, rows)
        key = ("counts", *picked, *_places(params), *_places(counts))
        inputs = (x[rows], weights[rows], *picked.values())
        its_step = step if size == len(x) else None
        its_notes = None if notes is None else notes.part(rows)
        work = partial(
            _counted, program, params, counts, workspace, its_step, its_notes, tuple(picked)
        )
        try:
            scored, doubt = workspace.recordings.run(key, work, inputs)
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            workspace.rows_at_once = dict.fromkeys(workspace.rows_at_once, max(1, size // 2))
            torch.cuda.empty_cache()
            logger.warning(
                "Out of GPU memory: continuing with %d rows at a time.", max(1, size // 2)
            )
            continue
        assert scored is not None
        total += scored
        if doubt is not None and bool(doubt.any()):
            again = _numbers_of(doubt)
            once = weights[rows][again].double()
            once[int(doubt.sum()) :] = 0.0
            part = (x[rows][again], once, _rows_of(picked, again))
            its_notes = None if its_notes is None else its_notes.part(again)
            double = program.in_double, params, counts, *part, workspace.in_double
            total += collect(*double, notes=its_notes)
        start += size
    return total


def _counted(
    program: Program,
    params: Params,
    counts: Params,
    workspace: Workspace,
    step: Step | None,
    notes: Notes | None,
    names: tuple[str, ...],
    x: torch.Tensor,
    weight: torch.Tensor,
    *given: torch.Tensor,
) -> Results:
    """Count some rows, except doubtful ones: Σ weight·log p, and which are doubtful."""
    up = upward(program, params, x, dict(zip(names, given, strict=True)), workspace)
    if isinstance(up, Trees) and up.alone:
        scores = up.run_and_count(weight, counts, step)
        return torch.where(weight > 0, scores * weight, 0.0).sum(), None
    up.run()
    down = downward(up, counts)
    scores, doubt = up.log_likelihood(), up.doubtful()
    if doubt is not None:
        weight = weight.masked_fill(doubt[:, None], 0.0)
    total = torch.where(weight > 0, scores * weight, 0.0).sum()
    try:
        down.run(weight.masked_fill(scores.isneginf(), 0.0))
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(
            "The GPU ran out of memory after part of a batch was counted; set a smaller batch_size."
        ) from error
    if isinstance(up, Trees):
        if notes is not None:
            notes.take(down.flows)
        up.count(down, step if doubt is None or not bool(doubt.any()) else None)
    return total, doubt


def _rows_at_once(program: Program, workspace: Workspace, evidence: Evidence) -> int:
    """``micro_batch``, asked once: what is free on a GPU changes, and each size is a recording."""
    cut = cut_of(program, evidence)
    known = workspace.rows_at_once
    if (cut is None) not in known:
        known[cut is None] = micro_batch(program, cut)
    return known[cut is None]


def _places(tensors: Params) -> tuple[int, ...]:
    return tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)


def _numbers_of(chosen: torch.Tensor) -> torch.Tensor:
    """Which samples are chosen; the last one again until they are 8, 32, 128 ….

    What is kept for a batch size is then of use for the next batch.
    """
    found = chosen.nonzero()[:, 0]
    size = min(s for s in (8 * 4**i for i in range(32)) if s >= len(found))
    return torch.cat([found, found[-1:].expand(min(size, len(chosen)) - len(found))])


def _rows_of(evidence: Evidence, rows: slice | torch.Tensor) -> Evidence:
    return {name: values[rows] for name, values in evidence.items()}
