"""A column of a tree in float64, for what float32 cannot hold (see ``segments``)."""

from __future__ import annotations

import math

import numpy as np

from pyjuice_bridge.engines.torch.backward import LARGEST_RATIO
from pyjuice_bridge.engines.torch.fused.memory import floats, inline, ints, longs
from pyjuice_bridge.engines.torch.fused.threads import called


@inline
def count_roots(f, cluster):  # type: ignore[no-untyped-def]
    """Return how many roots a cluster has."""
    roots = longs(f.roots, f.clusters + 1)
    return roots[cluster + 1] - roots[cluster]


@inline
def _leaf_row(f, cluster, leaf, row):  # type: ignore[no-untyped-def]
    """Return a row of a leaf's table."""
    table = longs(f.tables, f.clusters * f.leaves)[cluster * f.leaves + leaf]
    return floats(table + 4 * f.width * row, f.width)


@called
def up(f, cluster, column, products, sums, roots):  # type: ignore[no-untyped-def]
    """Evaluate one column of a cluster in float64.

    Returns:
        The exponent of the power of two that ``roots`` are to be multiplied by.
    """
    width, nodes = f.width, f.nodes
    leaf_offsets, child_offsets = (
        longs(f.leaf_offsets, nodes + 1),
        longs(f.child_offsets, nodes + 1),
    )
    children = longs(f.children, nodes)
    weights = longs(f.weights, f.clusters * f.matrices)
    view = ints(longs(f.views, f.clusters)[cluster], f.leaves * f.columns)
    total = np.int64(0)
    roots[:] = 0.0
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
                return np.int64(0)
            _, exponent = math.frexp(top)
            total += exponent
            by = math.ldexp(1.0, -exponent)
            for k in range(width):
                own[k] *= by
        base = cluster * f.matrices + node
        for i in range(width if node < nodes - 1 else count_roots(f, cluster)):
            row = weights[base] + 4 * i * width if node < nodes - 1 else weights[base + i]
            matrix, value = floats(row, width), 0.0
            for j in range(width):
                value += np.float64(matrix[j]) * own[j]
            if node < nodes - 1:
                sums[node, i] = value
            else:
                roots[i] = value
    return total


@inline
def _add(counts, place, more):  # type: ignore[no-untyped-def]
    """Add to a count without its factor θ, in the range of float32."""
    total = np.float64(counts[place]) + min(more, LARGEST_RATIO)
    counts[place] = np.float32(min(total, LARGEST_RATIO))


@called
def down(  # type: ignore[no-untyped-def]
    f, cluster, counted, column, flow, stride, products, sums, roots
):
    """Count one column after ``up``, whose products become flows.

    ``counted``: whose counts they are, a cluster's or a thread's.  ``flow`` is the address of that
    into the first root; that into the next is ``stride`` bytes behind.
    """
    width, nodes = f.width, f.nodes
    leaf_offsets, parents = longs(f.leaf_offsets, nodes + 1), longs(f.parents, nodes)
    weights = longs(f.weights, f.clusters * f.matrices)
    weight_counts = longs(f.weight_counts, f.clusters * f.matrices)
    table_counts = longs(f.table_counts, f.clusters * f.leaves)
    table_base = counted * f.leaves
    view = ints(longs(f.views, f.clusters)[cluster], f.leaves * f.columns)
    passed = np.empty(width)
    for back in range(nodes):
        node = nodes - 1 - back
        own = products[node]
        matrix = weights[cluster * f.matrices + node]
        target = weight_counts[counted * f.matrices + node]
        passed[:] = 0.0
        for i in range(width if back > 0 else count_roots(f, cluster)):
            if back > 0:
                value, above = sums[node, i], products[parents[node], i]
                row, at = matrix + 4 * i * width, target + 4 * i * width
            else:
                value, above = roots[i], np.float64(floats(flow + i * stride, 1)[0])
                row = weights[cluster * f.matrices + node + i]
                at = target = weight_counts[counted * f.matrices + node + i]
            if value <= 0.0:
                continue
            ratio, thetas, counts = above / value, floats(row, width), floats(at, width)
            for j in range(width):
                if target != 0:
                    _add(counts, j, ratio * own[j])
                passed[j] += ratio * np.float64(thetas[j])
        for j in range(width):
            own[j] *= passed[j]
        for leaf in range(leaf_offsets[node], leaf_offsets[node + 1]):
            table = table_counts[table_base + leaf]
            if table != 0:
                row = np.int64(view[leaf * f.columns + column])
                counts = floats(table + 4 * width * row, width)
                for j in range(width):
                    _add(counts, j, own[j])
