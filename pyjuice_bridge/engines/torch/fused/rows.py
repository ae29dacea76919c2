"""What kernels do with one row: a block's values for one sample."""

from __future__ import annotations

import math

import numpy as np

from pyjuice_bridge.engines.torch.fused.threads import called, doubles, floats, inline, ints

TINY = float(np.finfo(np.float32).tiny)
WEAK = TINY ** (1 / 3)
"""Products whose maximum is below it are taken again in float64."""
TINY_BITS = np.float32(TINY).view(np.int32)
WEAK_BITS = np.float32(WEAK).view(np.int32)
LN2 = math.log(2.0)
FLOAT = 4
"""Bytes."""


@inline
def row_address(source, variable, rows, sample, batch, width):  # type: ignore[no-untyped-def]
    """Where a factor's values for a sample are: in an input's table, or the tile of a block."""
    place = np.int64(sample)
    if variable >= 0:
        place = np.int64(rows[variable * batch + sample])
    return source + place * width * FLOAT


@inline
def row_of(source, variable, rows, sample, batch, width):  # type: ignore[no-untyped-def]
    """A factor's values for a sample."""
    return floats(row_address(source, variable, rows, sample, batch, width), width)


@inline
def extremes(place, width):  # type: ignore[no-untyped-def]
    """The least and the largest of some floats ≥ 0 as bits, whose order is that of the numbers."""
    bits = ints(place, width)
    low, top = bits[0], bits[0]
    for k in range(width):
        low = min(low, bits[k])
        top = max(top, bits[k])
    return low, top


@inline
def halving(top):  # type: ignore[no-untyped-def]
    """The exponent e of a float's bits, at which 2^-e brings it between a half and one."""
    return (top >> 23) - 126


@called
def in_double(products, begin, end, sources, variables, rows, sample, batch):  # type: ignore[no-untyped-def]
    """A product, its running maximum kept at one; returns the logarithm of what it was divided by.

    The factors are float32, so no entry underflows that is not far below float32 at the end.
    """
    width = len(products)
    products[:] = 1.0
    log_scale = 0.0
    for e in range(begin, end):
        values = row_of(sources[e], variables[e], rows, sample, batch, width)
        top = 0.0
        for k in range(width):
            products[k] *= values[k]
            top = products[k] if products[k] > top else top
        if top == 0:
            return -np.inf
        for k in range(width):
            products[k] /= top
        log_scale += math.log(top)
    return log_scale


@inline
def rounded(products, out):  # type: ignore[no-untyped-def]
    """To float32; whether an entry underflowed that is not exactly zero."""
    tiny, lost = np.float32(TINY), np.int32(0)
    for k in range(len(out)):
        out[k] = products[k]
        lost |= np.int32(out[k] < tiny) & np.int32(products[k] > 0)
    return lost != 0


@called
def underflowed(out, marks, begin, end, sources, variables, rows, sample, batch):  # type: ignore[no-untyped-def]
    """Whether an entry is below the smallest normal number and no factor of it is exactly zero."""
    width = len(out)
    tiny, zero = np.float32(TINY), np.float32(0)
    for k in range(width):
        marks[k] = np.int32(out[k] < tiny)
    for e in range(begin, end):
        values = row_of(sources[e], variables[e], rows, sample, batch, width)
        for k in range(width):
            marks[k] &= np.int32(values[k] > zero)
    found = np.int32(0)
    for k in range(width):
        found |= marks[k]
    return found != 0


@called
def product_loss(  # type: ignore[no-untyped-def]
    errors, begin, end, sources, variables, widths, rows, sample, batch
):
    """What a product may lack (``underflow.ProductLoss``): Π (top + error) - Π top.

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
        _, bits = extremes(place, width)
        top = float(np.int32(bits).view(np.float32))
        error = doubles(errors[e], batch)[sample] if errors[e] else 0.0
        bound = bound * (top + error) + tops * error
        tops *= top
        larger = max(bound, tops)
        if 0 < larger < 1e-150 or larger > 1e150:
            bound, tops, scale = bound / larger, tops / larger, scale + math.log(larger)
    return bound, scale


@inline
def lessened(error, share):  # type: ignore[no-untyped-def]
    """An error bound on a scale that is larger by ``share``; what is unknown stays unknown."""
    return error if error == 0 or error == np.inf else error * share


@inline
def relative(bound, log_scale, log_top):  # type: ignore[no-untyped-def]
    """A bound on the scale of a row's maximum.

    A row that is all zeros gets the bound for its scale, so that it is one on that scale.

    Returns:
        The bound and the scale.
    """
    if bound == 0 or bound == np.inf:
        return bound, log_top
    if log_top > -np.inf:
        return bound * math.exp(log_scale - log_top), log_top
    return 1.0, log_scale + math.log(bound)
