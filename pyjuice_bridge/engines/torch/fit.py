"""Training by EM: the loop over epochs and mini-batches, checkpoints, early stopping."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from pyjuice_bridge import processes
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.engines.base import Epoch, FitOptions, FitResult
from pyjuice_bridge.engines.resume import row_order
from pyjuice_bridge.engines.torch import checkpoint as store
from pyjuice_bridge.engines.torch.backward import (
    LARGEST_RATIO,
    finish_counts,
    new_counts,
    spread_missing,
)
from pyjuice_bridge.engines.torch.batches import collect, evaluate
from pyjuice_bridge.engines.torch.candidates import Candidates, Notes
from pyjuice_bridge.engines.torch.em import anemone_step, m_step
from pyjuice_bridge.engines.torch.fused import Step
from pyjuice_bridge.engines.torch.optimizers import STEPS
from pyjuice_bridge.engines.torch.program import Params, Program, to_numpy
from pyjuice_bridge.engines.torch.recording import Results
from pyjuice_bridge.engines.torch.values import Evidence, Workspace
from pyjuice_bridge.errors import UserError

logger = logging.getLogger(__name__)

_ALIGNED = 64
"""Buffers start at multiples of so many numbers."""


@dataclass(frozen=True)
class Rows:
    """Training rows on the device, with their weights [rows, roots] and latent evidence."""

    x: torch.Tensor
    weights: torch.Tensor
    evidence: Evidence

    def pick(self, index: torch.Tensor | slice) -> Rows:
        picked = {name: values[index] for name, values in self.evidence.items()}
        return Rows(self.x[index], self.weights[index], picked)


class Trainer:
    """One training of one circuit.

    Of every batch each process takes its part; the counts are added up over the processes, and
    then all of them take the same step.

    Args:
        program: the compiled circuit.
        params: its parameters, which are changed in place.
        rows: to train on.
        valid: rows of the validation set, if there is one.
        options: how to train.
        pseudocount: in place of the one in ``options``, in the units of the weights of ``rows``.
    """

    def __init__(
        self,
        program: Program,
        params: Params,
        rows: Rows,
        valid: torch.Tensor | None,
        options: FitOptions,
        pseudocount: float,
    ) -> None:
        self.program, self.rows, self.valid, self.options = program, rows, valid, options
        self.pseudocount = pseudocount
        self.state = store.State(params)
        self.state.candidates = Candidates.of(
            program, len(rows.x), options.candidates, rows.evidence
        )
        self.counts, self.all_counts = _counts_in_one(program, params, options.frozen)
        self.prior = new_counts(program, params) if options.optimizer == "anemone" else None
        self.plain = STEPS.get(options.optimizer) is m_step
        """Whether kernels may take the step while they count."""
        self.workspace = Workspace()
        self.workspace.skip = options.skip
        full = options.optimizer == "full_em"
        self.batch = len(rows.x) if full else min(options.batch_size, len(rows.x))
        self.batches = math.ceil(len(rows.x) / self.batch)

    def epoch(self, on_batch: Callable[[int, int], None] | None) -> Epoch:
        """Train on all rows once, then score the validation set."""
        started = time.perf_counter()
        number, state = len(self.state.history), self.state
        order = row_order(self.options.seed, number, len(self.rows.x))
        index = torch.as_tensor(order, device=self.program.device)
        total = torch.zeros((), dtype=torch.float64, device=self.program.device)
        eta = 1.0
        candidates = self.state.candidates
        full = candidates is None or candidates.begin(number)
        for batch in index.split(self.batch):
            own = processes.part(len(batch))
            chosen = own if self.batches == 1 else batch[own]
            rows, notes = self.rows.pick(chosen), None
            if candidates is not None and full:
                notes = Notes(candidates, torch.arange(len(index))[chosen])
            elif candidates is not None:
                known = candidates.evidence(chosen)
                rows = replace(rows, evidence={**rows.evidence, **known})
            step = self._next_step()
            total += collect(
                self.program,
                state.params,
                self.counts,
                rows.x,
                rows.weights,
                rows.evidence,
                self.workspace,
                step if processes.size() == 1 and self.plain else None,
                notes,
            )
            if processes.size() > 1:
                processes.add(self.all_counts).clamp_(max=LARGEST_RATIO)
            self._take(step, batch)
            eta = step.size
            self.workspace.weights_changed()
            state.steps += 1
            if on_batch is not None:
                on_batch(state.steps, self.batches * self.options.epochs)
        if candidates is not None:
            candidates.end(full)
        train = float(processes.add(total) / self.rows.weights.double().sum())
        if self.workspace.skipped:
            share = self.workspace.skipped / self.workspace.flow
            logger.info("Skipped %.2e of the flow into sub-circuits.", share)
        if math.isnan(train):
            raise UserError("Training diverged: the log-likelihood is not a number.")
        valid = None
        if self.valid is not None:
            own = processes.part(len(self.valid))
            scores = evaluate(self.program, state.params, self.valid[own], {}, self.workspace)
            valid = float(processes.add(scores.sum()) / (len(self.valid) * scores.shape[1]))
        return Epoch(number, eta, train, valid, time.perf_counter() - started)

    def _next_step(self) -> Step:
        """Return the M-step that follows the next batch."""
        options, eta = self.options, 1.0
        if options.optimizer != "full_em":
            eta = options.step_size.at(self.state.steps, self.batches * options.epochs)
        return Step(eta, self.pseudocount)

    def _take(self, step: Step, batch: torch.Tensor) -> None:
        """Take what is left of an M-step after ``batch``, the rows of all processes."""
        weights = self.rows.weights
        if self.prior is not None:
            self._anemone(weights if self.batches == 1 else weights[batch], step.size)
            return
        given = torch.full((), step.size, device=self.program.device, dtype=torch.float64)
        work = partial(self._m_step, step.taken)
        self.workspace.recordings.run(("m-step", id(self.state.params)), work, (given,))

    def _m_step(self, taken: frozenset[int], eta: torch.Tensor) -> Results:
        args = self.program, self.state.params, self.counts, eta, self.pseudocount
        if self.plain:
            m_step(*args, taken)
        else:
            STEPS[self.options.optimizer](*args)
        return ()

    def _anemone(self, weights: torch.Tensor, eta: float) -> None:
        """Take Anemone's step; TD(n)·θ is what one row with every value missing counts.

        The rows of a batch are averaged like its counts, so that a short last batch, or one in
        which a root has no rows, does not change the proportion of the two.
        """
        state, program, options = self.state, self.program, self.options
        assert self.prior is not None
        counts = finish_counts(program, state.params, self.counts)
        if state.momentum is None:
            state.momentum = new_counts(program, state.params, options.frozen)
        if state.momentum_rows is None:
            state.momentum_rows = torch.zeros(
                1, weights.shape[1], dtype=torch.float64, device=program.device
            )
        smoothed: Params = []
        correction = 1 - options.momentum ** (state.steps + 1)
        for average, count in zip(state.momentum, counts, strict=True):
            if average is None or count is None:
                smoothed.append(None)
                continue
            average.lerp_(count, 1 - options.momentum)
            smoothed.append(average / correction)
        nothing = torch.full((1, program.num_vars), -1, device=program.device)
        state.momentum_rows.lerp_(weights.double().sum(0, keepdim=True), 1 - options.momentum)
        weight = (state.momentum_rows / correction).to(program.dtype)
        collect(program, state.params, self.prior, nothing, weight, {}, self.workspace)
        spread_missing(program, state.params, self.prior)
        finish_counts(program, state.params, self.prior)
        anemone_step(program, state.params, counts, smoothed, self.prior, eta, self.pseudocount)
        for buffer in (*counts, *self.prior):
            if buffer is not None:
                buffer.zero_()

    def keep_best(self) -> None:
        """Keep the parameters if the last epoch scored best on validation."""
        state = self.state
        if state.best_epoch == len(state.history) - 1:
            state.best = [None if p is None else p.clone() for p in state.params]

    def release(self) -> None:
        """Free counts and values, whose place the trained circuit takes."""
        self.counts, self.prior, self.workspace = [], None, Workspace()
        self.all_counts = torch.empty(0)

    @property
    def finished(self) -> bool:
        """True after the last epoch, or when validation has not improved for ``patience``."""
        done, best = len(self.state.history), self.state.best_epoch
        if done >= self.options.epochs:
            return True
        patience = self.options.patience
        return patience is not None and best is not None and done - 1 - best >= patience


def _counts_in_one(
    program: Program, params: Params, frozen: tuple[int, ...]
) -> tuple[Params, torch.Tensor]:
    """Allocate all count buffers as views of one tensor, so that one all-reduce sums them."""
    kept = [None if i in frozen else p for i, p in enumerate(params)]
    sizes = [0 if p is None else -(-p.numel() // _ALIGNED) * _ALIGNED for p in kept]
    whole = torch.zeros(sum(sizes), device=program.device, dtype=program.dtype)
    parts = zip(kept, whole.split(sizes), strict=True)
    return [None if p is None else part[: p.numel()].view_as(p) for p, part in parts], whole


def train(
    trainer: Trainer,
    circuit: Circuit,
    *,
    checkpoint: Path | None,
    key: str,
    on_epoch: Callable[[Epoch], None] | None,
    on_batch: Callable[[int, int], None] | None,
) -> FitResult:
    """Run the remaining epochs, write a checkpoint after each, return the best circuit.

    Of several processes the first one writes, and all resume from its file.
    """
    validates = trainer.valid is not None
    training = store.Training(
        key,
        circuit,
        trainer.program,
        trainer.options,
        trainer.batches,
        validates,
        trainer.state.candidates,
    )
    there = checkpoint is not None and checkpoint.exists()
    found = processes.share(str(checkpoint) if there else None)
    if found is not None:
        trainer.state = store.read(Path(found), training)
        processes.meet()
        for epoch in trainer.state.history:
            if on_epoch is not None:
                on_epoch(epoch)
    state = trainer.state
    while not trainer.finished:
        epoch = trainer.epoch(on_batch)
        state.history.append(epoch)
        trainer.keep_best()
        if checkpoint is not None and processes.rank() == 0:
            store.write(checkpoint, state, training)
        if on_epoch is not None:
            on_epoch(epoch)
    trainer.release()
    params = state.params if state.best is None else state.best
    trained = circuit.with_layer_params(to_numpy(trainer.program, params))
    check(trained, "trained circuit")
    return FitResult(trained, tuple(state.history))
