"""Compiled inner loops of the float32 engine on CPUs (see ``threads`` for frames and tasks).

Each does in one visit to a row of values what would otherwise be an operation of its own per step,
with the rows coming from memory each time.  What they compute is what ``forward``, ``backward``
and ``em`` define.  Rows are scaled by powers of two, which is exact.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import carray, njit

from pyjuice_bridge.engines.torch.threads import (
    FAST,
    doubles,
    floats,
    frame_type,
    ints,
    kernel,
    longs,
    next_task,
    pointer,
)

TINY = float(np.finfo(np.float32).tiny)
WEAK = TINY ** (1 / 3)
"""Rows whose maximum is below it are taken again in float64."""
_TINY_BITS = np.float32(TINY).view(np.int32)
_WEAK_BITS = np.float32(WEAK).view(np.int32)
_LN2 = math.log(2.0)
_FLOAT = 4
_MIX = 40503
"""Spreads row numbers over 16 bits: 2^16 divided by the golden ratio."""
_inline: Any = njit(inline="always", error_model="numpy")

UP = frame_type(
    *("blocks", "batch", "width", "chunk"),
    *("offsets", "sources", "variables", "scales", "errors"),
    *("rows", "tile", "scale", "error", "lost"),
)
"""Frame of ``product_up``; a task is ``chunk`` samples of a block.

Read: ``offsets`` int64 [blocks + 1] into int64 arrays with an entry per factor: ``sources``, the
address of its values, of an input's the table; ``variables``, an input's variable, else -1;
``scales`` and ``errors``, addresses of its log-scales and error bounds, 0 for none (``errors`` is
0 where no factor has any).  ``rows`` int32 [variables, batch]: the rows of tables to read.
Written: ``tile`` float32 [blocks, batch, width]; ``scale`` and ``error`` float64 [blocks, batch];
``lost``, set to 1 when some error is not 0.
"""

DOWN = frame_type(
    *("blocks", "batch", "width", "sets", "parts", "bare"),
    *("set_offsets", "set_blocks", "keys", "offsets", "targets", "variables"),
    *("rows", "tile", "flow"),
)
"""Frame of ``product_down``; a task is a part of the samples of a set of blocks.

``flow`` float32 [blocks, batch, width] enters the products; it is still to be multiplied by
``tile``, in place, if ``bare``.  ``set_offsets`` int64 [sets + 1] into ``set_blocks``: blocks in
different sets count into different tables.  Where there are ``parts`` of a set, samples that read
the same row of its one table are in the same part: ``keys`` int64 [blocks] are the variables to look
at, -1 where there is no table.  ``offsets``, ``variables`` and ``rows`` are as above; ``targets`` are
addresses: of an input's table of counts (0: not counted), which is added to; of the tile of a sum,
whose values v become flow / v.
"""

SUM_STEP = frame_type(
    *("rows", "width", "chunk", "theta", "count"),
    reals=("step_size", "pseudocount"),
)
"""Frame of ``sum_step``; a task is ``chunk`` rows of ``theta`` and ``count`` float32 [rows, width].
"""

INPUT_STEP = frame_type(
    *("groups", "categories", "width", "columns", "theta", "count"),
    reals=("step_size", "pseudocount"),
)
"""Frame of ``input_step``; a task is ``columns`` nodes of a group.

``theta`` and ``count`` are float32 [groups, 1 + categories, width], row 0 for missing values.
"""


@_inline
def _address(source, variable, rows, sample, batch, width):  # type: ignore[no-untyped-def]
    """Where a factor's values for a sample are."""
    place = np.int64(sample)
    if variable >= 0:
        place = np.int64(rows[variable * batch + sample])
    return source + place * width * _FLOAT


@_inline
def _row(source, variable, rows, sample, batch, width):  # type: ignore[no-untyped-def]
    """A factor's values for a sample."""
    return floats(_address(source, variable, rows, sample, batch, width), width)


@_inline
def _extremes(address, width):  # type: ignore[no-untyped-def]
    """The least and the largest of some floats ≥ 0 as bits, whose order is that of the numbers."""
    bits = ints(address, width)
    low, top = bits[0], bits[0]
    for k in range(width):
        low = min(low, bits[k])
        top = max(top, bits[k])
    return low, top


@njit(error_model="numpy", cache=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _in_double(products, begin, end, sources, variables, rows, sample, batch):  # type: ignore[no-untyped-def]
    """A product, its running maximum kept at one; returns the logarithm of what it was divided by.

    The factors are float32, so no entry underflows that is not far below float32 at the end.
    """
    width = len(products)
    products[:] = 1.0
    log_scale = 0.0
    for e in range(begin, end):
        values = _row(sources[e], variables[e], rows, sample, batch, width)
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


@_inline
def _round(products, out):  # type: ignore[no-untyped-def]
    """To float32; whether an entry underflowed that is not exactly zero."""
    tiny, lost = np.float32(TINY), np.int32(0)
    for k in range(len(out)):
        out[k] = products[k]
        lost |= np.int32(out[k] < tiny) & np.int32(products[k] > 0)
    return lost


@njit(error_model="numpy", cache=True, fastmath=FAST)  # type: ignore[untyped-decorator]
def _lost(out, marks, begin, end, sources, variables, rows, sample, batch):  # type: ignore[no-untyped-def]
    """Whether an entry is below the smallest normal number and no factor of it is exactly zero."""
    width = len(out)
    tiny, zero = np.float32(TINY), np.float32(0)
    for k in range(width):
        marks[k] = np.int32(out[k] < tiny)
    for e in range(begin, end):
        values = _row(sources[e], variables[e], rows, sample, batch, width)
        for k in range(width):
            marks[k] &= np.int32(values[k] > zero)
    found = np.int32(0)
    for k in range(width):
        found |= marks[k]
    return found != 0


@njit(error_model="numpy", cache=True)  # type: ignore[untyped-decorator]
def _loss(begin, end, errors, sources, variables, rows, sample, batch, width, log_top):  # type: ignore[no-untyped-def]
    """``underflow.ProductLoss`` of one product: Π (top + error) - Π top, over its own maximum."""
    inherited = 0.0
    for e in range(begin, end):
        if errors[e]:
            inherited += doubles(errors[e], batch)[sample]
    if inherited == 0:
        return 0.0
    ratio, tops, log_tops = 0.0, 1.0, 0.0
    for e in range(begin, end):
        _, bits = _extremes(_address(sources[e], variables[e], rows, sample, batch, width), width)
        top = float(np.int32(bits).view(np.float32))
        error = doubles(errors[e], batch)[sample] if errors[e] else 0.0
        if error > 0:
            share = error / top if top > 0 else np.inf
            ratio += share * (1.0 + ratio)
        tops *= top
        if tops < 1e-200:
            log_tops += math.log(tops) if tops > 0 else -np.inf
            tops = 1.0
    if log_top == -np.inf or ratio == np.inf:
        return np.inf
    return ratio * tops * math.exp(log_tops - log_top)


@kernel
def product_up(address):  # type: ignore[no-untyped-def]
    """Products of blocks, each (block, sample) scaled to a maximum between a half and one."""
    f = carray(pointer(address), (1,), UP)[0]
    batch, width, chunk = f.batch, f.width, f.chunk
    offsets = longs(f.offsets, f.blocks + 1)
    edges = offsets[f.blocks]
    sources, variables = longs(f.sources, edges), longs(f.variables, edges)
    scales, errors = longs(f.scales, edges), longs(f.errors, edges)
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
            at = f.tile + place * width * _FLOAT
            out = floats(at, width)
            first = _row(sources[begin], variables[begin], rows, sample, batch, width)
            if end - begin == 1:
                for k in range(width):
                    out[k] = first[k]
            else:
                other = _row(sources[begin + 1], variables[begin + 1], rows, sample, batch, width)
                for k in range(width):
                    out[k] = first[k] * other[k]
                for e in range(begin + 2, end):
                    other = _row(sources[e], variables[e], rows, sample, batch, width)
                    for k in range(width):
                        out[k] *= other[k]
            low, top = _extremes(at, width)
            divisor = 1.0
            if top < _WEAK_BITS:
                log_top = _in_double(
                    products, begin, end, sources, variables, rows, sample, batch
                )
                lost = _round(products, out) != 0
            else:
                lost = low < _TINY_BITS and _lost(
                    out, marks, begin, end, sources, variables, rows, sample, batch
                )
                exponent = (top >> 23) - 126
                log_top = exponent * _LN2
                divisor = math.ldexp(1.0, exponent)
                factor = np.float32(1.0 / divisor)
                for k in range(width):
                    out[k] *= factor
            bound = 0.0
            if f.errors != 0:
                bound = _loss(
                    begin, end, errors, sources, variables, rows, sample, batch, width, log_top
                )
            if lost:
                bound += TINY / divisor
            if bound > 0:
                f.lost = 1
            error[place] = bound
            total = log_top
            for e in range(begin, end):
                if scales[e] != 0:
                    total += doubles(scales[e], batch)[sample]
            scale[place] = total


@kernel
def product_down(address):  # type: ignore[no-untyped-def]
    """Flow from products into their factors: counts of inputs, flow / value of sums."""
    f = carray(pointer(address), (1,), DOWN)[0]
    batch, width = f.batch, f.width
    set_offsets, set_blocks = longs(f.set_offsets, f.sets + 1), longs(f.set_blocks, f.blocks)
    offsets = longs(f.offsets, f.blocks + 1)
    edges = offsets[f.blocks]
    targets, variables = longs(f.targets, edges), longs(f.variables, edges)
    rows = ints(f.rows, 1 << 60)
    keys = longs(f.keys, f.blocks)
    parts = f.parts
    tiny = np.float32(TINY)
    while True:
        task = next_task(address)
        if task >= f.tasks:
            return
        member = task // parts
        part = task - member * parts
        for i in range(set_offsets[member], set_offsets[member + 1]):
            block = set_blocks[i]
            for sample in range(batch):
                if parts > 1:
                    row, key = sample, keys[block]
                    if key >= 0:
                        row = np.int64(rows[key * batch + sample])
                    if ((row * _MIX & 0xFFFF) * parts) >> 16 != part:
                        continue
                at = (block * batch + sample) * width * _FLOAT
                flow = floats(f.flow + at, width)
                if f.bare != 0:
                    value = floats(f.tile + at, width)
                    for k in range(width):
                        flow[k] *= value[k]
                for e in range(offsets[block], offsets[block + 1]):
                    variable, target = variables[e], targets[e]
                    if variable < 0:
                        ratio = floats(target + sample * width * _FLOAT, width)
                        for k in range(width):
                            ratio[k] = flow[k] / (ratio[k] if ratio[k] > tiny else tiny)
                    elif target != 0:
                        row = np.int64(rows[variable * batch + sample])
                        counts = floats(target + row * width * _FLOAT, width)
                        for k in range(width):
                            counts[k] += flow[k]


@kernel
def sum_step(address):  # type: ignore[no-untyped-def]
    """``em.m_step`` for rows that stand alone; the counts, without their factor, become zero."""
    f = carray(pointer(address), (1,), SUM_STEP)[0]
    width = f.width
    keep = np.float32(1 - f.step_size)
    zero = np.float32(0)
    while True:
        task = next_task(address)
        if task >= f.tasks:
            return
        for row in range(task * f.chunk, min(f.rows, (task + 1) * f.chunk)):
            theta = floats(f.theta + row * width * _FLOAT, width)
            count = floats(f.count + row * width * _FLOAT, width)
            total = zero
            for k in range(width):
                count[k] *= theta[k]
                total += count[k]
            if total > 0:
                rate = np.float32(f.step_size / (total + f.pseudocount))
                more = np.float32(rate * f.pseudocount / width)
                for k in range(width):
                    theta[k] = keep * theta[k] + (rate * count[k] + more)
            for k in range(width):
                count[k] = zero


@kernel
def input_step(address):  # type: ignore[no-untyped-def]
    """``em.m_step`` for tables; the counts become zero."""
    f = carray(pointer(address), (1,), INPUT_STEP)[0]
    width, categories = f.width, f.categories
    parts = (width + f.columns - 1) // f.columns
    totals, rates = np.empty(f.columns, np.float32), np.empty(f.columns, np.float32)
    keeps, mores = np.empty(f.columns, np.float32), np.empty(f.columns, np.float32)
    zero = np.float32(0)
    while True:
        task = next_task(address)
        if task >= f.tasks:
            return
        group = task // parts
        left = (task - group * parts) * f.columns
        size = min(f.columns, width - left)
        base = (group * (1 + categories) * width + left) * _FLOAT
        totals[:] = zero
        for row in range(1, 1 + categories):
            count = floats(f.count + base + row * width * _FLOAT, size)
            for k in range(size):
                totals[k] += count[k]
        for k in range(size):
            seen = totals[k] > 0
            rates[k] = f.step_size / (totals[k] + f.pseudocount) if seen else 0.0
            keeps[k] = 1 - f.step_size if seen else 1.0
            mores[k] = rates[k] * f.pseudocount / categories
        for row in range(1 + categories):
            at = base + row * width * _FLOAT
            theta, count = floats(f.theta + at, size), floats(f.count + at, size)
            if row > 0:
                for k in range(size):
                    theta[k] = keeps[k] * theta[k] + (rates[k] * count[k] + mores[k])
            for k in range(size):
                count[k] = zero
