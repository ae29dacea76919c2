"""Where the passes of one program, its parameters and one batch size keep their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pyjuice_bridge.engines.torch.backward import add_limited
from pyjuice_bridge.engines.torch.fused.layout import Layout, Longs
from pyjuice_bridge.engines.torch.fused.threads import address
from pyjuice_bridge.engines.torch.program import (
    AbsentPlan,
    InputPlan,
    Params,
    ProductPlan,
    Program,
    SumPlan,
)
from pyjuice_bridge.engines.torch.values import Values, Workspace, table


class Buffers:
    """Everything that kernels of a float32 pass read and write.

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

    def counted(self, counts: Params) -> Params:
        """Return what kernels add to where ``counts`` is meant."""
        return counts

    def hand_over(self, values: Values, counts: Params) -> None:
        """Bring what kernels have counted to ``counts``."""

    def variables(self, layer: int) -> Longs:
        """int64 [edges], by which row of ``rows`` a product layer's inputs are read."""
        return self.layout.variables[layer]

    def sources(self, layer: int, tables: Params, tiles: dict[int, torch.Tensor]) -> Longs:
        """int64 [edges], addresses: of an input's table (0 for none), of another block's tile."""
        plan = self.program.layers[layer]
        assert isinstance(plan, ProductPlan)
        found = np.zeros(len(plan.edges.layers), np.int64)
        for source in np.unique(plan.edges.layers):
            here = plan.edges.layers == source
            blocks, below = plan.edges.blocks[here], self.program.layers[source]
            size = self.program.widths[source] * self.program.dtype.itemsize
            if not isinstance(below, InputPlan):
                found[here] = address(tiles[source]) + size * self.batch * blocks
            elif tables[source] is not None:
                found[here] = address(tables[source]) + size * self.first_rows(below, blocks)
        return found

    def first_rows(self, plan: InputPlan, blocks: Longs) -> Longs:
        """Where blocks begin in the table of their layer."""
        offsets: Longs = plan.offsets.numpy()[blocks, 0].astype(np.int64)
        return offsets

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


class DoubleBuffers(Buffers):
    """Those of a float64 pass over parameters and counts that are float32.

    Kernels read and count in copies: of weights, and of just those rows of tables that samples
    read, [blocks, batch, width].
    """

    def __init__(
        self, program: Program, params: Params, workspace: Workspace, batch: int, plan: Layout
    ) -> None:
        super().__init__(program, params, workspace, batch, plan)
        self.held = params
        self.params = [self._copy("read", i, p) for i, p in enumerate(params)]
        self._weights_version = -1

    def _copy(self, use: str, layer: int, held: torch.Tensor | None) -> torch.Tensor | None:
        if held is None:
            return None
        shape = tuple(held.shape)
        if isinstance(self.program.layers[layer], InputPlan):
            shape = self.program.sizes[layer], self.batch, self.program.widths[layer]
        return self.workspace.buffer((use, layer), shape, self.program)

    def fill(self, values: Values) -> None:
        self.lost.zero_()
        version, copied = self.workspace.weights_version, self._weights_version
        for layer, (held, copy) in enumerate(zip(self.held, self.params, strict=True)):
            plan = self.program.layers[layer]
            if held is None or copy is None:
                continue
            if isinstance(plan, InputPlan):
                rows = self._rows(values, plan)
                copy.copy_(table(self.held, layer).index_select(0, rows).view_as(copy))
            elif version != copied:
                copy.copy_(held)
        self._weights_version = version

    def _rows(self, values: Values, plan: InputPlan) -> torch.Tensor:
        """Of the flattened table, int32 [blocks * batch]."""
        return values.shifted.index_select(0, plan.variables).add_(plan.offsets).view(-1)

    def counted(self, counts: Params) -> Params:
        self._counts = [self._copy("count", i, c) for i, c in enumerate(counts)]
        for count in self._counts:
            if count is not None:
                count.zero_()
        return self._counts

    def hand_over(self, values: Values, counts: Params) -> None:
        for layer, (count, more) in enumerate(zip(counts, self._counts, strict=True)):
            plan = self.program.layers[layer]
            if count is None or more is None:
                continue
            if isinstance(plan, InputPlan):
                flat = count.view(-1, count.shape[2])
                more = more.view(-1, count.shape[2]).float()
                flat.index_add_(0, self._rows(values, plan), more)
            else:
                add_limited(count, more)

    def variables(self, layer: int) -> Longs:
        found = self.layout.variables[layer]
        return np.where(found >= 0, self.program.num_vars, found)

    def first_rows(self, plan: InputPlan, blocks: Longs) -> Longs:
        return self.batch * blocks
