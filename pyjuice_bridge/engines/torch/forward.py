"""The upward pass: log-likelihoods, and the activations a downward pass needs.

Scaled arithmetic: a tile holds linear values and each (block, sample) one log-scale, so the sum
path is a matrix product with no exponential or logarithm per element.  Two things can go wrong,
and each is caught:

- A product of many small factors underflows.  Factors are at most one, so what underflows is truly
  below the smallest normal number and matters only where the whole tile is tiny.  Tiles whose
  maximum falls below the cube root of that number are recomputed from logarithms (``_rescue``).
- A value that is negligible in its own tile is dropped, and a later factor would have raised it.
  ``Activations.errors`` bounds what was dropped relative to each tile's scale; it stays absent
  while nothing may have been.  ``doubtful`` names the samples whose bound at a root
  exceeds 1e-5, and callers take those again in float64.
"""

from __future__ import annotations

import torch

from pyjuice_bridge.engines.torch.precision import bmm
from pyjuice_bridge.engines.torch.program import (
    AbsentPlan,
    Blocks,
    Factor,
    GivenPlan,
    InputPlan,
    ProductPlan,
    SumPlan,
)
from pyjuice_bridge.engines.torch.underflow import (
    ProductLoss,
    add_at,
    finite,
    raised,
    shifted,
    smallest,
    together,
)
from pyjuice_bridge.engines.torch.values import Activations, Gathered, Values, table


class Upward(Values):
    """One upward pass over one batch."""

    def run(self) -> Activations:
        for layer, plan in enumerate(self.program.layers):
            if isinstance(plan, InputPlan):
                rows = self.shifted.index_select(0, plan.variables)
                self.act.rows[layer] = rows.add_(plan.offsets)
            elif isinstance(plan, SumPlan):
                self._sum(layer, plan)
            elif isinstance(plan, GivenPlan):
                self._given(layer)
            elif isinstance(plan, AbsentPlan):
                continue
            elif plan.kind == "hadamard":
                self._hadamard(layer, plan)
            else:
                self._gathered_product(layer, plan)
        return self.act

    def _given(self, layer: int) -> None:
        """Take over the roots of trees, which are evaluated elsewhere (``fused.passes.Trees``)."""
        raise NotImplementedError

    def _add_error(
        self,
        layer: int,
        inherited: torch.Tensor | None,
        low: torch.Tensor,
        loss: torch.Tensor | float,
    ) -> None:
        """Record what the tile's children lost, and its own ``loss`` where ``low`` says so."""
        if bool(low.any()):
            own = low.double() * loss
            inherited = own if inherited is None else inherited + own
        if inherited is not None:
            self.act.errors[layer] = inherited

    def _hadamard(self, layer: int, plan: ProductPlan) -> None:
        tile = self.workspace.tile(self.program, layer, self.act.batch)
        scale, loss = self._multiply_factors(plan, tile)
        mask = self.evidence_on(layer)
        if mask is not None:
            tile.mul_(mask)
        divisor, log_top = self._normalise(tile, plan, mask)
        inherited = None if loss is None else loss.relative_to(log_top)
        low = smallest(tile, mask) * divisor < self.tiny
        self._add_error(layer, inherited, low, self.tiny / divisor.double())
        self.act.tiles[layer], self.act.scales[layer] = tile, scale.add_(log_top)

    def _multiply_factors(
        self, plan: ProductPlan, tile: torch.Tensor
    ) -> tuple[torch.Tensor, ProductLoss | None]:
        """Write the factors' product into ``tile``; returns its log-scale and what was lost."""
        scale = torch.zeros(
            plan.num_blocks, self.act.batch, device=tile.device, dtype=torch.float64
        )
        loss = (
            ProductLoss(scale)
            if any(f.source.layer in self.act.errors for f in plan.factors)
            else None
        )
        started = False
        for factor in plan.factors:
            first = factor.covers and not started
            value = self.read(factor.source, out=tile if first else None)
            if loss is not None:
                loss.add(factor, value, self.error(factor.source))
            if not first:
                if not started:
                    tile.fill_(1.0)
                _multiply(tile, factor, value)
            elif value.data_ptr() != tile.data_ptr():
                tile.copy_(value)
            started = True
            part = self.scale(factor.source)
            if part is not None:
                add_at(scale, factor.target, part)
        return scale, loss

    def _normalise(
        self, tile: torch.Tensor, plan: ProductPlan, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give each (block, sample) the maximum one, in place.

        Returns:
            What the tile's values were divided by after they were last rounded, and the log of
            the maxima: [blocks, batch].
        """
        top = tile.amax(-1)
        weak = top < self.tiny ** (1 / 3)
        if bool(weak.any()):
            log_top = self._rescue(tile, top, weak, plan, mask)
        else:
            log_top = top.double().log()
        tile.div_(top[..., None])
        return top, log_top

    def _rescue(
        self,
        tile: torch.Tensor,
        top: torch.Tensor,
        weak: torch.Tensor,
        plan: ProductPlan,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Redo the weak (block, sample) tiles as sums of logarithms; returns log of all maxima."""
        log_top = top.double().log()
        block, sample = weak.nonzero(as_tuple=True)
        logs = torch.zeros(len(block), plan.width, device=tile.device, dtype=tile.dtype)
        if mask is not None:
            logs += mask[block, sample].log()
        for factor in plan.factors:
            place = factor.position[block]
            has = place >= 0
            logs[has] += self._values(factor.source, place[has], sample[has]).log()
        peak = logs.amax(-1)
        tile[block, sample] = (logs - finite(peak)[:, None]).exp()
        top[block, sample] = 1.0
        log_top[block, sample] = peak.double()
        return log_top

    def _values(self, blocks: Blocks, place: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        """Linear values [n, width] of single (block, sample) pairs; ``place`` counts in blocks."""
        if isinstance(blocks.index, slice):
            local = place + blocks.index.start
        else:
            local = blocks.index[place]
        if blocks.layer not in self.act.rows:
            return self.act.tiles[blocks.layer][local, sample]
        rows = self.act.rows[blocks.layer][local, sample]
        values = table(self.params, blocks.layer).index_select(0, rows).to(self.program.dtype)
        mask = self.evidence_on(blocks.layer)
        return values if mask is None else values * mask[local, sample]

    def _gathered_product(self, layer: int, plan: ProductPlan) -> None:
        """Concat and Kronecker: combined as logarithms, then normalised."""
        parts = [self.gather(slot) for slot in plan.slots]
        scales = torch.stack([part.scale for part in parts])
        if plan.kind == "kronecker":
            first, second = (part.value.log() for part in parts)
            logs = (first[..., None] + second[..., None, :]).flatten(2)
            scale, shifts = scales.sum(0), torch.zeros_like(scales)
        else:
            scale = finite(scales.amax(0))
            shifts = scales - scale
            logs = torch.cat(
                [
                    part.value.log() + shift.to(self.program.dtype)[..., None]
                    for part, shift in zip(parts, shifts, strict=True)
                ],
                -1,
            )
        mask = self.evidence_on(layer)
        if mask is not None:
            logs = logs + mask.log()
        peak = logs.amax(-1)
        tile = self.workspace.tile(self.program, layer, self.act.batch)
        torch.exp(logs - finite(peak)[..., None], out=tile)
        lost = [
            shifted(part.error, shift)
            for part, shift in zip(parts, shifts, strict=True)
            if part.error is not None
        ]
        error = raised(together(torch.stack(lost)), peak) if lost else None
        self._add_error(layer, error, smallest(tile, mask) < self.faint, self.tiny)
        self.act.tiles[layer], self.act.scales[layer] = tile, scale + peak

    def _sum(self, layer: int, plan: SumPlan) -> None:
        weights = self.weights(layer)
        out = self.workspace.tile(self.program, layer, self.act.batch)
        edges = self.edges(plan)
        values, scale = edges.value, edges.scale
        if plan.direct and plan.groups is None:
            matrices = by_group(values, weights), weights.transpose(1, 2)
            bmm(self.program, *matrices, out=by_group(out, weights))
        else:
            mixed = self._edge_product(plan, values, weights)
            if len(values) == plan.num_blocks:
                out.copy_(mixed)
            else:
                out.zero_().index_add_(0, plan.block_of_edge, mixed)
        mask = self.evidence_on(layer)
        if mask is not None:
            out.mul_(mask)
        error = edges.error
        if error is not None and not plan.direct:
            zeros = torch.zeros_like(scale)
            error = zeros.index_add_(0, plan.block_of_edge, error)
        if error is not None or mask is not None or self._any_faint(layer, weights):
            low = smallest(out, mask) < self.faint
            self._add_error(layer, error, low, self.tiny * plan.terms)
        self.act.tiles[layer], self.act.scales[layer] = out, scale

    def _any_faint(self, layer: int, weights: torch.Tensor) -> bool:
        """Whether a product with some of the weights may vanish beside nothing large."""
        return self.workspace.any_faint(self.program.owners[layer], weights, self.faint)

    def _edge_product(
        self, plan: SumPlan, values: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        if plan.groups is not None:
            return bmm(self.program, values, weights.index_select(0, plan.groups).transpose(1, 2))
        mixed = bmm(self.program, by_group(values, weights), weights.transpose(1, 2))
        return mixed.view(len(values), -1, plan.width)

    def edges(self, plan: SumPlan) -> Gathered:
        """Child values [edges, batch, width_in], on the scale of the block they belong to.

        The scale returned is that of the blocks, [blocks, batch]; the error that of the edges.
        """
        if plan.direct:
            source = plan.sources[0]
            scale = self.scale(source)
            assert scale is not None
            return Gathered(self.read(source), scale, self.error(source))
        found = self.gather(plan.sources)
        index = plan.block_of_edge[:, None].expand_as(found.scale)
        common = torch.full(
            (plan.num_blocks, self.act.batch), -torch.inf, device=index.device, dtype=torch.float64
        ).scatter_reduce_(0, index, found.scale, "amax")
        shift = found.scale - finite(common)[plan.block_of_edge]
        value = found.value.mul_(shift.exp().to(found.value.dtype)[..., None])
        error = None if found.error is None else shifted(found.error, shift)
        return Gathered(value, common, error)


def by_group(tile: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Group-major edges as one long matrix per group: [groups, edges per group * batch, width]."""
    return tile.view(len(weights), -1, tile.shape[2])


def _multiply(tile: torch.Tensor, factor: Factor, value: torch.Tensor) -> None:
    if isinstance(factor.target, slice):
        tile[factor.target].mul_(value)
    else:
        product = tile.index_select(0, factor.target).mul_(value)
        tile.index_copy_(0, factor.target, product)
