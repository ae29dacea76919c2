"""A folder that one process at a time works in."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = "lock"
_FAR = 2**30
"""A byte behind the file's text: Windows keeps others from reading what is locked."""


@contextmanager
def locked(
    folder: Path, say: Callable[[str], object], name: str = LOCK, *, leave: bool = True
) -> Iterator[None]:
    """Hold the folder's lock; the system releases it however its process dies.

    Args:
        folder: made when missing.
        say: called with whom this process waits for.
        name: of the file that is locked.
        leave: whether the file stays afterwards.
    """
    waiting = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("a+") as file:
            acquired = try_lock(file.fileno())
            if acquired and _same_file(folder / name, file.fileno()):
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
                try:
                    yield
                finally:
                    # Those who wait for it see that it is gone, and make another.
                    if not leave and _same_file(folder / name, file.fileno()):
                        (folder / name).unlink(missing_ok=True)
                return
            if not acquired and not waiting:
                file.seek(0)
                say(f"{folder.name}: waiting for process {file.read().strip() or 'unknown'}")
                waiting = True
        time.sleep(0.2)


def try_lock(descriptor: int) -> bool:
    """Lock an open file if no other process has; return whether it is locked now."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        # Some network file systems have no locks; two runs at once are then the user's to avoid.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def _same_file(path: Path, descriptor: int) -> bool:
    """Return whether ``path`` is still the open file: the folder may have been removed."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False
