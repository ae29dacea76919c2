"""The upward pass: log-likelihoods, and the activations a downward pass needs.

Scaled arithmetic: a tile holds linear values and each (block, sample) one log-scale, so the sum
path is a matrix product with no exponential or logarithm per element.  Factors are at most one,
so a product entry that underflows is truly smaller than the smallest normal number; it matters
only where the whole tile is tiny.  Tiles whose maximum falls below the cube root of that number
are therefore recomputed from the logarithms of their factors (``_rescue``).  The result equals
the log-domain one: both drop only what lies some 87 nats below a tile's maximum.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from pyjuice_bridge.engines.torch.program import (
    Blocks,
    Factor,
    InputPlan,
    Params,
    ProductPlan,
    Program,
    SumPlan,
)

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

    def read(self, blocks: Blocks, out: torch.Tensor | None = None) -> torch.Tensor:
        """The linear values of some blocks, [count, batch, width]."""
        if blocks.layer not in self.act.rows:
            return take(self.act.tiles[blocks.layer], blocks)
        rows = take(self.act.rows[blocks.layer], blocks).reshape(-1)
        width = self.program.widths[blocks.layer]
        flat = None if out is None else out.view(-1, width)
        picked = torch.index_select(table(self.params, blocks.layer), 0, rows, out=flat)
        tile = picked.view(blocks.count, self.act.batch, width)
        mask = self._evidence(blocks.layer)
        return tile if mask is None else tile.mul_(take(mask, blocks))

    def scale(self, blocks: Blocks) -> torch.Tensor | None:
        """The log-scales of some blocks, [count, batch]; None stands for zeros."""
        scale = self.act.scales.get(blocks.layer)
        return None if scale is None else take(scale, blocks)

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
        started = False
        for factor in plan.factors:
            if factor.covers and not started:
                value = self.read(factor.source, out=tile)
                if value.data_ptr() != tile.data_ptr():
                    tile.copy_(value)
                started = True
            else:
                if not started:
                    tile.fill_(1.0)
                    started = True
                _multiply(tile, factor, self.read(factor.source))
            part = self.scale(factor.source)
            if part is not None:
                if isinstance(factor.target, slice):
                    scale[factor.target] += part
                else:
                    scale.index_add_(0, factor.target, part)
        mask = self._evidence(layer)
        if mask is not None:
            tile.mul_(mask)
        self._normalise(tile, scale, plan, mask)
        self.act.tiles[layer], self.act.scales[layer] = tile, scale

    def _normalise(
        self,
        tile: torch.Tensor,
        scale: torch.Tensor,
        plan: ProductPlan,
        mask: torch.Tensor | None,
    ) -> None:
        """Divide each (block, sample) by its maximum; add the logarithm to ``scale``, in place."""
        top = tile.amax(-1)
        weak = top < self.tiny ** (1 / 3)
        if bool(weak.any()):
            scale += self._rescue(tile, top, weak, plan, mask)
        else:
            scale += top.double().log()
        tile.div_(top[..., None])

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
        values = table(self.params, blocks.layer).index_select(0, rows)
        mask = self._evidence(blocks.layer)
        return values if mask is None else values * mask[local, sample]

    def _gathered_product(self, layer: int, plan: ProductPlan) -> None:
        """Concat and Kronecker: combined as logarithms, then normalised."""
        parts = [_normalised(*self.gather(slot)) for slot in plan.slots]
        scales = torch.stack([scale for _, scale in parts])
        if plan.kind == "kronecker":
            (first, _), (second, _) = parts
            logs = (first.log()[..., None] + second.log()[..., None, :]).flatten(2)
            scale = scales.sum(0)
        else:
            scale = _finite(scales.amax(0))
            shifts = (scales - scale).to(self.program.dtype)
            logs = torch.cat(
                [v.log() + shift[..., None] for (v, _), shift in zip(parts, shifts, strict=True)],
                -1,
            )
        mask = self._evidence(layer)
        if mask is not None:
            logs = logs + mask.log()
        peak = logs.amax(-1)
        tile = self.workspace.tile(self.program, layer, self.act.batch)
        torch.exp(logs - _finite(peak)[..., None], out=tile)
        self.act.tiles[layer], self.act.scales[layer] = tile, scale + peak

    def gather(self, sources: tuple[Blocks, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and log-scales of blocks from several layers, in order."""
        values = [self.read(b) for b in sources]
        scales = [self._zeros_if_none(self.scale(b), b) for b in sources]
        return torch.cat(values), torch.cat(scales)

    def _zeros_if_none(self, scale: torch.Tensor | None, blocks: Blocks) -> torch.Tensor:
        if scale is not None:
            return scale
        return torch.zeros(
            blocks.count, self.act.batch, device=self.program.device, dtype=torch.float64
        )

    def _sum(self, layer: int, plan: SumPlan) -> None:
        weights = self.params[layer]
        assert weights is not None
        out = self.workspace.tile(self.program, layer, self.act.batch)
        values, scale = self.edge_values(plan)
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
        self.act.tiles[layer], self.act.scales[layer] = out, scale

    def edge_values(self, plan: SumPlan) -> tuple[torch.Tensor, torch.Tensor]:
        """Child values [edges, batch, width_in] on the scale of their block, and that scale."""
        if plan.direct:
            source = plan.sources[0]
            scale = self.scale(source)
            assert scale is not None
            return self.read(source), scale
        values, scales = _normalised(*self.gather(plan.sources))
        index = plan.block_of_edge[:, None].expand_as(scales)
        common = torch.full(
            (plan.num_blocks, self.act.batch), -torch.inf, device=scales.device, dtype=scales.dtype
        ).scatter_reduce_(0, index, scales, "amax")
        shift = scales - _finite(common)[plan.block_of_edge]
        return values.mul_(shift.exp().to(values.dtype)[..., None]), common


def by_group(tile: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Group-major edges as one long matrix per group: [groups, edges per group * batch, width]."""
    return tile.view(len(weights), -1, tile.shape[2])


def _edge_product(plan: SumPlan, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    if plan.groups is not None:
        return torch.bmm(values, weights.index_select(0, plan.groups).transpose(1, 2))
    mixed = torch.bmm(by_group(values, weights), weights.transpose(1, 2))
    return mixed.view(len(values), -1, plan.width)


def _multiply(tile: torch.Tensor, factor: Factor, value: torch.Tensor) -> None:
    if isinstance(factor.target, slice):
        tile[factor.target].mul_(value)
    else:
        product = tile.index_select(0, factor.target).mul_(value)
        tile.index_copy_(0, factor.target, product)


def _normalised(tile: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A tile divided by its maxima, and the scale that makes up for it."""
    top = tile.amax(-1)
    safe = torch.where(top > 0, top, 1.0)
    return tile / safe[..., None], scale + top.double().log()


def _finite(logs: torch.Tensor) -> torch.Tensor:
    """Log-scales with zero in place of -inf, safe to subtract."""
    return torch.where(logs.isfinite(), logs, 0.0)
