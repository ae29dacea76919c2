"""``run`` and ``load``: the package from Python."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from pyjuice_bridge.config import Config, make_config, put, read_values
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.engines import choose_engine, get_engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import measure_of
from pyjuice_bridge.pipeline import record
from pyjuice_bridge.pipeline.arms import starts
from pyjuice_bridge.pipeline.context import ImageContext, prepare
from pyjuice_bridge.pipeline.figures import FILE as FIGURES
from pyjuice_bridge.pipeline.figures import figures
from pyjuice_bridge.pipeline.files import copy_file, read_json, write_json
from pyjuice_bridge.pipeline.latents import FILE as ASSIGNMENTS
from pyjuice_bridge.pipeline.progress import Reporter
from pyjuice_bridge.pipeline.store import Store
from pyjuice_bridge.pipeline.training import Trained, train_arm
from pyjuice_bridge.report.page import write_report
from pyjuice_bridge.report.words import arm_name, seconds_text

if TYPE_CHECKING:
    from pyjuice_bridge.query.model import Model

Images = NDArray[np.uint8] | Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        path: its folder.
        results: the entries of ``results.json``.
        reused: artifacts that were there already.
    """

    path: Path
    results: tuple[Mapping[str, Any], ...]
    reused: tuple[str, ...]

    @property
    def report(self) -> Path:
        """The report, a single HTML file."""
        return self.path / "report.html"

    @property
    def model(self) -> Model:
        """The distilled circuit (the first arm if ``lvd`` was not among them)."""
        return load(self.path)

    def __repr__(self) -> str:
        measure = measure_of(self.results[0]["test"]["unit"])
        sizes = [f"-{row['states']}" if "states" in row else "" for row in self.results]
        figures = ", ".join(
            f"{row['model']}{size} {measure.text(row['test']['value'])}"
            for row, size in zip(self.results, sizes, strict=True)
        )
        return f"RunResult({self.path}: test {measure.unit} {figures})"


def load(path: str | Path, *, engine: str = "auto", device: str = "auto") -> Model:
    """Open a trained circuit: an HDF5 file, or a run's folder (its ``model.h5``)."""
    from pyjuice_bridge.query.model import Model

    path = Path(path)
    if path.is_dir():
        if not (path / "model.h5").exists():
            raise UserError(f"{path} holds no model.h5; is it a finished run?")
        path = path / "model.h5"
    return Model.load(path, engine=engine, device=device)


def run(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    images: Images | None = None,
    teacher: object | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    console: Console | None = None,
    **overrides: Any,
) -> RunResult:
    """Run a config from data to report, reusing whatever finished stages are there.

    Args:
        config: a YAML file, plain values, or a checked config.
        images: your own, in place of the config's: uint8 [N, H, W, C] (split by the seed), or a
            mapping with ``train`` and, where there are some, ``valid`` and ``test``.
        teacher: your own: an object with ``embed(images) -> float32 [N, positions, dim]``; a
            dictionary instead changes the config's section.
        out: the run's folder; default ``runs/<name>``.  Artifacts go to ``artifacts`` beside it.
        fresh: compute every stage anew.
        console: where to report progress; None is silent.
        overrides: fields of the config; a section is given as a dictionary of changes.

    Raises:
        UserError: a mistake in the config or the data, in one sentence.
    """
    if isinstance(teacher, Mapping):
        overrides, teacher = {**overrides, "teacher": teacher}, None
    checked = _checked(config, images is not None, teacher is not None, overrides)
    folder = Path(out) if out is not None else Path("runs") / checked.name
    record.open_folder(folder)
    with Reporter(console, folder / "log.txt") as reporter:
        try:
            store = Store(
                folder.absolute().parent / "artifacts",
                fresh=fresh,
                say=reporter.say,
                ledger=folder / record.ARTIFACTS,
            )
            return _run(checked, folder, store, reporter, images, teacher)
        except (UserError, KeyboardInterrupt) as error:
            reporter.note(f"stopped: {error or 'interrupted'}")
            raise
        except Exception as error:
            reporter.note(traceback.format_exc())
            error.log = folder / "log.txt"  # type: ignore[attr-defined]
            raise


def _checked(
    config: str | Path | Mapping[str, Any] | Config,
    own_images: bool,
    own_teacher: bool,
    overrides: Mapping[str, Any],
) -> Config:
    where = "config"
    if isinstance(config, Config):
        values = config.model_dump()
    elif isinstance(config, Mapping):
        values = dict(config)
    else:
        values, where = read_values(config), str(config)
    if own_images:
        values.setdefault("data", {"name": "array"})
    if own_teacher:
        values["teacher"] = {"kind": "object"}
    for key, value in overrides.items():
        if not isinstance(value, Mapping):
            put(values, key, value)
            continue
        # A change of kind drops the section's other fields, so it comes first.
        for field in sorted(value, key=lambda name: name != "kind"):
            put(values, f"{key}.{field}", value[field])
    return make_config(values, where)


def _run(
    config: Config,
    folder: Path,
    store: Store,
    reporter: Reporter,
    images: Images | None,
    teacher: object | None,
) -> RunResult:
    choice = choose_engine(config.engine, config.device)
    reporter.say(choice.reason)
    section = config.data
    dataset = load_dataset(
        section.name if images is None else images,
        root=section.root,
        valid=section.valid,
        seed=config.seed,
        limit=section.limit,
    )
    counts = f"{len(dataset.train):,}/{len(dataset.valid):,}/{len(dataset.test):,}"
    reporter.say(f"data {dataset.name}: {counts} images of {'×'.join(map(str, dataset.shape))}")
    engine = get_engine(choice.name, choice.device, precision=config.precision)
    data = prepare(dataset, section.colour)
    context = ImageContext(config, engine, store, reporter, data)
    record.write_config(context, folder)
    metrics = record.Metrics(folder / "metrics.jsonl")
    begun = starts(context, teacher)
    left = _TimeLeft(config.train.epochs * len(begun) - sum(s.passes for s in begun))
    trained = []
    for start in begun:

        def tell(row: dict[str, Any], now: bool) -> None:
            metrics.add(row)
            left.add(row["seconds"], now)
            if now:
                reporter.say(_line(row) + left.text())
            elif row["seconds"] is None:
                reporter.say(f"{_line(row)} (reused)")

        arm = train_arm(context, start, tell)
        if arm.artifact.reused:
            reporter.say(f"{_line(arm.metrics[-1])} (reused)")
        trained.append(arm)
    return _finish(context, folder, trained)


def _line(row: Mapping[str, Any]) -> str:
    figure = measure_of(row["unit"]).phrase(row["valid"])
    where = f"{arm_name(row['arm'], row.get('states'))}, pass {row['passes']} ({row['stage']})"
    return f"{where}: validation {figure} after {seconds_text(row['total_seconds'])}"


class _TimeLeft:
    """An estimate of the training time that remains, from the passes so far."""

    def __init__(self, passes: int) -> None:
        self._left, self._done, self._seconds = passes, 0, 0.0

    def add(self, seconds: float | None, now: bool) -> None:
        if seconds is None:
            return
        self._left -= 1
        if now:
            self._done += 1
            self._seconds += seconds

    def text(self) -> str:
        if self._left < 1 or not self._done:
            return ""
        return f", about {seconds_text(self._left * self._seconds / self._done)} of training left"


def _finish(context: ImageContext, folder: Path, trained: list[Trained]) -> RunResult:
    """Score, draw, write the run's files."""
    store = context.store
    command = record.command_line()
    scores = [record.score(context, arm) for arm in trained]
    rows = [record.result_row(context, a, s, command) for a, s in zip(trained, scores, strict=True)]
    clusters = next((a.path for a in store.used.values() if a.id.startswith("clusters-")), None)
    assignments = clusters / ASSIGNMENTS if clusters else None
    drawn = figures(context, trained, assignments)
    record.write_models(folder, trained, record.best_arm(trained, scores))
    record.write_bounds(folder, trained, context.data.measure.unit)
    copy_file(drawn.path / FIGURES, folder / FIGURES)
    if assignments is not None:
        copy_file(assignments, folder / ASSIGNMENTS)
    write_json(folder / "results.json", rows)
    write_report(folder)
    reused = tuple(name for name, artifact in store.used.items() if artifact.reused)
    if reused:
        context.reporter.say(f"reused {len(reused)} of {len(store.used)}: {', '.join(reused)}")
    return RunResult(folder, tuple(read_json(folder / "results.json")), reused)
