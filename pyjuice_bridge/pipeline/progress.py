"""What a run says while it works: a live line on a terminal, plain lines elsewhere, and a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

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

from pyjuice_bridge.report.words import seconds_text

Tick = Callable[[int, int], None]
"""Called with (work done, work in all)."""

_PLAIN_INTERVAL = 15.0


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
    def task(self, title: str, passes: range = range(0)) -> Iterator[Tick]:
        """Show a piece of work; call the result with (done, in all) as it advances.

        Work in so many ``passes`` that does not begin with its first piece is a training resumed.
        """
        if passes:
            with self.task(title) as tick:
                yield _Training(title, passes, self.say, tick)
            return
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
