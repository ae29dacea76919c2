"""Kernels of sum layers, around their matrix products, and of M-steps."""

from __future__ import annotations

import math

import numpy as np
from numba import carray

from pyjuice_bridge.engines.torch.fused.rows import FLOAT, extremes, lessened
from pyjuice_bridge.engines.torch.fused.threads import (
    doubles,
    floats,
    frame_type,
    kernel,
    longs,
    next_task,
    pointer,
)

MIX = frame_type(
    *("blocks", "batch", "width", "chunk", "single"),
    *("offsets", "mixed", "factors", "scales", "errors", "tile", "scale", "error", "lost"),
    reals=("faint", "floor"),
)
"""Frame of ``mix`` and ``spread``; a task is ``chunk`` samples of a block.

``offsets`` int64 [blocks + 1] into the edges.  ``mixed`` float32 [edges, batch, width], what each
edge alone would give, is read by ``mix`` and written by ``spread``.  ``scales`` and ``errors``,
int64 [edges], are addresses of the log-scales and error bounds of the children (``errors`` may be
0).  ``factors`` float32 [edges, batch]: each edge's scale over the block's.  ``tile`` float32
[blocks, batch, width] is written by ``mix`` and read by ``spread``; ``scale``, ``error`` and
``lost`` are as in ``products``.  Values below ``faint`` may have lost ``floor``.  Where blocks are
``single``, with one edge each, only ``error`` is written.
"""

SUM_STEP = frame_type(
    *("rows", "width", "chunk", "theta", "count"),
    reals=("step_size", "pseudocount"),
)
"""Frame of ``sum_step``; a task is ``chunk`` rows of ``theta`` and ``count``, [rows, width]."""

INPUT_STEP = frame_type(
    *("groups", "categories", "width", "columns", "theta", "count"),
    reals=("step_size", "pseudocount"),
)
"""Frame of ``input_step``; a task is ``columns`` nodes of a group.

``theta`` and ``count`` are float32 [groups, 1 + categories, width], row 0 for missing values.
"""


@kernel
def mix(address):  # type: ignore[no-untyped-def]
    """Add up the edges of each block on one scale; bound what underflow may have taken."""
    f = carray(pointer(address), (1,), MIX)[0]
    batch, width, chunk = f.batch, f.width, f.chunk
    offsets = longs(f.offsets, f.blocks + 1)
    edges = offsets[f.blocks]
    scales, errors = longs(f.scales, edges), longs(f.errors, edges)
    factors = floats(f.factors, edges * batch)
    scale, error = doubles(f.scale, f.blocks * batch), doubles(f.error, f.blocks * batch)
    chunks = (batch + chunk - 1) // chunk
    faint = np.float32(f.faint)
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
            bound = 0.0
            if f.single != 0:
                if f.errors != 0:
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
                    term = floats(f.mixed + (e * batch + sample) * width * FLOAT, width)
                    for k in range(width):
                        out[k] += factor * term[k]
                    if f.errors != 0:
                        bound += lessened(doubles(errors[e], batch)[sample], share)
                scale[place] = common
            low, _ = extremes(at, width)
            if low < np.float32(faint).view(np.int32):
                bound += f.floor
            if bound > 0:
                f.lost = 1
            error[place] = bound


@kernel
def spread(address):  # type: ignore[no-untyped-def]
    """Flow / value of each block as that of its edges."""
    f = carray(pointer(address), (1,), MIX)[0]
    batch, width, chunk = f.batch, f.width, f.chunk
    offsets = longs(f.offsets, f.blocks + 1)
    factors = floats(f.factors, offsets[f.blocks] * batch)
    chunks = (batch + chunk - 1) // chunk
    while True:
        task = next_task(address)
        if task >= f.tasks:
            return
        block = task // chunks
        start = (task - block * chunks) * chunk
        for sample in range(start, min(batch, start + chunk)):
            ratio = floats(f.tile + (block * batch + sample) * width * FLOAT, width)
            for e in range(offsets[block], offsets[block + 1]):
                factor = factors[e * batch + sample]
                out = floats(f.mixed + (e * batch + sample) * width * FLOAT, width)
                for k in range(width):
                    out[k] = factor * ratio[k]


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
            theta = floats(f.theta + row * width * FLOAT, width)
            count = floats(f.count + row * width * FLOAT, width)
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
        base = (group * (1 + categories) * width + left) * FLOAT
        totals[:] = zero
        for row in range(1, 1 + categories):
            count = floats(f.count + base + row * width * FLOAT, size)
            for k in range(size):
                totals[k] += count[k]
        for k in range(size):
            seen = totals[k] > 0
            rates[k] = f.step_size / (totals[k] + f.pseudocount) if seen else 0.0
            keeps[k] = 1 - f.step_size if seen else 1.0
            mores[k] = rates[k] * f.pseudocount / categories
        for row in range(1 + categories):
            at = base + row * width * FLOAT
            theta, count = floats(f.theta + at, size), floats(f.count + at, size)
            if row > 0:
                for k in range(size):
                    theta[k] = keeps[k] * theta[k] + (rates[k] * count[k] + mores[k])
            for k in range(size):
                count[k] = zero
