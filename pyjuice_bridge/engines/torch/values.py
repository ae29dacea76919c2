"""The values of a batch's blocks: where activations are kept and how they are read."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch

from pyjuice_bridge.engines.torch.program import Blocks, Params, Program
from pyjuice_bridge.engines.torch.recording import Recordings
from pyjuice_bridge.engines.torch.underflow import TOLERANCE, raised

_STAGGER, _STAGGERED = 80, 13
"""Numbers by which buffers begin after one another, so that the same place in several of them is
not at the same place of a memory page: processors take such stores and loads for related."""

Evidence = dict[str, torch.Tensor]
"""Latent name → int64 [batch, positions] or float [batch, positions, width]."""


class Workspace:
    """What batches share: reused buffers for the kept activations, and facts about the weights."""

    def __init__(self) -> None:
        self._flat: dict[Hashable, torch.Tensor] = {}
        self._faint: dict[int, bool] = {}
        self.version = 0
        """Changes when a buffer is made anew."""
        self.weights_version = 0
        """Changes when weights do."""
        self.jobs: dict[int, Any] = {}
        """By batch size, what compiled kernels have been told of the buffers (see ``fused``)."""
        self.banks: dict[Any, Any] = {}
        """By batch size, the numbers of trees that are evaluated depth first."""
        self.skip = 0.0
        """The share of a cluster's flow that need not be counted."""
        self.flow, self.skipped = 0.0, 0.0
        """What has flowed to banks of trees so far, and what of it was skipped."""
        self.recordings = Recordings()
        self.rows_at_once: dict[bool, int] = {}
        """How many rows go through the circuit together, with trees layer by layer (True) or depth
        first, once that has been worked out."""

    @cached_property
    def in_double(self) -> Workspace:
        """For samples that are taken again in float64."""
        return Workspace()

    def any_faint(self, layer: int, weights: torch.Tensor, limit: float) -> bool:
        """Whether a layer has weights below ``limit``; looked up once until the next M-step."""
        if layer not in self._faint:
            self._faint[layer] = bool(weights.amin() < limit)
        return self._faint[layer]

    def weights_changed(self) -> None:
        """To be called after every M-step."""
        self._faint.clear()
        self.weights_version += 1
        self.in_double.weights_version += 1

    def tile(self, program: Program, layer: int, batch: int) -> torch.Tensor:
        """Return an uninitialised [blocks, batch, width] tile for the layer."""
        shape = (program.sizes[layer], batch, program.widths[layer])
        return self.buffer(layer, shape, program)

    def buffer(self, key: Hashable, shape: tuple[int, ...], program: Program) -> torch.Tensor:
        """Return an uninitialised tensor, the same memory for the same ``key``."""
        size = math.prod(shape)
        flat = self._flat.get(key)
        if flat is None or flat.numel() < size:
            skip = _STAGGER * (len(self._flat) % _STAGGERED)
            flat = torch.empty(skip + size, device=program.device, dtype=program.dtype)[skip:]
            self._flat[key] = flat
            self.version += 1
            self.recordings.clear()
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


class Values:
    """What one batch makes of a circuit's blocks, as far as it has been computed."""

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
        self.faint = self.tiny ** (3 / 4)
        self.act = Activations(len(x))
        self.shifted = torch.empty(x.shape[::-1], dtype=torch.int32, device=x.device)
        self.shifted.copy_(x.t()).add_(1)

    def log_likelihood(self) -> torch.Tensor:
        """float64 [batch, roots]."""
        parts = []
        for blocks in self.program.roots:
            value = self.read(blocks)[:, :, 0].double().log()
            scale = self.scale(blocks)
            parts.append(value if scale is None else value + scale)
        return torch.cat(parts).t()

    def doubtful(self) -> torch.Tensor | None:
        """bool [batch]: samples that underflow may have changed; None where nothing was lost.

        float64 reaches some 700 nats below a tile's maximum and is trusted.
        """
        roots = self.program.roots
        if self.program.dtype == torch.float64:
            return None
        if not any(blocks.layer in self.act.errors for blocks in roots):
            return None
        parts = []
        for blocks in roots:
            error = self.error(blocks)
            if error is not None:
                value = self.read(blocks)[:, :, 0].double()
                parts.append(~(error <= TOLERANCE * value))
        return torch.cat(parts).any(0)

    def read(self, blocks: Blocks, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the linear values of some blocks, [count, batch, width]."""
        if blocks.layer not in self.act.rows:
            return take(self.act.tiles[blocks.layer], blocks)
        rows = take(self.act.rows[blocks.layer], blocks).reshape(-1)
        width = self.program.widths[blocks.layer]
        source = table(self.params, blocks.layer)
        flat = None if out is None or out.dtype != source.dtype else out.view(-1, width)
        picked = torch.index_select(source, 0, rows, out=flat).to(self.program.dtype)
        tile = picked.view(blocks.count, self.act.batch, width)
        mask = self.evidence_on(blocks.layer)
        return tile if mask is None else tile.mul_(take(mask, blocks))

    def weights(self, layer: int) -> torch.Tensor:
        """Return a sum layer's matrices in the precision of the pass."""
        weights = self.params[self.program.owners[layer]]
        assert weights is not None
        return weights.to(self.program.dtype)

    def scale(self, blocks: Blocks) -> torch.Tensor | None:
        """Return the log-scales of some blocks, [count, batch]; None stands for zeros."""
        scale = self.act.scales.get(blocks.layer)
        return None if scale is None else take(scale, blocks)

    def error(self, blocks: Blocks) -> torch.Tensor | None:
        error = self.act.errors.get(blocks.layer)
        return None if error is None else take(error, blocks)

    def gather(self, sources: tuple[Blocks, ...]) -> Gathered:
        """Blocks from several layers, in order, each (block, sample) with maximum one."""
        value = torch.cat([self.read(b) for b in sources])
        scale = torch.cat([_or_zeros(self.scale(b), b, self) for b in sources])
        error = None
        if any(b.layer in self.act.errors for b in sources):
            error = torch.cat([_or_zeros(self.error(b), b, self) for b in sources])
        top = value.amax(-1)
        log_top = top.double().log()
        value = value / torch.where(top > 0, top, 1.0)[..., None]
        return Gathered(value, scale + log_top, None if error is None else raised(error, log_top))

    def evidence_on(self, layer: int) -> torch.Tensor | None:
        """Latent evidence on a layer as a multiplier [blocks, batch, width].

        It is of states [N, positions] (negative: unknown), or of sets of states [N, positions, n],
        both integers, or of weights [N, positions, width].
        """
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
                continue
            states = given.long() if given.ndim == 3 else given.long()[..., None]
            known = mask.new_zeros(*given.shape[:2], width).scatter_(2, states.clamp(min=0), 1)
            mask[site.blocks] = known.masked_fill_(states[..., :1] < 0, 1)
        return mask


def take(tile: torch.Tensor, blocks: Blocks) -> torch.Tensor:
    """Return the named blocks of a layer's tile: a view where they are consecutive."""
    if blocks.whole:
        return tile
    if isinstance(blocks.index, slice):
        return tile[blocks.index]
    return tile.index_select(0, blocks.index)


def table(params: Params, layer: int) -> torch.Tensor:
    """Return an input layer's parameters as rows [groups * (1 + categories), width]."""
    tensor = params[layer]
    assert tensor is not None
    return tensor.view(-1, tensor.shape[2])


def _or_zeros(part: torch.Tensor | None, blocks: Blocks, values: Values) -> torch.Tensor:
    if part is not None:
        return part
    shape = (blocks.count, values.act.batch)
    return torch.zeros(shape, device=values.program.device, dtype=torch.float64)
