"""Categorical rows whose M-step shares counts between neighbouring values."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pyjuice_bridge.circuit.families.base import Array, Family
from pyjuice_bridge.sections import at_most


class Smooth(Family):
    """A probability for every value, estimated from the counts of its neighbours, too.

    A count of value v counts for value w in proportion to 1 / (1 + ((v - w) / bandwidth)²), a
    kernel with heavy tails; all that it counts for adds up to one.  This is EM with a smoothing
    step (Silverman, Jones, Wilson & Nychka, *A smoothed EM approach to indirect estimation
    problems*, JRSS-B 1990).  It does not maximise the likelihood of the training data, which is the
    point: rows with few counts are as reliable as rows with many.  Counts are smoothed once, when
    they come in, and mixed with the old row afterwards, so that small steps smooth no more than one
    large step.
    """

    family: Literal["smooth"] = "smooth"
    bandwidth: Annotated[float, Field(gt=0), at_most(1e4, "no data has so many values")] = 2.0

    def pooled(self, counts: Array) -> Array:
        """Spread counts over neighbouring values."""
        if isinstance(counts, np.ndarray):
            return counts @ _kernel(counts.shape[-1], self.bandwidth).astype(counts.dtype)
        kernel = _tensor(counts.shape[-1], self.bandwidth, counts.dtype, counts.device)
        return counts @ kernel


@lru_cache(maxsize=8)
def _kernel(categories: int, bandwidth: float) -> NDArray[np.float64]:
    """Return the share of a count of v that goes to w, [v, w]."""
    values = np.arange(categories)
    kernel = 1 / (1 + ((values[:, None] - values) / bandwidth) ** 2)
    return np.asarray(kernel / kernel.sum(1, keepdims=True))


@lru_cache(maxsize=8)
def _tensor(categories: int, bandwidth: float, dtype: Any, device: Any) -> Array:
    """Return the same as a tensor, which is put on its device once."""
    torch = importlib.import_module("torch")
    return torch.as_tensor(_kernel(categories, bandwidth), dtype=dtype, device=device)
