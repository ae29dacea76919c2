"""The downward pass: flows, and the expected counts they add up to.

The flow of a node is ∂ log p / ∂ log (its value); of an edge, θ·∂ log p/∂θ (the definition
of expected counts).  A sum layer's counts are collected without their factor θ, which is the same
for a whole pass: ``finish_counts`` multiplies it in once.
"""

from __future__ import annotations

import torch

from pyjuice_bridge.engines.torch.forward import Upward, by_group
from pyjuice_bridge.engines.torch.precision import add_bmm, bmm
from pyjuice_bridge.engines.torch.program import (
    Blocks,
    GivenPlan,
    Index,
    InputPlan,
    Params,
    ProductPlan,
    Program,
    SumPlan,
)

LARGEST_RATIO = 1e38
"""Counts without their factor θ stay in the range of float32: one of θ = 1e-36 is cut at 100."""


def new_counts(program: Program, params: Params, frozen: tuple[int, ...] = ()) -> Params:
    """Zeroed count buffers shaped like the parameters; None for products and frozen layers."""
    return [None if p is None or i in frozen else torch.zeros_like(p) for i, p in enumerate(params)]


def add_limited(count: torch.Tensor, more: torch.Tensor) -> None:
    """Add float64 counts without their factor θ to float32 ones, in place, and stay in range."""
    count += more.clamp_(max=LARGEST_RATIO)
    count.clamp_(max=LARGEST_RATIO)


def by_weight(count: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Multiply counts by their factor θ, in place; where θ is zero nothing is counted."""
    return count.clamp_(max=LARGEST_RATIO).mul_(theta)


def finish_counts(program: Program, params: Params, counts: Params) -> Params:
    """Turn collected counts into expected counts, in place."""
    for plan, theta, count in zip(program.layers, params, counts, strict=True):
        if isinstance(plan, SumPlan) and count is not None:
            assert theta is not None
            by_weight(count, theta)
        elif count is not None:
            count[:, 0] = 0.0
    return counts


def spread_missing(program: Program, params: Params, counts: Params) -> None:
    """Expect the missing values too: the flow of a missing value counts θ for each category."""
    for plan, theta, count in zip(program.layers, params, counts, strict=True):
        if isinstance(plan, InputPlan) and count is not None:
            assert theta is not None
            count[:, 1:].addcmul_(count[:, :1], theta[:, 1:])


class Downward:
    """One downward pass after ``up``; adds to ``counts`` in place.

    Args:
        up: a finished upward pass.
        counts: buffers from ``new_counts``.
        keep: layers whose flows [blocks, batch, width] stay in ``flows``.
    """

    def __init__(self, up: Upward, counts: Params, keep: tuple[int, ...] = ()) -> None:
        self.up, self.counts, self.keep = up, counts, keep
        self.flows: dict[int, torch.Tensor] = {}
        self._owned: set[int] = set()

    def run(self, weights: torch.Tensor) -> None:
        """``weights`` is [batch, roots], the flow that enters each root."""
        program = self.up.program
        start = 0
        for blocks in program.roots:
            rows = weights[:, start : start + blocks.count].t()
            self._push(blocks, rows.to(program.dtype)[..., None].contiguous())
            start += blocks.count
        for layer in reversed(range(len(program.layers))):
            plan = program.layers[layer]
            if layer not in self.flows or isinstance(plan, (InputPlan, GivenPlan)):
                continue
            flow = self.flows[layer] if layer in self.keep else self.flows.pop(layer)
            if isinstance(plan, SumPlan):
                self._sum(layer, plan, flow)
            elif isinstance(plan, ProductPlan):
                self._product(layer, plan, flow)

    def _product(self, layer: int, plan: ProductPlan, flow: torch.Tensor) -> None:
        if plan.kind != "hadamard":
            self._gathered_product(plan, flow)
            return
        for children, parents in plan.hand_down:
            self._push(children, _rows(flow, parents))

    def _sum(self, layer: int, plan: SumPlan, flow: torch.Tensor) -> None:
        program, weights = self.up.program, self.up.weights(layer)
        count = self.counts[program.owners[layer]]
        ratio = self._ratio(layer, flow)
        values = self.up.edges(plan).value
        if len(values) != plan.num_blocks:
            ratio = ratio.index_select(0, plan.block_of_edge)
        if plan.groups is None:
            ratio, inner = by_group(ratio, weights), by_group(values, weights)
            if count is not None and count.dtype == ratio.dtype:
                add_bmm(program, count, ratio.transpose(1, 2), inner)
            elif count is not None:
                add_limited(count, bmm(program, ratio.transpose(1, 2), inner))
            down = bmm(program, ratio, weights).view_as(values)
        else:
            if count is not None:
                more = bmm(program, ratio.transpose(1, 2), values).clamp_(max=LARGEST_RATIO)
                count.index_add_(0, plan.groups, more.to(count.dtype))
                count.clamp_(max=LARGEST_RATIO)
            down = bmm(program, ratio, weights.index_select(0, plan.groups))
        down.mul_(values)
        self._split(plan.sources, down)

    def _ratio(self, layer: int, flow: torch.Tensor) -> torch.Tensor:
        """Flow / value of a sum layer."""
        ratio = flow / self.up.act.tiles[layer].clamp_min_(self.up.tiny)
        mask = self.up.evidence_on(layer)
        return ratio if mask is None else ratio.mul_(mask)

    def _gathered_product(self, plan: ProductPlan, flow: torch.Tensor) -> None:
        widths = [self.up.program.widths[slot[0].layer] for slot in plan.slots]
        if plan.kind == "kronecker":
            grid = flow.unflatten(2, widths)
            parts = [grid.sum(3), grid.sum(2)]
        else:
            parts = [part.contiguous() for part in flow.split(widths, 2)]
        for slot, part in zip(plan.slots, parts, strict=True):
            self._split(slot, part)

    def _split(self, sources: tuple[Blocks, ...], flow: torch.Tensor) -> None:
        sizes = [b.count for b in sources]
        for blocks, part in zip(sources, flow.split(sizes), strict=True):
            self._push(blocks, part)

    def _push(self, blocks: Blocks, flow: torch.Tensor) -> None:
        """Add flow to blocks; flow into an input layer is counted at once."""
        layer = blocks.layer
        if isinstance(self.up.program.layers[layer], InputPlan):
            self._count_inputs(blocks, flow)
            if layer not in self.keep:
                return
        if layer not in self.flows:
            if blocks.whole:
                self.flows[layer] = flow
                return
            shape = (self.up.program.sizes[layer], *flow.shape[1:])
            self.flows[layer] = flow.new_zeros(shape)
            self._owned.add(layer)
        elif layer not in self._owned:
            self.flows[layer] = self.flows[layer].clone()
            self._owned.add(layer)
        if isinstance(blocks.index, slice):
            self.flows[layer][blocks.index] += flow
        else:
            self.flows[layer].index_add_(0, blocks.index, flow)

    def _count_inputs(self, blocks: Blocks, flow: torch.Tensor) -> None:
        count = self.counts[blocks.layer]
        if count is None:
            return
        rows = _rows(self.up.act.rows[blocks.layer], blocks.index).reshape(-1)
        width = count.shape[2]
        count.view(-1, width).index_add_(0, rows, flow.reshape(-1, width).to(count.dtype))


def _rows(tile: torch.Tensor, index: Index) -> torch.Tensor:
    return tile[index] if isinstance(index, slice) else tile.index_select(0, index)
