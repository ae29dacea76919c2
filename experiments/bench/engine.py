"""EM steps through the interface that all our engines have."""

from __future__ import annotations

import numpy as np

from experiments.bench.cases import Problem, Rows
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.base import Engine, FitOptions, Schedule
from pyjuice_bridge.engines.resume import row_order


class EngineSteps:
    """EM by ``fit``, which times every pass itself: loading the circuit is not part of a step."""

    warm_up = 1
    """Steps of a ``fit`` that make what later ones use."""
    problem: Problem
    engine: Engine
    circuit: Circuit

    def reset(self) -> None:
        self.hold(self.problem.circuit)

    def hold(self, circuit: Circuit) -> None:
        """Go on from other parameters."""
        self.circuit = circuit

    def step(self, x: Rows, step_size: float, pseudocount: float) -> None:
        self._fit(x, len(x), step_size, pseudocount, 1)

    def em(self, x: Rows, times: int) -> list[float]:
        """The first steps of a ``fit``, which make its buffers, are not among them."""
        return self._fit(x, len(x), 1.0, 0.0, self.warm_up + times)[self.warm_up :]

    def epoch(self, x: Rows, batch: int, step_size: float, pseudocount: float) -> float:
        rows = np.empty_like(x)
        rows[row_order(0, 0, len(x))] = x
        return self._fit(rows, batch, step_size, pseudocount, 1)[0]

    def _fit(
        self, x: Rows, batch: int, step_size: float, pseudocount: float, epochs: int
    ) -> list[float]:
        options = FitOptions(
            "full_em" if batch == len(x) and step_size == 1 else "mini_em",
            epochs=epochs,
            batch_size=batch,
            step_size=Schedule(step_size, kind="constant"),
            pseudocount=pseudocount,
            seed=0,
        )
        fitted = self.engine.fit(self.circuit, x, options)
        self.hold(fitted.circuit)
        return [epoch.seconds for epoch in fitted.history]
