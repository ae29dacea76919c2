"""Token states as directions from their mean, which is what k-means should compare.

A few numbers of a language model's states are often far larger than the others and much the same
for all tokens; they would decide the clusters by themselves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.teachers.base import FloatArray
from pyjuice_bridge.teachers.text_states import HalfArray, TokenStates

_SAMPLE = 1 << 16
_CHUNK = 1 << 12


def mean_state(states: TokenStates) -> FloatArray:
    """Return the mean of at most 65,536 evenly spaced tokens, float32 [dim]."""
    tokens, dim = states.shape
    chosen = np.unique(np.linspace(0, tokens - 1, min(tokens, _SAMPLE)).astype(np.int64))
    total = np.zeros(dim)
    for start in range(0, len(chosen), _CHUNK):
        total += states.gather(chosen[start : start + _CHUNK]).sum(axis=0, dtype=np.float64)
    return (total / len(chosen)).astype(np.float32)


class UnitStates(TokenStates):
    """Other states minus a mean, at length one; zeros where nothing is left.

    Args:
        states: the others, which stay where they are.
        mean: [dim], that of the training tokens.
    """

    def __init__(self, states: TokenStates, mean: NDArray[Any]) -> None:
        self._states, self._mean = states, np.asarray(mean, np.float32)
        self.start = None if states.start is None else self._scaled(states.start[None])[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens, dim)."""
        return self._states.shape

    def gather(self, index: NDArray[np.integer[Any]]) -> HalfArray:
        """Return the directions float16 [..., dim] of tokens ``index``, an array of any shape."""
        return self._scaled(self._states.gather(index))

    def _scaled(self, states: HalfArray) -> HalfArray:
        centred = states.astype(np.float32)
        centred -= self._mean
        length = np.linalg.norm(centred, axis=-1, keepdims=True)
        centred /= np.where(length > 0, length, 1)
        return centred.astype(np.float16)
