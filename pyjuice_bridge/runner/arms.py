"""Train an arm from its start: tuning first where there is any, then the passes left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pyjuice_bridge import processes
from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.doubling import outline
from pyjuice_bridge.circuit.size import size_of
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.config.sweep import Point, label_of
from pyjuice_bridge.config.train import Tune
from pyjuice_bridge.distill.base import CIRCUIT, Initialisation, ancestry
from pyjuice_bridge.distill.bound import bound_and_marginal, likeliest_bound
from pyjuice_bridge.distill.doubled import grown_stage
from pyjuice_bridge.distill.mixtures import mixed
from pyjuice_bridge.distill.registry import KINDS
from pyjuice_bridge.distill.training import load_circuit, train_stage
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.engines.base import Epoch, FitOptions
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import read_json, write_json
from pyjuice_bridge.report.words import arm_name
from pyjuice_bridge.runner.classes import FIELD, class_contexts, mixed_classes
from pyjuice_bridge.runner.config import Config
from pyjuice_bridge.runner.start import warm_start
from pyjuice_bridge.stages.store import Artifact

OnEpoch = Callable[[dict[str, Any], bool], None]
"""Receives a line of ``metrics.jsonl`` and whether it was computed now."""
_STEP_FLOPS = 50
"""What a parameter costs in an M-step, in operations of a matrix product."""
_DIAGNOSTIC = ("bounds",)
"""Stages that measure, and cost an arm nothing."""


@dataclass(frozen=True, eq=False)
class Training:
    """An arm to be trained.

    Attributes:
        context: the run, with the config at this point.
        start: where it begins.
        point: of the run's sweep; empty without one.
        work: of one pass, in the unit of the run's other arms.
        classes: the trainings of every class, whose circuits are mixed; none without classes.
    """

    context: Context
    start: Initialisation
    point: Point = field(default_factory=dict)
    work: float = 1.0
    classes: tuple[Training, ...] = ()

    @property
    def name(self) -> str:
        """The arm, and its point in a sweep: ``lvd-256``."""
        return "-".join([self.start.arm, label_of(self.point)] if self.point else [self.start.arm])

    @property
    def title(self) -> str:
        """The arm in words."""
        return arm_name(self.start.arm, self.point)

    @property
    def passes(self) -> int:
        """Passes of its training on the data alone."""
        if self.classes:
            return sum(part.passes for part in self.classes)
        return self.context.config.train.epochs - self.start.passes

    @property
    def facts(self) -> dict[str, Any]:
        """What names it in the lines of files."""
        return {"sweep": dict(self.point)} if self.point else {}


@dataclass(frozen=True, eq=False)
class Trained:
    """A finished arm.

    Attributes:
        training: what it was.
        artifact: holds ``circuit.h5``, the circuit of the best validation score.
        metrics: lines of ``metrics.jsonl``.
        bound: figures on validation (bound, marginal), None without latents.
        options: those it was trained with.
        tuned: what tuning chose, None without it.
        trials: what tuning tried, with figures on validation.
    """

    training: Training
    artifact: Artifact
    metrics: list[dict[str, Any]]
    bound: tuple[float, float] | None
    options: FitOptions
    tuned: Mapping[str, float] | None
    trials: tuple[Mapping[str, float], ...] = ()

    @property
    def arm(self) -> str:
        """Its name, without its point in a sweep."""
        return self.training.start.arm

    @property
    def point(self) -> Point:
        """Its point in a sweep."""
        return self.training.point

    @property
    def seconds(self) -> float:
        """Seconds of everything that this arm alone needs."""
        return sum(artifact.seconds for artifact in self._lineage())

    def circuit(self) -> Circuit:
        """Read the trained circuit."""
        return hdf5.load(self.artifact.path / CIRCUIT)

    def costs(self) -> dict[str, Any]:
        """Return passes, and seconds and engines by stage, read off the arm's ancestry."""
        seconds, engines = defaultdict[str, float](float), dict[str, str]()
        for artifact in self._lineage():
            stage = artifact.stage.partition("-")[0]
            seconds[stage] += artifact.seconds
            engines[stage] = str(artifact.info.get("made_by", "python"))
        engines["circuit"] = str(self.training.start.key.get("builders", "python"))
        del seconds["train"]
        return {
            "passes": self.metrics[-1]["passes"],
            "stage_seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
            "stage_engines": engines,
        }

    def _lineage(self) -> list[Artifact]:
        return [a for a in self.artifact.lineage() if a.stage not in _DIAGNOSTIC]


def trainings(context: Context) -> list[Training]:
    """List the arms at every point of a run's sweep, from their starts."""
    config = context.config
    assert isinstance(config, Config)
    every = []
    for point, own in config.points:
        there = replace(context, config=own.fitted(len(context.data.rows["train"])))
        _check_growing(there)
        work = _work(there) if point else 1.0
        if getattr(own.circuit, "classes", False):
            every += _class_trainings(context, own, point, work)
        else:
            every += [Training(there, start, point, work) for start in _starts(there)]
    return every


def _check_growing(context: Context) -> None:
    """Refuse to grow circuits that cannot, before anything is computed."""
    config, grow = context.config, context.config.train.grow
    if grow is None:
        return
    for arm in config.arms or []:
        structure = KINDS[config.circuit.kind].structure(config.circuit, arm, context.data.shape)
        try:
            outline(structure, grow.prune)
        except UserError:
            raise UserError(
                f"'train.grow': circuits of 'circuit.kind: {config.circuit.kind}' with these "
                "layers have no blocks that can grow; leave it out"
            ) from None


def _class_trainings(context: Context, config: Config, point: Point, work: float) -> list[Training]:
    """List the arms, each with the trainings of all classes."""
    whole, parts = replace(context, config=config), defaultdict[str, list[Training]](list)
    for name, there in class_contexts(whole):
        fitted = replace(there, config=config.fitted(len(there.data.rows["train"])))
        for start in _starts(fitted):
            parts[start.arm].append(Training(fitted, start, {**point, FIELD: name}))
    return [
        # Its circuit is that of the parts, so it begins with none of its own.
        Training(
            whole,
            replace(each[0].start, stages=(), z=None),
            point,
            work / len(each),
            tuple(each),
        )
        for each in parts.values()
    ]


def _starts(context: Context) -> list[Initialisation]:
    """Begin every arm, those of the circuit's kind and a warm start."""
    config, arms = context.config, context.config.arms or []
    own = config.model_copy(update={"arms": [arm for arm in arms if arm != "start"]})
    kind, components = KINDS[config.circuit.kind], getattr(config.circuit, "mixture", None)
    if components is None:
        starts = {each.arm: each for each in kind.initialise(replace(context, config=own))}
    else:
        starts = {arm: mixed(context, kind, components, arm) for arm in own.arms or []}
    if "start" in arms:
        starts["start"] = warm_start(context)
    return [starts[arm] for arm in arms]


def _work(context: Context) -> float:
    """Estimate a pass: matrix products of every row, and the M-steps."""
    config, shape = context.config, context.data.shape
    size = size_of(KINDS[config.circuit.kind].structure(config.circuit, "random", shape))
    steps = -(-shape.train // config.train.batch_size)
    return shape.train * size.flops + steps * _STEP_FLOPS * size.parameters


def train_arm(training: Training, on_epoch: OnEpoch) -> Trained:
    """Train (or reuse) one arm; ``on_epoch`` receives each line of its learning curve."""
    if training.classes:
        return _train_classes(training, on_epoch)
    context, parents, best = training.context, training.start.parents, None
    options, trials = _options(training), tuple[Mapping[str, float], ...]()
    value = context.data.value
    if context.config.tune is not None:
        tuned = _tune(training, options, context.config.tune)
        best, parents = tuned.info["best"], (*parents, tuned)
        options = _with(options, best)
        trials = tuple({**t, "valid": value("valid", t["valid"])} for t in tuned.info["tried"])
    curve = _Curve(training, sum(artifact.seconds for artifact in ancestry(parents)))
    for row, reused in curve.before():
        on_epoch(row, not reused)
    leg, legs = training, _legs(training, options.epochs)
    for number, epochs in enumerate(legs, 1):
        artifact = _train(
            leg,
            parents,
            replace(options, epochs=epochs),
            lambda epoch: on_epoch(curve.add(epoch), True),
            before=curve.passes,
        )
        if artifact.reused:
            for line in artifact.info["history"]:
                on_epoch(curve.add(Epoch(**line)), False)
        if number < len(legs):
            leg = _grown(leg, artifact, number)
            parents = leg.start.parents
    bound = artifact.info["bound"]
    figures = (value("valid", bound[0]), value("valid", bound[1])) if bound else None
    return Trained(training, artifact, curve.rows, figures, options, best, trials)


def _train_classes(training: Training, on_epoch: OnEpoch) -> Trained:
    """Train the circuit of every class, one after the other, and mix them."""
    parts = [train_arm(part, on_epoch) for part in training.classes]
    arm = training.start.arm
    mixed = mixed_classes(training.context, arm, [part.artifact for part in parts])
    lines = [line for part in parts for line in part.metrics]
    return Trained(training, mixed, lines, None, parts[0].options, None)


class _Curve:
    """The learning curve of an arm: what came before it, then its epochs."""

    def __init__(self, training: Training, seconds: float) -> None:
        self._training, self._start = training, training.start
        self._data = training.context.data
        self._seconds, self.passes = seconds, 0
        self.rows: list[dict[str, Any]] = []

    def before(self) -> list[tuple[dict[str, Any], bool]]:
        """Return the lines of the stages that count as passes, and whether each was reused."""
        lines = []
        for stage in self._start.stages:
            self.passes += stage.passes
            if self.passes:
                valid = self._data.value("valid", stage.marginal)
                row = self._row(stage.name, valid=valid, total=stage.seconds, seconds=None)
                lines.append((row, stage.artifacts[-1].reused))
        self.rows += [row for row, _ in lines]
        return lines

    def add(self, epoch: Epoch) -> dict[str, Any]:
        """Append the line of a pass."""
        self.passes += 1
        self._seconds += epoch.seconds
        value = self._data.value
        valid = None if epoch.valid is None else value("valid", epoch.valid)
        stage = "fine-tune" if self._start.arm == "lvd" else "train"
        row = self._row(stage, valid=valid, total=self._seconds, seconds=epoch.seconds)
        row |= {"step_size": epoch.step_size, "train": value("train", epoch.train)}
        self.rows.append(row)
        return row

    def _row(
        self, stage: str, *, valid: float | None, total: float, seconds: float | None
    ) -> dict[str, Any]:
        return {
            "arm": self._start.arm,
            **self._training.facts,
            "stage": stage,
            "epoch": self.passes,
            "passes": self.passes,
            "step_size": None,
            "train": None,
            "valid": valid,
            "unit": self._data.measure.unit,
            "seconds": seconds,
            "total_seconds": total,
        }


def _options(training: Training) -> FitOptions:
    train = training.context.config.train
    return FitOptions(
        optimizer=train.optimizer,
        epochs=training.passes,
        batch_size=train.batch_size,
        step_size=train.step_size.schedule,
        pseudocount=train.pseudocount,
        patience=train.patience,
        frozen=training.start.frozen,
        seed=training.context.config.seed,
        candidates=train.candidates,
    )


def _with(options: FitOptions, best: Mapping[str, float]) -> FitOptions:
    first = best["step_size"]
    schedule = replace(options.step_size, start=first, end=min(first, options.step_size.end))
    return replace(options, pseudocount=best["pseudocount"], step_size=schedule)


def _legs(training: Training, passes: int) -> list[int]:
    """Share the passes of an arm among the trainings that it is cut into by growing."""
    grow = training.context.config.train.grow
    if grow is None:
        return [passes]
    if passes <= grow.rounds:
        raise UserError(
            f"'train.grow.rounds': {grow.rounds} rounds need at least {grow.rounds + 1} passes, "
            f"{training.title} has {passes} left of 'train.epochs'."
        )
    each, more = divmod(passes, grow.rounds + 1)
    return [each] * grow.rounds + [each + more]


def _grown(training: Training, trained: Artifact, number: int) -> Training:
    """Begin the next training of an arm with what was trained, pruned and doubled."""
    context, grow = training.context, training.context.config.train.grow
    assert grow is not None
    grown = grown_stage(context, trained, grow, f"grow {training.title}, round {number}")
    begin = partial(load_circuit, grown)
    # Cluster ids are no values of latents that grew.
    start = replace(training.start, circuit=begin, parents=(grown,), z=None)
    return replace(training, start=start)


def _train(
    training: Training,
    parents: tuple[Artifact, ...],
    options: FitOptions,
    on_epoch: Callable[[Epoch], None],
    *,
    before: int,
) -> Artifact:
    context, start = training.context, training.start
    rows = context.data.rows

    def measure(circuit: Circuit) -> Mapping[str, Any]:
        engine, valid = context.engine, rows["valid"]
        figures: dict[str, Any] = {"bound": None}
        if start.z is not None:
            figures["bound"] = bound_and_marginal(engine, circuit, valid, start.z)
        if options.candidates is not None and "z" in circuit.latents:
            figures["candidates"] = likeliest_bound(engine, circuit, valid, options.candidates)
        return figures

    def finish(circuit: Circuit) -> Circuit:
        circuit = KINDS[context.config.circuit.kind].finish(context, circuit)
        return replace(circuit, meta=context.meta(circuit, start.arm))

    return train_stage(
        context,
        f"train-{start.arm}",
        f"train {training.title}",
        start.circuit,
        lambda: (rows["train"], None),
        options,
        key={"start": start.key, "data": context.data.key},
        parents=parents,
        passes_before=before,
        valid=rows["valid"],
        on_epoch=on_epoch,
        finish=finish,
        measure=measure,
    )


def _tune(training: Training, options: FitOptions, tune: Tune) -> Artifact:
    """Try every pair of the grid on a few rows; ``info["best"]`` wins on validation."""
    context, start = training.context, training.start
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
            title = f"tune {training.title} {which}"
            with context.reporter.task(title) as tick:
                fitted = context.engine.fit(
                    start.circuit(),
                    rows,
                    _with(short, trial),
                    valid=context.data.rows["valid"],
                    on_batch=tick,
                )
            valid = fitted.history[-1].valid
            assert valid is not None
            seconds = sum(epoch.seconds for epoch in fitted.history)
            tried.append({**trial, "valid": valid, "seconds": seconds})
            context.reporter.say(f"{title}: {_trial_line(context, tried[-1])}")
            write_json(log, tried)
        best = max(tried, key=lambda t: t["valid"])
        context.reporter.say(f"tuned {training.title}: {_trial_line(context, best)}")
        return {
            "seconds": sum(t["seconds"] for t in tried),
            "best": {k: best[k] for k in ("pseudocount", "step_size")},
            "tried": tried,
            "made_by": context.engine.name,
        }

    key = {
        "start": start.key,
        "data": context.data.key,
        "options": short.key,
        "engine": context.engine_key,
        "tune": tune.model_dump(),
    }
    return context.store.stage(
        f"tune-{start.arm}", 2, key, build, parents=start.parents, together=True
    )


def _trial_line(context: Context, trial: Mapping[str, float]) -> str:
    """Put a pair of the grid and its figure into words."""
    figure = context.data.measure.phrase(context.data.value("valid", trial["valid"]))
    pair = f"pseudocount {trial['pseudocount']:g}, step size {trial['step_size']:g}"
    return f"{pair}: validation {figure}"
