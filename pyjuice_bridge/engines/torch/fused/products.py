"""Kernels of product layers, and of the sum layers above them.

They do in one visit to a row what would otherwise be an operation of its own per step, with the
rows coming from memory each time.  What they compute is what ``forward`` and ``backward`` define;
rows are scaled by powers of two, which is exact.
"""

from __future__ import annotations

import math

import numpy as np

from pyjuice_bridge.engines.torch.fused.gemm import gemm
from pyjuice_bridge.engines.torch.fused.memory import (
    LN2,
    doubles,
    exponent_of,
    extremes,
    fields,
    inline,
    ints,
    longs,
    numbers,
    power_of_two,
    real,
    size_of,
    tiny,
    weak,
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
from pyjuice_bridge.engines.torch.fused.threads import frame_type, kernel, next_task

SUM, PRODUCT = -1, -2
"""What stands in place of a variable for a factor that is no input."""
LIFT = 60
"""The exponent to which rows are raised, where nothing but kernels reads them: with the largest
value near 2^60, numbers down to 1e-56 of it have a place.  Two such rows have a product in
float32; with a third one, the product is lowered first."""

UP = frame_type(
    *("blocks", "batch", "width", "chunk", "lift"),
    *("offsets", "sources", "variables", "widths", "scales", "errors"),
    *("above", "num_above", "rows", "tile", "scale", "error", "lost"),
    *("gemm", "weights", "sums", "sum_width", "sum_error", "sum_lost", "faint"),
    reals=("limit", "floor"),
)
"""Frame of the upward kernels; a task is ``chunk`` samples of a block.

Read: ``offsets`` int64 [blocks + 1] into int64 arrays with an entry per factor: ``sources``, the
address of its values, of an input's the table; ``variables``, an input's variable, else ``SUM`` or
``PRODUCT``; ``widths``; ``scales`` and ``errors``, addresses of its log-scales and error bounds, 0
for none.  Errors are looked at when one of the flags is set at the addresses ``above`` int64
[num_above].  ``rows`` int32 [variables, batch]: the rows of tables to read.  Written: ``tile``
[blocks, batch, width]; ``scale`` and ``error`` float64 [blocks, batch]; the flag at ``lost``, when
some error is not 0.

The largest value of a row is brought to 2^``lift`` or just below.

If ``gemm`` is not 0, products with ``weights`` (int64 [blocks], addresses) go to ``sums`` [blocks,
batch, sum_width].  If ``sum_error`` is not 0 these are the values of sums with one edge each, and
``sum_error`` and the flag at ``sum_lost`` are written: where the flag at ``faint`` is set, values
below ``limit`` may have lost ``floor``.
"""

_Frame = object


@inline
def factors_of(f):  # type: ignore[no-untyped-def]
    """Offsets, sources, variables, widths, scales and errors."""
    offsets = longs(f.offsets, f.blocks + 1)
    edges = offsets[f.blocks]
    return (
        offsets,
        longs(f.sources, edges),
        longs(f.variables, edges),
        longs(f.widths, edges),
        longs(f.scales, edges),
        longs(f.errors, edges),
    )


@inline
def portion(f, task):  # type: ignore[no-untyped-def]
    """The block and the samples of a task."""
    chunks = (f.batch + f.chunk - 1) // f.chunk
    block = task // chunks
    start = (task - block * chunks) * f.chunk
    return block, start, min(f.batch, start + f.chunk)


@inline
def any_set(flags, count):  # type: ignore[no-untyped-def]
    """Whether one of the flags at some addresses is set."""
    found = False
    places = longs(flags, count)
    for i in range(count):
        found = found or longs(places[i], 1)[0] != 0
    return found


@inline
def _scale(frame, place, exponent, width):  # type: ignore[no-untyped-def]
    """Multiply a row by 2^exponent."""
    factor = power_of_two(frame, exponent)
    out = numbers(frame, place, width)
    for k in range(width):
        out[k] *= factor


@inline
def _set_down(f, place, sample, begin, end, scales, log_top, bound):  # type: ignore[no-untyped-def]
    """Write the scale and the error bound of a row."""
    if bound > 0:
        longs(f.lost, 1)[0] = 1
    doubles(f.error, f.blocks * f.batch)[place] = bound
    for e in range(begin, end):
        if scales[e] != 0:
            log_top += doubles(scales[e], f.batch)[sample]
    doubles(f.scale, f.blocks * f.batch)[place] = log_top


@inline
def _sums(frame, f, block, start, stop, tracked):  # type: ignore[no-untyped-def]
    """The matrix product of the rows that have just been made."""
    if f.gemm == 0:
        return
    place, size = block * f.batch + start, size_of(frame)
    at = f.sums + place * f.sum_width * size
    values, weights = f.tile + place * f.width * size, longs(f.weights, f.blocks)[block]
    gemm(
        frame, f.gemm, 0, 1, stop - start, f.sum_width, f.width,
        values, f.width, weights, f.width, 0, at, f.sum_width,
    )  # fmt: skip
    if f.sum_error == 0:
        return
    errors = doubles(f.sum_error, f.blocks * f.batch)
    inherited = doubles(f.error, f.blocks * f.batch)
    looked_at = tracked or longs(f.faint, 1)[0] != 0
    for i in range(stop - start):
        bound = inherited[place + i]
        if looked_at or bound > 0:
            low, _ = extremes(frame, at + i * f.sum_width * size, f.sum_width)
            if low < f.limit:
                bound += f.floor
            if bound > 0:
                longs(f.sum_lost, 1)[0] = 1
        errors[place + i] = bound


@inline
def _multiply(frame, f, out, factors, rows, sample, begin, end):  # type: ignore[no-untyped-def]
    """The product of some rows, as float32 has room for it; how often it was lowered by 2^lift.

    Two raised rows have room; what comes after them is lowered first.
    """
    _, sources, variables, _, _, _ = factors
    batch, width, lowered = f.batch, f.width, 0
    first = row_of(frame, sources[begin], variables[begin], rows, sample, batch, width)
    if end - begin == 1:
        for k in range(width):
            out[k] = first[k]
        return lowered
    e = begin + 1
    other = row_of(frame, sources[e], variables[e], rows, sample, batch, width)
    for k in range(width):
        out[k] = first[k] * other[k]
    lower = power_of_two(frame, -f.lift)
    for e in range(begin + 2, end):
        other = row_of(frame, sources[e], variables[e], rows, sample, batch, width)
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
    tracked, high = any_set(f.above, f.num_above), power_of_two(frame, f.lift)
    products, marks = np.empty(width), np.empty(width, np.int32)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        block, start, stop = portion(f, task)
        begin, end = offsets[block], offsets[block + 1]
        for sample in range(start, stop):
            place = block * batch + sample
            at = f.tile + place * width * size_of(frame)
            out = numbers(frame, at, width)
            lowered = _multiply(frame, f, out, factors, rows, sample, begin, end)
            low, top = extremes(frame, at, width)
            lost = low < tiny(frame) and underflowed(
                frame, out, marks, begin, end, sources, variables, rows, sample, batch
            )
            bound, log_loss = 0.0, 0.0
            if tracked:
                bound, log_loss = product_loss(
                    frame, errors, begin, end, sources, variables, widths, rows, sample, batch
                )
            if top < weak(frame) or (lost and f.lift != 0 and (lowered > 0 or top < high)):
                log_top = in_double(
                    frame, products, begin, end, sources, variables, rows, sample, batch
                )
                lost = rounded(frame, products, high, out)
                bound, log_top = relative(bound, log_loss, log_top - f.lift * LN2)
                exponent = 0
            else:
                exponent = f.lift - exponent_of(frame, top)
                _scale(frame, at, exponent, width)
                log_top = (lowered * f.lift - exponent) * LN2
                if bound > 0:
                    bound *= math.exp(log_loss - log_top)
            if lost:
                bound += tiny(frame) * math.ldexp(1.0, exponent)
            _set_down(f, place, sample, begin, end, scales, log_top, bound)
        _sums(frame, f, block, start, stop, tracked)


@kernel
def kronecker_up(frame):  # type: ignore[no-untyped-def]
    """Products of all pairs of nodes of two blocks."""
    f = fields(frame, UP)
    batch, width = f.batch, f.width
    _, sources, variables, widths, scales, errors = factors_of(f)
    rows = ints(f.rows, 1 << 60)
    tracked = any_set(f.above, f.num_above)
    zero, most = real(frame, 0), real(frame, math.ldexp(1.0, f.lift))
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
            first = row_address(frame, sources[e], variables[e], rows, sample, batch, n)
            e = begin + 1
            other = row_address(frame, sources[e], variables[e], rows, sample, batch, m)
            left, right = numbers(frame, first, n), numbers(frame, other, m)
            _, left_top = extremes(frame, first, n)
            _, right_top = extremes(frame, other, m)
            log_top = -np.inf
            left_factor, right_factor = zero, zero
            if left_top > 0 and right_top > 0:
                left_exponent = f.lift // 2 - exponent_of(frame, left_top)
                right_exponent = f.lift - f.lift // 2 - exponent_of(frame, right_top)
                log_top = -(left_exponent + right_exponent) * LN2
                left_factor = power_of_two(frame, left_exponent)
                right_factor = power_of_two(frame, right_exponent)
            low_left = low_right = most
            for i in range(n):
                value = left[i] * left_factor
                low_left = min(low_left, value if value > 0 else most)
                at = f.tile + (place * width + i * m) * size_of(frame)
                out = numbers(frame, at, m)
                for j in range(m):
                    out[j] = value * (right[j] * right_factor)
            for j in range(m):
                value = right[j] * right_factor
                low_right = min(low_right, value if value > 0 else most)
            bound = 0.0
            if tracked:
                loss, log_loss = product_loss(
                    frame, errors, begin, end, sources, variables, widths, rows, sample, batch
                )
                bound, log_top = relative(loss, log_loss, log_top)
            if low_left * low_right < tiny(frame):
                bound += tiny(frame)
            _set_down(f, place, sample, begin, end, scales, log_top, bound)
        _sums(frame, f, block, start, stop, tracked)


@kernel
def concat_up(frame):  # type: ignore[no-untyped-def]
    """The nodes of all factors one after another, on one scale."""
    f = fields(frame, UP)
    batch, width = f.batch, f.width
    offsets, sources, variables, widths, scales, errors = factors_of(f)
    rows = ints(f.rows, 1 << 60)
    tracked = any_set(f.above, f.num_above)
    zero = real(frame, 0)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        block, start, stop = portion(f, task)
        begin, end = offsets[block], offsets[block + 1]
        for sample in range(start, stop):
            place = block * batch + sample
            at = f.tile + place * width * size_of(frame)
            common = -np.inf
            for e in range(begin, end):
                source = row_address(
                    frame, sources[e], variables[e], rows, sample, batch, widths[e]
                )
                _, top = extremes(frame, source, widths[e])
                if top > 0:
                    own = doubles(scales[e], batch)[sample] if scales[e] else 0.0
                    common = max(common, own + (exponent_of(frame, top) - f.lift) * LN2)
            if common == -np.inf and tracked:
                for e in range(begin, end):
                    if errors[e] != 0 and doubles(errors[e], batch)[sample] > 0:
                        error_here = math.log(doubles(errors[e], batch)[sample])
                        common = max(common, doubles(scales[e], batch)[sample] + error_here)
            bound, lost = 0.0, np.int32(0)
            for e in range(begin, end):
                own = doubles(scales[e], batch)[sample] if scales[e] else 0.0
                share = math.exp(own - common) if min(own, common) > -np.inf else 0.0
                values = row_of(frame, sources[e], variables[e], rows, sample, batch, widths[e])
                out = numbers(frame, at, widths[e])
                for k in range(widths[e]):
                    out[k] = real(frame, values[k] * share)
                    lost |= np.int32(out[k] < tiny(frame)) & np.int32(values[k] > zero)
                at += widths[e] * size_of(frame)
                if tracked and errors[e] != 0:
                    bound += lessened(doubles(errors[e], batch)[sample], share)
            if lost != 0:
                bound += tiny(frame)
            _set_down(f, place, sample, end, end, scales, common, bound)
        _sums(frame, f, block, start, stop, tracked)
