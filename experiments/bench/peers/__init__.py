"""What a program must be able to do to be timed; one module here for each.

A peer is loaded in a process of its own (``worker``).  All get the same circuit and rows, and must
give the same numbers: ``contest`` compares them before anything is timed.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any

from numpy.typing import NDArray

from experiments.bench.cases import Problem, Rows, nodes, parameters


class Peer(ABC):
    """One program, holding the problem's circuit.

    Attributes:
        minibatch: whether it has steps of mini-batch EM; without them it runs no epochs.
        same_em: whether its EM steps are those of the circuit; if not, ``why`` says how they
            differ, and only its forward pass is timed.
        pid: of the process that does the work, if it is another.
    """

    minibatch: bool = True
    same_em: bool = True
    why: str = ""
    pid: int | None = None

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        self.problem, self.device, self.options = problem, device, options

    @classmethod
    def bytes_needed(cls, problem: Problem) -> int:
        """Memory for steps on a batch, roughly; what does not fit is not tried.

        Three copies of parameters and of the values of all nodes, in float32.
        """
        return 12 * (parameters(problem.circuit) + problem.batch * nodes(problem.circuit))

    @abstractmethod
    def log_likelihood(self, x: Rows) -> NDArray[Any]:
        """log p of every row under the parameters as they are: float [n] or [n, roots]."""

    @abstractmethod
    def reset(self) -> None:
        """Back to the problem's parameters."""

    @abstractmethod
    def step(self, x: Rows, step_size: float, pseudocount: float) -> None:
        """One EM step on ``x``: θ ← (1 - η)·θ + η·normalise(counts + pseudocount/#siblings).

        Without ``minibatch`` it is only asked for η = 1 and no pseudocount.
        """

    def forward(self, x: Rows, times: int) -> list[float]:
        """Seconds of each of ``times`` forward passes."""
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            self.log_likelihood(x)
            seconds.append(time.perf_counter() - began)
        return seconds

    def em(self, x: Rows, times: int) -> list[float]:
        """Seconds of each of ``times`` full EM steps on ``x``, from the parameters as they are."""
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            self.step(x, 1.0, 0.0)
            self.finish()
            seconds.append(time.perf_counter() - began)
        return seconds

    def epoch(self, x: Rows, batch: int, step_size: float, pseudocount: float) -> float:
        """Seconds of one pass of mini-batch EM over ``x``, in its order."""
        began = time.perf_counter()
        for start in range(0, len(x), batch):
            self.step(x[start : start + batch], step_size, pseudocount)
        self.finish()
        return time.perf_counter() - began

    def finish(self) -> None:
        """Wait until what was asked of a GPU is done."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
