"""The estimators: hidden Chow-Liu trees, hidden Markov models, random region graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from annotated_types import Interval
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.region_graph import RegionGraph
from pyjuice_bridge.estimators.base import CircuitEstimator
from pyjuice_bridge.files import write_text
from pyjuice_bridge.numbers import whole
from pyjuice_bridge.teachers.window import WindowTeacher

_BINS = """
        bins: of columns with fractions or numbers below -1 or above 255, cut at quantiles of X;
            None takes whole numbers from 0 alone, all of them as categories."""
_FIT = """
        categories: values of every column, a number or one for each; None takes them from X.
        epochs: passes over the rows, counting included.
        batch_size: rows of a mini-batch.
        step_size: of EM, at the first and the last mini-batch.
        pseudocount: added to every row of counts.
        patience: passes without a better validation score after which training ends.
        validation: share of the rows held out to choose the best pass; fewer than ten rows are
            for both.
        engine: ``torch``, ``julia`` or ``auto``.
        device: ``auto``, ``cpu`` or ``cuda``.
        random_state: of clusters, starts and mini-batches.
        warm_start: whether another call of ``fit`` continues with what the one before has learnt.
        verbose: say how far training is.
"""


class HCLT(CircuitEstimator):
    """A hidden Chow-Liu tree over columns.

    Args:
        latents: values of the hidden variable of every column.
        distill: begin with the circuit counted from clusters of related columns, as runs do; else
            with random rows.
        teacher: an object with ``embed(rows) -> float32 [N, columns, dim]`` in place of that.
    """

    _kind = "hclt"

    def __init__(
        self,
        latents: int = 16,
        *,
        distill: bool = True,
        teacher: object | None = None,
        bins: int | None = None,
        categories: ArrayLike | None = None,
        epochs: int = 20,
        batch_size: int = 128,
        step_size: tuple[float, float] = (0.3, 0.03),
        pseudocount: float = 0.1,
        patience: int | None = None,
        validation: float = 0.1,
        engine: str = "torch",
        device: str = "auto",
        random_state: Any = None,
        warm_start: bool = False,
        verbose: bool = False,
    ) -> None:
        self.latents = latents
        self.distill = distill
        self.teacher = teacher
        self.bins = bins
        self.categories = categories
        self.epochs = epochs
        self.batch_size = batch_size
        self.step_size = step_size
        self.pseudocount = pseudocount
        self.patience = patience
        self.validation = validation
        self.engine = engine
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    def _circuit_section(self, folder: Path) -> dict[str, Any]:
        return {"latents": self.latents}

    def _clusters(self) -> int | None:
        return whole("latents", self.latents, Interval(ge=2)) if self.distill else None

    def _teacher(self, _: NDArray[np.int32]) -> object | None:
        return self.teacher


class HMM(CircuitEstimator):
    """A homogeneous hidden Markov model of rows that are sequences, one value a column.

    All columns have the same values. Sequences of different lengths end in NaN.

    Args:
        states: of the hidden variable.
        distill: begin with the model counted from clusters of windows; else with random rows.
        teacher: an object with ``embed(rows) -> float32 [N, columns, dim]`` in place of windows.
    """

    _kind = "hmm"
    _least_columns = 2
    _restarts = 8  # one clustering for all positions, and few clusters: starts differ most

    def __init__(
        self,
        states: int = 16,
        *,
        distill: bool = True,
        teacher: object | None = None,
        categories: int | None = None,
        epochs: int = 20,
        batch_size: int = 128,
        step_size: tuple[float, float] = (0.3, 0.03),
        pseudocount: float = 0.1,
        patience: int | None = None,
        validation: float = 0.1,
        engine: str = "torch",
        device: str = "auto",
        random_state: Any = None,
        warm_start: bool = False,
        verbose: bool = False,
    ) -> None:
        self.states = states
        self.distill = distill
        self.teacher = teacher
        self.categories = categories
        self.epochs = epochs
        self.batch_size = batch_size
        self.step_size = step_size
        self.pseudocount = pseudocount
        self.patience = patience
        self.validation = validation
        self.engine = engine
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    def _circuit_section(self, folder: Path) -> dict[str, Any]:
        return {"states": self.states}

    def _sizes(self, sizes: NDArray[np.int32]) -> NDArray[np.int32]:
        return np.full_like(sizes, sizes.max())

    def _clusters(self) -> int | None:
        return whole("states", self.states, Interval(ge=2)) if self.distill else None

    def _teacher(self, sizes: NDArray[np.int32]) -> object:
        return WindowTeacher(int(sizes.max())) if self.teacher is None else self.teacher


class RegionCircuit(CircuitEstimator):
    """A circuit over a region graph: a RAT-SPN, or your own graph.

    Args:
        graph: a region graph or its file; None draws a random one.
        depth: how often a random graph halves the columns.
        replicas: random halvings side by side.
        sums: nodes of every region.
        inputs: nodes of a leaf region; None takes as many as ``sums``.
    """

    _kind = "rat_spn"

    def __init__(
        self,
        graph: RegionGraph | str | Path | None = None,
        *,
        depth: int = 4,
        replicas: int = 10,
        sums: int = 10,
        inputs: int | None = None,
        bins: int | None = None,
        categories: ArrayLike | None = None,
        epochs: int = 20,
        batch_size: int = 128,
        step_size: tuple[float, float] = (0.3, 0.03),
        pseudocount: float = 0.1,
        patience: int | None = None,
        validation: float = 0.1,
        engine: str = "torch",
        device: str = "auto",
        random_state: Any = None,
        warm_start: bool = False,
        verbose: bool = False,
    ) -> None:
        self.graph = graph
        self.depth = depth
        self.replicas = replicas
        self.sums = sums
        self.inputs = inputs
        self.bins = bins
        self.categories = categories
        self.epochs = epochs
        self.batch_size = batch_size
        self.step_size = step_size
        self.pseudocount = pseudocount
        self.patience = patience
        self.validation = validation
        self.engine = engine
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    def _circuit_section(self, folder: Path) -> dict[str, Any]:
        section: dict[str, Any] = {"sums": self.sums, "inputs": self.inputs}
        if self.graph is None:
            return {**section, "depth": self.depth, "replicas": self.replicas}
        if not isinstance(self.graph, RegionGraph):
            return {**section, "graph": str(self.graph)}
        path = folder / "graph.json"
        write_text(path, self.graph.to_json())
        return {**section, "graph": str(path)}


for _estimator in (HCLT, HMM, RegionCircuit):
    _bins = "" if _estimator is HMM else _BINS
    _estimator.__doc__ = (_estimator.__doc__ or "").rstrip() + _bins + _FIT
