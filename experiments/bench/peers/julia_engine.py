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
        """A call hands over files: what more rows cost is the forward pass."""
        alone = _seconds(self, x)
        copies = max(4, times)
        return [(_seconds(self, np.tile(x, (1 + copies, 1))) - alone) / copies]


def _seconds(peer: Peer, x: Rows) -> float:
    began = time.perf_counter()
    peer.log_likelihood(x)
    return time.perf_counter() - began
