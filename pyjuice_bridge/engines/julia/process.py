"""The worker process from the parent's side: started when first needed, shared by all engines."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
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
from pyjuice_bridge.errors import UserError

_E = TypeVar("_E", bound=Exception)
OnMessage = Callable[[dict[str, Any]], None]
_WORKER = "pyjuice_bridge.engines.julia_worker"
_PATIENCE_SECONDS = 5.0
"""How long a worker is given to drop a request, or to end, before it is killed."""
_USUAL_START_SECONDS = 20.0
_LOG_BYTES = 10_000

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
        self._lock = threading.Lock()
        self.owner = os.getpid()
        self._read = b""
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            environment.command("-m", _WORKER),
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
        except BaseException:
            self.kill()
            raise
        if "failed" in first:
            self.kill()
            raise _noted(UserError(f"Julia does not start: {first['failed']}"), self.log())
        self.julia, self.threads = first["ready"]["julia"], int(first["ready"]["threads"])

    @property
    def alive(self) -> bool:
        """Whether this process can ask it."""
        return self.owner == os.getpid() and self._process.poll() is None

    def ask(self, folder: Path, on_message: OnMessage) -> None:
        """Have the request in ``folder`` answered there; progress goes to ``on_message``.

        Whatever ends this call early, Ctrl-C or an error of ``on_message``, ends the request too.

        Raises:
            UserError: the request was refused, or the worker died.
            JuliaError: it failed.
        """
        with self._lock:
            try:
                self._send({"folder": str(folder)})
                while "answer" not in (message := self._next_message()):
                    on_message(message)
            except BaseException:
                self._drop()
                raise
        outcome, sentence, trace = message["answer"]
        if outcome == "refused":
            raise UserError(sentence)
        if outcome != "done":
            raise _noted(JuliaError(sentence), trace)

    def log(self) -> str:
        """The last lines that the worker printed."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _LOG_BYTES))
        return self._log.read().decode(errors="replace")

    def close(self) -> None:
        """Let the worker end."""
        if self.alive and self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_SECONDS)
            self.kill()

    def kill(self) -> None:
        """End the worker at once, with whatever processes it started."""
        if self.alive:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def _first_message(self) -> dict[str, Any]:
        try:
            return self._next_message(time.monotonic() + _USUAL_START_SECONDS)
        except TimeoutError:
            logger.warning("Julia compiles its packages, which takes minutes and happens once.")
        return self._next_message()

    def _drop(self) -> None:
        """Take back the request that is being answered; no answer to it is wanted any more."""
        try:
            self._send({"cancel": True})
            until = time.monotonic() + _PATIENCE_SECONDS
            while "answer" not in self._next_message(until):
                pass
        except (UserError, TimeoutError):
            self.kill()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._death() from None

    def _next_message(self, until: float | None = None) -> dict[str, Any]:
        """The next line the worker sends, waited for ``until`` that time at most."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._read:
                left = None if until is None else until - time.monotonic()
                if not ready.select(left):
                    raise TimeoutError
                part = os.read(self._process.stdout.fileno(), 1 << 16)
                if not part:
                    raise self._death()
                self._read += part
        line, _, self._read = self._read.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _death(self) -> UserError:
        """What to say when the worker is gone, with its last words."""
        try:
            status = self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            status = 0
        how = f"exit status {status}"
        if status < 0:
            how = f"killed by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            how += ", perhaps because memory ran out"
        sentence = f"Julia's process ended ({how}); the same command goes on after the last pass"
        return _noted(UserError(f"{sentence} that was finished."), self.log())


def worker_environment() -> dict[str, str]:
    """The environment variables a worker starts with: yours, with defaults for what is not set.

    All threads are used unless ``JULIA_NUM_THREADS`` or ``PYTHON_JULIACALL_THREADS`` says
    otherwise; with several, Julia must handle signals itself.
    """
    defaults = {
        "PYTHON_JULIACALL_THREADS": environment.threads(),
        "PYTHON_JULIACALL_HANDLE_SIGNALS": "yes",
    }
    return {**defaults, **environment.offline()}


def shared_worker() -> Worker:
    """The worker of this process, started now if there is none.

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
