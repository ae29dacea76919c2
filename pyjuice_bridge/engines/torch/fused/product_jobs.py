"""Jobs of product layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyjuice_bridge.engines.torch.fused import flows, products
from pyjuice_bridge.engines.torch.fused.threads import Job, Kernel, address
from pyjuice_bridge.engines.torch.fused.upward import UP
from pyjuice_bridge.engines.torch.fused.work import Work
from pyjuice_bridge.engines.torch.program import Params, ProductPlan, SumPlan

_UPWARD = {
    "hadamard": products.hadamard_up,
    "concat": products.concat_up,
    "kronecker": products.kronecker_up,
}


def up_job(work: Work, layer: int) -> Job:
    """Return the job of a product layer upward, with the sums above where these are joined."""
    plan, buffers = work.program.layers[layer], work.buffers
    assert isinstance(plan, ProductPlan)
    sources = buffers.sources(layer, buffers.params, buffers.tiles)
    scales, errors = (buffers.rows_of(layer, t) for t in (buffers.scales, buffers.errors))
    above, variables = buffers.flags_of(layer), work.layout.variables[layer]
    more, kept = _sums_up(work, layer) if layer in work.joined_up else ({}, None)
    return Job(
        _UPWARD[plan.kind],
        UP,
        work.cut(layer).tasks,
        keep=(sources, variables, scales, errors, above, kept),
        sources=address(sources),
        variables=address(variables),
        scales=address(scales),
        errors=address(errors),
        above=address(above),
        num_above=len(above),
        scale=address(buffers.scales[layer]),
        error=address(buffers.errors[layer]),
        lost=buffers.flag(buffers.lost, layer),
        **_shared(work, layer, plan),
        **more,
    )


def down_job(work: Work, layer: int, counts: Params) -> Job:
    """Return the job of a product layer downward, from its flow."""
    one = work.layout.sets[layer].keys is None or work.sets(layer) >= work.enough
    parts = 1 if one else -(-work.enough // work.sets(layer))
    return _down(flows.product_down, work, layer, counts, parts)


def joined_down_job(work: Work, layer: int, counts: Params) -> Job:
    """Return the job of a product layer downward, with the sums above."""
    above, buffers = work.layout.above[layer], work.buffers
    weights, counted = (buffers.weights_of(above, held) for held in (buffers.params, counts))
    turns = np.zeros(work.sets(layer), np.int64)
    samples = work.cut(layer).samples
    return _down(
        flows.joined_down,
        work,
        layer,
        counts,
        -(-work.batch // samples),
        keep=(weights, counted, turns),
        gemm=work.gemm,
        weights=address(weights),
        sum_counts=address(counted),
        ratios=address(work.edge_values[above]),
        sum_width=work.program.widths[above],
        turns=address(turns),
    )


def _down(
    code: Kernel,
    work: Work,
    layer: int,
    counts: Params,
    parts: int,
    keep: tuple[object, ...] = (),
    **more: int,
) -> Job:
    plan, sets, buffers = work.program.layers[layer], work.layout.sets[layer], work.buffers
    assert isinstance(plan, ProductPlan)
    targets = buffers.sources(layer, counts, buffers.tiles | buffers.flows)
    variables = work.layout.variables[layer]
    return Job(
        code,
        flows.DOWN,
        work.sets(layer) * parts,
        keep=(targets, variables, *keep),
        kind=flows.KINDS.index(plan.kind),
        sets=work.sets(layer),
        parts=parts,
        set_offsets=address(sets.offsets),
        set_blocks=address(sets.blocks),
        keys=address(sets.keys),
        targets=address(targets),
        variables=address(variables),
        **_shared(work, layer, plan),
        **more,
    )


def _shared(work: Work, layer: int, plan: ProductPlan) -> dict[str, Any]:
    """Return the fields that the frames of both passes have."""
    return {
        "blocks": plan.num_blocks,
        "batch": work.batch,
        "width": plan.width,
        "chunk": work.cut(layer).samples,
        "offsets": address(plan.edges.offsets),
        "widths": address(work.layout.widths[layer]),
        "rows": address(work.buffers.rows),
        "tile": address(work.buffers.tiles[layer]),
    }


def _sums_up(work: Work, layer: int) -> tuple[dict[str, Any], object]:
    """Return the fields for the sums above, and what they point to."""
    above, buffers = work.layout.above[layer], work.buffers
    plan, weights = work.program.layers[above], buffers.weights_of(above, buffers.params)
    assert isinstance(plan, SumPlan)
    found = {
        "gemm": work.gemm,
        "weights": address(weights),
        "sums": address(work.edge_values[above]),
        "sum_width": plan.width,
        "faint": buffers.flag(buffers.faint, work.program.owners[above]),
        "limit": work.limit,
        "floor": work.floor(plan),
    }
    if plan.direct:
        found["sum_error"] = address(buffers.errors[above])
        found["sum_lost"] = buffers.flag(buffers.lost, above)
    return found, weights
