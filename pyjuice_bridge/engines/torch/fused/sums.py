"""Kernels of sum layers."""

from __future__ import annotations

import math

import numpy as np

from pyjuice_bridge.engines.torch.fused.gemm import gemm
from pyjuice_bridge.engines.torch.fused.memory import (
    SIZE,
    doubles,
    extremes,
    fields,
    floats,
    longs,
)
from pyjuice_bridge.engines.torch.fused.rows import lessened
from pyjuice_bridge.engines.torch.fused.threads import frame_type, kernel, next_task
from pyjuice_bridge.engines.torch.fused.upward import any_set, portion

MIX = frame_type(
    *("blocks", "batch", "width", "chunk", "single", "above", "num_above", "faint", "lost"),
    *("offsets", "edge_values", "factors", "scales", "errors", "tile", "scale", "error"),
    reals=("limit", "floor"),
)
"""Frame of ``mix`` and ``spread``; a task is ``chunk`` samples of a block.

``offsets`` int64 [blocks + 1] into the edges.  ``edge_values`` [edges, batch, width], what each
edge alone would give, is read by ``mix`` and written by ``spread``.  ``scales`` and ``errors``,
int64 [edges], are addresses of the log-scales and error bounds of the children.  ``factors``
[edges, batch]: each edge's scale over the block's.  ``tile`` [blocks, batch, width] is written by
``mix`` and read by ``spread``.  Where blocks are ``single``, with one edge each, only ``error`` is
written.  The rest is as in ``upward.UP``.
"""

MULTIPLY = frame_type(
    *("groups", "rows", "columns", "inner", "row_step", "column_step"),
    *("gemm", "turn_a", "turn_b", "add"),
    *("a", "step_a", "b", "step_b", "c"),
)
"""Frame of ``multiply``; a task is ``row_step`` × ``column_step`` entries of a product.

``c`` [groups, rows, columns] = op(``a``)·op(``b``), added to what is there if ``add``; ``inner``
is the length of their sums, and operands are transposed where they ``turn``.
"""


@kernel
def multiply(frame):  # type: ignore[no-untyped-def]
    """Matrix products group by group."""
    f = fields(frame, MULTIPLY)
    size = SIZE
    across = (f.columns + f.column_step - 1) // f.column_step
    down = (f.rows + f.row_step - 1) // f.row_step
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        group = task // (down * across)
        tile = task - group * down * across
        row, column = tile // across * f.row_step, tile % across * f.column_step
        rows, columns = min(f.row_step, f.rows - row), min(f.column_step, f.columns - column)
        a = f.a + (group * f.rows * f.inner + row * (1 if f.turn_a else f.step_a)) * size
        b = f.b + (group * f.columns * f.inner + column * (f.step_b if f.turn_b else 1)) * size
        c = f.c + ((group * f.rows + row) * f.columns + column) * size
        gemm(f.gemm, f.turn_a, f.turn_b, rows, columns, f.inner,
            a, f.step_a, b, f.step_b, f.add, c, f.columns,
        )  # fmt: skip


@kernel
def mix(frame):  # type: ignore[no-untyped-def]
    """Add up the edges of each block on one scale; bound what underflow may have taken."""
    f = fields(frame, MIX)
    batch, width, size = f.batch, f.width, SIZE
    tracked, faint = any_set(f.above, f.num_above), longs(f.faint, 1)[0] != 0
    if f.single != 0 and not tracked and not faint:
        return
    offsets = longs(f.offsets, f.blocks + 1)
    edges = offsets[f.blocks]
    scales, errors = longs(f.scales, edges), longs(f.errors, edges)
    factors = floats(f.factors, edges * batch)
    scale, error = doubles(f.scale, f.blocks * batch), doubles(f.error, f.blocks * batch)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        block, start, stop = portion(f, task)
        begin, end = offsets[block], offsets[block + 1]
        for sample in range(start, stop):
            place = block * batch + sample
            at = f.tile + place * width * size
            bound = 0.0
            if f.single != 0:
                if tracked:
                    bound = doubles(errors[begin], batch)[sample]
            else:
                common = -np.inf
                for e in range(begin, end):
                    common = max(common, doubles(scales[e], batch)[sample])
                out = floats(at, width)
                for k in range(width):
                    out[k] = 0
                for e in range(begin, end):
                    own = doubles(scales[e], batch)[sample]
                    share = math.exp(own - common) if own > -np.inf else 0.0
                    factor = np.float32(share)
                    factors[e * batch + sample] = factor
                    term = floats(f.edge_values + (e * batch + sample) * width * size, width)
                    for k in range(width):
                        out[k] += factor * term[k]
                    if tracked:
                        bound += lessened(doubles(errors[e], batch)[sample], share)
                scale[place] = common
            if tracked or faint:
                low, _ = extremes(at, width)
                if low < f.limit:
                    bound += f.floor
                if bound > 0:
                    longs(f.lost, 1)[0] = 1
            error[place] = bound


@kernel
def spread(frame):  # type: ignore[no-untyped-def]
    """Flow / value of each block as that of its edges."""
    f = fields(frame, MIX)
    batch, width, size = f.batch, f.width, SIZE
    offsets = longs(f.offsets, f.blocks + 1)
    factors = floats(f.factors, offsets[f.blocks] * batch)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        block, start, stop = portion(f, task)
        for sample in range(start, stop):
            ratio = floats(f.tile + (block * batch + sample) * width * size, width)
            for e in range(offsets[block], offsets[block + 1]):
                factor = factors[e * batch + sample]
                out = floats(f.edge_values + (e * batch + sample) * width * size, width)
                for k in range(width):
                    out[k] = factor * ratio[k]
