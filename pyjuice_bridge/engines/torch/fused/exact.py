"""A column of a tree in float64, for what float32 cannot hold (see ``segments``)."""

from __future__ import annotations

import math

import numpy as np

from pyjuice_bridge.engines.torch.backward import LARGEST_RATIO
from pyjuice_bridge.engines.torch.fused.memory import floats, inline, ints, longs
from pyjuice_bridge.engines.torch.fused.threads import called


@inline
def _leaf_row(f, cluster, leaf, row):  # type: ignore[no-untyped-def]
    """A row of a leaf's table."""
    table = longs(f.tables, f.clusters * f.leaves)[cluster * f.leaves + leaf]
    return floats(table + 4 * f.width * row, f.width)


@called
def up(f, cluster, column, products, sums):  # type: ignore[no-untyped-def]
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
def down(f, cluster, counted, column, flow, products, sums):  # type: ignore[no-untyped-def]
    """Count one column after ``up``, whose products become flows.

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
