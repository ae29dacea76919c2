"""Kernels of trees with one root (see ``trees``), evaluated depth first.

A task is some columns of one cluster: (place, sample) pairs that all read the cluster's parameters.
It is done in chunks of columns whose whole tree stays in the cache beside the parameters.  Upward
only the roots' values are written.  Downward a chunk is evaluated again, and counts are added to
where the tables are in the cache anyway.

Rows are scaled by powers of two, which add up to one exponent per column for the whole tree.  A
column in which a value underflows that is not exactly zero is evaluated again in float64, alone.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from pyjuice_bridge.engines.torch.backward import LARGEST_RATIO
from pyjuice_bridge.engines.torch.fused import lanes
from pyjuice_bridge.engines.torch.fused.memory import (
    LN2,
    doubles,
    fields,
    floats,
    inline,
    ints,
    longs,
)
from pyjuice_bridge.engines.torch.fused.threads import (
    Kernel,
    advance,
    called,
    frame_type,
    kernel,
    next_task,
    wait_for,
)
from pyjuice_bridge.engines.torch.underflow import TOLERANCE

TINY = 2.0**-126
_LEAST, _MOST = 1e-250, 1e100
"""Error bounds are between them, or zero; what reaches the latter is unknown."""
NOTHING = -(2**30)
"""Stands for the exponent of zero."""
BINS = 64
"""Flows are sorted by their exponents into so many bins: 1 and more, from a half on, ….  The last
holds what is smaller."""
_SMALL_FACTORS = 3
"""So many leaves are multiplied before the product is raised again."""

SEGMENT = frame_type(
    *("clusters", "columns", "nodes", "leaves", "width", "padded", "chunk", "part"),
    *("parents", "child_offsets", "children", "leaf_offsets"),
    *("views", "tables", "weights", "packed_up", "packed_down", "faint", "reach"),
    *("table_counts", "weight_counts", "turns"),
    *("list_offsets", "list_columns", "flows"),
    *("mantissas", "exponents", "writes", "counts", "slots", "rows", "step"),
)
"""Frame of ``segment``; a task is ``part`` columns of a cluster, in chunks of ``chunk``.

The tree, int64: ``parents`` [nodes]; ``child_offsets`` [nodes + 1] into ``children``;
``leaf_offsets`` [nodes + 1].  Of every cluster, addresses int64: ``views`` [clusters], of the rows
of tables to read, int32 [leaves, columns]; ``tables``, ``table_counts`` [clusters, leaves];
``weights``, ``weight_counts`` [clusters, nodes] (0: not counted).  ``packed_up`` and
``packed_down`` [clusters, nodes, width, padded], ``faint`` int64 [clusters, nodes] and ``reach``
int64 [clusters, nodes, padded] are ``pack``'s; but if ``slots`` is not 0, each thread packs the
cluster it is at, into a place that it takes by that counter: [threads, ...] in place of clusters.

If ``list_offsets`` is not 0, only the columns ``list_columns[list_offsets[c]:list_offsets[c + 1]]``
of cluster c are evaluated.  With ``counts``, ``flows`` go into their roots: one for each of these,
else [clusters, columns].  With ``writes``, the roots' values are ``mantissas`` times two to the
``exponents``, [clusters, columns].
``turns`` int64 [clusters, nodes], zeros: parts of a cluster take turns in counting.

With ``step``, float32 [2], η and the pseudocount, a cluster's M-step is taken as soon as it has
been counted; its tables have ``rows`` int64 [leaves].  Counts are then a thread's own, too:
``table_counts`` [threads, leaves] and ``weight_counts`` [threads, nodes], zeros before and after.
"""

PACK = frame_type(
    "nodes", "width", "padded", "weights", "packed_up", "packed_down", "faint", "reach"
)
"""Frame of ``pack``; a task is a matrix."""


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
def _pack(matrix, height, width, padded, up, down, reach):  # type: ignore[no-untyped-def]
    """Copy a matrix, also transposed, with rows of whole vectors; return 1 if it has faint numbers.

    All are addresses; of the root's matrix, which has one row, there is no transposed copy.
    """
    values, bits = floats(matrix, height * width), longs(reach, width)
    across, along = floats(up, width * padded), floats(down, width * padded)
    least = values[0]
    for i in range(height):
        alive = 0
        for j in range(width):
            value = values[i * width + j]
            least = min(least, value)
            alive |= (1 if value > 0 else 0) << j
            along[i * padded + j] = value
            if height > 1:
                across[j * padded + i] = value
        bits[i] = alive
    return 1 if least < lanes.FAINT else 0


@kernel
def pack(frame):  # type: ignore[no-untyped-def]
    """Pack all matrices."""
    f = fields(frame, PACK)
    size = 4 * f.width * f.padded
    weights, faint = longs(f.weights, f.tasks), longs(f.faint, f.tasks)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        faint[task] = _pack(
            weights[task], 1 if task % f.nodes == f.nodes - 1 else f.width, f.width, f.padded,
            f.packed_up + task * size, f.packed_down + task * size, f.reach + 8 * task * f.padded,
        )  # fmt: skip


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


@inline
def _leaf_row(f, cluster, leaf, row):  # type: ignore[no-untyped-def]
    """A row of a leaf's table."""
    table = longs(f.tables, f.clusters * f.leaves)[cluster * f.leaves + leaf]
    return floats(table + 4 * f.width * row, f.width)


@called
def _any(flags, count):  # type: ignore[no-untyped-def]
    """Whether one of the first flags is set."""
    found = np.int32(0)
    for s in range(count):
        found |= flags[s]
    return found != 0


@inline
def _kept(number):  # type: ignore[no-untyped-def]
    """Keep a number that is not zero from becoming zero or infinite, and what is huge so."""
    return number if number == 0.0 else min(max(number, _LEAST), _MOST)


@called
def _follow(products, bounds, tops, errors, count):  # type: ignore[no-untyped-def]
    """Multiply by a factor with some maxima and error bounds (``underflow.ProductLoss``)."""
    for s in range(count):
        top = np.float64(tops[s])
        unknown = bounds[s] == _MOST or errors[s] == _MOST
        unknown = unknown or (products[s] == _MOST and errors[s] > 0)
        bound = bounds[s] * (top + errors[s]) + products[s] * errors[s]
        bounds[s] = _MOST if unknown else _kept(bound)
        products[s] = _MOST if products[s] == _MOST else _kept(products[s] * top)


@called
def _lose(bounds, flagged, before, after, count):  # type: ignore[no-untyped-def]
    """Count what may have underflowed before rows were scaled and by it, on the former scale."""
    for s in range(count):
        if flagged[s] != 0:
            bounds[s] += TINY * (1.0 + math.ldexp(1.0, after[s] - before[s]))


@called
def _shift(products, bounds, before, after, count):  # type: ignore[no-untyped-def]
    """Scale as rows were scaled."""
    for s in range(count):
        factor = math.ldexp(1.0, before[s] - after[s])
        products[s] = _MOST if products[s] == _MOST else _kept(products[s] * factor)
        bounds[s] = _MOST if bounds[s] >= _MOST else _kept(bounds[s] * factor)


@called
def _exact_up(f, cluster, column, products, sums):  # type: ignore[no-untyped-def]
    """One column of a cluster in float64.

    Returns:
        The root's value as a number and the exponent of a power of two.
    """
    width, nodes = f.width, f.nodes
    leaf_offsets, child_offsets = (
        longs(f.leaf_offsets, nodes + 1),
        longs(f.child_offsets, nodes + 1),
    )
    children = longs(f.children, nodes)
    weights = longs(f.weights, f.clusters * nodes)
    view = ints(longs(f.views, f.clusters)[cluster], f.leaves * f.columns)
    total = np.int64(0)
    value = 0.0
    for node in range(nodes):
        own = products[node]
        own[:] = 1.0
        first, last = leaf_offsets[node], leaf_offsets[node + 1]
        leaves, begin = last - first, child_offsets[node]
        for e in range(leaves + child_offsets[node + 1] - begin):
            top = 0.0
            if e < leaves:
                row = np.int64(view[(first + e) * f.columns + column])
                leaf = _leaf_row(f, cluster, first + e, row)
                for k in range(width):
                    own[k] *= np.float64(leaf[k])
                    top = max(top, own[k])
            else:
                child = sums[children[begin + e - leaves]]
                for k in range(width):
                    own[k] *= child[k]
                    top = max(top, own[k])
            if top == 0.0:
                return 0.0, np.int64(0)
            _, exponent = math.frexp(top)
            total += exponent
            by = math.ldexp(1.0, -exponent)
            for k in range(width):
                own[k] *= by
        height = 1 if node == nodes - 1 else width
        matrix = floats(weights[cluster * nodes + node], height * width)
        for i in range(height):
            value = 0.0
            for j in range(width):
                value += np.float64(matrix[i * width + j]) * own[j]
            sums[node, i] = value
    value, exponent = math.frexp(value)
    return value, total + exponent


@inline
def _add(counts, place, more):  # type: ignore[no-untyped-def]
    """Add to a count without its factor θ, in the range of float32."""
    total = np.float64(counts[place]) + min(more, LARGEST_RATIO)
    counts[place] = np.float32(min(total, LARGEST_RATIO))


@called
def _exact_down(f, cluster, counted, column, flow, products, sums):  # type: ignore[no-untyped-def]
    """Count one column after ``_exact_up``, whose products become flows.

    ``counted``: whose counts they are, a cluster's or a thread's.
    """
    width, nodes = f.width, f.nodes
    leaf_offsets, parents = longs(f.leaf_offsets, nodes + 1), longs(f.parents, nodes)
    weights = longs(f.weights, f.clusters * nodes)
    weight_counts = longs(f.weight_counts, f.clusters * nodes)
    table_counts = longs(f.table_counts, f.clusters * f.leaves)
    weight_base, table_base = counted * nodes, counted * f.leaves
    view = ints(longs(f.views, f.clusters)[cluster], f.leaves * f.columns)
    passed = np.empty(width)
    for back in range(nodes):
        node = nodes - 1 - back
        own = products[node]
        height = 1 if back == 0 else width
        matrix = floats(weights[cluster * nodes + node], height * width)
        at = weight_counts[weight_base + node]
        counts = floats(at, height * width)
        passed[:] = 0.0
        for i in range(height):
            value = sums[node, i]
            if value <= 0.0:
                continue
            ratio = (flow if back == 0 else products[parents[node], i]) / value
            for j in range(width):
                if at != 0:
                    _add(counts, i * width + j, ratio * own[j])
                passed[j] += ratio * np.float64(matrix[i * width + j])
        for j in range(width):
            own[j] *= passed[j]
        for leaf in range(leaf_offsets[node], leaf_offsets[node + 1]):
            table = table_counts[table_base + leaf]
            if table != 0:
                row = np.int64(view[leaf * f.columns + column])
                counts = floats(table + 4 * width * row, width)
                for j in range(width):
                    _add(counts, j, own[j])


@cache
def segment(width: int) -> Kernel:
    """The kernel for blocks of a width: trees upward, and downward if there are counts."""
    padded = lanes.padded(width)

    def segment(frame: Any) -> None:
        f = fields(frame, SEGMENT)
        nodes, leaves, columns, chunk = f.nodes, f.leaves, f.columns, f.chunk
        size, square = 4 * chunk * padded, 4 * width * padded
        parents, children = longs(f.parents, nodes), longs(f.children, nodes)
        leaf_offsets = longs(f.leaf_offsets, nodes + 1)
        child_offsets = longs(f.child_offsets, nodes + 1)
        views, faint = longs(f.views, f.clusters), longs(f.faint, f.clusters * nodes)
        weights = longs(f.weights, f.clusters * nodes)
        tables = longs(f.tables, f.clusters * leaves)
        table_counts = longs(f.table_counts, f.clusters * leaves)
        weight_counts = longs(f.weight_counts, f.clusters * nodes)
        list_offsets = longs(f.list_offsets, f.clusters + 1)
        mantissas = floats(f.mantissas, f.clusters * columns)
        exponents = ints(f.exponents, f.clusters * columns)
        tiles = np.empty((2 * nodes + 1) * chunk * padded, np.float32)
        trash = np.empty(width * width, np.float32)
        rows_here, columns_here = np.empty(leaves * chunk, np.int32), np.empty(chunk, np.int64)
        powers, lost = np.empty(chunk, np.int32), np.empty(chunk, np.int32)
        before, flagged = np.empty(chunk, np.int32), np.empty(chunk, np.int32)
        marks, tops = np.empty(chunk, np.int64), np.empty(chunk, np.float32)
        products, bounds, nothing = np.empty(chunk), np.empty(chunk), np.zeros(chunk)
        errors = np.empty((nodes, chunk))
        roots, ratios = np.empty(chunk, np.float32), np.empty(chunk, np.float32)
        exact_products, exact_sums = np.empty((nodes, width)), np.empty((nodes, width))
        table_rows = longs(f.rows, leaves)
        own = advance(f.slots) if f.slots != 0 else 0
        while True:
            task = next_task(frame)
            if task >= f.tasks:
                return
            values = tiles.ctypes.data
            sums, ratio = values + nodes * size, values + 2 * nodes * size
            nowhere = trash.ctypes.data
            cluster, part = task % f.clusters, task // f.clusters
            first, available, entering = 0, columns, f.flows + 4 * cluster * columns
            if f.list_offsets != 0:
                first = list_offsets[cluster]
                available = list_offsets[cluster + 1] - first
                entering = f.flows + 4 * first
            turn, base = f.turns + 8 * cluster * nodes, cluster * nodes
            if f.slots != 0:
                base = own * nodes
                for node in range(nodes):
                    up, down = (
                        f.packed_up + (base + node) * square,
                        f.packed_down + (base + node) * square,
                    )
                    reach = f.reach + 8 * (base + node) * padded
                    matrix, height = (
                        weights[cluster * nodes + node],
                        1 if node == nodes - 1 else width,
                    )
                    faint[base + node] = _pack(matrix, height, width, padded, up, down, reach)
            counted = own if f.step != 0 else cluster
            for start in range(part * f.part, min(available, (part + 1) * f.part), chunk):
                count = min(chunk, available - start)
                rows, stride = views[cluster] + 4 * start, columns
                if f.list_offsets != 0:
                    listed = ints(f.list_columns + 4 * (first + start), count)
                    view = ints(views[cluster], leaves * columns)
                    for s in range(count):
                        columns_here[s] = listed[s]
                    for leaf in range(leaves):
                        for s in range(count):
                            rows_here[leaf * chunk + s] = view[leaf * columns + columns_here[s]]
                    rows, stride = rows_here.ctypes.data, chunk
                else:
                    for s in range(count):
                        columns_here[s] = start + s
                powers[:] = 0
                lost[:] = 0
                tracked = False
                for node in range(nodes):
                    out = values + node * size
                    leaf, last = leaf_offsets[node], leaf_offsets[node + 1]
                    child, end = child_offsets[node], child_offsets[node + 1]
                    large, small, fresh = 0, 0, True
                    if tracked:
                        products[:] = 1.0
                        bounds[:] = 0.0
                    while True:
                        by_leaf = leaf < last and (fresh or child == end)
                        by_child = child < end and (fresh or not by_leaf)
                        done = leaf == last and child == end
                        if done or large == 2 or (small == _SMALL_FACTORS and by_leaf):
                            before[:] = powers
                            low = lanes.rescale(width, out, powers.ctypes.data, count)
                            large, small = 1, 0
                            if low != 0:
                                marked, flags = marks.ctypes.data, flagged.ctypes.data
                                marks[:] = -1
                                flagged[:] = 0
                                for e in range(leaf_offsets[node], leaf):
                                    table = tables[cluster * leaves + e]
                                    at = rows + 4 * e * stride
                                    lanes.mark_taken(width, marked, table, at, count)
                                for e in range(child_offsets[node], child):
                                    lanes.mark(width, marked, sums + children[e] * size, count)
                                lanes.flag_low(width, flags, out, marked, count)
                                if not tracked and _any(flagged, count):
                                    tracked = True
                                    errors[:] = 0.0
                                    products[:] = 0.0
                                    bounds[:] = 0.0
                                if tracked:
                                    _lose(bounds, flagged, before, powers, count)
                            if tracked:
                                _shift(products, bounds, before, powers, count)
                        if done:
                            break
                        table = tables[cluster * leaves + leaf] if by_leaf else 0
                        at, other = rows + 4 * leaf * stride, sums
                        if by_child:
                            other += children[child] * size
                        if fresh and by_leaf and by_child:
                            lanes.take_times(width, out, table, at, other, count)
                        elif fresh and by_leaf:
                            lanes.take(width, out, table, at, count)
                        elif fresh:
                            lanes.copy(width, out, other, count)
                        elif by_leaf:
                            lanes.times_taken(width, out, table, at, count)
                        else:
                            lanes.times(width, out, other, count)
                        if by_leaf:
                            if tracked:
                                lanes.tops_taken(width, tops.ctypes.data, table, at, count)
                                _follow(products, bounds, tops, nothing, count)
                            leaf += 1
                            small += 1
                        if by_child:
                            if tracked:
                                lanes.tops(width, tops.ctypes.data, other, count)
                                _follow(products, bounds, tops, errors[children[child]], count)
                            child += 1
                            large += 1
                        fresh = False
                    for e in range(last, leaf_offsets[min(node + 2, nodes)]):
                        table = tables[cluster * leaves + e]
                        lanes.fetch(width, table, rows + 4 * e * stride, count)
                    if node < nodes - 1:
                        matrix = f.packed_up + (base + node) * square
                        lanes.product(width, sums + node * size, out, matrix, count)
                    else:
                        matrix = f.packed_down + (base + node) * square
                        lanes.dots(width, roots.ctypes.data, out, matrix, count)
                    if faint[base + node] != 0:
                        flagged[:] = 0
                        if node < nodes - 1:
                            lanes.flag_faint(
                                width, flagged.ctypes.data, sums + node * size, out,
                                f.reach + 8 * (base + node) * padded, count,
                            )  # fmt: skip
                        else:
                            for s in range(count):
                                flagged[s] = np.int32(roots[s] < lanes.FAINT)
                        if not tracked and _any(flagged, count):
                            tracked = True
                            errors[:] = 0.0
                            bounds[:] = 0.0
                        if tracked:
                            for s in range(count):
                                bounds[s] += flagged[s] * width * TINY
                    if tracked:
                        errors[node] = bounds
                if tracked:
                    for s in range(count):
                        lost[s] = np.int32(bounds[s] > TOLERANCE * np.float64(roots[s]))
                some_lost = 0
                for s in range(count):
                    some_lost |= lost[s]
                if f.writes != 0:
                    for s in range(count):
                        place = cluster * columns + columns_here[s]
                        mantissas[place], exponents[place] = roots[s], powers[s]
                if f.counts == 0 and some_lost == 0:
                    continue
                if f.counts != 0:
                    flows = floats(entering + 4 * start, count)
                    for s in range(count):
                        found = roots[s] if roots[s] > TINY else np.float32(TINY)
                        ratios[s] = flows[s] / found if lost[s] == 0 else np.float32(0)
                if some_lost != 0:
                    if f.counts != 0 and f.turns != 0:
                        wait_for(turn, part)
                    for s in range(count):
                        if lost[s] == 0:
                            continue
                        column = columns_here[s]
                        value, power = _exact_up(f, cluster, column, exact_products, exact_sums)
                        if f.writes != 0:
                            place = cluster * columns + column
                            mantissas[place], exponents[place] = value, power
                        if f.counts != 0 and value > 0:
                            flow = np.float64(floats(entering + 4 * start, count)[s])
                            _exact_down(
                                f, cluster, counted, column, flow, exact_products, exact_sums
                            )
                if f.counts == 0:
                    continue
                for back in range(nodes):
                    node = nodes - 1 - back
                    out = values + node * size
                    if f.turns != 0:
                        wait_for(turn + 8 * node, part)
                    matrix = f.packed_down + (base + node) * square
                    for leaf in range(leaf_offsets[node], leaf_offsets[node + 1]):
                        table = table_counts[counted * leaves + leaf]
                        if table != 0:
                            lanes.fetch(width, table, rows + 4 * leaf * stride, count)
                    target = weight_counts[counted * nodes + node]
                    if target == 0:
                        target = nowhere
                    if back == 0:
                        lanes.spread_dots(width, out, matrix, ratios.ctypes.data, target, count)
                    else:
                        flow = values + parents[node] * size
                        lanes.ratio(width, ratio, flow, sums + node * size, count)
                        lanes.add_outer(width, target, ratio, out, count)
                        lanes.times_product(width, out, ratio, matrix, count)
                    for leaf in range(leaf_offsets[node], leaf_offsets[node + 1]):
                        table = table_counts[counted * leaves + leaf]
                        if table != 0:
                            at = rows + 4 * leaf * stride
                            lanes.add_taken(width, table, at, out, count)
                    if f.turns != 0:
                        advance(turn + 8 * node)
            if f.step == 0 or available == 0:
                continue
            for leaf in range(leaves):
                table, counts = tables[cluster * leaves + leaf], table_counts[own * leaves + leaf]
                lanes.step_table(width, table, counts, f.step, table_rows[leaf])
            for node in range(nodes):
                matrix, counts = weights[cluster * nodes + node], weight_counts[own * nodes + node]
                lanes.step_rows(width, matrix, counts, f.step, 1 if node == nodes - 1 else width)

    # Machine code that is kept is found by its name, in one process beside that for other widths.
    segment.__name__ = segment.__qualname__ = f"segment_{width}"
    return kernel(segment)
