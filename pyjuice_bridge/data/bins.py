"""Bins of measurements: columns of numbers that are no categories, cut where train has them.

A bin counts as uniform, so that a row's density is the probability of its bins over their widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from annotated_types import Interval
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.types import MISSING
from pyjuice_bridge.errors import UserError

Floats = NDArray[np.float64]
Edges = tuple[float, ...]
"""Ascending; a bin holds its lower edge and not its upper one."""

BINS = Interval(ge=2, le=4096)
"""How many bins a column may have."""


def cut(values: ArrayLike, bins: int) -> Edges:
    """Cut numbers into bins that hold about equally many, and one more on either side.

    Equal numbers share a bin, so there may be fewer.  The outer two are as wide as all others
    together and empty: data that train does not reach have a density there.

    Args:
        values: finite numbers, at least one.
        bins: how many.
    """
    found = np.sort(np.asarray(values, np.float64))
    low, high = found[0], np.nextafter(found[-1], np.inf)
    span = float(found[-1] - found[0]) or 1.0
    inner = np.unique(np.quantile(found, np.linspace(0, 1, bins + 1)[1:-1], method="nearest"))
    inner = inner[(inner > low) & (inner < high)]
    return tuple(np.concatenate([[low - span, low], inner, [high, high + span]]).tolist())


def codes(values: Floats, edges: Edges, where: str) -> NDArray[np.int32]:
    """Return the bin of every number, -1 where it is NaN.

    Raises:
        UserError: a number lies outside all bins.
    """
    found = np.searchsorted(edges, values, side="right") - 1
    outside = (found < 0) | (found >= len(edges) - 1)
    missing = np.isnan(values)
    if (outside & ~missing).any():
        strange = values[outside & ~missing][0]
        raise UserError(
            f"{where} holds {strange:g}, far from all that train has ({edges[1]:g} to"
            f" {edges[-2]:g}): check its unit, or give it as missing (NaN)."
        )
    return np.where(missing, MISSING, found).astype(np.int32)


def middles(found: NDArray[np.integer], edges: Edges) -> Floats:
    """Return the middle of every bin, NaN where the code is -1."""
    ends = np.asarray(edges)
    values = np.append((ends[:-1] + ends[1:]) / 2, np.nan)
    chosen: Floats = values[found]
    return chosen


def log_widths(found: NDArray[np.integer], edges: Edges) -> Floats:
    """Return the log of the width of every bin, 0 where the code is -1."""
    values = np.append(np.log(np.diff(edges)), 0.0)
    chosen: Floats = values[found]
    return chosen


def names(edges: Edges) -> Sequence[str]:
    """Name the bins by what they hold."""
    return [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
