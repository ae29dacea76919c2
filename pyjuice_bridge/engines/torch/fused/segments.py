"""Kernels of trees (see ``trees``), evaluated depth first.

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

from pyjuice_bridge.engines.torch.fused import exact, lanes, losses
from pyjuice_bridge.engines.torch.fused.memory import fields, floats, inline, ints, longs
from pyjuice_bridge.engines.torch.fused.threads import (
    Kernel,
    advance,
    frame_type,
    kernel,
    next_task,
    wait_for,
)
from pyjuice_bridge.engines.torch.fused.vectors import LINE, TINY, row_size
from pyjuice_bridge.engines.torch.underflow import TOLERANCE

_SMALL_FACTORS = 3
"""So many leaves are multiplied before the product is raised again."""

SEGMENT = frame_type(
    *("clusters", "columns", "nodes", "leaves", "matrices", "width", "padded"),
    *("chunk", "part", "hot", "roots"),
    *("parents", "child_offsets", "children", "leaf_offsets"),
    *("views", "tables", "weights", "packed_up", "packed_down", "faint", "reach"),
    *("table_counts", "weight_counts", "turns"),
    *("list_offsets", "list_columns", "flow_offsets", "flows"),
    *("mantissas", "exponents", "writes", "counts", "slots", "rows", "step"),
)
"""Frame of ``segment``; a task is ``part`` columns of a cluster, in chunks of ``chunk``.
Tables are in the second cache after ``hot`` columns.

The tree, int64: ``parents`` [nodes]; ``child_offsets`` [nodes + 1] into ``children``;
``leaf_offsets`` [nodes + 1]; ``roots`` [clusters + 1], where those of a cluster begin.  Of every
cluster, addresses int64: ``views`` [clusters], of the rows of tables to read, int32 [leaves,
columns]; ``tables``, ``table_counts`` [clusters, leaves]; ``weights``, ``weight_counts`` [clusters,
matrices], those of the roots last (0: not counted, or no such root).  ``packed_up`` and
``packed_down`` [clusters, matrices, width, padded], ``faint`` int64 [clusters, matrices] and
``reach`` int64 [clusters, matrices, padded] are ``pack``'s; but if ``slots`` is not 0, each thread
packs the cluster it is at, into a place that it takes by that counter: [threads, ...] in place of
clusters.

If ``list_offsets`` is not 0, only the columns ``list_columns[list_offsets[c]:list_offsets[c + 1]]``
of cluster c are evaluated.  With ``counts``, ``flows`` go into its roots: [its roots, these], from
``flow_offsets[c]`` on; else [roots, columns].  With ``writes``, the roots' values are ``mantissas``
times two to the ``exponents``, [roots, columns].
``turns`` int64 [clusters, nodes], zeros: parts of a cluster take turns in counting.

With ``step``, float32 [2], η and the pseudocount, a cluster's M-step is taken as soon as it has
been counted; its tables have ``rows`` int64 [leaves].  Counts are then a thread's own, too:
``table_counts`` [threads, leaves] and ``weight_counts`` [threads, matrices], zeros before and
after.
"""

PACK = frame_type(
    *("nodes", "matrices", "width", "padded"),
    *("weights", "packed_up", "packed_down", "faint", "reach"),
)
"""Frame of ``pack``; a task is a matrix."""


@inline
def _pack(matrix, height, width, padded, up, down, reach):  # type: ignore[no-untyped-def]
    """Copy a matrix, also transposed, with rows of whole vectors; return 1 if it has faint numbers.

    All are addresses.
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
        if weights[task] != 0:
            faint[task] = _pack(
                weights[task], f.width if task % f.matrices < f.nodes - 1 else 1,
                f.width, f.padded, f.packed_up + task * size, f.packed_down + task * size,
                f.reach + 8 * task * f.padded,
            )  # fmt: skip


@cache
def segment(width: int) -> Kernel:
    """Compile the kernel for blocks of a width: trees upward, and downward if there are counts."""
    padded = row_size(width)

    def segment(frame: Any) -> None:
        f = fields(frame, SEGMENT)
        nodes, leaves, columns, chunk = f.nodes, f.leaves, f.columns, f.chunk
        top, matrices, most = nodes - 1, f.matrices, f.matrices - nodes + 1
        size, square = 4 * chunk * padded, 4 * width * padded
        parents, children = longs(f.parents, nodes), longs(f.children, nodes)
        leaf_offsets = longs(f.leaf_offsets, nodes + 1)
        child_offsets = longs(f.child_offsets, nodes + 1)
        views, faint = longs(f.views, f.clusters), longs(f.faint, f.clusters * matrices)
        weights = longs(f.weights, f.clusters * matrices)
        tables = longs(f.tables, f.clusters * leaves)
        table_counts = longs(f.table_counts, f.clusters * leaves)
        weight_counts = longs(f.weight_counts, f.clusters * matrices)
        list_offsets = longs(f.list_offsets, f.clusters + 1)
        flow_offsets, first_root = longs(f.flow_offsets, f.clusters), longs(f.roots, f.clusters)
        mantissas = floats(f.mantissas, f.clusters * most * columns)
        exponents = ints(f.exponents, f.clusters * most * columns)
        tiles = np.empty((2 * nodes + 1) * chunk * padded + LINE // 4, np.float32)
        trash = np.empty(width * width, np.float32)
        rows_here, columns_here = np.empty(leaves * chunk, np.int32), np.empty(chunk, np.int64)
        powers, lost = np.empty(chunk, np.int32), np.empty(chunk, np.int32)
        before, flagged = np.empty(chunk, np.int32), np.empty(chunk, np.int32)
        marks, tops = np.empty(chunk, np.int64), np.empty(chunk, np.float32)
        products, bounds, nothing = np.empty(chunk), np.empty(chunk), np.zeros(chunk)
        errors = np.empty((nodes, chunk))
        roots, ratios = np.empty(most * chunk, np.float32), np.empty(most * chunk, np.float32)
        exact_products, exact_sums = np.empty((nodes, width)), np.empty((nodes, width))
        exact_roots = np.empty(most)
        table_rows = longs(f.rows, leaves)
        own = advance(f.slots) if f.slots != 0 else 0
        while True:
            task = next_task(frame)
            if task >= f.tasks:
                return
            values = (tiles.ctypes.data + LINE - 1) & -LINE
            sums, ratio = values + nodes * size, values + 2 * nodes * size
            nowhere = trash.ctypes.data
            cluster, part = task % f.clusters, task // f.clusters
            heads = exact.count_roots(f, cluster)
            first, available, entering = 0, columns, f.flows + 4 * first_root[cluster] * columns
            if f.list_offsets != 0:
                first = list_offsets[cluster]
                available = list_offsets[cluster + 1] - first
                entering = f.flows + 4 * flow_offsets[cluster]
            turn, base = f.turns + 8 * cluster * nodes, cluster * matrices
            if f.slots != 0:
                base = own * matrices
                for matrix in range(top + heads if available > 0 else 0):
                    height, number = width if matrix < top else 1, base + matrix
                    faint[number] = _pack(
                        weights[cluster * matrices + matrix], height, width, padded,
                        f.packed_up + number * square, f.packed_down + number * square,
                        f.reach + 8 * number * padded,
                    )  # fmt: skip
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
                                if not tracked and losses.any_set(flagged, count):
                                    tracked = True
                                    errors[:] = 0.0
                                    products[:] = 0.0
                                    bounds[:] = 0.0
                                if tracked:
                                    losses.lose(bounds, flagged, before, powers, count)
                            if tracked:
                                losses.shift(products, bounds, before, powers, count)
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
                                losses.follow(products, bounds, tops, nothing, count)
                            leaf += 1
                            small += 1
                        if by_child:
                            if tracked:
                                lanes.tops(width, tops.ctypes.data, other, count)
                                losses.follow(
                                    products, bounds, tops, errors[children[child]], count
                                )
                            child += 1
                            large += 1
                        fresh = False
                    soon = leaf_offsets[min(node + 2, nodes)] if start < f.hot else last
                    for e in range(last, soon):
                        table = tables[cluster * leaves + e]
                        lanes.fetch(width, table, rows + 4 * e * stride, count)
                    some_faint = np.int64(0)
                    if node < top:
                        matrix = f.packed_up + (base + node) * square
                        lanes.product(width, sums + node * size, out, matrix, count)
                        some_faint = faint[base + node]
                    else:
                        for head in range(heads):
                            matrix = f.packed_down + (base + node + head) * square
                            at = roots.ctypes.data + 4 * head * chunk
                            lanes.dots(width, at, out, matrix, count)
                            some_faint |= faint[base + node + head]
                    if some_faint != 0:
                        flagged[:] = 0
                        if node < top:
                            lanes.flag_faint(
                                width, flagged.ctypes.data, sums + node * size, out,
                                f.reach + 8 * (base + node) * padded, count,
                            )  # fmt: skip
                        else:
                            for head in range(heads):
                                for s in range(count):
                                    low = roots[head * chunk + s] < lanes.FAINT
                                    flagged[s] |= np.int32(low)
                        if not tracked and losses.any_set(flagged, count):
                            tracked = True
                            errors[:] = 0.0
                            bounds[:] = 0.0
                        if tracked:
                            for s in range(count):
                                bounds[s] += flagged[s] * width * TINY
                    if tracked:
                        errors[node] = bounds
                for head in range(heads if tracked else 0):
                    for s in range(count):
                        needed = f.counts == 0
                        if not needed:
                            needed = floats(entering + 4 * (head * available + start + s), 1)[0] > 0
                        value = np.float64(roots[head * chunk + s])
                        lost[s] |= np.int32(needed and bounds[s] > TOLERANCE * value)
                some_lost = 0
                for s in range(count):
                    some_lost |= lost[s]
                for head in range(heads if f.writes != 0 else 0):
                    for s in range(count):
                        place = (first_root[cluster] + head) * columns + columns_here[s]
                        mantissas[place], exponents[place] = roots[head * chunk + s], powers[s]
                if f.counts == 0 and some_lost == 0:
                    continue
                for head in range(heads if f.counts != 0 else 0):
                    flows = floats(entering + 4 * (head * available + start), count)
                    for s in range(count):
                        root = max(roots[head * chunk + s], np.float32(TINY))
                        ratios[head * chunk + s] = (
                            flows[s] / root if lost[s] == 0 else np.float32(0)
                        )
                if some_lost != 0:
                    if f.counts != 0 and f.turns != 0:
                        wait_for(turn, part)
                    for s in range(count):
                        if lost[s] == 0:
                            continue
                        column = columns_here[s]
                        power = exact.up(
                            f, cluster, column, exact_products, exact_sums, exact_roots
                        )
                        for head in range(heads if f.writes != 0 else 0):
                            place = (first_root[cluster] + head) * columns + column
                            mantissa, own_power = math.frexp(exact_roots[head])
                            mantissas[place], exponents[place] = mantissa, power + own_power
                        if f.counts != 0:
                            exact.down(
                                f, cluster, counted, column, entering + 4 * (start + s),
                                4 * available, exact_products, exact_sums, exact_roots,
                            )  # fmt: skip
                if f.counts == 0:
                    continue
                for back in range(nodes):
                    node = top - back
                    out = values + node * size
                    if f.turns != 0:
                        wait_for(turn + 8 * node, part)
                    matrix = f.packed_down + (base + node) * square
                    for leaf in range(leaf_offsets[node], leaf_offsets[node + 1]):
                        table = table_counts[counted * leaves + leaf]
                        if table != 0:
                            lanes.fetch(width, table, rows + 4 * leaf * stride, count)
                    if back > 0:
                        target = weight_counts[counted * matrices + node]
                        if target == 0:
                            target = nowhere
                        flow = values + parents[node] * size
                        lanes.ratio(width, ratio, flow, sums + node * size, count)
                        lanes.add_outer(width, target, ratio, out, count)
                        lanes.times_product(width, out, ratio, matrix, count)
                    else:
                        floats(ratio, count * padded)[:] = np.float32(0)
                        for head in range(heads):
                            target = weight_counts[counted * matrices + node + head]
                            if target == 0:
                                target = nowhere
                            given = ratios.ctypes.data + 4 * head * chunk
                            lanes.add_spread(
                                width, ratio, out, matrix + head * square, given, target, count
                            )
                        lanes.times_finite(width, out, ratio, count)
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
            for number in range(top + heads):
                matrix = weights[cluster * matrices + number]
                counts, height = weight_counts[own * matrices + number], 1
                if number < top:
                    height = width
                lanes.step_rows(width, matrix, counts, f.step, height)

    # Machine code that is kept is found by its name, in one process beside that for other widths.
    segment.__name__ = segment.__qualname__ = f"segment_{width}"
    return kernel(segment)
