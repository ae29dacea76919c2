"""The two passes with compiled kernels, for float32 on CPUs.

Kernels take products; sums over one product layer are matrix products between them, and for
everything else the passes fall back on ``forward`` and ``backward``.  Where the two alternate, the
downward pass hands on what the next operation needs in place of flows (see ``layout.Layout``).
"""

from __future__ import annotations

import torch

from pyjuice_bridge.engines.torch.backward import Downward
from pyjuice_bridge.engines.torch.forward import Upward
from pyjuice_bridge.engines.torch.fused.jobs import SumJobs, jobs
from pyjuice_bridge.engines.torch.fused.steps import applies
from pyjuice_bridge.engines.torch.fused.threads import Job, address
from pyjuice_bridge.engines.torch.program import Params, ProductPlan, Program, SumPlan
from pyjuice_bridge.engines.torch.values import Activations, Evidence, Workspace


def upward(
    program: Program, params: Params, x: torch.Tensor, evidence: Evidence, workspace: Workspace
) -> Upward:
    """The fastest upward pass there is for the program."""
    fused = applies(program.device, program.dtype) and len(x)
    return (FusedUpward if fused else Upward)(program, params, x, evidence, workspace)


def downward(up: Upward, counts: Params) -> Downward:
    """The downward pass that goes with ``up``."""
    return FusedDownward(up, counts) if isinstance(up, FusedUpward) else Downward(up, counts)


class FusedUpward(Upward):
    """An upward pass whose products are kernels'."""

    def run(self) -> Activations:
        self.jobs = jobs(self.program, self.params, self.workspace, self.act.batch)
        self.jobs.rows.copy_(self.shifted)
        self.masked = {
            layer
            for layer, sites in self.program.latents.items()
            if any(site.name in self.evidence for site in sites)
        }
        return super().run()

    def _hadamard(self, layer: int, plan: ProductPlan) -> None:
        if not self._product(layer, plan):
            super()._hadamard(layer, plan)
            self._keep_scale(layer)

    def _gathered_product(self, layer: int, plan: ProductPlan) -> None:
        if not self._product(layer, plan):
            super()._gathered_product(layer, plan)
            self._keep_scale(layer)

    def _product(self, layer: int, plan: ProductPlan) -> bool:
        """Have a kernel do it, unless there is evidence on the layer or its inputs."""
        if self.masked and not self.masked.isdisjoint({layer, *plan.edges.layers.tolist()}):
            return False
        self._run(self.jobs.up[layer], layer)
        self.act.tiles[layer] = self.jobs.tiles[layer]
        self.act.scales[layer] = self.jobs.scales[layer]
        return True

    def _run(self, job: Job, layer: int) -> None:
        """With the error bounds of the layer's children, which are seldom there."""
        errors = self.jobs.rows_of(layer, self.act.errors) if self.act.errors else None
        if errors is not None and not errors.any():
            errors = None
        job["errors"] = address(errors)
        job["lost"] = 0
        job.run()
        if job["lost"]:
            self.act.errors[layer] = self.jobs.errors[layer]

    def _sum(self, layer: int, plan: SumPlan) -> None:
        step = self.jobs.sums.get(layer)
        if step is None or layer in self.masked:
            super()._sum(layer, plan)
            self._keep_scale(layer)
            return
        torch.bmm(step.values, step.weights.transpose(1, 2), out=step.mixed)
        faint = self.workspace.any_faint(self.program.owners[layer], step.weights, self.faint)
        if faint or not step.single or step.source in self.act.errors:
            step.mix["faint"] = self.faint if faint or self.act.errors else 0.0
            self._run(step.mix, layer)
        self.act.tiles[layer] = step.tile
        self.act.scales[layer] = self.jobs.scales[layer]

    def _keep_scale(self, layer: int) -> None:
        """Scales and error bounds stand where jobs look for them."""
        for kept, found in (
            (self.jobs.scales, self.act.scales),
            (self.jobs.errors, self.act.errors),
        ):
            if layer in found and address(found[layer]) != address(kept[layer]):
                kept[layer].copy_(found[layer])
                found[layer] = kept[layer]


class FusedDownward(Downward):
    """The downward pass of a ``FusedUpward``; the values of sums are gone afterwards."""

    def __init__(self, up: FusedUpward, counts: Params) -> None:
        super().__init__(up, counts)
        self.jobs = up.jobs
        self.jobs.count(counts)
        self._handed = up.jobs.layout.handed
        self._masked = up.masked
        self._bare: set[int] = set()

    def _product(self, layer: int, plan: ProductPlan, flow: torch.Tensor) -> None:
        job = self.jobs.down.get(layer)
        if job is None:
            super()._product(layer, plan, flow)
            return
        flow = flow.contiguous()
        job["flow"], job["bare"] = address(flow), layer in self._bare
        job.run()
        for child in set(plan.edges.layers.tolist()) & self._handed:
            tiles = self.jobs.flows if child in self.jobs.flows else self.jobs.tiles
            self.flows[child] = tiles[child]

    def _sum(self, layer: int, plan: SumPlan, flow: torch.Tensor) -> None:
        step = self.jobs.sums.get(layer)
        if step is None or layer in self._masked:
            super()._sum(layer, plan, flow)
            return
        weights, count = step.weights, self.counts[self.up.program.owners[layer]]
        ratio = self._edge_ratio(layer, step, flow)
        if count is not None:
            count.baddbmm_(ratio.transpose(1, 2), step.values)
        if step.down is None:
            flows = torch.bmm(ratio, weights).mul_(step.values)
            self._split(plan.sources, flows.view(-1, self.up.act.batch, flows.shape[2]))
            return
        torch.bmm(ratio, weights, out=step.down)
        self.flows[step.source] = self.jobs.flows[step.source]
        self._bare.add(step.source)

    def _edge_ratio(self, layer: int, step: SumJobs, flow: torch.Tensor) -> torch.Tensor:
        """Flow / value of every edge, [groups, rows, width_out]."""
        ratio = self._ratio(layer, flow)
        if step.single:
            return ratio.view_as(step.mixed)
        if address(ratio) != address(step.tile):
            step.tile.copy_(ratio)
        step.spread.run()
        return step.mixed

    def _ratio(self, layer: int, flow: torch.Tensor) -> torch.Tensor:
        if layer not in self._handed:
            return super()._ratio(layer, flow)
        mask = self.up.evidence_on(layer)
        return flow if mask is None else flow.mul_(mask)
