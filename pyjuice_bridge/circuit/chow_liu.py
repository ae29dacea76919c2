"""Chow-Liu trees: maximum spanning trees of pairwise mutual information.

Mutual information comes from joint counts of binned values.  Counts are integers and bin borders
are decided in integer arithmetic; the result is rounded to 1e-6 nats and equal values are settled
by index, so the same rows give the same tree on every machine (Chow & Liu, *Approximating Discrete
Probability Distributions with Dependence Trees*, 1968).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.hclt import category_array
from pyjuice_bridge.circuit.types import MISSING, IntArray
from pyjuice_bridge.errors import UserError

OnPair = Callable[[int, int], None]
"""Called with (pairs of variables done, pairs in all)."""

_CELLS = 1 << 17
"""Entries of the joint tables turned into information together."""
_VALUES = 1 << 22
"""Data values handled together."""
_DECIMALS = 6


def chow_liu_tree(
    x: NDArray[Any],
    categories: ArrayLike,
    *,
    bins: int = 16,
    pseudocount: float = 1.0,
    rows: int | None = None,
    seed: int = 0,
    on_pair: OnPair | None = None,
) -> IntArray:
    """Learn the Chow-Liu tree of ``x``, rooted at its centre: parents, int32 [n], -1 at the root.

    The arguments are those of :func:`mutual_information`.
    """
    information = mutual_information(
        x,
        categories,
        bins=bins,
        pseudocount=pseudocount,
        rows=rows,
        seed=seed,
        on_pair=on_pair,
    )
    return maximum_spanning_tree(information)


def mutual_information(
    x: NDArray[Any],
    categories: ArrayLike,
    *,
    bins: int = 16,
    pseudocount: float = 1.0,
    rows: int | None = None,
    seed: int = 0,
    on_pair: OnPair | None = None,
) -> NDArray[np.float64]:
    """Estimate the mutual information of every pair of variables, in nats.

    A variable with more than ``bins`` values is binned: going through its values in order, a bin is
    closed when it holds its share of the rows not yet binned, so a very frequent value (the black
    of a digit's background) has a bin of its own and the others share the rest.  Bins join
    neighbouring values: for values without an order, such as cluster ids, let ``bins`` be the
    number of categories.

    Args:
        x: int [N, n], -1 where a value is missing; a pair counts the rows where both are present.
        categories: number of values of each variable, one number or int [n].
        bins: most bins per variable; 32 cost twice the time of 16, for trees that are no better
            (MNIST and Fashion-MNIST, 4,500 rows).
        pseudocount: rows of the uniform distribution mixed into each joint table.
        rows: estimate from this many rows, drawn without replacement by ``seed`` (None: all).
        seed: of the row sample.
        on_pair: is called after the pairs of every variable.

    Returns:
        float64 [n, n], symmetric, rounded to 1e-6, zero on the diagonal.

    Raises:
        UserError: ``x`` is not two-dimensional, is empty, or holds values out of range.
    """
    x = _check_rows(x)
    sizes = category_array(categories, x.shape[1])
    if bins < 1 or pseudocount < 0:
        raise UserError("bins must be at least 1 and pseudocount at least 0.")
    codes, used, missing = _binned(sample_rows(x, rows, seed), sizes, bins)
    return _pairwise(codes, used, missing, pseudocount, on_pair)


def sample_rows(x: NDArray[Any], rows: int | None, seed: int) -> NDArray[Any]:
    """Draw at most ``rows`` rows of ``x`` by ``seed``, in their order (None: all)."""
    if rows is None or rows >= len(x):
        return x
    chosen = np.random.default_rng(seed).choice(len(x), rows, replace=False)
    return x[np.sort(chosen)]


def maximum_spanning_tree(weights: NDArray[np.float64]) -> IntArray:
    """Find the spanning tree of greatest total weight, rooted at its centre.

    Prim's algorithm from node 0; equal weights go to the lowest index.  The centre is the node of
    least eccentricity, the lowest index of two.

    Args:
        weights: float [n, n], symmetric.

    Returns:
        parents, int32 [n], -1 at the root.
    """
    n = len(weights)
    if weights.shape != (n, n) or n == 0 or not np.isfinite(weights).all():
        raise UserError("weights must be a square array of finite numbers.")
    parents = np.zeros(n, np.int32)
    best = np.array(weights[0], np.float64)
    best[0] = -np.inf
    outside = np.ones(n, bool)
    outside[0] = False
    for _ in range(n - 1):
        node = int(np.argmax(best))
        outside[node] = False
        best[node] = -np.inf
        closer = outside & (weights[node] > best)
        best[closer] = weights[node][closer]
        parents[closer] = node
    parents[0] = -1
    return _rooted_at_centre(parents)


def _rooted_at_centre(parents: IntArray) -> IntArray:
    """Root the tree in the middle of a longest path."""
    neighbours: list[list[int]] = [[] for _ in parents]
    for node, parent in enumerate(parents.tolist()):
        if parent >= 0:
            neighbours[node].append(parent)
            neighbours[parent].append(node)
    far = _walk(neighbours, 0)[0][-1]
    order, above = _walk(neighbours, far)
    path = [order[-1]]
    while above[path[-1]] >= 0:
        path.append(above[path[-1]])
    middle = min(path[(len(path) - 1) // 2], path[len(path) // 2])
    return np.array(_walk(neighbours, middle)[1], np.int32)


def _walk(neighbours: list[list[int]], start: int) -> tuple[list[int], list[int]]:
    """Return the breadth-first order from ``start`` and each node's parent in it."""
    above = [-2] * len(neighbours)
    above[start] = -1
    order = [start]
    for node in order:
        for other in neighbours[node]:
            if above[other] == -2:
                above[other] = node
                order.append(other)
    return order, above


def _check_rows(x: NDArray[Any]) -> NDArray[Any]:
    x = np.asarray(x)
    if x.ndim != 2 or x.size == 0 or x.dtype.kind not in "iu":
        raise UserError("x must be a non-empty integer array of shape [rows, variables].")
    return x


def _chunks(rows: int, per_row: int, budget: int) -> list[slice]:
    step = max(1, budget // per_row)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _binned(
    x: NDArray[Any], sizes: IntArray, bins: int
) -> tuple[NDArray[Any], IntArray, NDArray[np.bool_]]:
    """Return bin ids [n, N], each variable's number of bins, and which variables miss values.

    A missing value has the id just above the variable's last bin.
    """
    n, widest = len(sizes), int(sizes.max())
    counts = np.zeros(n * (widest + 1), np.int64)
    offsets = np.arange(n) * (widest + 1) + 1
    for rows in _chunks(len(x), n, _VALUES):
        part = x[rows].astype(np.int64)
        wrong = (part < MISSING) | (part >= sizes)
        if wrong.any():
            variable = int(np.flatnonzero(wrong.any(axis=0))[0])
            raise UserError(
                f"x holds values outside 0..{sizes[variable] - 1} (or -1, missing) "
                f"for variable {variable}."
            )
        counts += np.bincount((part + offsets).ravel(), minlength=counts.size)
    table = counts.reshape(n, widest + 1)
    bin_of, used = _bin_borders(table[:, 1:], sizes, bins)
    small = used.max() < 255
    codes = np.empty(x.shape[::-1], np.uint8 if small else np.uint32)
    lookup = np.concatenate([used[:, None], bin_of], axis=1).astype(codes.dtype).ravel()
    for rows in _chunks(len(x), n, _VALUES):
        codes[:, rows] = lookup[x[rows].astype(np.int64) + offsets].T
    return codes, used, table[:, 0] > 0


def _bin_borders(
    counts: NDArray[np.int64], sizes: IntArray, bins: int
) -> tuple[NDArray[np.int64], IntArray]:
    """Return the bin of every value, int64 [n, C], and each variable's number of bins."""
    n, widest = counts.shape
    bin_of = np.broadcast_to(np.arange(widest), (n, widest)).copy()
    many = sizes > bins
    if not many.any():
        return bin_of, sizes.copy()
    held = counts[many]
    current = np.zeros(len(held), np.int64)
    filled = np.zeros(len(held), np.int64)
    left = held.sum(axis=1)
    out = np.empty_like(held)
    for value in range(widest):
        out[:, value] = current
        filled += held[:, value]
        close = (filled > 0) & (filled * (bins - current) >= left) & (left > filled)
        left -= np.where(close, filled, 0)
        filled[close] = 0
        current += close
    bin_of[many] = out
    used = sizes.copy()
    used[many] = current + 1
    return bin_of, used


def _pairwise(
    codes: NDArray[Any],
    used: IntArray,
    missing: NDArray[np.bool_],
    pseudocount: float,
    on_pair: OnPair | None,
) -> NDArray[np.float64]:
    """Compute the mutual information of all pairs from the bin ids."""
    slots = int((used + missing).max())
    margins = np.stack([np.bincount(column, minlength=slots) for column in codes])
    mode = margins.argmax(axis=1)
    order = np.argsort(-margins.max(axis=1), kind="stable")
    tile = max(1, _CELLS // slots**2)
    upper = np.zeros((len(codes), len(codes)))
    pairs = len(codes) * (len(codes) - 1) // 2
    for i, variable in enumerate(order):
        rare = np.flatnonzero(codes[variable] != mode[variable])
        left = codes[variable, rare].astype(np.int64) * slots
        for start in range(i + 1, len(order), tile):
            others = order[start : start + tile]
            joint = _joint(codes, others, rare, left, slots)
            joint[:, mode[variable]] = margins[others] - joint.sum(axis=1)
            upper[i, start : start + tile] = _information(
                joint[:, : used[variable]], used[others], pseudocount
            )
        if on_pair is not None:
            rest = len(order) - 1 - i
            on_pair(pairs - rest * (rest - 1) // 2, pairs)
    upper = upper.clip(min=0).round(_DECIMALS)
    result = np.empty_like(upper)
    result[np.ix_(order, order)] = upper + upper.T
    return result


def _joint(
    codes: NDArray[Any],
    others: NDArray[np.int64],
    rare: NDArray[np.int64],
    left: NDArray[np.int64],
    slots: int,
) -> NDArray[np.int64]:
    """Count the values of one variable jointly with the variables ``others``.

    ``left`` is the variable's bin times ``slots`` at the rows ``rare``, which leave its commonest
    bin out: the counts of that bin follow from the margins, and on images with a flat background
    most of the work is saved.  One table of at most a few thousand counts at a time stays in the
    first-level cache; that beats one-hot matrix products, whose cost grows with the bins squared.

    Returns:
        int64 [others, slots, slots]: variable, its bin, the other's bin.
    """
    counts = np.empty((len(others), slots * slots), np.int64)
    values = np.empty(len(rare), codes.dtype)
    ids = np.empty(len(rare), np.int64)
    for row, other in zip(counts, others, strict=True):
        np.take(codes[other], rare, out=values, mode="clip")
        np.add(left, values, out=ids)
        row[:] = np.bincount(ids, minlength=slots * slots)
    return counts.reshape(len(others), slots, slots)


def _information(
    joint: NDArray[np.int64], used: IntArray, pseudocount: float
) -> NDArray[np.float64]:
    """Compute the mutual information of smoothed tables ``joint`` [columns, bins, slots]."""
    bins = joint.shape[1]
    real = np.arange(joint.shape[2]) < used[:, None]
    table = (
        np.where(real, pseudocount / (bins * used[:, None]), 0.0)[:, None, :]
        + joint * real[:, None, :]
    )
    total = table.sum(axis=(1, 2))
    cells = _x_log_x(table).sum(axis=(1, 2))
    margins = _x_log_x(table.sum(axis=1)).sum(axis=1) + _x_log_x(table.sum(axis=2)).sum(axis=1)
    out: NDArray[np.float64] = cells - margins + _x_log_x(total)
    out /= np.where(total > 0, total, 1.0)
    return out


def _x_log_x(x: NDArray[Any]) -> NDArray[np.float64]:
    """Compute x log x, zero at zero."""
    out: NDArray[np.float64] = np.zeros_like(x)
    np.log(x, out=out, where=x > 0)
    out *= x
    return out
