"""Time spent on a stage that may take several attempts."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from pyjuice_bridge.pipeline.files import read_json, write_json


class Spent:
    """Seconds of work on an artifact over all attempts, kept in its folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "spent.json"
        self._before = 0.0
        with suppress(OSError, ValueError):
            self._before = float(read_json(self._path))
        self._start = time.perf_counter()

    def mark(self) -> float:
        """Note the time so far and return it."""
        total = self._before + time.perf_counter() - self._start
        write_json(self._path, total)
        return total
