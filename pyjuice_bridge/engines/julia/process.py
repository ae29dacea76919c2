"""The worker process from the parent's side: started when first needed, shared by all engines."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import re
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pyjuice_bridge.engines import julia_environment as environment
from pyjuice_bridge.engines.julia.exchange import Request
from pyjuice_bridge.engines.julia_watch import sweep
from pyjuice_bridge.errors import UserError

_E = TypeVar("_E", bound=Exception)
OnMessage = Callable[[dict[str, Any]], None]
_WORKER = "pyjuice_bridge.engines.julia_worker"
_PATIENCE_SECONDS = 5.0
"""How long a worker is given to drop a request, or to end, before it is killed."""
_USUAL_START_SECONDS = 20.0
_LOOK_SECONDS = 5.0
"""How often a silent worker is looked at."""
_IDLE_LOOKS = 24
"""How many looks in a row may find that a worker with a request does nothing."""
_IDLE_TICKS = 2
"""Processor time that counts as nothing between two looks, in the clock's ticks."""
_LOG_BYTES = 10_000
_GOES_ON = "the same command goes on after the last pass that was finished"

_ERROR = re.compile(r"^(?:ERROR: |error: )(?:LoadError: |InitError: )*")

logger = logging.getLogger(__name__)


class JuliaError(RuntimeError):
    """Something went wrong inside Julia that the input does not explain.

    The message is one sentence; Julia's stack trace is attached as a note.
    """


class Worker:
    """A running worker.

    Starting one takes as long as Julia does; what it compiled is kept for its whole life.

    Attributes:
        pid: its process id.
        owner: the process that started it, the only one that can ask it.
        julia: the version of Julia.
        threads: how many threads Julia has.

    Raises:
        UserError: Julia does not start; what it printed is attached as a note.
    """

    def __init__(self) -> None:
        sweep()
        self._lock = threading.Lock()
        self.owner = os.getpid()
        self._read = b""
        self._kept: str | None = None
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            environment.command("-m", _WORKER, str(self.owner)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=worker_environment(),
            # Ctrl-C in a terminal is the parent's: it decides what becomes of the worker.
            start_new_session=True,
        )
        self.pid = self._process.pid
        try:
            first = self._first_message()
        except _GoneError as gone:
            raise self._no_start(gone.how) from None
        except BaseException:
            self.kill()
            raise
        if "failed" in first:
            self.kill()
            raise self._no_start(first["failed"])
        self.julia, self.threads = first["ready"]["julia"], int(first["ready"]["threads"])

    @property
    def alive(self) -> bool:
        """Whether this process can ask it."""
        return self.owner == os.getpid() and self._process.poll() is None

    def ask(self, request: Request, folder: Path, on_message: OnMessage) -> None:
        """Have ``request``, written into ``folder``, answered there.

        Progress goes to ``on_message``.  Whatever ends this call early, Ctrl-C or an error of
        ``on_message``, ends the request too.

        Raises:
            UserError: the request was refused, or the worker died.
            JuliaError: it failed.
        """
        with self._lock:
            if request.key is not None and request.key != self._kept:
                request.write_subject(folder)
            outcome, sentence, trace = self._answer(folder, on_message)
            if outcome == "lacking":
                request.write_subject(folder)
                outcome, sentence, trace = self._answer(folder, on_message)
            self._kept = request.key or self._kept
        if outcome == "refused":
            raise _noted(UserError(sentence), trace)
        if outcome != "done":
            raise _noted(JuliaError(sentence), trace)

    def _answer(self, folder: Path, on_message: OnMessage) -> tuple[str, str, str]:
        try:
            self._send({"folder": str(folder)})
            while "answer" not in (message := self._next_message(watched=True)):
                on_message(message)
        except _GoneError as gone:
            text = f"Julia's process ended ({gone.how}); {_GOES_ON}."
            raise _noted(UserError(text), self.log()) from None
        except BaseException:
            self._drop()
            raise
        outcome, sentence, trace = message["answer"]
        return outcome, sentence, trace

    def log(self) -> str:
        """Return the last lines that the worker printed."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _LOG_BYTES))
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        """Let the worker end."""
        if self.alive and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                self._process.wait(_PATIENCE_SECONDS)
            self.kill()

    def kill(self) -> None:
        """End the worker at once, with whatever processes it started."""
        if self.alive:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def _first_message(self) -> dict[str, Any]:
        try:
            return self._next_message(until=time.monotonic() + _USUAL_START_SECONDS)
        except TimeoutError:
            logger.warning("Julia compiles its packages, which takes minutes and happens once.")
        return self._next_message()

    def _drop(self) -> None:
        """Take back the request that is being answered; kill the worker if it does not let go."""
        try:
            self._send({"cancel": True})
            until = time.monotonic() + _PATIENCE_SECONDS
            while "answer" not in self._next_message(until=until):
                pass
        except (_GoneError, TimeoutError, KeyboardInterrupt):
            self.kill()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._gone() from None

    def _next_message(
        self, *, until: float = float("inf"), watched: bool = False
    ) -> dict[str, Any]:
        """Wait for the next line of the worker, ``until`` that time at most.

        Raises:
            TimeoutError: there was none.
            _GoneError: the worker ended; or it is ``watched``, did nothing and was killed.
        """
        assert self._process.stdout is not None
        idle, used = 0, ticks(self.pid)
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._read:
                left = until - time.monotonic()
                if ready.select(max(0.0, min(left, _LOOK_SECONDS))):
                    part = os.read(self._process.stdout.fileno(), 1 << 16)
                    if not part:
                        raise self._gone()
                    self._read += part
                elif left <= 0:
                    raise TimeoutError
                elif watched:
                    before, used = used, ticks(self.pid)
                    idle = 0 if used is None or used > (before or 0) + _IDLE_TICKS else idle + 1
                    if idle >= _IDLE_LOOKS:
                        self.kill()
                        raise _GoneError("it no longer did anything and was killed")
        line, _, self._read = self._read.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _gone(self) -> _GoneError:
        """How the worker ended."""
        try:
            status = self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return _GoneError("it closed its pipes and was killed")
        if status >= 0:
            return _GoneError(f"exit status {status}")
        reason = ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
        return _GoneError(f"killed by {signal.Signals(-status).name}{reason}")

    def _no_start(self, how: str) -> UserError:
        """Say why the worker did not get as far as answering."""
        with tempfile.NamedTemporaryFile(
            "w", prefix="pyjuice_bridge-julia-", suffix=".log", delete=False, encoding="utf-8"
        ) as kept:
            kept.write(self.log())
        text = f"Julia does not start: {start_failure(self.log()) or how}; see {kept.name}."
        return _noted(UserError(text), self.log())


class _GoneError(Exception):
    """The worker has ended; ``how`` says it in words."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


def ticks(group: int) -> int | None:
    """Processor time of a process group in the clock's ticks, with that of children waited for.

    None while one of them waits for a disk, and where the system does not tell (no ``/proc``).
    """
    total, told = 0, False
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            text = (process / "stat").read_text()
            state, _, process_group, *rest = text.rpartition(")")[2].split()
            if int(process_group) == group:
                if state == "D":
                    return None
                told = True
                total += sum(map(int, rest[8:12]))
    return total if told else None


def start_failure(log: str) -> str:
    """Return the line of what a worker printed that says why Julia did not start."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if _ERROR.match(line)]
    line = errors[0] if errors else (lines[-1] if lines else "")
    return _ERROR.sub("", line).rstrip(".")[:300]


def worker_environment() -> dict[str, str]:
    """Return the environment variables of a worker: yours, and defaults for what is not set.

    All threads are used unless ``JULIA_NUM_THREADS`` or ``PYTHON_JULIACALL_THREADS`` says
    otherwise; with several, Julia must handle signals itself.
    """
    defaults = {
        "PYTHON_JULIACALL_THREADS": environment.threads(),
        "PYTHON_JULIACALL_HANDLE_SIGNALS": "yes",
    }
    return {**defaults, **environment.offline()}


def shared_worker() -> Worker:
    """Return the worker of this process; start it if there is none.

    Raises:
        UserError: Julia cannot be used here or does not start, or this process was forked from the
            one whose worker it is.
    """
    global _shared
    if _shared is not None and _shared.owner != os.getpid():
        raise UserError(
            "This process was forked from one that had used Julia, which answers that one only; "
            "start processes by 'spawn'."
        )
    with _starting:
        if _shared is None or not _shared.alive:
            state = environment.julia_state()
            if not state.usable:
                raise UserError(f"engine: Julia {state.reason}.")
            _shared = Worker()
            atexit.register(_shared.close)
        return _shared


def _noted(error: _E, note: str) -> _E:
    if note.strip():
        error.add_note(note.strip())
    return error


_shared: Worker | None = None
_starting = threading.Lock()
