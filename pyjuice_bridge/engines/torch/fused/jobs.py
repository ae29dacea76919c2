"""Kernels told where things are: jobs for one program, its parameters and one batch size."""

from __future__ import annotations

import torch

from pyjuice_bridge.engines.torch.fused.buffers import Buffers
from pyjuice_bridge.engines.torch.fused.gemm import gemm_entry
from pyjuice_bridge.engines.torch.fused.layout import layout
from pyjuice_bridge.engines.torch.fused.product_jobs import down_job, joined_down_job, up_job
from pyjuice_bridge.engines.torch.fused.steps import find_faint
from pyjuice_bridge.engines.torch.fused.sum_jobs import count_job, sum_jobs
from pyjuice_bridge.engines.torch.fused.threads import Job, address
from pyjuice_bridge.engines.torch.fused.upward import LIFT
from pyjuice_bridge.engines.torch.fused.work import Work
from pyjuice_bridge.engines.torch.precision import rounds_factors
from pyjuice_bridge.engines.torch.program import Params, Program, SumPlan
from pyjuice_bridge.engines.torch.values import Workspace


class Jobs:
    """Everything that stays the same from batch to batch.

    Attributes:
        work: what the jobs are made of.
        key: what the addresses depend on.
        up, down, joined_down: by product layer; the latter two wait for ``count``.
        lifted: the exponent to which rows are raised.
        sums: by sum layer.
    """

    def __init__(self, work: Work) -> None:
        self.work = work
        self.key: tuple[object, ...] = ()
        self.up = {i: up_job(work, i) for i in work.layout.variables}
        self.sums = {i: sum_jobs(work, i) for i in work.layout.sums}
        self.down: dict[int, Job] = {}
        self.joined_down: dict[int, Job] = {}
        self._counts = [0]
        self.lifted, self._highest = 0, self._room()
        self._faint, self._weights_version = self._find_faint(), -1

    def count(self, counts: Params) -> None:
        """Get ready for a downward pass that adds to ``counts``."""
        places = [address(c) for c in counts]
        if places != self._counts:
            self._counts = places
            work = self.work
            self.down = {i: down_job(work, i, counts) for i in work.layout.sets}
            self.joined_down = {i: joined_down_job(work, i, counts) for i in work.joined_down}
            for layer, step in self.sums.items():
                step.counting = count_job(work, layer, step, counts)

    def lift(self, by_kernels: bool) -> None:
        """Raise rows, or do not, where others than kernels may read them in the next pass."""
        wanted = self._highest if by_kernels else 0
        if wanted != self.lifted:
            self.lifted = wanted
            for job in self.up.values():
                job["lift"] = wanted

    def look_at_weights(self, version: int) -> list[Job]:
        """Return the jobs that find small weights, if these are not those of the last look."""
        if version == self._weights_version:
            return []
        self._weights_version = version
        self.work.buffers.faint.zero_()
        return self._faint

    def _room(self) -> int:
        """``upward.LIFT``, if all sums of the program are kernels'."""
        for layer, plan in enumerate(self.work.program.layers):
            if isinstance(plan, SumPlan):
                step = self.sums.get(layer)
                if step is None or self.work.layout.above.get(step.source) != layer:
                    return 0
        return LIFT

    def _find_faint(self) -> list[Job]:
        buffers = self.work.buffers
        owners = sorted({self.work.program.owners[i] for i in self.sums})
        weights = [w for i in owners if (w := buffers.params[i]) is not None]
        flags = [buffers.flag(buffers.faint, i) for i in owners]
        return [find_faint(weights, flags, self.work.limit)] if owners else []


def jobs(program: Program, params: Params, workspace: Workspace, batch: int) -> Jobs:
    """Return the jobs for a batch size: those of an earlier batch, where they still hold."""
    known: dict[int, Jobs] = workspace.jobs
    gemm = 0 if rounds_factors() else gemm_entry()
    threads = torch.get_num_threads()

    def key() -> tuple[object, ...]:
        places = [address(p) for p in params if p is not None]
        return (id(program), workspace.version, gemm, threads, *places)

    now = key()
    if batch in known and known[batch].key == now:
        return known[batch]
    other = next(iter(known.values()), None)
    of_program = other is not None and other.work.program is program
    plan = other.work.layout if other is not None and of_program else layout(program)
    if other is not None and other.key != now:
        known.clear()
    made = Jobs(Work(Buffers(program, params, workspace, batch, plan), gemm, threads))
    made.key = key()
    known[batch] = made
    return made
