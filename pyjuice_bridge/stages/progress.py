"""What a run says while it works: a live line on a terminal, plain lines elsewhere, and a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pyjuice_bridge.measure import measure_of
from pyjuice_bridge.report.words import arm_name, seconds_text

Tick = Callable[[int, int], None]
"""Called with (work done, work in all)."""

_PLAIN_INTERVAL = 15.0


def _nothing() -> None:
    """Take no notice."""


class Reporter:
    """Messages of a run, to the console and to a log file.

    Args:
        console: where to speak; None is silent.
        log: a file that receives every line with the time, appended.
    """

    def __init__(self, console: Console | None = None, log: Path | None = None) -> None:
        self._console = console or Console(quiet=True)
        self._log = log
        self._live: Progress | None = None
        self._watch: Callable[[], object] = _nothing

    def __enter__(self) -> Reporter:
        if self._console.is_terminal and not self._console.quiet:
            self._live = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
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
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        """One line, to both."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.note(line)

    def note(self, text: str) -> None:
        """Lines for the log alone."""
        if self._log is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            with self._log.open("a", encoding="utf-8") as file:
                file.write("".join(f"{stamp} {line}\n" for line in text.splitlines()))

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

        Work in so many ``passes`` that does not begin with its first piece is a training resumed.
        """
        with self._shown(title) as show:
            tell = _Training(title, passes, self.say, show) if passes else show

            def tick(done: int, total: int) -> None:
                self._watch()
                tell(done, total)

            yield tick

    @contextmanager
    def _shown(self, title: str) -> Iterator[Tick]:
        if self._live is None:
            yield _PlainTask(title, self.say)
            return
        live = self._live
        task: TaskID = live.add_task(title, total=None)
        try:
            yield lambda done, total: live.update(task, completed=done, total=total)
        finally:
            live.remove_task(task)


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


class _PlainTask:
    """Says how far a task is, at most every few seconds."""

    def __init__(self, title: str, say: Callable[[str], None]) -> None:
        self._title = title
        self._say = say
        self._start = self._last = time.monotonic()
        self._first: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = done
        if now - self._last < _PLAIN_INTERVAL or done >= total:
            return
        self._last = now
        fresh = done - self._first
        left = (now - self._start) * (total - done) / fresh if fresh > 0 else 0.0
        about = f", about {seconds_text(left)} left" if left else ""
        self._say(f"{self._title}: {100 * done // total} %{about}")


def pass_line(row: Mapping[str, Any]) -> str:
    """A line of ``metrics.jsonl`` in words."""
    figure = measure_of(row["unit"]).phrase(row["valid"])
    where = f"{arm_name(row['arm'], row.get('states'))}, pass {row['passes']} ({row['stage']})"
    return f"{where}: validation {figure} after {seconds_text(row['total_seconds'])}"


class Planned(Protocol):
    """A training to come: ``passes`` done before it, ``work`` of each pass of it."""

    @property
    def passes(self) -> int:
        """Passes that were done before."""

    @property
    def work(self) -> float:
        """Of one pass, in any unit."""


class TimeLeft:
    """An estimate of the training time that remains, from the passes so far.

    Args:
        trainings: everything to be trained.
        passes: that each of them gets in all.
    """

    def __init__(self, trainings: Sequence[Planned], passes: int) -> None:
        self._passes = sum(passes - each.passes for each in trainings)
        self._left = sum((passes - each.passes) * each.work for each in trainings)
        self._done = self._seconds = 0.0

    def add(self, training: Planned, seconds: float | None, now: bool) -> None:
        """A pass is over; ``seconds`` is None for those that were done before."""
        if seconds is None:
            return
        self._passes -= 1
        self._left -= training.work
        if now:
            self._done += training.work
            self._seconds += seconds

    def text(self) -> str:
        """The estimate as the end of a line; empty where there is none."""
        if self._passes < 1 or not self._done:
            return ""
        return f", about {seconds_text(self._left * self._seconds / self._done)} of training left"
