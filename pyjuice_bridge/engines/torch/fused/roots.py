"""Kernels of the roots of trees (see ``trees``): side by side upward, listed with flow downward."""

from __future__ import annotations

import numpy as np

from pyjuice_bridge.engines.torch.fused.memory import (
    LN2,
    doubles,
    fields,
    floats,
    inline,
    ints,
    longs,
)
from pyjuice_bridge.engines.torch.fused.threads import frame_type, kernel, next_task
from pyjuice_bridge.engines.torch.fused.vectors import TINY

NOTHING = -(2**30)
"""Stands for the exponent of zero."""
BINS = 64
"""Flows are sorted by their exponents into so many bins: 1 and more, from a half on, ….  The last
holds what is smaller."""

GATHER = frame_type(
    *("blocks", "batch", "slots", "lift"),
    *("numbers", "sources", "mantissas", "exponents", "mask", "tile", "scale", "error", "lost"),
)
"""Frame of ``gather``; a task is a block.

``numbers`` int64 [blocks]: the target's blocks.  ``sources`` int64 [blocks, slots]: where the
values of a slot's ``batch`` columns begin.  ``mask``
[blocks, batch, slots] (0: none) multiplies them.  Written as by the kernels of ``products``:
``tile`` [blocks, batch, slots], ``scale`` and ``error`` float64 [blocks, batch], the flag ``lost``.
"""

SELECT = frame_type(
    *("clusters", "columns", "step", "roots", "flow", "fill", "numbers", "sums", "cuts"),
    *("list_offsets", "list_columns", "flow_offsets", "list_flows"),
)
"""Frame of ``select``; a task is ``step`` columns of a cluster.

``roots`` int64 [clusters + 1], where a cluster's roots begin.  First, a cluster's columns are
sorted by the exponent of the ``flow`` [roots, columns] into all of its roots into ``BINS``:
``numbers`` int64 and ``sums`` float64 [tasks, BINS], how many there are and their flow.  Then, if
``fill``, those in the first ``cuts`` int64 [clusters] bins are written: from ``numbers`` [tasks] on
to ``list_columns``, of which ``list_offsets`` int64 [clusters + 1] are a cluster's; and from
``flow_offsets`` int64 [clusters + 1] on a cluster's flows to ``list_flows`` [its roots, listed].
"""


@inline
def _weighed(value, power, part):  # type: ignore[no-untyped-def]
    """Multiply a root by ``part``: the bits of a number, and its exponent as a power of two.

    The value is given by its bits and a power of two; that of zero is ``NOTHING``.
    """
    if value <= 0 or part == 0:
        return np.int32(0), np.int32(NOTHING)
    own = value >> 23
    value = (value & 0x7FFFFF) | np.int32(127 << 23)
    if part != 1:
        value = np.float32(np.int32(value).view(np.float32) * part).view(np.int32)
    return np.int32(value), np.int32(power + own + (value >> 23) - 127)


@kernel
def gather(frame):  # type: ignore[no-untyped-def]
    """Roots side by side, on one scale."""
    f = fields(frame, GATHER)
    batch, slots = f.batch, f.slots
    sources = longs(f.sources, f.blocks * slots)
    tops, one = np.empty(batch, np.int32), np.float32(1)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        block = longs(f.numbers, f.blocks)[task]
        tile = ints(f.tile + 4 * block * batch * slots, batch * slots)
        mask = floats(f.mask + 4 * task * batch * slots, batch * slots)
        scale = doubles(f.scale + 8 * block * batch, batch)
        error = doubles(f.error + 8 * block * batch, batch)
        tops[:] = NOTHING
        error[:] = 0.0
        for slot in range(slots):
            at = 4 * sources[task * slots + slot]
            values, powers = ints(f.mantissas + at, batch), ints(f.exponents + at, batch)
            for n in range(batch):
                part = mask[n * slots + slot] if f.mask != 0 else one
                _, power = _weighed(values[n], powers[n], part)
                tops[n] = max(tops[n], power)
        for slot in range(slots):
            at = 4 * sources[task * slots + slot]
            values, powers = ints(f.mantissas + at, batch), ints(f.exponents + at, batch)
            for n in range(batch):
                part = mask[n * slots + slot] if f.mask != 0 else one
                value, power = _weighed(values[n], powers[n], part)
                power += np.int32(f.lift + 127) - tops[n]
                if value == 0:
                    tile[n * slots + slot] = 0
                elif power <= 0:
                    tile[n * slots + slot] = 0
                    error[n] = TINY
                else:
                    tile[n * slots + slot] = (value & 0x7FFFFF) | (power << 23)
        for n in range(batch):
            scale[n] = -np.inf
            if tops[n] > NOTHING:
                scale[n] = (np.float64(tops[n]) - 127 - f.lift) * LN2
            if error[n] > 0:
                longs(f.lost, 1)[0] = 1


@kernel
def select(frame):  # type: ignore[no-untyped-def]
    """List by cluster the columns that flow enters."""
    f = fields(frame, SELECT)
    columns, roots = f.columns, longs(f.roots, f.clusters + 1)
    cuts, starts = longs(f.cuts, f.clusters), longs(f.numbers, f.tasks)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        cluster, first = task % f.clusters, task // f.clusters * f.step
        numbers = longs(f.numbers + 8 * task * BINS, BINS)
        sums = doubles(f.sums + 8 * task * BINS, BINS)
        count = roots[cluster + 1] - roots[cluster]
        flow = floats(f.flow + 4 * roots[cluster] * columns, count * columns)
        at, size, to, to_flows = 0, 0, f.list_columns, f.list_flows
        if f.fill != 0:
            begin = longs(f.list_offsets, f.clusters + 1)
            at, size = starts[task] - begin[cluster], begin[cluster + 1] - begin[cluster]
            to += 4 * begin[cluster]
            to_flows += 4 * longs(f.flow_offsets, f.clusters + 1)[cluster]
        listed, flows = ints(to, size), floats(to_flows, count * size)
        for column in range(first, min(columns, first + f.step)):
            total = flow[column]
            for root in range(1, count):
                total += flow[root * columns + column]
            if not total > 0:
                continue
            place = min(max(127 - (np.float32(total).view(np.int32) >> 23), 0), BINS - 1)
            if f.fill == 0:
                numbers[place] += 1
                sums[place] += total
            elif place < cuts[cluster]:
                listed[at] = column
                for root in range(count):
                    flows[root * size + at] = flow[root * columns + column]
                at += 1
