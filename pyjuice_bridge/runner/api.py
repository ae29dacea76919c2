"""``run``: the package from Python."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pyjuice_bridge import processes
from pyjuice_bridge.config.read import put, read_values
from pyjuice_bridge.config.sweep import label_of
from pyjuice_bridge.data.splits import SPLITS
from pyjuice_bridge.data.text_load import Source
from pyjuice_bridge.distill.registry import KINDS
from pyjuice_bridge.domains.base import Context, Tools
from pyjuice_bridge.domains.images import Images
from pyjuice_bridge.domains.registry import DOMAINS
from pyjuice_bridge.engines import EngineChoice, choose_engine, open_engine
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import finite, read_json, remove_leftovers, write_json
from pyjuice_bridge.measure import measure_of
from pyjuice_bridge.report.page import write_report
from pyjuice_bridge.report.words import seconds_text
from pyjuice_bridge.runner import results
from pyjuice_bridge.runner.arms import Trained, Training, train_arm, trainings
from pyjuice_bridge.runner.config import Config, default_kinds, make_config
from pyjuice_bridge.runner.doubts import doubts
from pyjuice_bridge.runner.start import OBJECT, circuit_of
from pyjuice_bridge.stages.lock import locked
from pyjuice_bridge.stages.progress import (
    Reporter,
    TimeLeft,
    pass_heading,
    pass_line,
    progress_console,
)
from pyjuice_bridge.stages.store import Artifact, Store

if TYPE_CHECKING:
    from pandas import DataFrame

    from pyjuice_bridge.circuit.types import Circuit
    from pyjuice_bridge.query.model import Model


_COLUMNS = (
    "model",
    "engine",
    "device",
    "parameters",
    "passes",
    "seconds",
    "peak_memory_bytes",
    "seed",
)
"""Of ``results.json``, beside the figures."""
OnPass = Callable[[dict[str, Any]], object]
"""Receives a line of ``metrics.jsonl``."""


@dataclass(frozen=True)
class Given:
    """What was handed over from Python in place of what the config names.

    Attributes:
        data: at most one entry, by the domain's name.
        teacher: an object with ``embed``.
        start: the circuit that the arm ``start`` begins with.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    teacher: object | None = None
    start: Circuit | None = None


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
        from pyjuice_bridge.query.model import Model

        return Model.load(self.path)

    def to_pandas(self) -> DataFrame:
        """Return a row for every arm: its figures, size, seconds and seed.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas") from None
        rows = [
            {
                **{name: row[name] for name in _COLUMNS if name in row},
                **row.get("sweep", {}),
                **{split: row[split]["value"] for split in SPLITS},
                "unit": row["test"]["unit"],
                **({"accuracy": row["accuracy"]["test"]} if "accuracy" in row else {}),
            }
            for row in self.results
        ]
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        from pyjuice_bridge.report.page import results_html

        return results_html(self.path)

    def __repr__(self) -> str:
        measure = measure_of(self.results[0]["test"]["unit"])
        figures = ", ".join(
            "-".join(filter(None, [row["model"], label_of(row.get("sweep", {}))]))
            + f" {measure.text(row['test']['value'])}"
            for row in self.results
        )
        return f"RunResult({self.path}: test {measure.unit} {figures})"


def run(
    config: str | Path | Mapping[str, Any] | Config,
    *,
    images: Images | None = None,
    text: Source | None = None,
    table: Any = None,
    writer: Any = None,
    teacher: object | None = None,
    start: Model | Circuit | str | Path | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    progress: bool = True,
    verbose: bool = False,
    console: Console | None = None,
    on_epoch: OnPass | None = None,
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
        table: your own, in place of the config's: integers, bool or text [N, columns], -1 or NaN
            where missing, or a data frame (split by the seed), or a mapping as above.
        writer: a causal model of transformers that writes the data, its folder or its name on the
            hub, in place of the config's (``data.kind: written``).
        teacher: your own: an object with ``embed(samples) -> float32 [N, positions, dim]``,
            of images, tokens or rows; a dictionary instead changes the config's section.
        start: a circuit, a model, a file or a run's folder with which an arm begins, in place of
            the config's ``train.start``.
        out: the run's folder; default ``runs/<name>``.  Artifacts go to ``artifacts`` beside it.
        fresh: compute every stage anew.
        progress: whether to report it.
        verbose: whether to report what else goes to ``log.txt``.
        console: where to report progress; default: standard error.
        on_epoch: called after every pass with its line of ``metrics.jsonl``, also with those of
            trainings that are reused; for loggers.
        overrides: fields of the config; a section is given as a dictionary of changes.

    Raises:
        UserError: a mistake in the config or the data, in one sentence.
    """
    if isinstance(teacher, Mapping):
        overrides, teacher = {**overrides, "teacher": teacher}, None
    own = {"images": images, "text": text, "table": table, "written": writer}
    began = circuit_of(start) if start is not None and not isinstance(start, str | Path) else None
    if start is not None:
        train = {**overrides.get("train", {}), "start": str(start) if began is None else OBJECT}
        overrides = {**overrides, "train": train}
    given = Given({name: data for name, data in own.items() if data is not None}, teacher, began)
    checked = _checked(config, given, overrides)
    folder = Path(out) if out is not None else Path("runs") / checked.name
    artifacts = folder.absolute().parent / "artifacts"
    if not processes.leads():
        store = Store(artifacts, fresh=fresh)
        return _run(checked, _choice(checked), folder, store, Reporter(), given, None)
    results.open_folder(folder)
    console = (console or progress_console()) if progress else None
    with (
        Reporter(console, folder / "log.txt", details=verbose) as reporter,
        locked(folder, reporter.say, results.LOCK, leave=False),
    ):
        remove_leftovers(folder)
        try:
            ledger = folder / results.ARTIFACTS
            store = Store(artifacts, fresh=fresh, reporter=reporter, ledger=ledger)
            choice = _choice(checked)
            reporter.say(choice.reason)
            return _run(checked, choice, folder, store, reporter, given, on_epoch)
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
    """Merge and check the config, the caller's data and the overrides."""
    where = "config"
    if isinstance(config, Config):
        values = config.model_dump(exclude_unset=True)
    elif isinstance(config, Mapping):
        values = dict(config)
    else:
        values, where = read_values(config, (), default_kinds), str(config)
    for domain in given.data:
        section = values.get("data", {"kind": domain})
        if isinstance(section, Mapping):
            values["data"] = {"name": "array", **section}
    if given.teacher is not None:
        section = values.get("teacher")
        own = isinstance(section, Mapping) and section.get("kind") == "object"
        values["teacher"] = section if own else {"kind": "object"}
    for key, value in overrides.items():
        if not isinstance(value, Mapping):
            put(values, key, value, default_kinds)
            continue
        # A change of kind drops the section's other fields, so it comes first.
        for name in sorted(value, key=lambda name: name != "kind"):
            put(values, f"{key}.{name}", value[name], default_kinds)
    data = values["data"] if isinstance(values.get("data"), Mapping) else {}
    for domain in given.data:
        if data.get("kind", "images") != domain:
            raise UserError(f"{where}: the data passed to run need 'data.kind: {domain}'")
    return make_config(values, where)


def _choice(config: Config) -> EngineChoice:
    """Choose the engine and device, once; several processes share what PyTorch does."""
    if processes.started() == 1:
        return choose_engine(config.engine, config.device)
    if config.engine == "julia":
        raise UserError("engine: 'julia' runs in one process; start it without torchrun")
    return choose_engine("torch", config.device)


def _run(
    config: Config,
    choice: EngineChoice,
    folder: Path,
    store: Store,
    reporter: Reporter,
    given: Given,
    on_epoch: OnPass | None,
) -> RunResult:
    """Train, score and show every arm.

    Every process goes through the same stages; the first one alone reports and writes the folder.
    """
    with processes.joined(choice.device):
        if processes.size() > 1:
            reporter.say(f"{processes.size()} processes")
        engine = open_engine(choice, precision=config.precision)
        if not processes.leads():
            # The first process may prepare data and leave them in a cache.
            processes.meet()
        domain = DOMAINS[config.data.kind]
        tools = Tools(config, engine, store, reporter)
        data = domain.load(tools, given.data.get(domain.name))
        context = Context(config, engine, store, reporter, data, given.teacher, given.start)
        if processes.leads():
            processes.meet()
            results.write_config(context, folder)
            _start(engine, reporter)
        trained = _train(context, folder, trainings(context), on_epoch)
        scores = [results.score(context, arm) for arm in trained]
        for line in doubts(context, trained, scores):
            reporter.say(f"warning: {line}")
        rows: list[dict[str, Any]] = []
        if processes.leads():
            with processes.alone():
                rows = _write(context, folder, trained, scores)
        reused = tuple(name for name, artifact in store.used.items() if artifact.reused)
        if reused:
            reporter.say(f"reused {len(reused)} of {len(store.used)}: {', '.join(reused)}")
        return RunResult(folder, tuple(processes.share(rows)), reused)


def _start(engine: Engine, reporter: Reporter) -> None:
    """Start an engine's process before anything is timed."""
    if engine.name == "torch":
        return
    began = time.perf_counter()
    with reporter.task(f"start {engine.name}"):
        threads = engine.facts()["threads"]
    spent = seconds_text(time.perf_counter() - began)
    reporter.say(f"{engine.name} started with {threads} threads in {spent}")


def _train(
    context: Context, folder: Path, arms: Sequence[Training], on_epoch: OnPass | None
) -> list[Trained]:
    """Train every arm, reporting each pass."""
    reporter = context.reporter
    metrics = results.Metrics(folder / "metrics.jsonl") if processes.leads() else None
    left = TimeLeft(arms)
    trained = []
    reporter.say(pass_heading(context.data.measure))
    for arm in arms:

        def tell(row: dict[str, Any], now: bool, arm: Training = arm) -> None:
            if metrics is not None:
                metrics.add(row)
            if on_epoch is not None:
                on_epoch(dict(row))
            left.add(arm, row["seconds"], now)
            if now:
                reporter.say(pass_line(row) + left.text())
            elif row["seconds"] is None:
                reporter.say(f"{pass_line(row)} (reused)")

        done = train_arm(arm, tell)
        if done.artifact.reused:
            reporter.say(f"{pass_line(done.metrics[-1])} (reused)")
        trained.append(done)
    return trained


def _write(
    context: Context, folder: Path, trained: list[Trained], scores: list[Artifact]
) -> list[dict[str, Any]]:
    """Write figures, models, results and the report; return the entries of ``results.json``."""
    command = results.command_line()
    pairs = zip(trained, scores, strict=True)
    rows = [results.result_row(context, arm, score, command) for arm, score in pairs]
    best = results.best_arm(trained, scores)
    there, alike = best.training.context, [arm for arm in trained if arm.point == best.point]
    section = there.config.circuit
    kind = KINDS[section.kind]
    scopes = kind.scopes(section, there.data.shape) if kind.scopes else None
    DOMAINS[context.config.data.kind].show(there, folder, alike, best, scopes)
    results.write_models(folder, trained, best)
    results.write_bounds(context, folder, trained)
    write_json(folder / "results.json", finite(rows))
    write_report(folder)
    entries: list[dict[str, Any]] = read_json(folder / "results.json")
    return entries
