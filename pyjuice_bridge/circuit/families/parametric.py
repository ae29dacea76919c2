"""Families whose rows have a shape of few numbers, mixed with a little of the uniform row."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pyjuice_bridge.circuit.families.base import TOLERANCE, Array, Family, namespace

_LEAST = 1e-30
"""Stands for zero in divisors."""
_ENTRIES = 1 << 15
"""Entries worked on at once on a CPU, where they are to stay in the cache."""


class Parametric(Family):
    """Rows (1 - ε)·shape + ε·uniform, ε being ``uniform``.

    Without the uniform part the tails of a shape are zero in float32, and one unusual value would
    make a whole sample impossible.  Projecting is one EM step of that mixture: each value is split
    between its two parts as the old row says, and the shape is fitted to its part.
    """

    constrained: ClassVar[bool] = True

    uniform: Annotated[float, Field(ge=0, lt=1)] = 1e-3

    @abstractmethod
    def recovered(self, shape: Array) -> Array:
        """Return the numbers [..., parameters] that rows of the family were made from."""

    @abstractmethod
    def improved(self, found: Array, weights: Array) -> Array:
        """Return numbers [..., parameters] with Σ weights·log shape no lower than at ``found``."""

    @abstractmethod
    def shape(self, found: Array, values: Array) -> Array:
        """Return the rows [..., categories] of the numbers ``found``."""

    @abstractmethod
    def drawn(self, rng: np.random.Generator, count: int, categories: int) -> NDArray[np.float64]:
        """Draw the numbers [count, parameters] of random rows."""

    def rows(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw the numbers of every row at random."""
        found = self.drawn(rng, int(np.prod(shape[:-1])), shape[-1])
        table = self._mixed(self.shape(found, np.arange(shape[-1], dtype=np.float64)))
        return np.asarray(table, np.float32).reshape(shape)

    def projected(self, target: Array, start: Array) -> Array:
        """Fit the shape to its part of the target."""
        categories = target.shape[-1]
        targets, starts = (rows.reshape(-1, categories) for rows in (target, start))
        rows = namespace(target).empty_like(targets)
        some = len(rows) if getattr(rows, "is_cuda", False) else max(1, _ENTRIES // categories)
        for first in range(0, len(rows), some):
            part = slice(first, first + some)
            rows[part] = self._projected(targets[part], starts[part])
        return rows.reshape(target.shape)

    def _projected(self, target: Array, start: Array) -> Array:
        xp, level = namespace(target), self.uniform / target.shape[-1]
        old = xp.asarray(start, dtype=xp.float64)
        share = 1 - level / xp.clip(old, max(level, _LEAST), None)
        weights = xp.asarray(target, dtype=xp.float64) * share
        found = self.improved(self.recovered(self._part(old)), weights)
        return self._mixed(self.shape(found, values_of(old)))

    def strays(self, table: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Compare every row with the one that its numbers make."""
        rows = table.astype(np.float64)
        same = self._mixed(self.shape(self.recovered(self._part(rows)), values_of(rows)))
        return np.asarray((np.abs(same - rows) > TOLERANCE).any(-1))

    def _part(self, table: Array) -> Array:
        """Return the shape's part of rows."""
        return namespace(table).clip(table - self.uniform / table.shape[-1], 0, None)

    def _mixed(self, shape: Array) -> Array:
        return (1 - self.uniform) * shape + self.uniform / shape.shape[-1]


def fitted_line(x: Array, y: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
    """Fit lines to rows of points by weighted least squares.

    Returns:
        The mean of x and the height there, the slope (0 where it is not known), and whether it is
        known, each [..., 1].
    """
    xp = namespace(weights)
    total = xp.clip(weights.sum(-1)[..., None], 1e-300, None)
    middle = (weights * x).sum(-1)[..., None] / total
    height = (weights * y).sum(-1)[..., None] / total
    spread = (weights * (x - middle) ** 2).sum(-1)[..., None] / total
    slope = (weights * (x - middle) * y).sum(-1)[..., None] / total
    known = spread > 1e-12
    return middle, height, xp.where(known, slope / xp.where(known, spread, 1), 0 * slope), known


def values_of(table: Array) -> Array:
    """Return 0, 1, … for the last axis, in the type and place of ``table``."""
    xp = namespace(table)
    return xp.cumsum(xp.ones_like(table.reshape(-1, table.shape[-1])[0]), 0) - 1
