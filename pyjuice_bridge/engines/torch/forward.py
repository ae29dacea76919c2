"""The upward pass: log-likelihoods, and the activations a downward pass needs.

Scaled arithmetic: a tile holds linear values and each (block, sample) one log-scale, so the sum
path is a matrix product with no exponential or logarithm per element.  Two things can go wrong,
and each is caught:

- A product of many small factors underflows.  Factors are at most one, so what underflows is truly
  below the smallest normal number and matters only where the whole tile is tiny.  Tiles whose
  maximum falls below the cube root of that number are recomputed from logarithms (``_rescue``).
- A value that is negligible in its own tile is dropped, and a later factor would have raised it.
  ``Activations.errors`` bounds what was dropped relative to each tile's scale; it stays absent
  until a tile holds values near underflow.  ``doubtful`` names the samples whose bound at a root
  exceeds 1e-5, and callers take those again in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from pyjuice_bridge.engines.torch.program import (
    Blocks,
    Factor,
    Index,
    InputPlan,
    Params,
    ProductPlan,
    Program,
    SumPlan,
)

_TOLERANCE = 1e-5

Evidence = dict[str, torch.Tensor]
"""Latent name → int64 [batch, positions] or float [batch, positions, width]."""


class Workspace:
    """Reused buffers for the kept activations, so that the inner loop allocates little."""

    def __init__(self) -> None:
        self._flat: dict[int, torch.Tensor] = {}

    def tile(self, program: Program, layer: int, batch: int) -> torch.Tensor:
        """An uninitialised [blocks, batch, width] tile for the layer."""
        shape = (program.sizes[layer], batch, program.widths[layer])
        size = shape[0] * shape[1] * shape[2]
        flat = self._flat.get(layer)
        if flat is None or flat.numel() < size:
            flat = torch.empty(size, device=program.device, dtype=program.dtype)
            self._flat[layer] = flat
        return flat[:size].view(shape)


@dataclass
class Activations:
    """What the upward pass leaves for the downward pass, by layer."""

    batch: int
    rows: dict[int, torch.Tensor] = field(default_factory=dict)
    """Input layers: int32 [blocks, batch], the row of the flattened table that was read."""
    tiles: dict[int, torch.Tensor] = field(default_factory=dict)
    scales: dict[int, torch.Tensor] = field(default_factory=dict)
    """float64 [blocks, batch]: log of what the tile was divided by."""
    errors: dict[int, torch.Tensor] = field(default_factory=dict)
    """float64 [blocks, batch]: a bound on what underflow took from any value of the tile; layers
    that lost nothing are absent."""


class Gathered(NamedTuple):
    """Values of blocks, with their log-scales and error bounds."""

    value: torch.Tensor
    scale: torch.Tensor
    error: torch.Tensor | None


def take(tile: torch.Tensor, blocks: Blocks) -> torch.Tensor:
    """The named blocks of a layer's tile: a view where they are consecutive."""
    if blocks.whole:
        return tile
    if isinstance(blocks.index, slice):
        return tile[blocks.index]
    return tile.index_select(0, blocks.index)


def table(params: Params, layer: int) -> torch.Tensor:
    """An input layer's parameters as rows [groups * (1 + categories), width]."""
    tensor = params[layer]
    assert tensor is not None
    return tensor.view(-1, tensor.shape[2])


class Upward:
    """One upward pass over one batch."""

    def __init__(
        self,
        program: Program,
        params: Params,
        x: torch.Tensor,
        evidence: Evidence | None = None,
        workspace: Workspace | None = None,
    ) -> None:
        self.program, self.params = program, params
        self.evidence = evidence or {}
        self.workspace = workspace or Workspace()
        self.tiny = torch.finfo(program.dtype).tiny
        self.faint = self.tiny ** (4 / 5)
        self.act = Activations(len(x))
        self.shifted = x.t().to(torch.int32) + 1

    def run(self) -> Activations:
        for layer, plan in enumerate(self.program.layers):
            if isinstance(plan, InputPlan):
                rows = self.shifted.index_select(0, plan.variables)
                self.act.rows[layer] = rows.add_(plan.offsets)
            elif isinstance(plan, SumPlan):
                self._sum(layer, plan)
            elif plan.kind == "hadamard":
                self._hadamard(layer, plan)
            else:
                self._gathered_product(layer, plan)
        return self.act

    def log_likelihood(self) -> torch.Tensor:
        """float64 [batch, roots]."""
        parts = []
        for blocks in self.program.roots:
            value = self.read(blocks)[:, :, 0].double().log()
            scale = self.scale(blocks)
            parts.append(value if scale is None else value + scale)
        return torch.cat(parts).t()

    def doubtful(self) -> torch.Tensor | None:
        """bool [batch]: samples that underflow may have changed; None when there are none.

        float64 reaches some 700 nats below a tile's maximum and is trusted.
        """
        roots = self.program.roots
        if self.program.dtype == torch.float64:
            return None
        if not any(blocks.layer in self.act.errors for blocks in roots):
            return None
        parts = []
        for blocks in roots:
            error = self._error(blocks)
            if error is not None:
                value = self.read(blocks)[:, :, 0].double()
                parts.append(error > _TOLERANCE * value)
        found = torch.cat(parts).any(0)
        return found if bool(found.any()) else None

    def read(self, blocks: Blocks, out: torch.Tensor | None = None) -> torch.Tensor:
        """The linear values of some blocks, [count, batch, width]."""
        if blocks.layer not in self.act.rows:
            return take(self.act.tiles[blocks.layer], blocks)
        rows = take(self.act.rows[blocks.layer], blocks).reshape(-1)
        width = self.program.widths[blocks.layer]
        source = table(self.params, blocks.layer)
        flat = None if out is None or out.dtype != source.dtype else out.view(-1, width)
        picked = torch.index_select(source, 0, rows, out=flat).to(self.program.dtype)
        tile = picked.view(blocks.count, self.act.batch, width)
        mask = self._evidence(blocks.layer)
        return tile if mask is None else tile.mul_(take(mask, blocks))

    def weights(self, layer: int) -> torch.Tensor:
        """A sum layer's matrices in the precision of the pass."""
        weights = self.params[layer]
        assert weights is not None
        return weights.to(self.program.dtype)

    def scale(self, blocks: Blocks) -> torch.Tensor | None:
        """The log-scales of some blocks, [count, batch]; None stands for zeros."""
        scale = self.act.scales.get(blocks.layer)
        return None if scale is None else take(scale, blocks)

    def _error(self, blocks: Blocks) -> torch.Tensor | None:
        error = self.act.errors.get(blocks.layer)
        return None if error is None else take(error, blocks)

    def _add_error(
        self,
        layer: int,
        tile: torch.Tensor,
        inherited: torch.Tensor | None,
        mask: torch.Tensor | None = None,
    ) -> None:
        """Record what the tile's children lost and what it may have lost itself."""
        seen = tile if mask is None else tile.masked_fill(mask == 0, 1.0)
        low = seen.amin(-1) < self.faint
        if bool(low.any()):
            own = low.double() * (self.tiny * self.program.widths[layer])
            inherited = own if inherited is None else inherited + own
        if inherited is not None:
            self.act.errors[layer] = inherited

    def _evidence(self, layer: int) -> torch.Tensor | None:
        """Latent evidence on a layer as a multiplier [blocks, batch, width]."""
        sites = [s for s in self.program.latents.get(layer, ()) if s.name in self.evidence]
        if not sites:
            return None
        size, width = self.program.sizes[layer], self.program.widths[layer]
        mask = torch.ones(
            size, self.act.batch, width, device=self.program.device, dtype=self.program.dtype
        )
        for site in sites:
            given = self.evidence[site.name].index_select(1, site.positions).transpose(0, 1)
            if given.is_floating_point():
                mask[site.blocks] = given.to(mask.dtype)
            else:
                states = torch.arange(width, device=given.device)
                mask[site.blocks] = ((given[..., None] == states) | (given[..., None] < 0)).to(
                    mask.dtype
                )
        return mask

    def _hadamard(self, layer: int, plan: ProductPlan) -> None:
        tile = self.workspace.tile(self.program, layer, self.act.batch)
        scale = torch.zeros(
            plan.num_blocks, self.act.batch, device=tile.device, dtype=torch.float64
        )
        loss = (
            _Loss(scale) if any(f.source.layer in self.act.errors for f in plan.factors) else None
        )
        started = False
        for factor in plan.factors:
            first = factor.covers and not started
            value = self.read(factor.source, out=tile if first else None)
            if loss is not None:
                loss.add(factor, value, self._error(factor.source))
            if not first:
                if not started:
                    tile.fill_(1.0)
                _multiply(tile, factor, value)
            elif value.data_ptr() != tile.data_ptr():
                tile.copy_(value)
            started = True
            part = self.scale(factor.source)
            if part is not None:
                _add(scale, factor.target, part)
        mask = self._evidence(layer)
        if mask is not None:
            tile.mul_(mask)
        log_top = self._normalise(tile, plan, mask)
        self._add_error(layer, tile, None if loss is None else loss.relative_to(log_top), mask)
        self.act.tiles[layer], self.act.scales[layer] = tile, scale.add_(log_top)

    def _normalise(
        self, tile: torch.Tensor, plan: ProductPlan, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Divide each (block, sample) by its maximum, in place; returns log of the maxima."""
        top = tile.amax(-1)
        weak = top < self.tiny ** (1 / 3)
        if bool(weak.any()):
            log_top = self._rescue(tile, top, weak, plan, mask)
        else:
            log_top = top.double().log()
        tile.div_(top[..., None])
        return log_top

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
        tile[block, sample] = (logs - _finite(peak)[:, None]).exp()
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
        mask = self._evidence(blocks.layer)
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
            scale = _finite(scales.amax(0))
            shifts = scales - scale
            logs = torch.cat(
                [
                    part.value.log() + shift.to(self.program.dtype)[..., None]
                    for part, shift in zip(parts, shifts, strict=True)
                ],
                -1,
            )
        mask = self._evidence(layer)
        if mask is not None:
            logs = logs + mask.log()
        peak = logs.amax(-1)
        tile = self.workspace.tile(self.program, layer, self.act.batch)
        torch.exp(logs - _finite(peak)[..., None], out=tile)
        lost = [
            part.error * shift.exp()
            for part, shift in zip(parts, shifts, strict=True)
            if part.error is not None
        ]
        error = _raised(torch.stack(lost).sum(0), peak) if lost else None
        self._add_error(layer, tile, error, mask)
        self.act.tiles[layer], self.act.scales[layer] = tile, scale + peak

    def gather(self, sources: tuple[Blocks, ...]) -> Gathered:
        """Blocks from several layers, in order, each (block, sample) with maximum one."""
        value = torch.cat([self.read(b) for b in sources])
        scale = torch.cat([self._zeros_if_none(self.scale(b), b) for b in sources])
        error = None
        if any(b.layer in self.act.errors for b in sources):
            error = torch.cat([self._zeros_if_none(self._error(b), b) for b in sources])
        top = value.amax(-1)
        log_top = top.double().log()
        value = value / torch.where(top > 0, top, 1.0)[..., None]
        return Gathered(value, scale + log_top, None if error is None else _raised(error, log_top))

    def _zeros_if_none(self, scale: torch.Tensor | None, blocks: Blocks) -> torch.Tensor:
        if scale is not None:
            return scale
        return torch.zeros(
            blocks.count, self.act.batch, device=self.program.device, dtype=torch.float64
        )

    def _sum(self, layer: int, plan: SumPlan) -> None:
        weights = self.weights(layer)
        out = self.workspace.tile(self.program, layer, self.act.batch)
        edges = self.edges(plan)
        values, scale = edges.value, edges.scale
        if plan.direct and plan.groups is None:
            torch.bmm(
                by_group(values, weights), weights.transpose(1, 2), out=by_group(out, weights)
            )
        else:
            mixed = _edge_product(plan, values, weights)
            if len(values) == plan.num_blocks:
                out.copy_(mixed)
            else:
                out.zero_().index_add_(0, plan.block_of_edge, mixed)
        mask = self._evidence(layer)
        if mask is not None:
            out.mul_(mask)
        error = edges.error
        if error is not None and not plan.direct:
            zeros = torch.zeros_like(scale)
            error = zeros.index_add_(0, plan.block_of_edge, error)
        if error is not None or bool((weights < self.faint).any()):
            self._add_error(layer, out, error, mask)
        self.act.tiles[layer], self.act.scales[layer] = out, scale

    def edges(self, plan: SumPlan) -> Gathered:
        """Child values [edges, batch, width_in], on the scale of the block they belong to.

        The scale returned is that of the blocks, [blocks, batch]; the error that of the edges.
        """
        if plan.direct:
            source = plan.sources[0]
            scale = self.scale(source)
            assert scale is not None
            return Gathered(self.read(source), scale, self._error(source))
        found = self.gather(plan.sources)
        index = plan.block_of_edge[:, None].expand_as(found.scale)
        common = torch.full(
            (plan.num_blocks, self.act.batch), -torch.inf, device=index.device, dtype=torch.float64
        ).scatter_reduce_(0, index, found.scale, "amax")
        shift = (found.scale - _finite(common)[plan.block_of_edge]).exp()
        value = found.value.mul_(shift.to(found.value.dtype)[..., None])
        return Gathered(value, common, None if found.error is None else found.error * shift)


def by_group(tile: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Group-major edges as one long matrix per group: [groups, edges per group * batch, width]."""
    return tile.view(len(weights), -1, tile.shape[2])


def _edge_product(plan: SumPlan, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    if plan.groups is not None:
        return torch.bmm(values, weights.index_select(0, plan.groups).transpose(1, 2))
    mixed = torch.bmm(by_group(values, weights), weights.transpose(1, 2))
    return mixed.view(len(values), -1, plan.width)


class _Loss:
    """The error bound of a product: Σ over factors of its error times the others' maxima."""

    def __init__(self, like: torch.Tensor) -> None:
        self._tops = torch.zeros_like(like)
        self._ratios = torch.zeros_like(like)

    def add(self, factor: Factor, value: torch.Tensor, error: torch.Tensor | None) -> None:
        top = value.amax(-1).double()
        _add(self._tops, factor.target, top.log())
        if error is not None:
            _add(self._ratios, factor.target, torch.where(error > 0, error / top, 0.0))

    def relative_to(self, log_top: torch.Tensor) -> torch.Tensor:
        """The bound on the scale of the product's own maximum."""
        bound = self._ratios * (self._tops - log_top).exp()
        return torch.where(self._ratios > 0, bound.nan_to_num(torch.inf), 0.0)


def _add(total: torch.Tensor, target: Index, part: torch.Tensor) -> None:
    if isinstance(target, slice):
        total[target] += part
    else:
        total.index_add_(0, target, part)


def _multiply(tile: torch.Tensor, factor: Factor, value: torch.Tensor) -> None:
    if isinstance(factor.target, slice):
        tile[factor.target].mul_(value)
    else:
        product = tile.index_select(0, factor.target).mul_(value)
        tile.index_copy_(0, factor.target, product)


def _raised(error: torch.Tensor, log_top: torch.Tensor) -> torch.Tensor:
    """An error bound after division by the tile's maximum; what is exact stays exact."""
    return torch.where(error > 0, error / log_top.exp(), 0.0)


def _finite(logs: torch.Tensor) -> torch.Tensor:
    """Log-scales with zero in place of -inf, safe to subtract."""
    return torch.where(logs.isfinite(), logs, 0.0)
