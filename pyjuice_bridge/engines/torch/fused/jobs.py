"""Kernels told where things are: jobs for one program, its parameters and one batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyjuice_bridge.engines.torch.fused import products, sums
from pyjuice_bridge.engines.torch.fused.layout import Layout, Longs, layout
from pyjuice_bridge.engines.torch.fused.threads import Job, address
from pyjuice_bridge.engines.torch.program import (
    Blocks,
    InputPlan,
    Params,
    ProductPlan,
    Program,
    SumPlan,
)
from pyjuice_bridge.engines.torch.values import Workspace

_TASK_VALUES = 2**13
"""Values of a tile that are one task of the upward pass."""
_UPWARD = {
    "hadamard": products.hadamard_up,
    "concat": products.concat_up,
    "kronecker": products.kronecker_up,
}


@dataclass(frozen=True)
class SumJobs:
    """A sum layer that is a matrix product, group by group.

    Attributes:
        values: of the children, [groups, rows, width_in].
        weights: [groups, width_out, width_in].
        mixed: of every edge, [groups, rows, width_out]; the tile, where blocks have one edge.
        tile: [blocks, batch, width].
        single: one edge per block.
        mix, spread: see ``sums``.
        down: buffer for flow / value of the children, shaped as ``values``; None where the
            downward pass is no kernel's.
    """

    source: int
    values: torch.Tensor
    weights: torch.Tensor
    mixed: torch.Tensor
    tile: torch.Tensor
    single: bool
    mix: Job
    spread: Job
    down: torch.Tensor | None


class Jobs:
    """Everything that stays the same from batch to batch.

    Attributes:
        key: what the addresses depend on.
        rows: int32 [num_vars, batch], where the rows of tables to read belong.
        tiles: by layer, [blocks, batch, width].
        scales, errors: by layer, float64 [blocks, batch]; scales of sums with one edge per block
            are those of their children.
        up, down: by product layer; ``down`` waits for ``count``.
        sums: by sum layer.
        flows: by product layer, the buffer for what it is handed.
    """

    def __init__(
        self, program: Program, params: Params, workspace: Workspace, batch: int, plan: Layout
    ) -> None:
        self.program, self.params, self.workspace = program, params, workspace
        self.batch, self.layout = batch, plan
        self.rows = torch.empty(program.num_vars, batch, dtype=torch.int32)
        inner = [i for i, p in enumerate(program.layers) if not isinstance(p, InputPlan)]
        self.tiles = {i: workspace.tile(program, i, batch) for i in inner}
        self.flows = {i: self._flow(i, place) for i, place in plan.places.items()}
        self.scales: dict[int, torch.Tensor] = {}
        self.errors = {i: self._per_sample(i) for i in inner}
        for i in inner:
            self.scales[i] = self._scale(i, program.layers[i])
        self.up = {i: self._up(i) for i in plan.variables}
        self.sums = {i: self._sum(i) for i in plan.sums}
        self.down: dict[int, Job] = {}
        self._counts: list[int] | None = None
        self.key = key(program, params, workspace)

    def count(self, counts: Params) -> None:
        """Get ready for a downward pass that adds to ``counts``."""
        places = [address(c) for c in counts]
        if places != self._counts:
            self._counts = places
            self.down = {i: self._down(i, counts) for i in self.layout.sets}

    def _per_sample(self, layer: int) -> torch.Tensor:
        return torch.zeros(self.program.sizes[layer], self.batch, dtype=torch.float64)

    def _scale(self, layer: int, plan: Any) -> torch.Tensor:
        if layer in self.layout.sums and plan.direct:
            source = plan.sources[0]
            return self.scales[source.layer][source.index]
        return self._per_sample(layer)

    def _flow(self, layer: int, place: int) -> torch.Tensor:
        shape = self.program.sizes[layer], self.batch, self.program.widths[layer]
        return self.workspace.buffer(("flow", place), shape, self.program)

    def _product(self, layer: int) -> dict[str, Any]:
        """The fields that the frames of both passes share."""
        plan = self.program.layers[layer]
        assert isinstance(plan, ProductPlan)
        return {
            "blocks": plan.num_blocks,
            "batch": self.batch,
            "width": plan.width,
            "offsets": address(plan.edges.offsets),
            "variables": address(self.layout.variables[layer]),
            "widths": address(self.layout.widths[layer]),
            "rows": address(self.rows),
            "tile": address(self.tiles[layer]),
        }

    def _up(self, layer: int) -> Job:
        plan = self.program.layers[layer]
        assert isinstance(plan, ProductPlan)
        chunk = max(1, _TASK_VALUES // plan.width)
        sources = self._sources(plan, self.params, self.tiles)
        scales = self.rows_of(layer, self.scales)
        return Job(
            _UPWARD[plan.kind],
            products.UP,
            plan.num_blocks * -(-self.batch // chunk),
            keep=(sources, scales),
            chunk=chunk,
            sources=address(sources),
            scales=address(scales),
            scale=address(self.scales[layer]),
            error=address(self.errors[layer]),
            **self._product(layer),
        )

    def _down(self, layer: int, counts: Params) -> Job:
        plan, sets = self.program.layers[layer], self.layout.sets[layer]
        assert isinstance(plan, ProductPlan)
        number = len(sets.offsets) - 1
        parts = 1 if sets.keys is None else -(-torch.get_num_threads() // number)
        targets = self._sources(plan, counts, self.tiles | self.flows)
        return Job(
            products.product_down,
            products.DOWN,
            number * parts,
            keep=(targets,),
            kind=products.KINDS.index(plan.kind),
            sets=number,
            parts=parts,
            set_offsets=address(sets.offsets),
            set_blocks=address(sets.blocks),
            keys=address(sets.keys),
            targets=address(targets),
            **self._product(layer),
        )

    def _sources(self, plan: ProductPlan, tables: Params, tiles: dict[int, torch.Tensor]) -> Longs:
        """int64 [edges], addresses: of an input's table (0 for none), of another block's tile."""
        found = np.zeros(len(plan.edges.layers), np.int64)
        for layer in np.unique(plan.edges.layers):
            here = plan.edges.layers == layer
            blocks, source = plan.edges.blocks[here], self.program.layers[layer]
            width = 4 * self.program.widths[layer]
            if not isinstance(source, InputPlan):
                found[here] = address(tiles[layer]) + width * self.batch * blocks
            elif tables[layer] is not None:
                rows = source.offsets.numpy()[blocks, 0].astype(np.int64)
                found[here] = address(tables[layer]) + width * rows
        return found

    def rows_of(self, layer: int, tensors: dict[int, torch.Tensor]) -> Longs:
        """int64 [edges]: addresses of the children's rows [batch] of float64, 0 where absent."""
        plan = self.program.layers[layer]
        if isinstance(plan, SumPlan):
            return _rows(tensors, plan.sources[0])
        assert isinstance(plan, ProductPlan)
        found = np.zeros(len(plan.edges.layers), np.int64)
        for source in np.unique(plan.edges.layers):
            if source in tensors:
                here = plan.edges.layers == source
                found[here] = address(tensors[source]) + 8 * self.batch * plan.edges.blocks[here]
        return found

    def _sum(self, layer: int) -> SumJobs:
        program, batch = self.program, self.batch
        plan, weights = program.layers[layer], self.params[program.owners[layer]]
        assert isinstance(plan, SumPlan) and weights is not None
        source = plan.sources[0]
        values, tile = self.tiles[source.layer][source.index], self.tiles[layer]
        mixed, factors = tile, None
        if not plan.direct:
            shape = (source.count, batch, plan.width)
            mixed = self.workspace.buffer("mixed", shape, program)
            factors = torch.empty(source.count, batch)
        offsets = np.searchsorted(plan.block_of_edge.numpy(), np.arange(plan.num_blocks + 1))
        scales = self.rows_of(layer, self.scales)
        chunk = max(1, _TASK_VALUES // plan.width)
        tiny = torch.finfo(program.dtype).tiny
        mix, spread = (
            Job(
                kernel,
                sums.MIX,
                plan.num_blocks * -(-batch // chunk),
                keep=(offsets, scales, factors),
                blocks=plan.num_blocks,
                batch=batch,
                width=plan.width,
                chunk=chunk,
                single=plan.direct,
                offsets=address(offsets),
                mixed=address(mixed),
                factors=address(factors),
                scales=address(scales),
                tile=address(tile),
                scale=address(self.scales[layer]),
                error=address(self.errors[layer]),
                floor=tiny * plan.terms,
            )
            for kernel in (sums.mix, sums.spread)
        )
        down = None
        if source.layer in self.layout.bare:
            down = _by_group(self.flows[source.layer], weights)
        return SumJobs(
            source.layer,
            _by_group(values, weights),
            weights,
            _by_group(mixed, weights),
            tile,
            plan.direct,
            mix,
            spread,
            down,
        )


def _rows(tensors: dict[int, torch.Tensor], blocks: Blocks) -> Longs:
    if blocks.layer not in tensors:
        return np.zeros(blocks.count, np.int64)
    rows = tensors[blocks.layer][blocks.index]
    return address(rows) + 8 * rows.shape[1] * np.arange(blocks.count)


def _by_group(tile: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return tile.view(len(weights), -1, tile.shape[2])


def key(program: Program, params: Params, workspace: Workspace) -> tuple[object, ...]:
    """What the addresses in jobs depend on, beside the batch size."""
    return (id(program), workspace.version, *(address(p) for p in params if p is not None))


def jobs(program: Program, params: Params, workspace: Workspace, batch: int) -> Jobs:
    """The jobs for a batch size: those of an earlier batch, where they still hold."""
    known: dict[int, Jobs] = workspace.jobs
    now = key(program, params, workspace)
    if batch in known and known[batch].key == now:
        return known[batch]
    other = next(iter(known.values()), None)
    plan = other.layout if other is not None and other.program is program else layout(program)
    if other is not None and other.key != now:
        known.clear()
    known[batch] = Jobs(program, params, workspace, batch, plan)
    return known[batch]
