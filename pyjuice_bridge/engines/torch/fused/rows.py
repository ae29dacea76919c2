"""What kernels do with one row: a block's values for one sample."""

from __future__ import annotations

import math

import numpy as np

from pyjuice_bridge.engines.torch.fused.memory import (
    SIZE,
    TINY,
    doubles,
    extremes,
    floats,
    inline,
)
from pyjuice_bridge.engines.torch.fused.threads import called


@inline
def row_address(source, variable, rows, sample, batch, width):  # type: ignore[no-untyped-def]
    """Where a factor's values for a sample are: in an input's table, or the tile of a block."""
    place = np.int64(sample)
    if variable >= 0:
        place = np.int64(rows[variable * batch + sample])
    return source + place * width * SIZE


@inline
def row_of(source, variable, rows, sample, batch, width):  # type: ignore[no-untyped-def]
    """Return a factor's values for a sample."""
    place = row_address(source, variable, rows, sample, batch, width)
    return floats(place, width)


@called
def in_double(products, begin, end, sources, variables, rows, sample, batch):  # type: ignore[no-untyped-def]
    """Multiply, keep the running maximum at one; return the logarithm of what it was divided by.

    No entry underflows that is not far below float32 at the end.
    """
    width = len(products)
    products[:] = 1.0
    log_scale, top = 0.0, 1.0
    for e in range(begin, end):
        values = row_of(sources[e], variables[e], rows, sample, batch, width)
        top = 0.0
        for k in range(width):
            products[k] *= values[k]
            top = products[k] if products[k] > top else top
        if top == 0:
            return -np.inf
        if top < 1e-150 or top > 1e150 or e == end - 1:
            for k in range(width):
                products[k] /= top
            log_scale += math.log(top)
    return log_scale


@inline
def rounded(products, factor, out):  # type: ignore[no-untyped-def]
    """Round to float32; return whether an entry underflowed that is not exactly zero."""
    lost = np.int32(0)
    for k in range(len(out)):
        out[k] = np.float32(products[k] * factor)
        lost |= np.int32(out[k] < TINY) & np.int32(products[k] > 0)
    return lost != 0


@called
def underflowed(out, marks, begin, end, sources, variables, rows, sample, batch):  # type: ignore[no-untyped-def]
    """Whether an entry is below the smallest normal number and no factor of it is exactly zero."""
    width, found = len(out), np.int32(0)
    zero = np.float32(0)
    first = row_of(sources[begin], variables[begin], rows, sample, batch, width)
    for k in range(width):
        marks[k] = np.int32(out[k] < TINY) & np.int32(first[k] > zero)
        found |= marks[k]
    for e in range(begin + 1, end):
        if found == 0:
            break
        values = row_of(sources[e], variables[e], rows, sample, batch, width)
        found = np.int32(0)
        for k in range(width):
            marks[k] &= np.int32(values[k] > zero)
            found |= marks[k]
    return found != 0


@called
def product_loss(  # type: ignore[no-untyped-def]
    errors, begin, end, sources, variables, widths, rows, sample, batch
):
    """Return what a product may lack (``underflow.ProductLoss``): Π (top + error) - Π top.

    Returns:
        The bound, and the logarithm of what it is still to be multiplied by.
    """
    inherited = 0.0
    for e in range(begin, end):
        if errors[e]:
            inherited += doubles(errors[e], batch)[sample]
    if inherited == 0 or inherited == np.inf:
        return inherited, 0.0
    bound, tops, scale = 0.0, 1.0, 0.0
    for e in range(begin, end):
        width = widths[e]
        place = row_address(sources[e], variables[e], rows, sample, batch, width)
        _, largest = extremes(place, width)
        top = float(largest)
        error = doubles(errors[e], batch)[sample] if errors[e] else 0.0
        bound = bound * (top + error) + tops * error
        tops *= top
        larger = max(bound, tops)
        if 0 < larger < 1e-150 or larger > 1e150:
            bound, tops, scale = bound / larger, tops / larger, scale + math.log(larger)
    return bound, scale


@inline
def lessened(error, share):  # type: ignore[no-untyped-def]
    """Return a bound on a scale that is larger by ``share``; what is unknown stays unknown."""
    return error if error == 0 or error == np.inf else error * share


@inline
def relative(bound, log_scale, log_top):  # type: ignore[no-untyped-def]
    """Return a bound on the scale of a row's maximum.

    A row that is all zeros gets the bound for its scale, so that it is one on that scale.

    Returns:
        The bound and the scale.
    """
    if bound == 0 or bound == np.inf:
        return bound, log_top
    if log_top > -np.inf:
        return bound * math.exp(log_scale - log_top), log_top
    return 1.0, log_scale + math.log(bound)
