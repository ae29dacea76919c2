"""What belongs together: the connected components of pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def components(count: int, pairs: ArrayLike) -> NDArray[np.int64]:
    """Label the classes of 0 … ``count`` - 1 that ``pairs`` [n, 2] join, int64 [count] from 0.

    Every member takes the least label next to it, then that label's own, until nothing changes.
    """
    a, b = np.asarray(pairs, np.int64).reshape(-1, 2).T
    labels = np.arange(count)
    while True:
        before = labels.copy()
        least = np.minimum(labels[a], labels[b])
        for ends in (a, b):
            np.minimum.at(labels, labels[ends], least)
            np.minimum.at(labels, ends, least)
        labels = labels[labels]
        if np.array_equal(labels, before):
            found: NDArray[np.int64] = np.unique(labels, return_inverse=True)[1].astype(np.int64)
            return found
