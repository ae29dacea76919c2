"""Error bounds of a chunk of columns: what underflow may have taken (see ``underflow``).

A column has one bound and one product of maxima, both float64 on the scale of its rows.
"""

from __future__ import annotations

import math

import numpy as np

from pyjuice_bridge.engines.torch.fused.memory import inline
from pyjuice_bridge.engines.torch.fused.threads import called
from pyjuice_bridge.engines.torch.fused.vectors import TINY

_LEAST, UNKNOWN = 1e-250, 1e100
"""Error bounds are zero or between these; one that reaches the latter is unknown."""


@called
def any_set(flags, count):  # type: ignore[no-untyped-def]
    """Return whether one of the first flags is set."""
    found = np.int32(0)
    for s in range(count):
        found |= flags[s]
    return found != 0


@inline
def _kept(number):  # type: ignore[no-untyped-def]
    """Keep a number that is not zero from becoming zero or infinite, and what is huge so."""
    return number if number == 0.0 else min(max(number, _LEAST), UNKNOWN)


@called
def follow(products, bounds, tops, errors, count):  # type: ignore[no-untyped-def]
    """Multiply by a factor with some maxima and error bounds (``underflow.ProductLoss``)."""
    for s in range(count):
        top = np.float64(tops[s])
        unknown = bounds[s] == UNKNOWN or errors[s] == UNKNOWN
        unknown = unknown or (products[s] == UNKNOWN and errors[s] > 0)
        bound = bounds[s] * (top + errors[s]) + products[s] * errors[s]
        bounds[s] = UNKNOWN if unknown else _kept(bound)
        products[s] = UNKNOWN if products[s] == UNKNOWN else _kept(products[s] * top)


@called
def lose(bounds, flagged, before, after, count):  # type: ignore[no-untyped-def]
    """Count what may have underflowed before rows were scaled and by it, on the former scale."""
    for s in range(count):
        if flagged[s] != 0:
            bounds[s] += TINY * (1.0 + math.ldexp(1.0, after[s] - before[s]))


@called
def shift(products, bounds, before, after, count):  # type: ignore[no-untyped-def]
    """Scale as rows were scaled."""
    for s in range(count):
        factor = math.ldexp(1.0, before[s] - after[s])
        products[s] = UNKNOWN if products[s] == UNKNOWN else _kept(products[s] * factor)
        bounds[s] = UNKNOWN if bounds[s] >= UNKNOWN else _kept(bounds[s] * factor)
