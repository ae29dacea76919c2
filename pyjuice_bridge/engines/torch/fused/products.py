"""Kernels of product layers.

They do in one visit to a row what would otherwise be an operation of its own per step, with the
rows coming from memory each time.  What they compute is what ``forward`` and ``backward`` define;
rows are scaled by powers of two, which is exact.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray

from pyjuice_bridge.engines.torch.fused.rows import (
    FLOAT,
    LN2,
    TINY,
    TINY_BITS,
    WEAK_BITS,
    extremes,
    halving,
    in_double,
    lessened,
    product_loss,
    relative,
    rounded,
    row_address,
    row_of,
    underflowed,
)
from pyjuice_bridge.engines.torch.fused.threads import (
    doubles,
    floats,
    frame_type,
    inline,
    ints,
    kernel,
    longs,
    next_task,
    pointer,
)

KINDS = ("hadamard", "concat", "kronecker")
"""Product layers by the number that ``product_down`` knows them by."""
SUM, PRODUCT = -1, -2
"""What stands in place of a variable for a factor that is no input."""
_LARGEST = 1e38
"""No value that is not zero is brought to one by a larger factor."""
_MIX = 40503
"""Spreads row numbers over 16 bits: 2^16 divided by the golden ratio."""

UP = frame_type(
    *("blocks", "batch", "width", "chunk"),
    *("offsets", "sources", "variables", "widths", "scales", "errors"),
    *("rows", "tile", "scale", "error", "lost"),
)
"""Frame of the upward kernels; a task is ``chunk`` samples of a block.

Read: ``offsets`` int64 [blocks + 1] into int64 arrays with an entry per factor: ``sources``, the
address of its values, of an input's the table; ``variables``, an input's variable, else ``SUM`` or
``PRODUCT``; ``widths``; ``scales`` and ``errors``, addresses of its log-scales and error bounds, 0
for none (``errors`` is 0 where no factor has any).  ``rows`` int32 [variables, batch]: the rows of
tables to read.  Written: ``tile`` float32 [blocks, batch, width]; ``scale`` and ``error`` float64
[blocks, batch]; ``lost``, set to 1 when some error is not 0.
"""

DOWN = frame_type(
    *("kind", "blocks", "batch", "width", "sets", "parts", "bare"),
    *("set_offsets", "set_blocks", "keys", "offsets", "sources", "targets", "variables", "widths"),
    *("rows", "tile", "flow"),
)
"""Frame of ``product_down``; a task is a part of the samples of a set of blocks.

``flow`` float32 [blocks, batch, width] enters the products; it is still to be multiplied by
``tile``, in place, if ``bare``.  ``set_offsets`` int64 [sets + 1] into ``set_blocks``: blocks in
different sets count into different tables.  Where there are ``parts`` of a set, samples that read
the same row of its one table are in the same part: ``keys`` int64 [blocks] are the variables to
look at, negative where there is no table.  The rest is as above, and ``targets`` are addresses: of
an input's table of counts (0: not counted), which is added to; of the tile of a sum, whose values
v become flow / v; of a product's tile of flows.
"""


@inline
def _scaled(place, top, width):  # type: ignore[no-untyped-def]
    """Bring the maximum between a half and one; the exponent."""
    exponent = halving(top)
    factor = np.float32(math.ldexp(1.0, -exponent))
    out = floats(place, width)
    for k in range(width):
        out[k] *= factor
    return exponent


@kernel
def hadamard_up(address):  # type: ignore[no-untyped-def]
    """Products of blocks, node by node."""
    f = carray(pointer(address), (1,), UP)[0]
    batch, width, chunk = f.batch, f.width, f.chunk
    offsets = longs(f.offsets, f.blocks + 1)
    edges = offsets[f.blocks]
    sources, variables = longs(f.sources, edges), longs(f.variables, edges)
    widths, scales, errors = (
        longs(f.widths, edges),
        longs(f.scales, edges),
        longs(f.errors, edges),
    )
    rows = ints(f.rows, 1 << 60)
    scale, error = doubles(f.scale, f.blocks * batch), doubles(f.error, f.blocks * batch)
    products, marks = np.empty(width), np.empty(width, np.int32)
    chunks = (batch + chunk - 1) // chunk
    while True:
        task = next_task(address)
        if task >= f.tasks:
            return
        block = task // chunks
        start = (task - block * chunks) * chunk
        begin, end = offsets[block], offsets[block + 1]
        for sample in range(start, min(batch, start + chunk)):
            place = block * batch + sample
            at = f.tile + place * width * FLOAT
            out = floats(at, width)
            first = row_of(sources[begin], variables[begin], rows, sample, batch, width)
            if end - begin == 1:
                for k in range(width):
                    out[k] = first[k]
            else:
                other = row_of(sources[begin + 1], variables[begin + 1], rows, sample, batch, width)
                for k in range(width):
                    out[k] = first[k] * other[k]
                for e in range(begin + 2, end):
                    other = row_of(sources[e], variables[e], rows, sample, batch, width)
                    for k in range(width):
                        out[k] *= other[k]
            low, top = extremes(at, width)
            divisor = 1.0
            if top < WEAK_BITS:
                log_top = in_double(products, begin, end, sources, variables, rows, sample, batch)
                lost = rounded(products, out)
            else:
                lost = low < TINY_BITS and underflowed(
                    out, marks, begin, end, sources, variables, rows, sample, batch
                )
                exponent = _scaled(at, top, width)
                log_top = exponent * LN2
                divisor = math.ldexp(1.0, exponent)
            bound = 0.0
            if f.errors != 0:
                loss, log_loss = product_loss(
                    errors, begin, end, sources, variables, widths, rows, sample, batch
                )
                bound, log_top = relative(loss, log_loss, log_top)
            if lost:
                bound += TINY / divisor
            if bound > 0:
                f.lost = 1
            error[place] = bound
            for e in range(begin, end):
                if scales[e] != 0:
                    log_top += doubles(scales[e], batch)[sample]
            scale[place] = log_top


@kernel
def kronecker_up(address):  # type: ignore[no-untyped-def]
    """Products of all pairs of nodes of two blocks."""
    f = carray(pointer(address), (1,), UP)[0]
    batch, width, chunk = f.batch, f.width, f.chunk
    edges = 2 * f.blocks
    sources, variables = longs(f.sources, edges), longs(f.variables, edges)
    widths, scales, errors = (
        longs(f.widths, edges),
        longs(f.scales, edges),
        longs(f.errors, edges),
    )
    rows = ints(f.rows, 1 << 60)
    scale, error = doubles(f.scale, f.blocks * batch), doubles(f.error, f.blocks * batch)
    chunks = (batch + chunk - 1) // chunk
    tiny = np.float32(TINY)
    while True:
        task = next_task(address)
        if task >= f.tasks:
            return
        block = task // chunks
        start = (task - block * chunks) * chunk
        begin = 2 * block
        n, m = widths[begin], widths[begin + 1]
        for sample in range(start, min(batch, start + chunk)):
            place = block * batch + sample
            first = row_address(sources[begin], variables[begin], rows, sample, batch, n)
            other = row_address(sources[begin + 1], variables[begin + 1], rows, sample, batch, m)
            left, right = floats(first, n), floats(other, m)
            (_, left_top), (_, right_top) = extremes(first, n), extremes(other, m)
            log_top = -np.inf
            left_factor, right_factor = np.float32(0), np.float32(0)
            if left_top > 0 and right_top > 0:
                left_exponent, right_exponent = halving(left_top), halving(right_top)
                log_top = (left_exponent + right_exponent) * LN2
                left_factor = np.float32(math.ldexp(1.0, -left_exponent))
                right_factor = np.float32(math.ldexp(1.0, -right_exponent))
            low_left = low_right = np.float32(1)
            for i in range(n):
                value = left[i] * left_factor
                low_left = min(low_left, value if value > 0 else np.float32(1))
                out = floats(f.tile + (place * width + i * m) * FLOAT, m)
                for j in range(m):
                    out[j] = value * (right[j] * right_factor)
            for j in range(m):
                value = right[j] * right_factor
                low_right = min(low_right, value if value > 0 else np.float32(1))
            bound = 0.0
            if f.errors != 0:
                loss, log_loss = product_loss(
                    errors, begin, begin + 2, sources, variables, widths, rows, sample, batch
                )
                bound, log_top = relative(loss, log_loss, log_top)
            if low_left * low_right < tiny:
                bound += TINY
            if bound > 0:
                f.lost = 1
            error[place] = bound
            for e in range(begin, begin + 2):
                if scales[e] != 0:
                    log_top += doubles(scales[e], batch)[sample]
            scale[place] = log_top


@kernel
def concat_up(address):  # type: ignore[no-untyped-def]
    """The nodes of all factors one after another, on one scale."""
    f = carray(pointer(address), (1,), UP)[0]
    batch, width, chunk = f.batch, f.width, f.chunk
    offsets = longs(f.offsets, f.blocks + 1)
    edges = offsets[f.blocks]
    sources, variables = longs(f.sources, edges), longs(f.variables, edges)
    widths, scales, errors = (
        longs(f.widths, edges),
        longs(f.scales, edges),
        longs(f.errors, edges),
    )
    rows = ints(f.rows, 1 << 60)
    scale, error = doubles(f.scale, f.blocks * batch), doubles(f.error, f.blocks * batch)
    chunks = (batch + chunk - 1) // chunk
    tiny, zero = np.float32(TINY), np.float32(0)
    while True:
        task = next_task(address)
        if task >= f.tasks:
            return
        block = task // chunks
        start = (task - block * chunks) * chunk
        begin, end = offsets[block], offsets[block + 1]
        for sample in range(start, min(batch, start + chunk)):
            place = block * batch + sample
            at = f.tile + place * width * FLOAT
            common = -np.inf
            for e in range(begin, end):
                source = row_address(sources[e], variables[e], rows, sample, batch, widths[e])
                _, top = extremes(source, widths[e])
                if top > 0:
                    own = doubles(scales[e], batch)[sample] if scales[e] else 0.0
                    common = max(common, own + halving(top) * LN2)
            if common == -np.inf and f.errors != 0:
                for e in range(begin, end):
                    if errors[e] != 0 and doubles(errors[e], batch)[sample] > 0:
                        error_here = math.log(doubles(errors[e], batch)[sample])
                        common = max(common, doubles(scales[e], batch)[sample] + error_here)
            bound, lost = 0.0, np.int32(0)
            for e in range(begin, end):
                own = doubles(scales[e], batch)[sample] if scales[e] else 0.0
                share = math.exp(own - common) if min(own, common) > -np.inf else 0.0
                factor = np.float32(min(share, _LARGEST))
                values = row_of(sources[e], variables[e], rows, sample, batch, widths[e])
                out = floats(at, widths[e])
                for k in range(widths[e]):
                    out[k] = values[k] * factor
                    lost |= np.int32(out[k] < tiny) & np.int32(values[k] > zero)
                at += widths[e] * FLOAT
                if f.errors != 0 and errors[e] != 0:
                    bound += lessened(doubles(errors[e], batch)[sample], share)
            if lost != 0:
                bound += TINY
            if bound > 0:
                f.lost = 1
            error[place] = bound
            scale[place] = common


@inline
def _hand(flow, width, target, variable, rows, sample, batch, tiny):  # type: ignore[no-untyped-def]
    """Flow into one factor."""
    if variable == SUM:
        ratio = floats(target + sample * width * FLOAT, width)
        for k in range(width):
            ratio[k] = flow[k] / (ratio[k] if ratio[k] > tiny else tiny)
    elif variable == PRODUCT:
        out = floats(target + sample * width * FLOAT, width)
        for k in range(width):
            out[k] = flow[k]
    elif target != 0:
        row = np.int64(rows[variable * batch + sample])
        counts = floats(target + row * width * FLOAT, width)
        for k in range(width):
            counts[k] += flow[k]


@kernel
def product_down(address):  # type: ignore[no-untyped-def]
    """Flow from products into their factors: counts of inputs, flow / value of sums."""
    f = carray(pointer(address), (1,), DOWN)[0]
    batch, width = f.batch, f.width
    set_offsets, set_blocks = longs(f.set_offsets, f.sets + 1), longs(f.set_blocks, f.blocks)
    offsets = longs(f.offsets, f.blocks + 1)
    edges = offsets[f.blocks]
    targets, variables = longs(f.targets, edges), longs(f.variables, edges)
    widths = longs(f.widths, edges)
    rows = ints(f.rows, 1 << 60)
    keys = longs(f.keys, f.blocks)
    parts = f.parts
    tiny = np.float32(TINY)
    left, right = np.empty(width, np.float32), np.empty(width, np.float32)
    while True:
        task = next_task(address)
        if task >= f.tasks:
            return
        member = task // parts
        part = task - member * parts
        for i in range(set_offsets[member], set_offsets[member + 1]):
            block = set_blocks[i]
            begin, end = offsets[block], offsets[block + 1]
            for sample in range(batch):
                if parts > 1:
                    key = keys[block]
                    row = np.int64(sample if key < 0 else rows[key * batch + sample])
                    if ((row * _MIX & 0xFFFF) * parts) >> 16 != part:
                        continue
                at = (block * batch + sample) * width * FLOAT
                flow = floats(f.flow + at, width)
                if f.bare != 0:
                    value = floats(f.tile + at, width)
                    for k in range(width):
                        flow[k] *= value[k]
                if f.kind == 0:
                    for e in range(begin, end):
                        _hand(flow, width, targets[e], variables[e], rows, sample, batch, tiny)
                elif f.kind == 1:
                    place = f.flow + at
                    for e in range(begin, end):
                        piece = floats(place, widths[e])
                        _hand(piece, widths[e], targets[e], variables[e], rows, sample, batch, tiny)
                        place += widths[e] * FLOAT
                else:
                    n, m = widths[begin], widths[begin + 1]
                    for k in range(m):
                        right[k] = 0
                    for k in range(n):
                        piece = floats(f.flow + at + k * m * FLOAT, m)
                        total = np.float32(0)
                        for j in range(m):
                            total += piece[j]
                            right[j] += piece[j]
                        left[k] = total
                    e = begin
                    _hand(left, n, targets[e], variables[e], rows, sample, batch, tiny)
                    e = begin + 1
                    _hand(right, m, targets[e], variables[e], rows, sample, batch, tiny)
