"""Train an arm from its start: the small grid first where there is one, then the passes left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pyjuice_bridge import processes
from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.config import Tune
from pyjuice_bridge.distill.bound import bound_and_marginal
from pyjuice_bridge.engines.base import Epoch, FitOptions, Schedule
from pyjuice_bridge.files import read_json, write_json
from pyjuice_bridge.pipeline.arms import CIRCUIT, Start
from pyjuice_bridge.pipeline.context import Context, PeakMemory
from pyjuice_bridge.report.words import arm_name
from pyjuice_bridge.stages.store import Artifact

CHECKPOINT = "checkpoint.h5"
OnEpoch = Callable[[dict[str, Any], bool], None]
"""Receives a line of ``metrics.jsonl`` and whether it was computed now."""


@dataclass(frozen=True)
class Trained:
    """A finished arm.

    Attributes:
        start: where it began.
        artifact: holds ``circuit.h5``, the circuit of the best validation score.
        metrics: lines of ``metrics.jsonl``.
        seconds: of everything that this arm alone needs.
        bound: figures on validation (bound, marginal), None without latents.
        extra: what else ``results.json`` tells about the training.
    """

    start: Start
    artifact: Artifact
    metrics: list[dict[str, Any]]
    seconds: float
    bound: tuple[float, float] | None
    extra: Mapping[str, Any]

    def circuit(self) -> Circuit:
        """The trained circuit."""
        return hdf5.load(self.artifact.path / CIRCUIT)


def train_arm(context: Context, start: Start, on_epoch: OnEpoch) -> Trained:
    """Train (or reuse) one arm; ``on_epoch`` receives each line of its learning curve."""
    options = _options(context, start)
    before = start.seconds
    extra: dict[str, Any] = {"stage_seconds": {k: round(v, 3) for k, v in start.parts.items()}}
    extra["stage_engines"] = {
        **dict.fromkeys(start.parts, "python"),
        **start.made_by,
        "train": context.engine.name,
    }
    if context.config.tune is not None:
        tuned = _tune(context, start, options, context.config.tune)
        before += tuned.seconds
        options = _with(options, tuned.info["best"])
        extra["tuned"] = tuned.info["best"]
        extra["stage_seconds"]["tuning"] = round(tuned.seconds, 3)
    curve = _Curve(context, start, before)
    reused = [stage.reused for stage, passes in _counted_passes(start) if passes]
    for row, old in zip(curve.rows, reused, strict=True):
        on_epoch(row, not old)
    artifact = _train(context, start, options, lambda epoch: on_epoch(curve.add(epoch), True))
    if artifact.reused:
        for line in artifact.info["history"]:
            on_epoch(curve.add(Epoch(**line)), False)
    bound = artifact.info["bound"]
    value = context.data.value
    figures = (value("valid", bound[0]), value("valid", bound[1])) if bound else None
    extra |= {"passes": curve.passes, "pseudocount": options.pseudocount}
    extra["step_size"] = asdict(options.step_size)
    return Trained(start, artifact, curve.rows, curve.seconds, figures, extra)


class _Curve:
    """The learning curve of an arm: what came before it, then its epochs."""

    def __init__(self, context: Context, start: Start, seconds: float) -> None:
        self._context, self._start = context, start
        self.seconds, self.passes = seconds, start.passes
        self.rows = [
            self._row(s.name, passes, valid=s.marginal, total=s.seconds, seconds=None)
            for s, passes in _counted_passes(start)
            if passes
        ]

    def add(self, epoch: Epoch) -> dict[str, Any]:
        self.passes += 1
        self.seconds += epoch.seconds
        value = self._context.data.value
        valid = None if epoch.valid is None else value("valid", epoch.valid)
        row = self._row(
            "fine-tune" if self._start.arm == "lvd" else "train",
            self.passes,
            valid=valid,
            total=self.seconds,
            seconds=epoch.seconds,
        )
        row |= {"step_size": epoch.step_size, "train": value("train", epoch.train)}
        self.rows.append(row)
        return row

    def _row(
        self, stage: str, passes: int, *, valid: float | None, total: float, seconds: float | None
    ) -> dict[str, Any]:
        states = self._start.states
        return {
            "arm": self._start.arm,
            **({} if states is None else {"states": states}),
            "stage": stage,
            "epoch": passes,
            "passes": passes,
            "step_size": None,
            "train": None,
            "valid": valid,
            "unit": self._context.data.measure.unit,
            "seconds": seconds,
            "total_seconds": total,
        }


def _counted_passes(start: Start) -> list[tuple[Any, int]]:
    done, pairs = 0, []
    for stage in start.stages:
        done += stage.passes
        pairs.append((stage, done))
    return pairs


def _options(context: Context, start: Start) -> FitOptions:
    train = context.config.train
    return FitOptions(
        optimizer=train.optimizer,
        epochs=train.epochs - start.passes,
        batch_size=train.batch_size,
        step_size=Schedule(**train.step_size.model_dump()),
        pseudocount=context.config.pseudocount_of(start.states),
        patience=train.patience,
        seed=context.config.seed,
    )


def _with(options: FitOptions, best: Mapping[str, float]) -> FitOptions:
    first = best["step_size"]
    schedule = replace(options.step_size, start=first, end=min(first, options.step_size.end))
    return replace(options, pseudocount=best["pseudocount"], step_size=schedule)


def _key(context: Context, start: Start, options: FitOptions) -> dict[str, Any]:
    return {
        "start": start.key,
        "data": context.data.key,
        "options": asdict(options),
        "engine": context.engine_key,
    }


def _train(
    context: Context, start: Start, options: FitOptions, report: Callable[[Epoch], None]
) -> Artifact:
    def build(folder: Path) -> Mapping[str, Any]:
        memory = PeakMemory(context.engine)
        data, engine = context.data, context.engine
        passes = range(start.passes, start.passes + options.epochs)
        with context.reporter.task(f"train {arm_name(start.arm, start.states)}", passes) as tick:
            found = engine.fit(
                start.circuit(),
                data.rows["train"],
                options,
                valid=data.rows["valid"],
                checkpoint=folder / CHECKPOINT,
                on_epoch=report,
                on_batch=tick,
            )
        circuit = replace(found.circuit, meta=context.meta(found.circuit, start.arm))
        hdf5.save(circuit, folder / CIRCUIT)
        bound = None
        if start.z is not None:
            bound = bound_and_marginal(engine, circuit, data.rows["valid"], start.z)
        (folder / CHECKPOINT).unlink(missing_ok=True)
        return {
            "seconds": sum(epoch.seconds for epoch in found.history),
            "history": [asdict(epoch) for epoch in found.history],
            "parameters": circuit.num_parameters,
            "bound": bound,
            "peak_memory_bytes": memory.read(),
        }

    key = _key(context, start, options)
    return context.store.stage(f"train-{start.arm}", 1, key, build, together=True)


def _tune(context: Context, start: Start, options: FitOptions, tune: Tune) -> Artifact:
    """Try every pair of the grid on a few rows; ``info["best"]`` wins on validation."""
    trials = [
        {"pseudocount": pseudocount, "step_size": step}
        for pseudocount in tune.pseudocounts
        for step in tune.step_sizes
    ]
    short = replace(options, epochs=tune.epochs, patience=None)
    rows = context.data.rows["train"][: tune.rows]

    def build(folder: Path) -> Mapping[str, Any]:
        log = folder / "trials.json"
        tried: list[dict[str, float]] = processes.share(read_json(log) if log.exists() else [])
        for trial in trials[len(tried) :]:
            which = f"{len(tried) + 1}/{len(trials)}"
            title = f"tune {arm_name(start.arm, start.states)} {which}"
            with context.reporter.task(title) as tick:
                found = context.engine.fit(
                    start.circuit(),
                    rows,
                    _with(short, trial),
                    valid=context.data.rows["valid"],
                    on_batch=tick,
                )
            valid = found.history[-1].valid
            assert valid is not None
            seconds = sum(epoch.seconds for epoch in found.history)
            tried.append({**trial, "valid": valid, "seconds": seconds})
            write_json(log, tried)
        best = max(tried, key=lambda t: t["valid"])
        return {
            "seconds": sum(t["seconds"] for t in tried),
            "best": {k: best[k] for k in ("pseudocount", "step_size")},
            "tried": tried,
        }

    key = {**_key(context, start, short), "tune": tune.model_dump()}
    return context.store.stage(f"tune-{start.arm}", 1, key, build, together=True)
