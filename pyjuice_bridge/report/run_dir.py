"""Read what a run left behind; every file of it may be absent."""

import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pyjuice_bridge.config.parse import parse_yaml
from pyjuice_bridge.config.sweep import Point, words_of
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import BITS, PERPLEXITY, ROW_BITS, Measure, measure_of

SPLITS = ("train", "valid", "test")
_DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    KeyError,
    TypeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
_MEASURES = {"images": BITS, "text": PERPLEXITY, "written": PERPLEXITY, "table": ROW_BITS}
T = TypeVar("T")
_KNOWN = {
    "model",
    "sweep",
    "accuracy",
    "candidates",
    "trials",
    "engine",
    "device",
    "parameters",
    "seconds",
    "peak_memory_bytes",
    "seed",
}


@dataclass(frozen=True)
class ArmResult:
    """One line of results.json: the final figures of one arm."""

    arm: str
    point: Point
    """Where in the run's sweep; empty without one."""
    engine: str
    device: str
    parameters: int | None
    values: Mapping[str, float | None]
    """Figure of each split ("train", "valid", "test"), in `unit`; None where there is none."""
    unit: str
    seconds: float | None
    peak_memory_bytes: int | None
    seed: int | None
    extra: Mapping[str, Any]
    """Everything else the line holds: command, machine, versions, date, …"""
    impossible: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Of the splits without a figure for it: how many rows have probability 0, of how many."""
    accuracy: Mapping[str, float] = field(default_factory=dict)
    """Of the splits of a run with classes: the share of rows whose class is found."""
    candidates: tuple[int, float] | None = None
    """Of partial E-steps, how many values of a latent, and what they alone give on validation."""
    trials: tuple[Mapping[str, float | None], ...] = ()
    """What tuning tried: ``pseudocount``, ``step_size`` and ``valid``, the figure on validation."""

    @property
    def measure(self) -> Measure:
        """What the figures are."""
        return measure_of(self.unit)


@dataclass(frozen=True)
class Epoch:
    """One line of metrics.jsonl."""

    arm: str
    stage: str
    passes: float
    """Passes over the training data by this arm up to here, this one included."""
    total_seconds: float
    valid: float | None
    """Figure on validation; None where the stage has none."""
    point: Point = field(default_factory=dict)


@dataclass(frozen=True)
class StageBound:
    """One line of bound.json: figures on the validation split."""

    stage: str
    bound: float
    marginal: float | None
    point: Point = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run directory in memory."""

    path: Path
    config_text: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    results: tuple[ArmResult, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    bounds: tuple[StageBound, ...] = ()
    figures: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name the config gives the run, else that of its directory."""
        name = self.config.get("name")
        return name if isinstance(name, str) and name else self.path.resolve().name

    @property
    def domain(self) -> str:
        """The kind of data: ``images``, ``text`` or ``table``."""
        data = self.config.get("data")
        kind = data.get("kind") if isinstance(data, Mapping) else None
        if isinstance(kind, str):
            return kind
        unit = self.results[0].unit if self.results else BITS.unit
        return next((name for name, each in _MEASURES.items() if each.unit == unit), "images")

    @property
    def measure(self) -> Measure:
        """In which the figures are reported."""
        if self.results:
            return measure_of(self.results[0].unit)
        return _MEASURES.get(self.domain, BITS)

    @property
    def points(self) -> list[Point]:
        """The points of the run's sweep; without one a single empty one."""
        return points_in([*self.results, *self.epochs, *self.bounds]) or [{}]

    @property
    def dataset(self) -> str | None:
        """Name of the data set, from the config or the results."""
        data = self.config.get("data", self.config.get("dataset"))
        if isinstance(data, Mapping):
            data = data.get("name")
        if not isinstance(data, str):
            data = next((r.extra["dataset"] for r in self.results if "dataset" in r.extra), None)
        return data if isinstance(data, str) and data else None


def points_in(lines: Iterable[ArmResult | Epoch | StageBound]) -> list[Point]:
    """List the points that lines belong to, each once, in their order."""
    points: list[Point] = []
    for line in lines:
        if line.point not in points:
            points.append(line.point)
    return points


def read_run(run_dir: Path) -> Run:
    """Read the files of a run directory that are there.

    Raises:
        UserError: the directory is missing, or a file in it is damaged (the last line of
            metrics.jsonl may be half written; it is then ignored).
    """
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run directory; give the folder a run wrote.")
    text = _text(run_dir / "config.yaml")
    return Run(
        path=run_dir,
        config_text=text,
        config=_config(run_dir / "config.yaml", text),
        results=_rows(run_dir / "results.json", _result),
        epochs=_metrics(run_dir / "metrics.jsonl"),
        bounds=tuple(filter(None, _rows(run_dir / "bound.json", _bound))),
        figures=_figures(run_dir / "figures.npz"),
    )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); run again to rewrite it.") from error


def _text(path: Path) -> str:
    try:
        return _bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({error}); run again to rewrite it.") from error


def _config(path: Path, text: str) -> Mapping[str, Any]:
    try:
        config = parse_yaml(text, str(path))
    except UserError as error:
        raise UserError(f"{path}: not valid YAML; run again to rewrite it.") from error
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a mapping at the top; run again to rewrite it.")
    return config


def _rows(path: Path, read: Callable[[Mapping[str, Any]], T]) -> tuple[T, ...]:
    text = _text(path)
    if not text:
        return ()
    try:
        rows = json.loads(text)
        if not isinstance(rows, list):
            raise TypeError("not a list")
        return tuple(read(row) for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); run again to rewrite it.") from error


def _result(row: Mapping[str, Any]) -> ArmResult:
    figures = {split: row.get(split) for split in SPLITS}
    units = [f["unit"] for f in figures.values() if f is not None and "unit" in f]
    return ArmResult(
        arm=str(row["model"]),
        point=_point(row),
        engine=str(row.get("engine") or "–"),
        device=str(row.get("device") or "–"),
        parameters=_integer(row.get("parameters")),
        values={s: None if f is None else _number(f["value"]) for s, f in figures.items()},
        unit=str(units[0]) if units else BITS.unit,
        seconds=_number(row.get("seconds")),
        peak_memory_bytes=_integer(row.get("peak_memory_bytes")),
        seed=_integer(row.get("seed")),
        extra={k: v for k, v in row.items() if k not in _KNOWN and k not in SPLITS},
        impossible={
            split: (int(figure["impossible"]), int(figure["rows"]))
            for split, figure in figures.items()
            if figure is not None and figure.get("impossible")
        },
        trials=tuple(
            {name: _number(trial[name]) for name in ("pseudocount", "step_size", "valid")}
            for trial in row.get("trials", ())
        ),
        accuracy={split: float(v) for split, v in row.get("accuracy", {}).items()},
        candidates=_candidates(row),
    )


def _candidates(row: Mapping[str, Any]) -> tuple[int, float] | None:
    found = row.get("candidates")
    return None if found is None else (int(found["values"]), float(found["valid"]))


def _bound(row: Mapping[str, Any]) -> StageBound | None:
    """Read a stage's bound; None where it is infinite, so that nothing can be drawn."""
    bound, marginal = _number(row["bound"]), _number(row.get("marginal"))
    return None if bound is None else StageBound(str(row["stage"]), bound, marginal, _point(row))


def _metrics(path: Path) -> tuple[Epoch, ...]:
    lines = _bytes(path).split(b"\n")
    last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    epochs: list[Epoch] = []
    passes: dict[tuple[str, str], float] = {}
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            point = _point(row)
            key = str(row["arm"]), words_of(point)
            passes[key] = float(row.get("passes") or passes.get(key, 0.0) + 1.0)
            valid, seconds = _number(row.get("valid")), float(row["total_seconds"])
            stage = str(row.get("stage", ""))
            epochs.append(Epoch(key[0], stage, passes[key], seconds, valid, point))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == last:
                break
            raise UserError(
                f"{path}: line {number + 1} is damaged ({error!r}); delete it or run again."
            ) from error
    return tuple(epochs)


def _figures(path: Path) -> Mapping[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        return {}
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged ({error}); run again to rewrite it.") from error


def _number(value: Any) -> float | None:
    """Return a finite float, or None for null, NaN and the infinities."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _point(row: Mapping[str, Any]) -> Point:
    """Return the point of a line; of a run from before sweeps had fields, its number of states."""
    point = row.get("sweep") or ({"circuit.states": row["states"]} if "states" in row else {})
    if not isinstance(point, dict):
        raise TypeError("'sweep' is no section")
    return point


def _integer(value: Any) -> int | None:
    return None if value is None else int(value)
