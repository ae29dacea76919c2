"""Standard output and error in any encoding, and what ends a command from outside."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from pyjuice_bridge.errors import UserError

PLAIN = "pyjuice_bridge.plain"
_ASCII = {
    "×": "x",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "±": "+-",
    "·": "*",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "²": "^2",
    "η": "eta",
}
_ENDS = ("SIGTERM", "SIGHUP")


class OutputClosedError(UserError):
    """What reads the output has gone, as ``head`` does after its lines."""

    def __init__(self) -> None:
        super().__init__("the output was closed")


class EndedError(KeyboardInterrupt):
    """The system asked the process to end: as Ctrl-C, with another exit status."""

    def __init__(self, number: int) -> None:
        super().__init__(f"told to end by {signal.Signals(number).name}")
        self.status = 128 + number


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks by similar ones."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(map(_alike, lacking)), error.end


def _alike(character: str) -> str:
    if character in _ASCII:
        return _ASCII[character]
    letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return letters or "?"


codecs.register_error(PLAIN, _plain)


def accept_any_text() -> None:
    """Let the standard streams take any text, whatever their encoding is."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN)


def close_output() -> None:
    """Discard unprinted output, so that the process ends quietly."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
                continue
            os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise ``EndedError`` inside the block where the system would end the process.

    Signals that are ignored, as SIGHUP under nohup, stay so.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise EndedError(number)

    changed = []
    if threading.current_thread() is threading.main_thread():
        for name in _ENDS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)
                changed.append(number)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
