"""Jobs of sum layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pyjuice_bridge.engines.torch.fused import sums
from pyjuice_bridge.engines.torch.fused.threads import Job, Kernel, address
from pyjuice_bridge.engines.torch.fused.work import Work
from pyjuice_bridge.engines.torch.program import Params, SumPlan

_NARROWEST = 64
"""Rows or columns of a part of a matrix product."""


@dataclass
class SumJobs:
    """A sum layer that is a matrix product, group by group.

    Attributes:
        values: of the children, [groups, rows, width_in].
        weights: [groups, width_out, width_in].
        edge_values: of every edge, [groups, rows, width_out]; the tile, where blocks have one edge.
        tile: [blocks, batch, width].
        single: one edge per block.
        mix, spread: see ``sums``; ``spread`` is for several edges per block.
        down: buffer for flow / value of the children, shaped as ``values``; None where the
            downward pass is no kernel's.
        upward, downward, counting: the matrix products into ``edge_values``, ``down`` and the
            counts; None where PyTorch makes them.
    """

    source: int
    values: torch.Tensor
    weights: torch.Tensor
    edge_values: torch.Tensor
    tile: torch.Tensor
    single: bool
    mix: Job
    spread: Job | None
    down: torch.Tensor | None
    upward: Job | None = None
    downward: Job | None = None
    counting: Job | None = None


def sum_jobs(work: Work, layer: int) -> SumJobs:
    """Return what a sum layer takes; ``counting`` waits for :func:`count_job`."""
    program, buffers = work.program, work.buffers
    plan, weights = program.layers[layer], buffers.params[program.owners[layer]]
    assert isinstance(plan, SumPlan) and weights is not None
    source = plan.sources[0]
    values, edge_values = buffers.tiles[source.layer][source.index], work.edge_values[layer]
    factors = torch.empty(0 if plan.direct else source.count, work.batch)
    ratio_targets = source.layer in work.layout.ratio_targets
    step = SumJobs(
        source.layer,
        _by_group(values, weights),
        weights,
        _by_group(edge_values, weights),
        buffers.tiles[layer],
        plan.direct,
        _mix_job(work, layer, plan, factors, sums.mix),
        None if plan.direct else _mix_job(work, layer, plan, factors, sums.spread),
        _by_group(buffers.flows[source.layer], weights) if ratio_targets else None,
    )
    if work.gemm:
        step.upward = _product_of(work, (step.values, False), (weights, True), step.edge_values)
        if step.down is not None:
            step.downward = _product_of(
                work, (step.edge_values, False), (weights, False), step.down
            )
    return step


def count_job(work: Work, layer: int, step: SumJobs, counts: Params) -> Job | None:
    """Return the job that adds to a layer's counts; None if there are none, or PyTorch does it."""
    count = counts[work.program.owners[layer]]
    if not work.gemm or count is None:
        return None
    return _product_of(work, (step.edge_values, True), (step.values, False), count, add=True)


def _mix_job(work: Work, layer: int, plan: SumPlan, factors: torch.Tensor, code: Kernel) -> Job:
    buffers = work.buffers
    offsets = np.searchsorted(plan.block_of_edge.numpy(), np.arange(plan.num_blocks + 1))
    scales, errors = (buffers.rows_of(layer, t) for t in (buffers.scales, buffers.errors))
    cut, above = work.cut(layer), buffers.flags_of(layer)
    return Job(
        code,
        sums.MIX,
        cut.tasks,
        keep=(offsets, scales, errors, factors, above),
        blocks=plan.num_blocks,
        batch=work.batch,
        width=plan.width,
        chunk=cut.samples,
        single=plan.direct,
        above=address(above),
        num_above=len(above),
        faint=buffers.flag(buffers.faint, work.program.owners[layer]),
        lost=buffers.flag(buffers.lost, layer),
        offsets=address(offsets),
        edge_values=address(work.edge_values[layer]),
        factors=address(factors),
        scales=address(scales),
        errors=address(errors),
        tile=address(buffers.tiles[layer]),
        scale=address(buffers.scales[layer]),
        error=address(buffers.errors[layer]),
        limit=work.limit,
        floor=work.floor(plan),
    )


def _product_of(
    work: Work,
    a: tuple[torch.Tensor, bool],
    b: tuple[torch.Tensor, bool],
    out: torch.Tensor,
    add: bool = False,
) -> Job:
    """``out`` (+)= a·b for matrices of groups, of which each may be transposed.

    The longer side of ``out`` is cut so that all threads have work.
    """
    (first, turn_a), (second, turn_b) = a, b
    groups, rows, columns = out.shape
    parts = -(-work.enough // groups)
    row_step, column_step = rows, columns
    if rows >= columns:
        row_step = max(_NARROWEST, -(-rows // parts))
    else:
        column_step = max(_NARROWEST, -(-columns // parts))
    return Job(
        sums.multiply,
        sums.MULTIPLY,
        groups * -(-rows // row_step) * -(-columns // column_step),
        groups=groups,
        rows=rows,
        columns=columns,
        inner=first.shape[1 if turn_a else 2],
        row_step=row_step,
        column_step=column_step,
        gemm=work.gemm,
        turn_a=turn_a,
        turn_b=turn_b,
        add=add,
        a=address(first),
        step_a=first.shape[2],
        b=address(second),
        step_b=second.shape[2],
        c=address(out),
    )


def _by_group(tile: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return tile.view(len(weights), -1, tile.shape[2])
