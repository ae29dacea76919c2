"""hmmlearn's ``CategoricalHMM``: Baum-Welch in float64, scaled."""

from __future__ import annotations

import numpy as np
from hmmlearn.hmm import CategoricalHMM
from numpy.typing import NDArray

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows
from pyjuice_bridge.circuit.hmm import Hmm


class Peer(peers.Peer):
    """A ``fit`` of one iteration is a step."""

    minibatch = False

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        super().__init__(problem, device, options)
        self.hmm = Hmm.of(problem.circuit)
        self.reset()

    def reset(self) -> None:
        self.model = CategoricalHMM(
            self.hmm.states, n_iter=1, init_params="", implementation="scaling"
        )
        self.model.n_features = self.hmm.vocabulary_size
        arrays = (self.hmm.initial, self.hmm.transition, self.hmm.emission)
        rows = [a / a.sum(-1, keepdims=True) for a in (np.asarray(a, float) for a in arrays)]
        self.model.startprob_, self.model.transmat_, self.model.emissionprob_ = rows

    def log_likelihood(self, x: Rows) -> NDArray[np.float64]:
        return np.array([self.model.score(row[:, None]) for row in x])

    def step(self, x: Rows, step_size: float, pseudocount: float) -> None:
        self.model.fit(x.reshape(-1, 1), np.full(len(x), x.shape[1]))
