"""Our engine in Julia, in its worker process."""

from __future__ import annotations

import time
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows
from experiments.bench.engine import EngineSteps
from pyjuice_bridge.engines import Precision, get_engine

_MEASURABLE = 0.3
"""Seconds that more rows must cost."""
_MOST_ROWS = 2**18


class Peer(EngineSteps, peers.Peer):
    """EM through the engine's ``fit``, timed by Julia itself."""

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        super().__init__(problem, device, options)
        precision = cast(Precision, options.get("precision", "float32"))
        self.engine = get_engine("julia", device, precision=precision)
        self.pid = self.engine.pid
        self.reset()

    def log_likelihood(self, x: Rows) -> NDArray[Any]:
        return self.engine.log_likelihood(self.circuit, x)

    def forward(self, x: Rows, times: int) -> list[float]:
        """What more copies of the rows cost in one call, because a call hands over files.

        So the engine may put several batches together.
        """
        alone, copies, more = self._call(x), 8, 0.0
        while more < _MEASURABLE:
            more = self._call(np.tile(x, (1 + copies, 1))) - alone
            if more < _MEASURABLE and copies * len(x) > _MOST_ROWS:
                return []
            copies *= 2
        return [2 * more / copies]

    def _call(self, x: Rows) -> float:
        began = time.perf_counter()
        self.log_likelihood(x)
        return time.perf_counter() - began
