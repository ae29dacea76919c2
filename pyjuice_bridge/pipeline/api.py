"""``run`` and ``load``: the package from Python."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console

from pyjuice_bridge import processes
from pyjuice_bridge.config import Config, ImageData, make_config, put, read_values
from pyjuice_bridge.data.text_load import Source
from pyjuice_bridge.engines import EngineChoice, choose_engine, get_engine
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import measure_of
from pyjuice_bridge.pipeline import record
from pyjuice_bridge.pipeline.arms import Start
from pyjuice_bridge.pipeline.context import Context
from pyjuice_bridge.pipeline.files import read_json, write_json
from pyjuice_bridge.pipeline.images import Images, image_work
from pyjuice_bridge.pipeline.progress import Reporter, TimeLeft, pass_line
from pyjuice_bridge.pipeline.store import Artifact, Store
from pyjuice_bridge.pipeline.text import text_work
from pyjuice_bridge.pipeline.training import Trained, train_arm
from pyjuice_bridge.report.page import write_report
from pyjuice_bridge.report.words import seconds_text

if TYPE_CHECKING:
    from pyjuice_bridge.query.model import Model


@dataclass(frozen=True)
class Given:
    """What was handed over from Python in place of what the config names."""

    images: Images | None = None
    text: Source | None = None
    teacher: object | None = None


class Work(Protocol):
    """What differs between runs on images and on text."""

    @property
    def context(self) -> Context:
        """Settings, tools, prepared data."""

    def starts(self) -> Sequence[Start]:
        """Every arm, at its start."""

    def show(self, folder: Path, trained: Sequence[Trained], best: Trained) -> None:
        """Leave what the report shows in the run's folder."""


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
    text: Source | None = None,
    teacher: object | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    console: Console | None = None,
    **overrides: Any,
) -> RunResult:
    """Run a config from data to report, reusing whatever finished stages are there.

    Under torchrun several processes share the work, of which the first one reports and keeps files.

    Args:
        config: a YAML file, plain values, or a checked config.
        images: your own, in place of the config's: uint8 [N, H, W, C] (split by the seed), or a
            mapping with ``train`` and, where there are some, ``valid`` and ``test``.
        text: your own, in place of the config's: a list of documents (split by the seed), or a
            mapping with ``train`` and, where there are some, ``valid`` and ``test``.
        teacher: your own: an object with ``embed(images) -> float32 [N, positions, dim]``, or for
            text ``embed(tokens)``; a dictionary instead changes the config's section.
        out: the run's folder; default ``runs/<name>``.  Artifacts go to ``artifacts`` beside it.
        fresh: compute every stage anew.
        console: where to report progress; None is silent.
        overrides: fields of the config; a section is given as a dictionary of changes.

    Raises:
        UserError: a mistake in the config or the data, in one sentence.
    """
    if isinstance(teacher, Mapping):
        overrides, teacher = {**overrides, "teacher": teacher}, None
    given = Given(images, text, teacher)
    checked = _checked(config, given, overrides)
    folder = Path(out) if out is not None else Path("runs") / checked.name
    artifacts = folder.absolute().parent / "artifacts"
    if not processes.leads():
        return _help(checked, folder, Store(artifacts, fresh=fresh), given)
    record.open_folder(folder)
    with Reporter(console, folder / "log.txt") as reporter:
        try:
            store = Store(
                artifacts,
                fresh=fresh,
                say=reporter.say,
                ledger=folder / record.ARTIFACTS,
            )
            choice = _choice(checked)
            reporter.say(choice.reason)
            with processes.joined(choice.device):
                return _run(checked, choice, folder, store, reporter, given)
        except (UserError, KeyboardInterrupt) as error:
            reporter.note(f"stopped: {str(error) or 'interrupted'}")
            for note in getattr(error, "__notes__", ()):
                reporter.note(note)
            raise
        except Exception as error:
            reporter.note(traceback.format_exc())
            error.log = folder / "log.txt"  # type: ignore[attr-defined]
            raise


def _checked(
    config: str | Path | Mapping[str, Any] | Config,
    given: Given,
    overrides: Mapping[str, Any],
) -> Config:
    where = "config"
    if isinstance(config, Config):
        values = config.model_dump()
    elif isinstance(config, Mapping):
        values = dict(config)
    else:
        values, where = read_values(config), str(config)
    if given.images is not None:
        values.setdefault("data", {"name": "array"})
    if given.text is not None:
        values.setdefault("data", {"kind": "text", "name": "strings"})
    if given.teacher is not None:
        section = values.get("teacher")
        own = isinstance(section, Mapping) and section.get("kind") == "object"
        values["teacher"] = section if own else {"kind": "object"}
    for key, value in overrides.items():
        if not isinstance(value, Mapping):
            put(values, key, value)
            continue
        # A change of kind drops the section's other fields, so it comes first.
        for field in sorted(value, key=lambda name: name != "kind"):
            put(values, f"{key}.{field}", value[field])
    data = values["data"] if isinstance(values.get("data"), Mapping) else {}
    for kind, own in (("images", given.images), ("text", given.text)):
        if own is not None and data.get("kind", "images") != kind:
            raise UserError(f"{where}: {kind} handed over need 'data.kind: {kind}'")
    return make_config(values, where)


def _choice(config: Config) -> EngineChoice:
    """The config's engine and device; several processes share what PyTorch does."""
    if processes.started() == 1:
        return choose_engine(config.engine, config.device)
    if config.engine == "julia":
        raise UserError("engine: 'julia' runs in one process; start it without torchrun")
    return choose_engine("torch", config.device)


def _start(engine: Engine, reporter: Reporter) -> None:
    """Have an engine in another process ready before anything is timed."""
    if engine.name == "torch":
        return
    began = time.perf_counter()
    with reporter.task(f"start {engine.name}"):
        threads = engine.facts()["threads"]
    spent = seconds_text(time.perf_counter() - began)
    reporter.say(f"{engine.name} started with {threads} threads in {spent}")


def _run(
    config: Config,
    choice: EngineChoice,
    folder: Path,
    store: Store,
    reporter: Reporter,
    given: Given,
) -> RunResult:
    if processes.size() > 1:
        reporter.say(f"{processes.size()} processes")
    engine = get_engine(choice.name, choice.device, precision=config.precision)
    work = _work(config, engine, store, reporter, given)
    processes.meet()
    context = work.context
    record.write_config(context, folder)
    _start(engine, reporter)
    metrics = record.Metrics(folder / "metrics.jsonl")
    begun = work.starts()
    left = TimeLeft(begun, config.train.epochs)
    trained = []
    for start in begun:

        def tell(row: dict[str, Any], now: bool, start: Start = start) -> None:
            metrics.add(row)
            left.add(start, row["seconds"], now)
            if now:
                reporter.say(pass_line(row) + left.text())
            elif row["seconds"] is None:
                reporter.say(f"{pass_line(row)} (reused)")

        arm = train_arm(context, start, tell)
        if arm.artifact.reused:
            reporter.say(f"{pass_line(arm.metrics[-1])} (reused)")
        trained.append(arm)
    return _finish(work, folder, trained)


def _help(config: Config, folder: Path, store: Store, given: Given) -> RunResult:
    """What the other processes do for the first one's ``_run``: the same stages, in silence."""
    choice = _choice(config)
    with processes.joined(choice.device):
        engine = get_engine(choice.name, choice.device, precision=config.precision)
        # The first process may prepare data and leave them in a cache.
        processes.meet()
        work = _work(config, engine, store, Reporter(), given)
        trained = [train_arm(work.context, start, lambda *_: None) for start in work.starts()]
        for arm in trained:
            record.score(work.context, arm)
        rows: list[dict[str, Any]] = processes.share([])
    return RunResult(folder, tuple(rows), _reused(store))


def _work(config: Config, engine: Engine, store: Store, reporter: Reporter, given: Given) -> Work:
    if isinstance(config.data, ImageData):
        return image_work(config, config.data, engine, store, reporter, given.images, given.teacher)
    return text_work(config, config.data, engine, store, reporter, given.text, given.teacher)


def _finish(work: Work, folder: Path, trained: list[Trained]) -> RunResult:
    """Score, draw, write the run's files."""
    context, store = work.context, work.context.store
    scores = [record.score(context, arm) for arm in trained]
    with processes.alone():
        written = _write(work, folder, trained, scores)
    reused = _reused(store)
    if reused:
        context.reporter.say(f"reused {len(reused)} of {len(store.used)}: {', '.join(reused)}")
    return RunResult(folder, tuple(processes.share(written)), reused)


def _write(
    work: Work, folder: Path, trained: list[Trained], scores: list[Artifact]
) -> list[dict[str, Any]]:
    context, command = work.context, record.command_line()
    rows = [record.result_row(context, a, s, command) for a, s in zip(trained, scores, strict=True)]
    best = record.best_arm(trained, scores)
    work.show(folder, trained, best)
    record.write_models(folder, trained, best)
    record.write_bounds(folder, trained, context.data.measure.unit)
    write_json(folder / "results.json", rows)
    write_report(folder)
    found: list[dict[str, Any]] = read_json(folder / "results.json")
    return found


def _reused(store: Store) -> tuple[str, ...]:
    return tuple(name for name, artifact in store.used.items() if artifact.reused)
