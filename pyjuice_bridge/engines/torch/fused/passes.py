"""The two passes with compiled kernels, for CPUs.

Jobs wait until something else needs what they make, so most passes are one visit to the pool of
threads.  Kernels take products, and sums over one product layer; for everything else the passes
fall back on ``forward`` and ``backward``.  Where products and sums alternate, the downward pass
hands on what the next operation needs in place of flows (see ``layout.Layout``).
"""

from __future__ import annotations

import torch

from pyjuice_bridge.engines.torch.backward import Downward
from pyjuice_bridge.engines.torch.forward import Upward
from pyjuice_bridge.engines.torch.fused.banks import BankJobs, bank_jobs
from pyjuice_bridge.engines.torch.fused.jobs import jobs
from pyjuice_bridge.engines.torch.fused.steps import Step
from pyjuice_bridge.engines.torch.fused.sum_jobs import SumJobs
from pyjuice_bridge.engines.torch.fused.threads import Job, address, run
from pyjuice_bridge.engines.torch.fused.trees import Cut
from pyjuice_bridge.engines.torch.precision import rounds_factors
from pyjuice_bridge.engines.torch.program import (
    GivenPlan,
    Params,
    ProductPlan,
    Program,
    SumPlan,
)
from pyjuice_bridge.engines.torch.steady import SteadyUpward
from pyjuice_bridge.engines.torch.values import Activations, Evidence, Workspace


def cut_of(program: Program, evidence: Evidence) -> Cut | None:
    """Return the trees to evaluate depth first.

    None if there is evidence inside them, or if products of matrices are to be rounded.
    """
    found: Cut | None = program.cut
    if found is None or rounds_factors():
        return None
    sites = program.latents
    given = {i for i in sites if any(site.name in evidence for site in sites[i])}
    return None if given & found.inside else found


def upward(
    program: Program, params: Params, x: torch.Tensor, evidence: Evidence, workspace: Workspace
) -> Upward:
    """Choose the fastest upward pass there is for the program."""
    cut = cut_of(program, evidence) if len(x) else None
    if cut is not None:
        kind = FusedTrees if program.dtype == torch.float32 else Trees
        return kind(cut, program, params, x, evidence, workspace)
    if program.device.type == "cuda" and program.dtype == torch.float32:
        return SteadyUpward(program, params, x, evidence, workspace)
    fused = program.device.type == "cpu" and program.dtype == torch.float32 and len(x)
    return (FusedUpward if fused else Upward)(program, params, x, evidence, workspace)


def downward(up: Upward, counts: Params) -> Downward:
    """Return the downward pass that goes with ``up``."""
    return FusedDownward(up, counts) if isinstance(up, FusedUpward) else Downward(up, counts)


class Trees(Upward):
    """An upward pass of the rest of a program whose trees are evaluated depth first.

    The rest is in the program's own precision.
    """

    def __init__(
        self,
        cut: Cut,
        program: Program,
        params: Params,
        x: torch.Tensor,
        evidence: Evidence,
        workspace: Workspace,
    ) -> None:
        rest = cut.rest if program.dtype == cut.rest.dtype else cut.rest.in_double
        super().__init__(rest, params, x, evidence, workspace)
        self.banks, self.inside = bank_jobs(cut, params, workspace, len(x)), cut.inside
        self._steps = cut.categorical

    @property
    def alone(self) -> bool:
        """True if the roots of the trees are the roots of the program."""
        return not any(isinstance(p, (ProductPlan, SumPlan)) for p in self.program.layers)

    def run(self) -> Activations:
        waiting = self._prepare()
        self.masks = [self._mask_of(bank) for bank in self.banks]
        waiting += [bank.up(mask) for bank, mask in zip(self.banks, self.masks, strict=True)]
        run(waiting)
        return super().run()

    def run_and_count(
        self, weights: torch.Tensor, counts: Params, step: Step | None
    ) -> torch.Tensor:
        """Both passes in one visit to trees that stand ``alone``.

        Args:
            weights: [batch, roots].
            counts: buffers that are added to.
            step: to be taken, if these are all rows that are counted.

        Returns:
            log p, float64 [batch, roots]; -inf where the weight is zero.
        """
        run(self._prepare())
        parts = weights.t().split([blocks.count for blocks in self.program.roots])
        step = self._taken(step, counts)
        scores = [
            bank.count(flow, counts, step) for bank, flow in zip(self.banks, parts, strict=True)
        ]
        return torch.cat(scores).t()

    def count(self, down: Downward, step: Step | None) -> None:
        """Count in the trees what has flowed to their roots, and take the M-step of the trees."""
        workspace = self.workspace
        step = self._taken(step, down.counts)
        for bank in self.banks:
            flow = down.flows.get(bank.bank.target)
            if flow is not None:
                entering = flow[bank.index].float()
                found = bank.down(entering, down.counts, workspace.skip, step)
                workspace.flow += found.total
                workspace.skipped += found.skipped

    def _prepare(self) -> list[Job]:
        version = self.workspace.weights_version
        return [job for bank in self.banks for job in bank.prepare(self.shifted, version)]

    def _taken(self, step: Step | None, counts: Params) -> Step | None:
        """Return the step, if all trees can take it."""
        if step is None or not self._steps or not all(bank.takes(counts) for bank in self.banks):
            return None
        step.taken |= self.inside
        return step

    def _mask_of(self, bank: BankJobs) -> torch.Tensor | None:
        mask = self.evidence_on(bank.bank.target)
        return None if mask is None else mask[bank.index].float()

    def _given(self, layer: int) -> None:
        tile = self.workspace.tile(self.program, layer, self.act.batch).zero_()
        scale = torch.zeros(tile.shape[:2], dtype=torch.float64)
        for bank, mask in zip(self.banks, self.masks, strict=True):
            if bank.bank.target == layer:
                tile[bank.index], scale[bank.index] = bank.given(mask)
        self.act.tiles[layer], self.act.scales[layer] = tile, scale


class FusedUpward(Upward):
    """An upward pass whose products are kernels'."""

    def run(self) -> Activations:
        self.jobs = jobs(self.program, self.params, self.workspace, self.act.batch)
        self.work, self.buffers = self.jobs.work, self.jobs.work.buffers
        self.buffers.fill(self)
        self._waiting: list[Job] = []
        self._made: set[int] = set()
        self.masked = {
            layer
            for layer, sites in self.program.latents.items()
            if any(site.name in self.evidence for site in sites)
            and not isinstance(self.program.layers[layer], GivenPlan)
        }
        self.jobs.lift(by_kernels=not self.masked)
        self._waiting += self.jobs.look_at_weights(self.workspace.weights_version)
        super().run()
        self._do()
        return self.act

    def _do(self) -> None:
        """Run the waiting jobs."""
        run(self._waiting)
        self._waiting.clear()
        lost = self.buffers.lost.tolist()
        self.act.errors |= {i: self.buffers.errors[i] for i in self._made if lost[i]}

    def _hadamard(self, layer: int, plan: ProductPlan) -> None:
        if not self._product(layer, plan):
            self._do()
            super()._hadamard(layer, plan)
            self._keep(layer)

    def _gathered_product(self, layer: int, plan: ProductPlan) -> None:
        if not self._product(layer, plan):
            self._do()
            super()._gathered_product(layer, plan)
            self._keep(layer)

    def _product(self, layer: int, plan: ProductPlan) -> bool:
        """Have a kernel do it, unless there is evidence on the layer or its inputs."""
        if self.masked and not self.masked.isdisjoint({layer, *plan.edges.layers.tolist()}):
            return False
        self._waiting.append(self.jobs.up[layer])
        self._made_by_kernel(layer)
        return True

    def _made_by_kernel(self, layer: int) -> None:
        self.act.tiles[layer] = self.buffers.tiles[layer]
        self.act.scales[layer] = self.buffers.scales[layer]
        self._made.add(layer)

    def _sum(self, layer: int, plan: SumPlan) -> None:
        step = self.jobs.sums.get(layer)
        if step is None or layer in self.masked:
            self._do()
            super()._sum(layer, plan)
            self._keep(layer)
            return
        joined = step.source in self.work.joined_up and step.source in self._made
        if not joined and step.upward is not None:
            self._waiting.append(step.upward)
        elif not joined:
            self._do()
            torch.bmm(step.values, step.weights.transpose(1, 2), out=step.edge_values)
        if not (joined and step.single):
            self._waiting.append(step.mix)
        self._made_by_kernel(layer)

    def _keep(self, layer: int) -> None:
        """Scales and error bounds stand where kernels look for them."""
        kept, scale = self.buffers.scales[layer], self.act.scales[layer]
        if address(scale) != address(kept):
            self.act.scales[layer] = kept.copy_(scale)
        error = self.act.errors.get(layer)
        self.buffers.lost[layer] = error is not None
        self.buffers.errors[layer].copy_(torch.zeros_like(kept) if error is None else error)


class FusedDownward(Downward):
    """The downward pass of a ``FusedUpward``; the values of sums are gone afterwards."""

    def __init__(self, up: FusedUpward, counts: Params) -> None:
        super().__init__(up, counts)
        self.jobs, self.work, self.buffers = up.jobs, up.work, up.buffers
        self.jobs.count(counts)
        self._flow_targets = self.work.layout.flow_targets
        self._masked = up.masked
        self._waiting: list[Job] = []
        self._given: list[torch.Tensor] = []
        """Flows that waiting jobs read."""
        self._ratio_targets: set[int] = set()
        self._joined: set[int] = set()

    def run(self, weights: torch.Tensor) -> None:
        super().run(weights)
        self._do()

    def _do(self) -> None:
        run(self._waiting)
        self._waiting.clear()
        self._given.clear()

    def _product(self, layer: int, plan: ProductPlan, flow: torch.Tensor) -> None:
        job = self.jobs.down.get(layer)
        if job is None:
            self._do()
            super()._product(layer, plan, flow)
            return
        if layer in self._joined:
            self._waiting.append(self.jobs.joined_down[layer])
        else:
            flow = flow.contiguous()
            self._given.append(flow)
            job["flow"], job["is_ratio"] = address(flow), layer in self._ratio_targets
            self._waiting.append(job)
        for child in set(plan.edges.layers.tolist()) & self._flow_targets:
            tiles = self.buffers.flows if child in self.buffers.flows else self.buffers.tiles
            self.flows[child] = tiles[child]

    def _sum(self, layer: int, plan: SumPlan, flow: torch.Tensor) -> None:
        step = self.jobs.sums.get(layer)
        if step is None or layer in self._masked:
            self._do()
            super()._sum(layer, plan, flow)
            return
        self._spread_ratio(layer, step, flow)
        if step.down is not None:
            self.flows[step.source] = self.buffers.flows[step.source]
            self._ratio_targets.add(step.source)
        if step.source in self.work.joined_down and step.source not in self._masked:
            self._joined.add(step.source)
            return
        self._count(layer, step)
        if step.downward is not None:
            self._waiting.append(step.downward)
            return
        self._do()
        if step.down is not None:
            torch.bmm(step.edge_values, step.weights, out=step.down)
            return
        flows = torch.bmm(step.edge_values, step.weights).mul_(step.values)
        self._split(plan.sources, flows.view(-1, self.up.act.batch, flows.shape[2]))

    def _count(self, layer: int, step: SumJobs) -> None:
        count = self.counts[self.up.program.owners[layer]]
        if step.counting is not None:
            self._waiting.append(step.counting)
        elif count is not None:
            self._do()
            count.baddbmm_(step.edge_values.transpose(1, 2), step.values)

    def _spread_ratio(self, layer: int, step: SumJobs, flow: torch.Tensor) -> None:
        """Flow / value of every edge, in ``step.edge_values``."""
        if layer not in self._flow_targets:
            self._do()
            step.tile.copy_(self._ratio(layer, flow))
        if step.spread is not None:
            self._waiting.append(step.spread)

    def _ratio(self, layer: int, flow: torch.Tensor) -> torch.Tensor:
        if layer not in self._flow_targets:
            return super()._ratio(layer, flow)
        mask = self.up.evidence_on(layer)
        return flow if mask is None else flow.mul_(mask)


class FusedTrees(Trees, FusedUpward):
    """An upward pass whose trees are evaluated depth first, and the rest by kernels."""

    def _given(self, layer: int) -> None:
        buffers = self.buffers
        for bank, mask in zip(self.banks, self.masks, strict=True):
            if bank.bank.target == layer:
                places = buffers.tiles[layer], buffers.scales[layer], buffers.errors[layer]
                lost = buffers.flag(buffers.lost, layer)
                self._waiting.append(bank.gather(mask, *places, lost, self.jobs.lifted))
        self._made_by_kernel(layer)
