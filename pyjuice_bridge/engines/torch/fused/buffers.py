"""Where the passes of one program, its parameters and one batch size keep their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pyjuice_bridge.engines.torch.fused.layout import Layout, Longs
from pyjuice_bridge.engines.torch.fused.memory import SIZE
from pyjuice_bridge.engines.torch.fused.threads import address
from pyjuice_bridge.engines.torch.program import (
    AbsentPlan,
    InputPlan,
    Params,
    ProductPlan,
    Program,
    SumPlan,
)
from pyjuice_bridge.engines.torch.values import Values, Workspace


class Buffers:
    """Everything that kernels read and write.

    Attributes:
        params: what kernels read: of input layers the table, of sum layers the weights.
        rows: int32 [num_vars + 1, batch]: where the rows of tables to read belong, by variable;
            and the samples' own numbers.
        tiles: by layer, [blocks, batch, width].
        scales, errors: by layer, float64 [blocks, batch]; scales of sums with one edge per block
            are those of their children.
        lost, faint: int64 [layers], flags: some error of the layer is not 0; the weights that the
            layer owns are partly small.
        flows: by product layer, for what it is handed.
    """

    def __init__(
        self, program: Program, params: Params, workspace: Workspace, batch: int, plan: Layout
    ) -> None:
        self.program, self.params, self.workspace = program, params, workspace
        self.batch, self.layout = batch, plan
        self.rows = torch.arange(batch, dtype=torch.int32).repeat(program.num_vars + 1, 1)
        outer = (InputPlan, AbsentPlan)
        inner = [i for i, p in enumerate(program.layers) if not isinstance(p, outer)]
        self.tiles = {i: workspace.tile(program, i, batch) for i in inner}
        self.flows = {i: self._flow(i, place) for i, place in plan.places.items()}
        self.scales: dict[int, torch.Tensor] = {}
        self.errors = {i: self._per_sample(i) for i in inner}
        for i in inner:
            self.scales[i] = self._scale(i, program.layers[i])
        self.lost = torch.zeros(len(program.layers), dtype=torch.int64)
        self.faint = torch.zeros(len(program.layers), dtype=torch.int64)

    def fill(self, values: Values) -> None:
        """Get ready for a batch."""
        self.rows[:-1].copy_(values.shifted)
        self.lost.zero_()

    def sources(self, layer: int, tables: Params, tiles: dict[int, torch.Tensor]) -> Longs:
        """int64 [edges], addresses: of an input's table (0 for none), of another block's tile."""
        plan = self.program.layers[layer]
        assert isinstance(plan, ProductPlan)
        found = np.zeros(len(plan.edges.layers), np.int64)
        for source in np.unique(plan.edges.layers):
            here = plan.edges.layers == source
            blocks, below = plan.edges.blocks[here], self.program.layers[source]
            size = SIZE * self.program.widths[source]
            if not isinstance(below, InputPlan):
                found[here] = address(tiles[source]) + size * self.batch * blocks
            elif tables[source] is not None:
                first = below.offsets.numpy()[blocks, 0].astype(np.int64)
                found[here] = address(tables[source]) + size * first
        return found

    def rows_of(self, layer: int, tensors: dict[int, torch.Tensor]) -> Longs:
        """int64 [edges]: addresses of the children's rows [batch] of float64, 0 where absent."""
        plan = self.program.layers[layer]
        if isinstance(plan, SumPlan):
            source = plan.sources[0]
            rows = tensors[source.layer][source.index]
            return address(rows) + 8 * self.batch * np.arange(source.count)
        assert isinstance(plan, ProductPlan)
        found = np.zeros(len(plan.edges.layers), np.int64)
        for child in np.unique(plan.edges.layers):
            if child in tensors:
                here = plan.edges.layers == child
                found[here] = address(tensors[child]) + 8 * self.batch * plan.edges.blocks[here]
        return found

    def weights_of(self, layer: int, params: Params) -> Longs:
        """int64 [edges]: addresses of the matrices in a sum layer; 0 for none."""
        plan, held = self.program.layers[layer], params[self.program.owners[layer]]
        assert isinstance(plan, SumPlan)
        edges = plan.sources[0].count
        if held is None:
            return np.zeros(edges, np.int64)
        size = held.stride(0) * held.element_size()
        return address(held) + size * (np.arange(edges) // (edges // plan.num_groups))

    def flags_of(self, layer: int) -> Longs:
        """int64 [children]: addresses of the flags in ``lost`` of a layer's children."""
        plan = self.program.layers[layer]
        assert isinstance(plan, ProductPlan | SumPlan)
        below = plan.edges.layers if isinstance(plan, ProductPlan) else [plan.sources[0].layer]
        return address(self.lost) + 8 * np.unique(below)

    def flag(self, flags: torch.Tensor, layer: int) -> int:
        """Return the address of a layer's flag."""
        return address(flags) + 8 * layer

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
