"""Binomial leaves: how many of ``categories - 1`` trials succeed."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.families.base import Array, namespace
from pyjuice_bridge.circuit.families.parametric import Parametric, values_of

_EDGE = 1e-12


class Binomial(Parametric):
    """p(x) = C(n, x)·p^x·(1 - p)^(n - x), n = categories - 1: one number p per row.

    The statistic is the mean of x, and p = mean / n has the highest likelihood.
    """

    family: Literal["binomial"] = "binomial"

    def parameters(self, categories: int) -> int:
        """Count p."""
        return 1

    def recovered(self, shape: Array) -> Array:
        """Return p, the mean over n."""
        return self.improved(0.5, shape)

    def improved(self, found: Array, weights: Array) -> Array:
        """Return p, the mean over n; without weights, the old one."""
        xp, values = namespace(weights), values_of(weights)
        total = weights.sum(-1)[..., None]
        trials = max(1, weights.shape[-1] - 1)
        mean = (weights * values).sum(-1)[..., None] / xp.clip(total, 1e-300, None)
        return xp.where(total > 0, mean / trials, found)

    def shape(self, found: Array, values: Array) -> Array:
        """Return the probabilities."""
        xp, trials = namespace(values), len(values) - 1
        ways = xp.log((trials - values + 1) / xp.clip(values, 1, None))
        logs = xp.cumsum(xp.where(values > 0, ways, 0 * ways), 0)
        p = xp.clip(found, _EDGE, 1 - _EDGE)
        rows = xp.exp(logs + values * xp.log(p) + (trials - values) * xp.log(1 - p))
        return rows / rows.sum(-1)[..., None]

    def drawn(self, rng: np.random.Generator, count: int, categories: int) -> NDArray[np.float64]:
        """Draw p from 0 to 1."""
        return rng.random((count, 1))
