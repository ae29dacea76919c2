"""What becomes of errors on the command line: one sentence each, and details in a file."""

from __future__ import annotations

import errno
import os
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_SHORT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "out of memory")


def sentence(error: Exception) -> str:
    """Say in one line what happened and what to do; never raise."""
    if isinstance(error, OSError) and (explanation := _of_the_system(error)):
        return explanation
    if _lacks_memory(error):
        why = " ".join(str(error).split())[:200]
        return f"there is not enough memory{f' ({why})' if why else ''}; make the circuit smaller"
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return "a text holds half a character (a lone surrogate), which no file can hold; remove it"
    summary = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    log = _details(error)
    where = f"the details are in {log}" if log else "there is no place for the details"
    return f"something unexpected happened ({summary}); {where}"


def _of_the_system(error: OSError) -> str:
    place = f" at {error.filename}" if error.filename else ""
    if error.errno in _FULL:
        return f"the disk is full{place}; free some space, and the same command continues"
    if error.errno is None or not error.filename:
        return ""
    reason = os.strerror(error.errno).lower()
    if error.errno in _REFUSED:
        return f"{error.filename} cannot be used ({reason}); choose a place that can be written to"
    if error.errno == errno.ENOENT:
        return (
            f"{error.filename} is not there; if its folder was removed meanwhile, the same command "
            "makes it again"
        )
    return f"{error.filename} cannot be used ({reason})"


def _lacks_memory(error: Exception) -> bool:
    """Return whether Python, PyTorch or the system ran out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in _SHORT_OF_MEMORY)


def _details(error: Exception) -> Path | None:
    """Return the run's log, or a new file that this user alone can read; None if that fails."""
    log = getattr(error, "log", None)
    if isinstance(log, Path) and log.is_file():
        return log
    with suppress(OSError):
        number, name = tempfile.mkstemp(prefix="pyjuice_bridge-error-", suffix=".log")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write("".join(traceback.format_exception(error)))
        return Path(name)
    return None
