"""A process that ends a Julia worker with its parent, and the folders that the two exchange.

It runs as a file, ``python -I -S julia_watch.py PARENT WORKER``, and imports the standard library
alone.  Its standard input is the pipe of requests, which closes with the parent.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

IN_MEMORY = Path("/dev/shm")
PREFIX = "pyjuice_bridge-"
_LOCK = "lock"
_LOOK_SECONDS = 1.0
_GRACE_SECONDS = 3.0
"""How long a worker without a parent is given to end by itself."""


@contextlib.contextmanager
def locked_folder(place: Path) -> Iterator[Path]:
    """Make a private folder in ``place`` and remove it afterwards.

    The folder holds a lock for as long as this process lives, so ``sweep`` knows one that nobody
    uses any more.  It gets its name once it is locked.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".{PREFIX}{os.getpid()}-", dir=place))
    try:
        with (folder / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            folder = folder.rename(place / folder.name.removeprefix("."))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove this user's exchange folders whose process is gone."""
    for place in {IN_MEMORY, Path(tempfile.gettempdir())}:
        for folder in place.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError), (folder / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def watch(parent: int, worker: int, requests: int = 0) -> None:
    """Return when the worker is gone; kill it when the parent is."""
    pipe = select.poll()
    pipe.register(requests, 0)
    while os.getppid() == worker:
        if pipe.poll(1000 * _LOOK_SECONDS) or not _exists(parent):
            _end(worker)
            sweep()


def _end(worker: int) -> None:
    until = time.monotonic() + _GRACE_SECONDS
    while os.getppid() == worker and time.monotonic() < until:
        time.sleep(0.05)
    if os.getppid() == worker:
        os.killpg(worker, signal.SIGKILL)
        while os.getppid() == worker:
            time.sleep(0.01)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


if __name__ == "__main__":
    watch(*map(int, sys.argv[1:]))
