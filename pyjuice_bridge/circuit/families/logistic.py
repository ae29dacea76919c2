"""Discretised logistic leaves: a smooth hump over ordered values."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.families.base import Array, namespace
from pyjuice_bridge.circuit.families.parametric import Parametric, fitted_line, values_of

_STEPS = 2
"""Newton steps of one projection, refused ones included."""
_STEEP = 10.0
"""1 / scale, at most."""
_FLAT = 1e-5
"""1 / scale, at least."""
_LEAST = 1e-30
"""Weight of a boundary that has all mass on one side."""


class Logistic(Parametric):
    """p(x) = σ((x + ½ - μ) / s) - σ((x - ½ - μ) / s), the end bins open: two numbers per row.

    With κ = 1/s, ν = μ/s and u_k = κ·(k + ½) - ν at the boundary above bin k, an inner bin has
    σ(u_k)·σ(-u_(k-1))·(1 - e^(-κ)).  Therefore Σ t_k·log p(k) is that of a logistic regression over
    the boundaries plus (Σ of inner t)·log(1 - e^(-κ)), concave in (κ, ν): Newton's method climbs
    it, from the old row, and refuses steps that lead down.
    """

    family: Literal["logistic"] = "logistic"

    def parameters(self, categories: int) -> int:
        """Count μ and s."""
        return 2

    def recovered(self, shape: Array) -> Array:
        """Return (κ, ν): the log odds of the distribution function lie on a line."""
        xp = namespace(shape)
        below = xp.cumsum(shape, -1)[..., :-1]
        above = xp.flip(xp.cumsum(xp.flip(shape, (-1,)), -1), (-1,))[..., 1:]
        weights = (below * above) ** 2 + _LEAST
        odds = xp.log(xp.clip(below, 1e-300, None)) - xp.log(xp.clip(above, 1e-300, None))
        x = values_of(shape)[:-1] + 0.5
        middle, height, slope, known = fitted_line(x, odds, weights)
        steep = xp.clip(xp.where(known, slope, 1 + slope), _FLAT, _STEEP)
        return xp.concatenate((steep, steep * middle - height), -1)

    def improved(self, found: Array, weights: Array) -> Array:
        """Take a few Newton steps, halved where they would lead down."""
        xp = namespace(weights)
        hill = _Hill(weights)
        best, reach = found, 1 + 0 * found[..., :1]
        height, ascent = hill.at(best)
        for _ in range(_STEPS):
            bound = best[..., :1] * 0.75 / xp.clip(xp.abs(ascent[..., :1]), 1e-300, None)
            step = xp.minimum(reach, bound) * ascent
            tried = best + step
            inside = (tried[..., :1] > _FLAT) & (tried[..., :1] < _STEEP)
            new_height, new_ascent = hill.at(tried)
            better = inside & (new_height >= height)
            best = xp.where(better, tried, best)
            ascent = xp.where(better, new_ascent, ascent)
            height = xp.where(better, new_height, height)
            reach = xp.where(better, xp.clip(2 * reach, None, 1), reach / 4)
        return best

    def shape(self, found: Array, values: Array) -> Array:
        """Return the probabilities."""
        xp = namespace(values)
        steep, shift = found[..., :1], found[..., 1:]
        odds = steep * (values + 0.5) - shift
        up = xp.where(values < len(values) - 1, _log_sigmoid(odds), 0 * odds)
        down = xp.where(values > 0, _log_sigmoid(steep - odds), 0 * odds)
        inner = (values > 0) & (values < len(values) - 1)
        rows = xp.exp(up + down + xp.where(inner, xp.log(-xp.expm1(-steep)), 0 * odds))
        return rows / rows.sum(-1)[..., None]

    def drawn(self, rng: np.random.Generator, count: int, categories: int) -> NDArray[np.float64]:
        """Draw μ over all values, and s around an eighth of them."""
        middle = rng.random((count, 1)) * categories - 0.5
        steep = 8 / categories * np.exp(rng.normal(0, 0.5, (count, 1)))
        steep = np.clip(steep, _FLAT, _STEEP)
        return np.concatenate([steep, steep * middle], -1)


class _Hill:
    """Σ weights·log p of rows, as a function of (κ, ν)."""

    def __init__(self, weights: Array) -> None:
        self.upper = weights[..., 1:]
        self.pairs = weights[..., :-1] + self.upper
        self.x = values_of(weights)[:-1] + 0.5
        self.inner = weights[..., 1:-1].sum(-1)[..., None]
        self.total = weights[..., :-1].sum(-1)[..., None]
        self.moment = (weights[..., :-1] * self.x).sum(-1)[..., None]

    def at(self, found: Array) -> tuple[Array, Array]:
        """Return the height [..., 1] and Newton's step [..., 2]."""
        xp = namespace(found)
        steep, shift = found[..., :1], found[..., 1:]
        odds = steep * self.x - shift
        logs = _log_sigmoid(odds)
        height = (self.pairs * logs - self.upper * odds).sum(-1)[..., None]
        height = height + self.inner * xp.log(-xp.expm1(-steep))
        share = xp.exp(logs)
        mass = self.pairs * share
        bend = mass * (1 - share)
        grow = xp.expm1(steep)
        up = self.moment - (mass * self.x).sum(-1)[..., None] + self.inner / grow
        side = mass.sum(-1)[..., None] - self.total
        a = (bend * self.x**2).sum(-1)[..., None] + self.inner * (grow + 1) / grow**2
        b = -(bend * self.x).sum(-1)[..., None]
        c = bend.sum(-1)[..., None]
        a, c = a * (1 + 1e-9) + 1e-30, c * (1 + 1e-9) + 1e-30
        area = a * c - b * b
        step = xp.concatenate((c * up - b * side, a * side - b * up), -1) / area
        return height, step


def _log_sigmoid(odds: Array) -> Array:
    xp = namespace(odds)
    return xp.clip(odds, None, 0) - xp.log1p(xp.exp(xp.clip(-xp.abs(odds), -700, None)))
