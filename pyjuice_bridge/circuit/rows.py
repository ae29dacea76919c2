"""Random starting parameters: rows drawn uniformly from the simplex."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 22


def dirichlet_rows(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw a float32 array of ``shape`` whose rows (last axis) are Dirichlet(1).

    Exponentials are drawn and normalised in double precision, a few million entries at a time.
    """
    width = shape[-1]
    rows = math.prod(shape[:-1])
    out = np.empty((rows, width), np.float32)
    step = max(1, _CHUNK // width)
    for start in range(0, rows, step):
        draws = rng.standard_exponential((min(step, rows - start), width))
        out[start : start + step] = draws / draws.sum(axis=1, keepdims=True)
    return out.reshape(shape)
