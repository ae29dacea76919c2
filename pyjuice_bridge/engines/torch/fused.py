"""The two passes with compiled kernels, for float32 on CPUs.

Kernels take Hadamard products; sums with one edge per block are a matrix product between them, and
for everything else the passes fall back on ``forward`` and ``backward``.  Where products and such
sums alternate, the downward pass hands on what the next operation needs in place of flows:
flow / value, for a sum in the tile that held its values, for a product (``bare``) in a buffer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pyjuice_bridge.engines.torch import kernels
from pyjuice_bridge.engines.torch.backward import Downward
from pyjuice_bridge.engines.torch.forward import Upward, by_group
from pyjuice_bridge.engines.torch.layout import Layout, Longs, layout, plain
from pyjuice_bridge.engines.torch.program import (
    InputPlan,
    Params,
    ProductPlan,
    Program,
    SumPlan,
)
from pyjuice_bridge.engines.torch.threads import Frame, run
from pyjuice_bridge.engines.torch.values import Activations, Workspace

_TASK_VALUES = 2**13
"""Values of a tile that are one task of the upward pass."""


def applies(program: Program) -> bool:
    """Whether there are kernels for the program's device and precision."""
    return program.device.type == "cpu" and program.dtype == torch.float32


def upward(
    program: Program,
    params: Params,
    x: torch.Tensor,
    evidence: dict[str, torch.Tensor],
    workspace: Workspace,
) -> Upward:
    """The fastest upward pass there is for the program."""
    kind = FusedUpward if applies(program) else Upward
    return kind(program, params, x, evidence, workspace)


def downward(up: Upward, counts: Params) -> Downward:
    """The downward pass that goes with ``up``."""
    return FusedDownward(up, counts) if isinstance(up, FusedUpward) else Downward(up, counts)


@dataclass
class Bound:
    """Frames and buffers for one program, its parameters and one batch size.

    Attributes:
        key: addresses of parameters and tiles; others need other frames.
        scales: by layer, float64 [blocks, batch]; those of a plain sum are its products'.
        errors: of product layers that kernels take.
        up, down: frames by product layer.
        arrays: keeps what frames point to.
    """

    key: tuple[object, ...]
    layout: Layout
    scales: dict[int, torch.Tensor]
    errors: dict[int, torch.Tensor]
    up: dict[int, Frame]
    down: dict[int, Frame]
    arrays: list[Longs]
    counts: tuple[int, ...] = ()


def _key(program: Program, params: Params, workspace: Workspace, batch: int) -> tuple[object, ...]:
    tiles = [
        workspace.tile(program, i, batch).data_ptr() if size else 0
        for i, size in enumerate(program.tile_entries)
    ]
    tables = [0 if p is None else p.data_ptr() for p in params]
    return (id(program), batch, *tiles, *tables)


def _bind(program: Program, params: Params, workspace: Workspace, batch: int) -> Bound:
    """Frames for the upward pass; those of the downward pass follow with the counts."""
    known = workspace.bound
    same = known is not None and known.key[0] == id(program)
    key = _key(program, params, workspace, batch)
    if same and known.key == key:
        return known
    bound = Bound(key, known.layout if same else layout(program), {}, {}, {}, {}, [])
    for i, plan in enumerate(program.layers):
        if isinstance(plan, InputPlan):
            continue
        source = plan.sources[0] if isinstance(plan, SumPlan) and plan.direct else None
        if source is not None and isinstance(source.index, slice):
            bound.scales[i] = bound.scales[source.layer][source.index]
        else:
            bound.scales[i] = torch.empty(program.sizes[i], batch, dtype=torch.float64)
        if i in bound.layout.variables:
            bound.errors[i] = torch.empty(program.sizes[i], batch, dtype=torch.float64)
    for i in bound.layout.variables:
        bound.up[i] = _up_frame(program, params, workspace, bound, i, batch)
    workspace.bound = bound
    return bound


def _up_frame(
    program: Program, params: Params, workspace: Workspace, bound: Bound, layer: int, batch: int
) -> Frame:
    plan, variables = program.layers[layer], bound.layout.variables[layer]
    assert isinstance(plan, ProductPlan)
    width = program.widths[layer]
    scales = [bound.scales.get(i) for i in range(len(program.layers))]
    arrays = (
        plan.edges.offsets,
        _sources(program, params, workspace, plan, batch),
        variables,
        _addresses(plan, scales),
    )
    bound.arrays += arrays
    frame = np.zeros(1, kernels.UP)
    chunk = min(batch, max(1, _TASK_VALUES // width))
    frame["blocks"], frame["batch"], frame["width"] = plan.num_blocks, batch, width
    frame["chunk"], frame["tasks"] = chunk, plan.num_blocks * -(-batch // chunk)
    names = ("offsets", "sources", "variables", "scales")
    for name, array in zip(names, arrays, strict=True):
        frame[name] = array.ctypes.data
    frame["tile"] = workspace.tile(program, layer, batch).data_ptr()
    frame["scale"], frame["error"] = (t[layer].data_ptr() for t in (bound.scales, bound.errors))
    return frame


def _sources(
    program: Program, tables: Params, workspace: Workspace, plan: ProductPlan, batch: int
) -> Longs:
    """Addresses of factors: an input's table, the tile of another block; 0 for no table."""
    found = np.zeros(len(plan.edges.layers), np.int64)
    for layer in np.unique(plan.edges.layers):
        here = plan.edges.layers == layer
        blocks, source = plan.edges.blocks[here], program.layers[layer]
        width = program.widths[layer]
        if isinstance(source, InputPlan):
            table = tables[layer]
            if table is not None:
                rows = source.offsets.numpy()[blocks, 0].astype(np.int64)
                found[here] = table.data_ptr() + 4 * width * rows
        else:
            tile = workspace.tile(program, int(layer), batch)
            found[here] = tile.data_ptr() + 4 * width * batch * blocks
    return found


def _addresses(plan: ProductPlan, rows: list[torch.Tensor | None]) -> Longs:
    """Addresses of float64 rows [batch], one per factor; 0 where its layer has none."""
    found = np.zeros(len(plan.edges.layers), np.int64)
    for layer in np.unique(plan.edges.layers):
        tensor = rows[layer]
        if tensor is not None:
            here = plan.edges.layers == layer
            found[here] = tensor.data_ptr() + 8 * tensor.stride(0) * plan.edges.blocks[here]
    return found


class FusedUpward(Upward):
    """An upward pass whose Hadamard products are kernels'."""

    def run(self) -> Activations:
        self.bound = _bind(self.program, self.params, self.workspace, self.act.batch)
        self._masked = {
            layer
            for layer, sites in self.program.latents.items()
            if any(site.name in self.evidence for site in sites)
        }
        return super().run()

    def _hadamard(self, layer: int, plan: ProductPlan) -> None:
        if self._masked and not self._masked.isdisjoint({layer, *plan.edges.layers.tolist()}):
            super()._hadamard(layer, plan)
            self._keep_scale(layer)
            return
        frame = self.bound.up[layer]
        errors = None
        if any(self.act.errors.get(f.source.layer) is not None for f in plan.factors):
            rows = [self.act.errors.get(i) for i in range(len(self.program.layers))]
            errors = _addresses(plan, rows)
        frame["errors"] = 0 if errors is None else errors.ctypes.data
        frame["rows"] = self.shifted.data_ptr()
        frame["lost"] = 0
        run(kernels.product_up, frame)
        self.act.tiles[layer] = self.workspace.tile(self.program, layer, self.act.batch)
        self.act.scales[layer] = self.bound.scales[layer]
        if frame["lost"]:
            self.act.errors[layer] = self.bound.errors[layer]

    def _gathered_product(self, layer: int, plan: ProductPlan) -> None:
        super()._gathered_product(layer, plan)
        self._keep_scale(layer)

    def _sum(self, layer: int, plan: SumPlan) -> None:
        super()._sum(layer, plan)
        self._keep_scale(layer)

    def _keep_scale(self, layer: int) -> None:
        """Scales stand where frames point to."""
        kept, scale = self.bound.scales[layer], self.act.scales[layer]
        if kept.data_ptr() != scale.data_ptr():
            kept.copy_(scale)
            self.act.scales[layer] = kept


class FusedDownward(Downward):
    """The downward pass of a ``FusedUpward``; the values of sums are gone afterwards."""

    def __init__(self, up: FusedUpward, counts: Params) -> None:
        super().__init__(up, counts)
        self._bound, self._batch = up.bound, up.act.batch
        addresses = tuple(0 if c is None else c.data_ptr() for c in counts)
        if self._bound.counts != addresses:
            self._bound.down.clear()
            self._bound.counts = addresses
        self._bare: set[int] = set()

    def _hadamard(self, layer: int, plan: ProductPlan, flow: torch.Tensor) -> None:
        sets = self._bound.layout.sets.get(layer)
        if sets is None:
            super()._hadamard(layer, plan, flow)
            return
        frame = self._bound.down.get(layer)
        if frame is None:
            frame = self._bound.down[layer] = self._frame(layer, plan)
        frame["flow"] = flow.data_ptr()
        frame["bare"] = layer in self._bare
        frame["rows"] = self.up.shifted.data_ptr()
        run(kernels.product_down, frame)
        for child in set(plan.edges.layers.tolist()) & self._bound.layout.divided:
            self.flows[child] = self.up.act.tiles[child]

    def _frame(self, layer: int, plan: ProductPlan) -> Frame:
        up, sets = self.up, self._bound.layout.sets[layer]
        width, count = up.program.widths[layer], len(sets.offsets) - 1
        targets = _sources(up.program, self.counts, up.workspace, plan, self._batch)
        self._bound.arrays.append(targets)
        parts = 1 if sets.keys is None else -(-torch.get_num_threads() // count)
        frame = np.zeros(1, kernels.DOWN)
        frame["blocks"], frame["batch"], frame["width"] = plan.num_blocks, self._batch, width
        frame["sets"], frame["parts"], frame["tasks"] = count, parts, count * parts
        frame["set_offsets"] = sets.offsets.ctypes.data
        frame["set_blocks"] = sets.blocks.ctypes.data
        frame["keys"] = 0 if sets.keys is None else sets.keys.ctypes.data
        frame["offsets"] = plan.edges.offsets.ctypes.data
        frame["targets"] = targets.ctypes.data
        frame["variables"] = self._bound.layout.variables[layer].ctypes.data
        frame["tile"] = up.act.tiles[layer].data_ptr()
        return frame

    def _sum(self, layer: int, plan: SumPlan, flow: torch.Tensor) -> None:
        source = plan.sources[0].layer
        place = self._bound.layout.bare.get(source)
        if place is None or not plain(plan):
            super()._sum(layer, plan, flow)
            return
        values, weights = self.up.act.tiles[source], self.up.weights(layer)
        ratio = self._ratio(layer, flow)
        count = self.counts[self.up.program.owners[layer]]
        if count is not None:
            count.baddbmm_(by_group(ratio, weights).transpose(1, 2), by_group(values, weights))
        down = self.up.workspace.tile(self.up.program, source, self._batch, place)
        torch.bmm(by_group(ratio, weights), weights, out=by_group(down, weights))
        self.flows[source] = down
        self._bare.add(source)

    def _ratio(self, layer: int, flow: torch.Tensor) -> torch.Tensor:
        if layer not in self._bound.layout.divided:
            return super()._ratio(layer, flow)
        mask = self.up.evidence_on(layer)
        return flow if mask is None else flow.mul_(mask)
