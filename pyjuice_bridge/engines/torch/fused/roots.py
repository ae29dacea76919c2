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
    *("rows", "batch", "slots", "clusters", "step"),
    *("members", "flow", "fill", "numbers", "sums", "cuts", "list_columns", "list_flows"),
)
"""Frame of ``select``; a task is ``step`` of the ``rows``, which are (block, sample) pairs.

``members`` int64 [blocks, slots, 2], by slot the cluster and the place.  First, a cluster's columns
are sorted by the exponent of their ``flow`` [rows, slots] into ``BINS``: ``numbers`` int64 and
``sums`` float64 [tasks, clusters, BINS], how many there are and their flow.  Then, if ``fill``,
those in the first ``cuts`` int64 [clusters] bins are written to ``list_columns`` and
``list_flows``, from ``numbers`` [tasks, clusters] on.
"""


@inline
def _weighed(value, power, part):  # type: ignore[no-untyped-def]
    """A root times ``part``: the bits of a number, and its exponent as a power of two.

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
    slots = f.slots
    members = longs(f.members, (f.rows // f.batch) * slots * 2)
    cuts = longs(f.cuts, f.clusters)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        starts = longs(f.numbers + 8 * task * f.clusters, f.clusters)
        numbers = longs(f.numbers + 8 * task * f.clusters * BINS, f.clusters * BINS)
        sums = doubles(f.sums + 8 * task * f.clusters * BINS, f.clusters * BINS)
        for row in range(task * f.step, min(f.rows, (task + 1) * f.step)):
            flow = floats(f.flow + 4 * row * slots, slots)
            bits = ints(f.flow + 4 * row * slots, slots)
            block, sample = row // f.batch, row % f.batch
            for slot in range(slots):
                if not flow[slot] > 0:
                    continue
                member = 2 * (block * slots + slot)
                cluster, place = members[member], members[member + 1]
                size = min(max(127 - (bits[slot] >> 23), 0), BINS - 1)
                if f.fill == 0:
                    numbers[cluster * BINS + size] += 1
                    sums[cluster * BINS + size] += flow[slot]
                elif size < cuts[cluster]:
                    at = starts[cluster]
                    starts[cluster] += 1
                    ints(f.list_columns + 4 * at, 1)[0] = place * f.batch + sample
                    floats(f.list_flows + 4 * at, 1)[0] = flow[slot]
