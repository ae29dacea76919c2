"""The downward kernel of product layers, and of the sum layers above them."""

from __future__ import annotations

import numpy as np

from pyjuice_bridge.engines.torch.fused.gemm import gemm
from pyjuice_bridge.engines.torch.fused.memory import (
    SIZE,
    TINY,
    fields,
    floats,
    inline,
    ints,
    longs,
)
from pyjuice_bridge.engines.torch.fused.threads import (
    advance,
    frame_type,
    kernel,
    next_task,
    wait_for,
)
from pyjuice_bridge.engines.torch.fused.upward import PRODUCT, SUM

KINDS = ("hadamard", "concat", "kronecker")
"""Product layers by the number that ``product_down`` knows them by."""
_MIX = 40503
"""Spreads row numbers over 16 bits: 2^16 divided by the golden ratio."""

DOWN = frame_type(
    *("kind", "blocks", "batch", "width", "chunk", "sets", "parts", "is_ratio"),
    *("set_offsets", "set_blocks", "keys", "offsets", "targets", "variables", "widths"),
    *("rows", "tile", "flow"),
    *("gemm", "weights", "ratios", "sum_width", "sum_counts", "turns"),
)
"""Frame of the downward kernels; a task is a part of the samples of a set of blocks.

``flow`` [blocks, batch, width] enters the products; if ``is_ratio``, it is still to be multiplied
by ``tile``, in place.  ``set_offsets`` int64 [sets + 1] into ``set_blocks``: blocks in different
sets count into different tables.  Where there are ``parts`` of a set, samples that read the same
row of its one table are in the same part: ``keys`` int64 [blocks] are the variables to look at,
negative where there is no table.  The rest is as in ``upward.UP``, and ``targets`` are addresses:
of an input's table of counts (0: not counted), which is added to; of the tile of a sum, whose
values v become flow / v; of a product's tile of flows.

``joined_down`` makes flow itself, as the matrix product of ``ratios`` [blocks, batch, sum_width]
and ``weights``, and adds to ``sum_counts`` (both int64 [blocks], addresses; 0 among the latter for
none).  Its parts are ``chunk`` samples one after another, which take turns in counting: ``turns``
int64 [sets], zeros.
"""


@inline
def _hand(flow, width, target, variable, rows, sample, batch):  # type: ignore[no-untyped-def]
    """Flow into one factor."""
    least = TINY
    if variable == SUM:
        ratio = floats(target + sample * width * SIZE, width)
        for k in range(width):
            ratio[k] = flow[k] / (ratio[k] if ratio[k] > least else least)
    elif variable == PRODUCT:
        out = floats(target + sample * width * SIZE, width)
        for k in range(width):
            out[k] = flow[k]
    elif target != 0:
        row = np.int64(rows[variable * batch + sample])
        counts = floats(target + row * width * SIZE, width)
        for k in range(width):
            counts[k] += flow[k]


@inline
def _flow_of(f, block, start, rows, flow):  # type: ignore[no-untyped-def]
    """Two matrix products: flow / value of some children, and counts of the edges to them."""
    ratios = f.ratios + (block * f.batch + start) * f.sum_width * SIZE
    weights, counts = longs(f.weights, f.blocks)[block], longs(f.sum_counts, f.blocks)[block]
    gemm(f.gemm, 0, 0, rows, f.width, f.sum_width,
        ratios, f.sum_width, weights, f.width, 0, flow, f.width,
    )  # fmt: skip
    if counts != 0:
        values = f.tile + (block * f.batch + start) * f.width * SIZE
        gemm(f.gemm, 1, 0, f.sum_width, f.width, rows,
            ratios, f.sum_width, values, f.width, 1, counts, f.width,
        )  # fmt: skip


@inline
def _pass_on(f, block, sample, place, pair):  # type: ignore[no-untyped-def]
    """Pass the flow of a block for one sample, at an address, to its factors."""
    offsets = longs(f.offsets, f.blocks + 1)
    edges = offsets[f.blocks]
    targets, variables = longs(f.targets, edges), longs(f.variables, edges)
    widths, rows = longs(f.widths, edges), ints(f.rows, 1 << 60)
    batch = f.batch
    begin, end = offsets[block], offsets[block + 1]
    if f.kind == 0:
        flow = floats(place, f.width)
        for e in range(begin, end):
            _hand(flow, f.width, targets[e], variables[e], rows, sample, batch)
    elif f.kind == 1:
        for e in range(begin, end):
            piece = floats(place, widths[e])
            _hand(piece, widths[e], targets[e], variables[e], rows, sample, batch)
            place += widths[e] * SIZE
    else:
        left, right = pair
        n, m = widths[begin], widths[begin + 1]
        for k in range(m):
            right[k] = 0
        for k in range(n):
            piece = floats(place + k * m * SIZE, m)
            total = piece[0] * 0
            for j in range(m):
                total += piece[j]
                right[j] += piece[j]
            left[k] = total
        e = begin
        _hand(left, n, targets[e], variables[e], rows, sample, batch)
        e = begin + 1
        _hand(right, m, targets[e], variables[e], rows, sample, batch)


@inline
def _multiplied(flow, value, width):  # type: ignore[no-untyped-def]
    """Multiply a row at an address by another."""
    out, factor = floats(flow, width), floats(value, width)
    for k in range(width):
        out[k] *= factor[k]


@kernel
def product_down(frame):  # type: ignore[no-untyped-def]
    """Flow from products into their factors: counts of inputs, flow / value of sums."""
    f = fields(frame, DOWN)
    batch, row_size = f.batch, f.width * SIZE
    offsets, blocks = longs(f.set_offsets, f.sets + 1), longs(f.set_blocks, f.blocks)
    rows, keys = ints(f.rows, 1 << 60), longs(f.keys, f.blocks)
    pair = np.empty(f.width, np.float32), np.empty(f.width, np.float32)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        member, part = task // f.parts, task % f.parts
        for i in range(offsets[member], offsets[member + 1]):
            block = blocks[i]
            for sample in range(batch):
                if f.parts > 1:
                    key = keys[block]
                    row = np.int64(sample if key < 0 else rows[key * batch + sample])
                    if ((row * _MIX & 0xFFFF) * f.parts) >> 16 != part:
                        continue
                at = (block * batch + sample) * row_size
                if f.is_ratio != 0:
                    _multiplied(f.flow + at, f.tile + at, f.width)
                _pass_on(f, block, sample, f.flow + at, pair)


@kernel
def joined_down(frame):  # type: ignore[no-untyped-def]
    """Flow from sums through products into their factors, and counts of the sums."""
    f = fields(frame, DOWN)
    batch, row_size = f.batch, f.width * SIZE
    offsets, blocks = longs(f.set_offsets, f.sets + 1), longs(f.set_blocks, f.blocks)
    pair = np.empty(f.width, np.float32), np.empty(f.width, np.float32)
    made = np.empty(f.chunk * f.width, np.float32)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        flow = made.ctypes.data  # asked for here: numba frees an array that no later line names
        part, member = task // f.sets, task % f.sets
        start = part * f.chunk
        turn = f.turns + 8 * member
        wait_for(turn, part)
        for i in range(offsets[member], offsets[member + 1]):
            count = min(batch - start, f.chunk)
            values = f.tile + (blocks[i] * batch + start) * row_size
            _flow_of(f, blocks[i], start, count, flow)
            for j in range(count):
                at = flow + j * row_size
                _multiplied(at, values + j * row_size, f.width)
                _pass_on(f, blocks[i], start + j, at, pair)
        if part + 1 < f.parts:
            advance(turn)
        else:
            longs(turn, 1)[0] = 0
