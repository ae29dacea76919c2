"""Gaussian leaves: a Gaussian hump over ordered values."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.families.base import Array, namespace
from pyjuice_bridge.circuit.families.parametric import Parametric, fitted_line, values_of

_STEPS = 2
"""Newton steps of one projection, refused ones included."""
_SHARP = 50.0
"""λ lies between this and its negative."""
_SHARP_START = 4.0
"""λ from where Newton's method starts, at most: where it is larger, p(x) hardly changes with it."""
_LEAP = 4.0
"""By so much the log of the ratio of two neighbours near the mean changes in a step, at most."""
_DAMPING = 1e-4
"""Share added to curvatures: where two values have all mass, (α, λ) are known along one line."""
_FAINT = 1e-60
"""Of neighbours with less than this hardly anything is known."""
_LEAST = 1e-300
"""Stands for zero in divisors and logarithms."""


class Gaussian(Parametric):
    """p(x) ∝ exp(α·y - λ·y²/2), y = x - (categories - 1)/2: two numbers per row.

    The variance is 1/λ where the values reach beyond the hump on both sides; with λ < 0 a row is
    highest at its ends.  The statistics are x and x², and the best row has their means.
    Σ t_k·log p(k) is concave in (α, λ): Newton's method climbs it from the old row, or from the
    Gaussian with the target's mean and variance where that is higher already, and refuses steps
    that lead down.
    """

    family: Literal["gaussian"] = "gaussian"

    def parameters(self, categories: int) -> int:
        """Count α and λ."""
        return 2

    def recovered(self, shape: Array) -> Array:
        """Return (α, λ): the logarithms of ratios of neighbours lie on a line."""
        xp = namespace(shape)
        logs = xp.log(xp.clip(shape, _LEAST, None))
        ratios = logs[..., 1:] - logs[..., :-1]
        roots = xp.sqrt(xp.clip(shape, _FAINT, None))
        weights = roots[..., 1:] * roots[..., :-1]
        x = values_of(shape)[:-1] - shape.shape[-1] / 2 + 1
        middle, height, slope, known = fitted_line(x, ratios, weights)
        # Where one pair alone weighs something, all other values have next to none.
        sharp = xp.clip(xp.where(known, -slope, _SHARP + slope), -_SHARP, _SHARP)
        return xp.concatenate((height + sharp * middle, sharp), -1)

    def improved(self, found: Array, weights: Array) -> Array:
        """Take a few Newton steps, shortened where they would lead down."""
        xp = namespace(weights)
        total = weights.sum(-1)[..., None]
        hill = _Hill(weights / xp.clip(total, _LEAST, None))
        offset = hill.mean - (weights.shape[-1] - 1) / 2
        best = xp.concatenate((found[..., :1] - found[..., 1:] * offset, found[..., 1:]), -1)
        height, ascent = hill.at(best)
        alike = xp.clip(1 / xp.clip(hill.variance, _LEAST, None), None, _SHARP_START)
        tried, reach = xp.concatenate((0 * alike, alike), -1), 1 + 0 * alike
        for step in range(1 + _STEPS):
            if step:
                bound = _LEAP / xp.clip(xp.abs(ascent).sum(-1)[..., None], _LEAST, None)
                tried = best + xp.minimum(reach, bound) * ascent
                sharp = xp.clip(tried[..., 1:], -_SHARP, _SHARP)
                tried = xp.concatenate((tried[..., :1], sharp), -1)
            new_height, new_ascent = hill.at(tried)
            better = new_height > height
            best = xp.where(better, tried, best)
            ascent = xp.where(better, new_ascent, ascent)
            height = xp.where(better, new_height, height)
            if step:
                reach = xp.where(better, xp.clip(2 * reach, None, 1), reach / 16)
        slope = best[..., :1] + best[..., 1:] * offset
        return xp.where(total > 0, xp.concatenate((slope, best[..., 1:]), -1), found)

    def shape(self, found: Array, values: Array) -> Array:
        """Return the probabilities."""
        xp = namespace(values)
        y = values - (len(values) - 1) / 2
        logs = found[..., :1] * y - found[..., 1:] * y**2 / 2
        rows = xp.exp(logs - xp.amax(logs, -1)[..., None])
        return rows / rows.sum(-1)[..., None]

    def drawn(self, rng: np.random.Generator, count: int, categories: int) -> NDArray[np.float64]:
        """Draw the hump from all values, and standard deviations around an eighth of them."""
        middle = (rng.random((count, 1)) - 0.5) * categories
        deviation = categories / 8 * np.exp(rng.normal(0, 0.5, (count, 1)))
        sharp = np.clip(deviation**-2, None, _SHARP)
        return np.concatenate([sharp * middle, sharp], -1)


class _Hill:
    """Σ weights·log p of rows, as a function of (α, λ).

    The weights of a row sum to one, and y is counted from their mean.
    """

    def __init__(self, weights: Array) -> None:
        x = values_of(weights)
        self.mean = (weights * x).sum(-1)[..., None]
        self.y = x - self.mean
        self.variance = (weights * self.y**2).sum(-1)[..., None]

    def at(self, found: Array) -> tuple[Array, Array]:
        """Return the height [..., 1] and Newton's step [..., 2]."""
        xp, y = namespace(found), self.y
        squares = y**2
        logs = found[..., :1] * y - found[..., 1:] * squares / 2
        top = xp.amax(logs, -1)[..., None]
        rows = xp.exp(logs - top)
        total = rows.sum(-1)[..., None]
        rows = rows / total
        height = -found[..., 1:] * self.variance / 2 - xp.log(total) - top
        first, second = ((rows * s).sum(-1)[..., None] for s in (y, squares))
        a = (rows * (y - first) ** 2).sum(-1)[..., None]
        b = -(rows * (y - first) * (squares - second)).sum(-1)[..., None] / 2
        c = (rows * (squares - second) ** 2).sum(-1)[..., None] / 4
        a, c = a * (1 + _DAMPING) + 1e-30, c * (1 + _DAMPING) + 1e-30
        up, side = -first, (second - self.variance) / 2
        area = a * c - b * b
        return height, xp.concatenate((c * up - b * side, a * side - b * up), -1) / area
