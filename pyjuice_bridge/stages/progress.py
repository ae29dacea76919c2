"""What a run says while it works: a live line on a terminal, plain lines elsewhere, and a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

from pyjuice_bridge.config.sweep import label_of
from pyjuice_bridge.measure import Measure, measure_of
from pyjuice_bridge.report.words import arm_name, seconds_text, spoken

Tick = Callable[[int, int], None]
"""Called with (work done, work in all)."""

_PLAIN_INTERVAL = 15.0
_PACKAGE = logging.getLogger("pyjuice_bridge")


def _nothing() -> None:
    """Ignore progress."""


def progress_console() -> Console:
    """Create the console for progress in scripts and notebooks: standard error, as plain text."""
    return Console(stderr=True, force_jupyter=False, soft_wrap=True)


class Reporter:
    """Messages of a run, and what the package warns of, to the console and to a log file.

    Args:
        console: where to speak; None is silent.
        log: a file that receives every line with the time, appended.
        details: whether the console gets what else only the log does.
    """

    def __init__(
        self, console: Console | None = None, log: Path | None = None, *, details: bool = False
    ) -> None:
        self._console = console or Console(quiet=True)
        self._log, self._details = log, details
        self._live: Progress | None = None
        self._watch: Callable[[], object] = _nothing
        self._warnings = _Warnings(self.say)

    def __enter__(self) -> Reporter:
        _PACKAGE.addHandler(self._warnings)
        console = self._console
        # Where colours are forced, a console that writes to a file calls itself a terminal too.
        if console.is_terminal and not console.quiet and console.file.isatty():
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                _LeftColumn(),
                console=self._console,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _PACKAGE.removeHandler(self._warnings)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """Put one line on the console and into the log."""
        self._write(line)
        self._print(line)

    def note(self, text: str) -> None:
        """Put lines into the log; on the console only if it gets details."""
        self._write(text)
        if self._details:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _write(self, text: str) -> None:
        if self._log is None:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        lines = "".join(f"{stamp} {line}\n" for line in text.splitlines())
        # A full disk or a folder that is gone ends the run at its next result, not at a message.
        with suppress(OSError), self._log.open("a", encoding="utf-8", errors="replace") as file:
            file.write(lines)

    @contextmanager
    def watched(self, watch: Callable[[], object]) -> Iterator[None]:
        """Call ``watch`` whenever a task advances inside the block."""
        before, self._watch = self._watch, watch
        try:
            yield
        finally:
            self._watch = before

    @contextmanager
    def task(self, title: str, passes: range = range(0)) -> Iterator[Tick]:
        """Show a piece of work; call the result with (done, in all) as it advances.

        Work in so many ``passes`` is a training: it was resumed if it does not begin with its first
        piece, and its time left is not estimated here, since lines about its passes say it.
        """
        with self._shown(title, estimate=not passes) as show:
            tell = _Training(title, passes, self.say, show) if passes else show

            def tick(done: int, total: int) -> None:
                self._watch()
                tell(done, total)

            yield tick

    @contextmanager
    def _shown(self, title: str, *, estimate: bool) -> Iterator[Tick]:
        if self._live is None:
            yield _PlainTask(title, self.say, estimate=estimate)
            return
        live = self._live
        task: TaskID = live.add_task(title, total=None, estimate=estimate)
        try:
            yield lambda done, total: live.update(task, completed=done, total=total)
        finally:
            live.remove_task(task)


class _Warnings(logging.Handler):
    """Hands on what engines warn of."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Say one line."""
        self._say(record.getMessage())


class _Training:
    """Says after which pass a training is resumed, then only hands on."""

    def __init__(self, title: str, passes: range, say: Callable[[str], None], tick: Tick) -> None:
        self._title, self._passes, self._say, self._tick = title, passes, say, tick
        self._begun = False

    def __call__(self, done: int, total: int) -> None:
        if not self._begun and done > 1:
            whole = self._passes.start + (done - 1) * len(self._passes) // total
            self._say(f"{self._title}: resumed after pass {whole}")
        self._begun = True
        self._tick(done, total)


class _LeftColumn(ProgressColumn):
    """The time left of a task, where it is estimated."""

    def render(self, task: Task) -> Text:
        """Format the time."""
        left = task.time_remaining if task.fields["estimate"] else None
        return Text("" if left is None else f"about {seconds_text(left)} left")


class _PlainTask:
    """Says how far a task is, at most every few seconds."""

    def __init__(self, title: str, say: Callable[[str], None], *, estimate: bool) -> None:
        self._title, self._say, self._estimate = title, say, estimate
        self._last = time.monotonic()
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        # What comes before the first piece is done, such as compilation, comes once.
        first, since = self._first = self._first or (done, now)
        if now - self._last < _PLAIN_INTERVAL or done >= total:
            return
        self._last = now
        left = (now - since) * (total - done) / (done - first) if done > first else 0.0
        about = f", about {seconds_text(left)} left" if left and self._estimate else ""
        self._say(f"{self._title}: {100 * done // total} %{about}")


def pass_line(row: Mapping[str, Any]) -> str:
    """Put a line of ``metrics.jsonl`` into words; with the time left it fits 80 columns."""
    swept = row.get("sweep")
    name = f"{row['arm']}-{label_of(swept)}" if swept else arm_name(row["arm"])
    where = f"{name}, pass {row['passes']} ({spoken(row['stage'])})"
    figure = measure_of(row["unit"]).text(row["valid"])
    return f"{where}: {figure}, {seconds_text(row['total_seconds'])}"


def pass_heading(measure: Measure) -> str:
    """Say what the numbers of pass lines are."""
    return f"after every pass: validation {measure.unit}, time so far, training time left"


class Planned(Protocol):
    """A training to come."""

    @property
    def passes(self) -> int:
        """Passes that it takes."""

    @property
    def work(self) -> float:
        """Of one pass, in any unit."""


class TimeLeft:
    """An estimate of the training time that remains, from the passes so far.

    The first pass, in which code is compiled, does not count.

    Args:
        trainings: everything to be trained.
    """

    def __init__(self, trainings: Sequence[Planned]) -> None:
        self._passes = sum(each.passes for each in trainings)
        self._left = sum(each.passes * each.work for each in trainings)
        self._done = self._seconds = 0.0
        self._compiled = False

    def add(self, training: Planned, seconds: float | None, now: bool) -> None:
        """Count a pass that is over; ``seconds`` is None for those that were done before."""
        if seconds is None:
            return
        self._passes -= 1
        self._left -= training.work
        if now and self._compiled:
            self._done += training.work
            self._seconds += seconds
        self._compiled |= now

    def text(self) -> str:
        """Return the estimate as the end of a line; empty where there is none."""
        if self._passes < 1 or not self._done:
            return ""
        return f", about {seconds_text(self._left * self._seconds / self._done)} left"
