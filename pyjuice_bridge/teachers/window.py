"""Sequences: a position described by its own value and those around it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

_MOST = 32
"""From this number of values on they are random vectors of this length, not one-hot ones."""

_DECAY = 0.7
"""How much shorter a value is for every step away."""


class WindowTeacher:
    """Describes a position by the values from ``radius`` before to ``radius`` after it.

    A value is a one-hot vector, or a fixed random direction where there are many values; the
    further away, the shorter.  A missing value, and one past an end, is zero.

    Args:
        values: how many there are.
        radius: positions to both sides.
    """

    def __init__(self, values: int, radius: int = 4) -> None:
        self.values, self.radius = values, radius
        if values <= _MOST:
            self._table = np.eye(values, dtype=np.float32)
        else:
            draws = np.random.default_rng(0).standard_normal((values, _MOST))
            lengths = np.linalg.norm(draws, axis=1, keepdims=True)
            self._table = (draws / lengths).astype(np.float32)

    def embed(self, samples: NDArray[Any], /) -> FloatArray:
        """Return float32 [N, T, (2 · radius + 1) · parts]."""
        own = self._table[np.maximum(samples, 0)] * (samples >= 0)[..., None]
        padding = [(0, 0), (self.radius, self.radius), (0, 0)]
        wide, length = np.pad(own, padding), samples.shape[1]
        parts = [
            wide[:, shift : shift + length] * np.float32(_DECAY ** abs(shift - self.radius))
            for shift in range(2 * self.radius + 1)
        ]
        return np.concatenate(parts, axis=2)

    def describe(self) -> dict[str, Any]:
        """Return the settings."""
        return {"kind": "window", "values": self.values, "radius": self.radius}
