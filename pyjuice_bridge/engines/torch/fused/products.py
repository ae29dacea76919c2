"""Kernels of product layers, upward.

They do in one visit to a row what would otherwise be an operation of its own per step, with the
rows coming from memory each time.  What they compute is what ``forward`` defines; rows are scaled
by powers of two, which is exact.
"""

from __future__ import annotations

import math

import numpy as np

from pyjuice_bridge.engines.torch.fused.memory import (
    LN2,
    SIZE,
    TINY,
    WEAK,
    doubles,
    exponent_of,
    extremes,
    fields,
    floats,
    inline,
    ints,
    power_of_two,
)
from pyjuice_bridge.engines.torch.fused.rows import (
    in_double,
    lessened,
    product_loss,
    relative,
    rounded,
    row_address,
    row_of,
    underflowed,
)
from pyjuice_bridge.engines.torch.fused.threads import kernel, next_task
from pyjuice_bridge.engines.torch.fused.upward import (
    UP,
    any_set,
    factors_of,
    portion,
    scale,
    set_down,
    sums_above,
)


@inline
def _multiply(f, out, factors, rows, sample, begin, end):  # type: ignore[no-untyped-def]
    """Return the product of some rows, and how often it was lowered by 2^lift for float32.

    Two raised rows have room; what comes after them is lowered first.
    """
    _, sources, variables, _, _, _ = factors
    batch, width, lowered = f.batch, f.width, 0
    first = row_of(sources[begin], variables[begin], rows, sample, batch, width)
    if end - begin == 1:
        for k in range(width):
            out[k] = first[k]
        return lowered
    e = begin + 1
    other = row_of(sources[e], variables[e], rows, sample, batch, width)
    for k in range(width):
        out[k] = first[k] * other[k]
    lower = power_of_two(-f.lift)
    for e in range(begin + 2, end):
        other = row_of(sources[e], variables[e], rows, sample, batch, width)
        if f.lift == 0 or variables[e] >= 0:
            for k in range(width):
                out[k] *= other[k]
        else:
            lowered += 1
            for k in range(width):
                out[k] = (out[k] * lower) * other[k]
    return lowered


@kernel
def hadamard_up(frame):  # type: ignore[no-untyped-def]
    """Products of blocks, node by node."""
    f = fields(frame, UP)
    batch, width = f.batch, f.width
    factors = factors_of(f)
    offsets, sources, variables, widths, scales, errors = factors
    rows = ints(f.rows, 1 << 60)
    tracked, high = any_set(f.above, f.num_above), power_of_two(f.lift)
    products, marks = np.empty(width), np.empty(width, np.int32)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        block, start, stop = portion(f, task)
        begin, end = offsets[block], offsets[block + 1]
        for sample in range(start, stop):
            place = block * batch + sample
            at = f.tile + place * width * SIZE
            out = floats(at, width)
            lowered = _multiply(f, out, factors, rows, sample, begin, end)
            low, top = extremes(at, width)
            lost = low < TINY and underflowed(
                out, marks, begin, end, sources, variables, rows, sample, batch
            )
            bound, log_loss = 0.0, 0.0
            if tracked:
                bound, log_loss = product_loss(
                    errors, begin, end, sources, variables, widths, rows, sample, batch
                )
            if top < WEAK or (lost and f.lift != 0 and (lowered > 0 or top < high)):
                log_top = in_double(products, begin, end, sources, variables, rows, sample, batch)
                lost = rounded(products, high, out)
                bound, log_top = relative(bound, log_loss, log_top - f.lift * LN2)
                exponent = 0
            else:
                exponent = f.lift - exponent_of(top)
                scale(at, exponent, width)
                log_top = (lowered * f.lift - exponent) * LN2
                if bound > 0:
                    bound *= math.exp(log_loss - log_top)
            if lost:
                bound += TINY * math.ldexp(1.0, exponent)
            set_down(f, place, sample, begin, end, scales, log_top, bound)
        sums_above(f, block, start, stop, tracked)


@kernel
def kronecker_up(frame):  # type: ignore[no-untyped-def]
    """Products of all pairs of nodes of two blocks."""
    f = fields(frame, UP)
    batch, width = f.batch, f.width
    _, sources, variables, widths, scales, errors = factors_of(f)
    rows = ints(f.rows, 1 << 60)
    tracked = any_set(f.above, f.num_above)
    zero, most = np.float32(0), np.float32(math.ldexp(1.0, f.lift))
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        block, start, stop = portion(f, task)
        begin, end = 2 * block, 2 * block + 2
        n, m = widths[begin], widths[begin + 1]
        for sample in range(start, stop):
            place = block * batch + sample
            e = begin
            first = row_address(sources[e], variables[e], rows, sample, batch, n)
            e = begin + 1
            other = row_address(sources[e], variables[e], rows, sample, batch, m)
            left, right = floats(first, n), floats(other, m)
            _, left_top = extremes(first, n)
            _, right_top = extremes(other, m)
            log_top = -np.inf
            left_factor, right_factor = zero, zero
            if left_top > 0 and right_top > 0:
                left_exponent = f.lift // 2 - exponent_of(left_top)
                right_exponent = f.lift - f.lift // 2 - exponent_of(right_top)
                log_top = -(left_exponent + right_exponent) * LN2
                left_factor = power_of_two(left_exponent)
                right_factor = power_of_two(right_exponent)
            low_left = low_right = most
            for i in range(n):
                value = left[i] * left_factor
                low_left = min(low_left, value if value > 0 else most)
                at = f.tile + (place * width + i * m) * SIZE
                out = floats(at, m)
                for j in range(m):
                    out[j] = value * (right[j] * right_factor)
            for j in range(m):
                value = right[j] * right_factor
                low_right = min(low_right, value if value > 0 else most)
            bound = 0.0
            if tracked:
                loss, log_loss = product_loss(
                    errors, begin, end, sources, variables, widths, rows, sample, batch
                )
                bound, log_top = relative(loss, log_loss, log_top)
            if low_left * low_right < TINY:
                bound += TINY
            set_down(f, place, sample, begin, end, scales, log_top, bound)
        sums_above(f, block, start, stop, tracked)


@kernel
def concat_up(frame):  # type: ignore[no-untyped-def]
    """Put the nodes of all factors one after another, on one scale."""
    f = fields(frame, UP)
    batch, width = f.batch, f.width
    offsets, sources, variables, widths, scales, errors = factors_of(f)
    rows = ints(f.rows, 1 << 60)
    tracked = any_set(f.above, f.num_above)
    zero = np.float32(0)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        block, start, stop = portion(f, task)
        begin, end = offsets[block], offsets[block + 1]
        for sample in range(start, stop):
            place = block * batch + sample
            at = f.tile + place * width * SIZE
            common = -np.inf
            for e in range(begin, end):
                source = row_address(sources[e], variables[e], rows, sample, batch, widths[e])
                _, top = extremes(source, widths[e])
                if top > 0:
                    own = doubles(scales[e], batch)[sample] if scales[e] else 0.0
                    common = max(common, own + (exponent_of(top) - f.lift) * LN2)
            if common == -np.inf and tracked:
                for e in range(begin, end):
                    error_here = doubles(errors[e], batch)[sample] if errors[e] else 0.0
                    if 0 < error_here < np.inf:
                        own = doubles(scales[e], batch)[sample] + math.log(error_here)
                        common = max(common, own)
            bound, lost = 0.0, np.int32(0)
            for e in range(begin, end):
                own = doubles(scales[e], batch)[sample] if scales[e] else 0.0
                share = math.exp(own - common) if min(own, common) > -np.inf else 0.0
                values = row_of(sources[e], variables[e], rows, sample, batch, widths[e])
                out = floats(at, widths[e])
                for k in range(widths[e]):
                    out[k] = np.float32(values[k] * share)
                    lost |= np.int32(out[k] < TINY) & np.int32(values[k] > zero)
                at += widths[e] * SIZE
                if tracked and errors[e] != 0:
                    bound += lessened(doubles(errors[e], batch)[sample], share)
            if lost != 0:
                bound += TINY
            set_down(f, place, sample, end, end, scales, common, bound)
        sums_above(f, block, start, stop, tracked)
