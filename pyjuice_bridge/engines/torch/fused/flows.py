"""The downward kernel of product layers, and of the sum layers above them."""

from __future__ import annotations

import numpy as np

from pyjuice_bridge.engines.torch.fused.gemm import gemm
from pyjuice_bridge.engines.torch.fused.memory import (
    fields,
    inline,
    ints,
    longs,
    numbers,
    scratch,
    size_of,
    tiny,
)
from pyjuice_bridge.engines.torch.fused.threads import frame_type, kernel, next_task
from pyjuice_bridge.engines.torch.fused.upward import PRODUCT, SUM

KINDS = ("hadamard", "concat", "kronecker")
"""Product layers by the number that ``product_down`` knows them by."""
_MIX = 40503
"""Spreads row numbers over 16 bits: 2^16 divided by the golden ratio."""

DOWN = frame_type(
    *("kind", "blocks", "batch", "width", "chunk", "sets", "parts", "bare"),
    *("set_offsets", "set_blocks", "keys", "offsets", "targets", "variables", "widths"),
    *("rows", "tile", "flow"),
    *("gemm", "weights", "ratios", "sum_width", "counts"),
)
"""Frame of ``product_down``; a task is a part of the samples of a set of blocks.

``flow`` [blocks, batch, width] enters the products; it is still to be multiplied by ``tile``, in
place, if ``bare``.  If ``gemm`` is not 0, flow is the matrix product of ``ratios`` [blocks, batch,
sum_width] and ``weights`` instead, and what these are to count is added to ``counts`` (both int64
[blocks], addresses; ``counts`` may be 0).

``set_offsets`` int64 [sets + 1] into ``set_blocks``: blocks in different sets count into different
tables.  Where there are ``parts`` of a set, samples that read the same row of its one table are in
the same part: ``keys`` int64 [blocks] are the variables to look at, negative where there is no
table.  The rest is as in ``upward.UP``, and ``targets`` are addresses: of an input's table of
counts (0: not counted), which is added to; of the tile of a sum, whose values v become flow / v;
of a product's tile of flows.
"""


@inline
def _hand(frame, flow, width, target, variable, rows, sample, batch):  # type: ignore[no-untyped-def]
    """Flow into one factor."""
    size, least = size_of(frame), tiny(frame)
    if variable == SUM:
        ratio = numbers(frame, target + sample * width * size, width)
        for k in range(width):
            ratio[k] = flow[k] / (ratio[k] if ratio[k] > least else least)
    elif variable == PRODUCT:
        out = numbers(frame, target + sample * width * size, width)
        for k in range(width):
            out[k] = flow[k]
    elif target != 0:
        row = np.int64(rows[variable * batch + sample])
        counts = numbers(frame, target + row * width * size, width)
        for k in range(width):
            counts[k] += flow[k]


@inline
def _flow_of(frame, f, block, start, rows, flow):  # type: ignore[no-untyped-def]
    """Two matrix products: flow / value of some children, and counts of the edges to them."""
    size = size_of(frame)
    ratios = f.ratios + (block * f.batch + start) * f.sum_width * size
    weights, counts = longs(f.weights, f.blocks)[block], longs(f.counts, f.blocks)[block]
    gemm(
        frame, f.gemm, 0, 0, rows, f.width, f.sum_width,
        ratios, f.sum_width, weights, f.width, 0, flow, f.width,
    )  # fmt: skip
    if counts != 0:
        values = f.tile + (block * f.batch + start) * f.width * size
        gemm(
            frame, f.gemm, 1, 0, f.sum_width, f.width, rows,
            ratios, f.sum_width, values, f.width, 1, counts, f.width,
        )  # fmt: skip


@kernel
def product_down(frame):  # type: ignore[no-untyped-def]
    """Flow from products into their factors: counts of inputs, flow / value of sums."""
    f = fields(frame, DOWN)
    batch, width, chunk, size = f.batch, f.width, f.chunk, size_of(frame)
    set_offsets, set_blocks = longs(f.set_offsets, f.sets + 1), longs(f.set_blocks, f.blocks)
    offsets = longs(f.offsets, f.blocks + 1)
    edges = offsets[f.blocks]
    targets, variables = longs(f.targets, edges), longs(f.variables, edges)
    widths = longs(f.widths, edges)
    rows = ints(f.rows, 1 << 60)
    keys = longs(f.keys, f.blocks)
    left, right = scratch(frame, width), scratch(frame, width)
    made = scratch(frame, chunk * width if f.gemm != 0 else 1)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        member = task // f.parts
        part = task - member * f.parts
        first, last = set_offsets[member], set_offsets[member + 1]
        for i in range(first, last):
            block = set_blocks[i]
            begin, end = offsets[block], offsets[block + 1]
            for start in range(0, batch, chunk):
                stop = min(batch, start + chunk)
                values_at = f.tile + (block * batch + start) * width * size
                flow_at = f.flow + (block * batch + start) * width * size
                if f.gemm != 0:
                    flow_at = made.ctypes.data
                    _flow_of(frame, f, block, start, stop - start, flow_at)
                for sample in range(start, stop):
                    if f.parts > 1:
                        key = keys[block]
                        row = np.int64(sample if key < 0 else rows[key * batch + sample])
                        if ((row * _MIX & 0xFFFF) * f.parts) >> 16 != part:
                            continue
                    at = (sample - start) * width * size
                    flow = numbers(frame, flow_at + at, width)
                    if f.bare != 0:
                        value = numbers(frame, values_at + at, width)
                        for k in range(width):
                            flow[k] *= value[k]
                    if f.kind == 0:
                        for e in range(begin, end):
                            _hand(frame, flow, width, targets[e], variables[e], rows, sample, batch)
                    elif f.kind == 1:
                        place = flow_at + at
                        for e in range(begin, end):
                            n = widths[e]
                            piece = numbers(frame, place, n)
                            _hand(frame, piece, n, targets[e], variables[e], rows, sample, batch)
                            place += n * size
                    else:
                        n, m = widths[begin], widths[begin + 1]
                        for k in range(m):
                            right[k] = 0
                        for k in range(n):
                            piece = numbers(frame, flow_at + at + k * m * size, m)
                            total = piece[0] * 0
                            for j in range(m):
                                total += piece[j]
                                right[j] += piece[j]
                            left[k] = total
                        e = begin
                        _hand(frame, left, n, targets[e], variables[e], rows, sample, batch)
                        e = begin + 1
                        _hand(frame, right, m, targets[e], variables[e], rows, sample, batch)
