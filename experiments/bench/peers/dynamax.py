"""dynamax's ``CategoricalHMM``: the body of its ``fit_em``, compiled once and kept.

Its own ``fit_em`` compiles at every call.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from dynamax.hidden_markov_model import CategoricalHMM
from numpy.typing import NDArray

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows
from pyjuice_bridge.circuit.hmm import Hmm

_FLAT = 1 + 2.0**-20
"""Concentration of its Dirichlet priors: at one, the mode of a row without counts is NaN."""


class Peer(peers.Peer):
    """E-steps of all rows at once, then its M-step."""

    minibatch = False

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        super().__init__(problem, device, options)
        self.hmm = Hmm.of(problem.circuit)
        shape = self.hmm.states, 1, self.hmm.vocabulary_size
        model = CategoricalHMM(*shape, _FLAT, _FLAT, emission_prior_concentration=_FLAT)
        self.start, props = model.initialize(
            initial_probs=jnp.array(self.hmm.initial),
            transition_matrix=jnp.array(self.hmm.transition),
            emission_probs=jnp.array(self.hmm.emission[:, None]),
        )

        def step(params: Any, rows: Any) -> Any:
            counts, _ = jax.vmap(partial(model.e_step, params))(rows)
            return model.m_step(params, props, counts, model.initialize_m_step_state(params, props))

        self._step = jax.jit(step)
        self._score = jax.jit(lambda p, rows: jax.vmap(partial(model.marginal_log_prob, p))(rows))
        self.reset()

    @classmethod
    def bytes_needed(cls, problem: Problem) -> int:
        """Pairs of states at every position of every row."""
        hmm = Hmm.of(problem.circuit)
        return 4 * problem.batch * (problem.circuit.num_vars + 2) * hmm.states**2

    def reset(self) -> None:
        self.params = self.start

    def log_likelihood(self, x: Rows) -> NDArray[np.float64]:
        return np.asarray(self._score(self.params, jnp.asarray(x[..., None])), np.float64)

    def step(self, x: Rows, step_size: float, pseudocount: float) -> None:
        self.params, _ = self._step(self.params, jnp.asarray(x[..., None]))
        jax.block_until_ready(self.params)
