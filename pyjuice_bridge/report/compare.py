"""Mean and spread of several runs that differ only in their seed."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyjuice_bridge.config.sweep import Point
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import Measure
from pyjuice_bridge.report.run_dir import SPLITS, ArmResult, Run, read_run

_NOT_SETTINGS = ("seed", "name", "out")


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1 in the denominator; None for one run)."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class ComparedArm:
    """One arm of one configuration over its seeds."""

    label: str
    """The settings that set this configuration apart from the others, else the run's name."""
    arm: str
    runs: tuple[Path, ...]
    seeds: tuple[int | None, ...]
    engine: str
    device: str
    parameters: int | None
    """None when the runs disagree (a tree learnt from other images may have other sizes)."""
    point: Point
    """Where in the runs' sweep; empty without one."""
    measure: Measure
    values: Mapping[str, Spread | None]
    """Figure of each split ("train", "valid", "test"); None unless every run has it."""
    seconds: Spread | None
    peak_memory_bytes: int | None
    """The largest of the runs."""


def compare_table(run_dirs: Iterable[Path]) -> list[ComparedArm]:
    """Group runs by their config without its seed and average every arm over the seeds.

    The rows keep the order in which configurations and arms first appear.

    Raises:
        UserError: a run has no config.yaml or results.json, or two runs share settings and seed.
    """
    runs = [_complete(path) for path in dict.fromkeys(path.resolve() for path in run_dirs)]
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_settings(run), sort_keys=True, default=str), []).append(run)
    labels = _labels(list(groups.values()))
    return [
        _row(label, arm, point, group)
        for label, group in zip(labels, groups.values(), strict=True)
        for arm, point in _arms(group)
    ]


def _arms(group: Sequence[Run]) -> list[tuple[str, Point]]:
    """List the arms of runs with their points, each once."""
    arms: list[tuple[str, Point]] = []
    for result in (result for run in group for result in run.results):
        if (result.arm, result.point) not in arms:
            arms.append((result.arm, result.point))
    return arms


def _complete(path: Path) -> Run:
    run = read_run(path)
    for file, content in (("config.yaml", run.config), ("results.json", run.results)):
        if not content:
            raise UserError(f"{path / file}: missing or empty; finish the run, or leave it out.")
    return run


def _settings(run: Run) -> dict[str, Any]:
    return {key: value for key, value in run.config.items() if key not in _NOT_SETTINGS}


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    if len(groups) == 1:
        return [groups[0][0].name]
    flat = [dict(_flatten(_settings(group[0]))) for group in groups]
    names = [group[0].name for group in groups]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    # A field that only some kinds of a section have says nothing if it is the same in all of them.
    chosen = [key for key in keys if len({repr(s[key]) for s in flat if key in s}) > 1]
    labels = _texts(flat, chosen, names)
    if len(set(labels)) == len(labels):
        return labels
    chosen = [key for key in keys if len({repr(s.get(key, key)) for s in flat}) > 1]
    return _texts(flat, chosen, names)


def _texts(
    flat: Sequence[Mapping[str, Any]], keys: Sequence[str], names: Sequence[str]
) -> list[str]:
    texts = (", ".join(f"{key}={s[key]}" for key in keys if key in s) for s in flat)
    return [text or name for text, name in zip(texts, names, strict=True)]


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _row(label: str, arm: str, point: Point, group: Sequence[Run]) -> ComparedArm:
    pairs = [(run.path, result) for run in group for result in run.results]
    runs_of_arm = [(path, r) for path, r in pairs if (r.arm, r.point) == (arm, point)]
    _refuse_repeats(arm, runs_of_arm)
    results = [result for _, result in runs_of_arm]
    parameters = {result.parameters for result in results}
    memory = [r.peak_memory_bytes for r in results if r.peak_memory_bytes is not None]
    return ComparedArm(
        label=label,
        arm=arm,
        point=point,
        runs=tuple(path for path, _ in runs_of_arm),
        seeds=tuple(result.seed for result in results),
        engine=", ".join(dict.fromkeys(result.engine for result in results)),
        device=", ".join(dict.fromkeys(result.device for result in results)),
        parameters=parameters.pop() if len(parameters) == 1 else None,
        measure=results[0].measure,
        values={split: _spread([r.values[split] for r in results]) for split in SPLITS},
        seconds=_spread([result.seconds for result in results]),
        peak_memory_bytes=max(memory, default=None),
    )


def _refuse_repeats(arm: str, found: Sequence[tuple[Path, ArmResult]]) -> None:
    first: dict[int | None, Path] = {}
    for path, result in found:
        if result.seed in first:
            raise UserError(
                f"{first[result.seed]} and {path}: same settings and same seed ({result.seed}) "
                f"for arm {arm}; leave one of them out."
            )
        first[result.seed] = path


def _spread(values: Sequence[float | None]) -> Spread | None:
    present = [value for value in values if value is not None]
    if not present or len(present) < len(values):
        return None
    sd = statistics.stdev(present) if len(present) > 1 else None
    return Spread(statistics.fmean(present), sd)
