"""pomegranate's ``DenseHMM``.

Its models end, ours do not: all states end with probability one, outside the transitions' sum, and
after its M-step, which gives an end its share, the transitions are scaled to one again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pomegranate.distributions import Categorical
from pomegranate.hmm import DenseHMM

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows
from pyjuice_bridge.circuit.hmm import Hmm


class Peer(peers.Peer):
    """``summarize`` and ``from_summaries``, which are its EM step."""

    minibatch = False

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        super().__init__(problem, device, options)
        torch.set_flush_denormal(True)
        self.hmm = Hmm.of(problem.circuit)
        self.reset()

    @classmethod
    def bytes_needed(cls, problem: Problem) -> int:
        """Pairs of states at every position of every row, and one more of them."""
        hmm = Hmm.of(problem.circuit)
        return 8 * problem.batch * problem.circuit.num_vars * hmm.states**2

    def reset(self) -> None:
        hmm = self.hmm
        emission = [Categorical(row[None] / row.sum()) for row in torch.tensor(hmm.emission)]
        starts = hmm.initial / hmm.initial.sum()
        self.model = DenseHMM(emission, hmm.transition, starts, np.ones(hmm.states, "f4"))
        self.model.to(self.device)

    def _rows(self, x: Rows) -> torch.Tensor:
        return torch.as_tensor(x[..., None].astype("int64"), device=self.device)

    @torch.no_grad()
    def log_likelihood(self, x: Rows) -> NDArray[Any]:
        found: NDArray[Any] = self.model.log_probability(self._rows(x)).double().cpu().numpy()
        return found

    @torch.no_grad()
    def step(self, x: Rows, step_size: float, pseudocount: float) -> None:
        self.model.summarize(self._rows(x))
        self.model.from_summaries()
        self.model.ends.zero_()
        self.model.edges -= torch.logsumexp(self.model.edges, 1, keepdim=True)
