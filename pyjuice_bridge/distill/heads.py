"""Which head of its cluster a patch belongs to: split, re-assign, select, re-cluster.

A patch keeps its cluster; a *head* is a root of the cluster's circuit, and a *slot* its number
inside the cluster.  Features are read a part at a time, in the order of the patches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.growing import heads_by_cluster
from pyjuice_bridge.circuit.types import IntArray
from pyjuice_bridge.teachers.base import Embeddings

Floats = NDArray[np.float32]
Parts = Callable[[], Iterator[tuple[slice, Floats]]]
"""Yields the features [m, F] of successive patches, and which patches these are."""

_FLOATS = 1 << 22
"""Numbers read or compared at a time."""
_ITERATIONS = 10
"""Of k-means inside clusters."""


@dataclass(frozen=True, eq=False)
class Heads:
    """The head of every patch.

    Attributes:
        slots: int32 [patches], the slot of each patch's head in its cluster.
        cluster: int32 [patches].
        owner: int32 [heads], the cluster of every head, ascending.
        clusters: their number.
    """

    slots: IntArray
    cluster: IntArray
    owner: IntArray
    clusters: int

    @cached_property
    def table(self) -> IntArray:
        """int32 [clusters, slots]: the heads of every cluster, -1 after the last one."""
        return heads_by_cluster(self.owner, self.clusters)

    @property
    def labels(self) -> IntArray:
        """int32 [patches]: the head of each patch."""
        labels: IntArray = self.table[self.cluster, self.slots]
        return labels

    def sizes(self) -> NDArray[np.int64]:
        """int64 [clusters, slots]: how many patches each head has."""
        return _tally(self.cluster, self.slots, self.table.shape)


@dataclass(frozen=True, eq=False)
class Growth:
    """How heads follow from those before.

    Attributes:
        of: int32 [heads], the head before that each one continues or is a second copy of.
        second: bool [heads], whether it is a second copy.
        slots: per cluster the slots before that stay, in their order; a second copy comes last.
        selected: per cluster the slots, before, whose samples are clustered anew.
        worst: int [clusters], the slot of which a second copy is made, -1 where there is none.
    """

    of: IntArray
    second: NDArray[np.bool_]
    slots: Sequence[NDArray[np.intp]]
    selected: Sequence[NDArray[np.intp]]
    worst: NDArray[np.int64]

    def owner(self, before: IntArray) -> IntArray:
        """Return the cluster of every head, from that of the heads before."""
        owner: IntArray = before[self.of]
        return owner


def features_in_parts(embeddings: Embeddings) -> Parts:
    """Read embeddings patch by patch, row-major over samples and positions."""
    rows, positions, dim = embeddings.shape
    step = max(1, _FLOATS // (positions * dim))

    def parts() -> Iterator[tuple[slice, Floats]]:
        for start in range(0, rows, step):
            found = embeddings.read(slice(None), slice(start, start + step))
            yield slice(start * positions, (start + step) * positions), found.reshape(-1, dim)

    return parts


def first_heads(features: Parts, cluster: IntArray, clusters: int, heads: int, seed: int) -> Heads:
    """Split every cluster by k-means on the features of its patches.

    A cluster of fewer patches than ``heads`` has one head for each, and at least one.
    """
    sizes = np.bincount(cluster, minlength=clusters)
    counts = np.clip(sizes, 1, heads)
    shuffled = np.random.default_rng(seed).permutation(len(cluster))
    order = shuffled[np.argsort(cluster[shuffled], kind="stable")]
    rank = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[cluster[order]]
    seeds = rank < heads
    slot = np.full(len(cluster), -1, np.int32)
    slot[order[seeds]] = rank[seeds]
    centres = group_means(features, np.where(slot >= 0, cluster, -1), slot, clusters, heads)
    owner = np.repeat(np.arange(clusters), counts).astype(np.int32)
    slots = split(features, cluster, centres)
    return Heads(np.maximum(slots, 0), cluster, owner, clusters)


def group_means(
    features: Parts, cluster: IntArray, slot: IntArray, clusters: int, slots: int
) -> NDArray[np.float64]:
    """Average features by cluster and slot, float64 [clusters, slots, F]; NaN where none are.

    Patches with a cluster or slot of -1 are left out.
    """
    sums: NDArray[np.float64] | None = None
    numbers = np.zeros(clusters * slots)
    for part, x in features():
        if sums is None:
            sums = np.zeros((clusters * slots, x.shape[1]))
        key = np.where((cluster[part] >= 0) & (slot[part] >= 0), cluster[part] * slots, -slots)
        key = key + slot[part]
        order = np.argsort(key, kind="stable")
        order = order[np.searchsorted(key[order], 0) :]
        if not len(order):
            continue
        found, first = np.unique(key[order], return_index=True)
        sums[found] += np.add.reduceat(x[order], first, axis=0, dtype=np.float64)
        numbers[found] += np.diff(np.append(first, len(order)))
    assert sums is not None
    with np.errstate(invalid="ignore"):
        means = sums / numbers[:, None]
    return means.reshape(clusters, slots, -1)


def split(features: Parts, cluster: IntArray, centres: NDArray[np.float64]) -> IntArray:
    """Run k-means inside every cluster from given centres; return slots, int32 [patches].

    Args:
        features: of all patches.
        cluster: int32 [patches], -1 for patches that take no part.
        centres: [clusters, slots, F], NaN where a cluster has no such slot.
    """
    clusters, count, _ = centres.shape
    slots = _nearest(features, cluster, centres)
    for _ in range(_ITERATIONS - 1):
        moved = group_means(features, cluster, slots, clusters, count)
        # A centre that has lost its patches stays, and may win some back.
        centres = np.where(np.isnan(moved), centres, moved)
        before, slots = slots, _nearest(features, cluster, centres)
        if np.array_equal(before, slots):
            break
    return slots


def _nearest(features: Parts, cluster: IntArray, centres: NDArray[np.float64]) -> IntArray:
    points = np.nan_to_num(centres).astype(np.float32)
    absent = np.isnan(centres).any(2)
    norms = np.where(absent, np.inf, np.square(points, dtype=np.float32).sum(2))
    slots = np.full(len(cluster), -1, np.int32)
    step = max(1, _FLOATS // points[0].size)
    for part, x in features():
        own, found = cluster[part], slots[part]
        for start in range(0, len(x), step):
            here = start + np.flatnonzero(own[start : start + step] >= 0)
            groups = own[here]
            near = norms[groups] - 2 * np.einsum("mf,msf->ms", x[here], points[groups])
            found[here] = near.argmin(1)
    return slots


def reassign(scores: Floats, slots: IntArray, reluctance: float) -> IntArray:
    """Give every patch to the head of its cluster with the highest log p, int32 [patches].

    Args:
        scores: float [patches, slots], log p under each head, -inf where there is none.
        slots: int32 [patches], the heads before.
        reluctance: nats that the head before is given.
    """
    mine = np.arange(len(slots)), slots
    better = scores.copy()
    better[mine] += reluctance
    best = better.argmax(1).astype(np.int32)
    # Equal scores, as of samples that are impossible for all, are no reason to leave.
    return np.where(better[mine] >= better.max(1), slots, best).astype(np.int32)


def head_means(heads: Heads, scores: Floats) -> NDArray[np.float64]:
    """Average the log p of every head's own patches, [clusters, slots]; NaN without patches."""
    shape, own = heads.table.shape, scores[np.arange(len(scores)), heads.slots]
    key = heads.cluster.astype(np.int64) * shape[1] + heads.slots
    sums = np.bincount(key, own.astype(np.float64), shape[0] * shape[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        means: NDArray[np.float64] = sums.reshape(shape) / heads.sizes()
    return means


def select(means: NDArray[np.float64], sizes: NDArray[np.int64], share: float) -> NDArray[np.intp]:
    """Select the heads of a cluster with the lowest mean log p.

    Args:
        means: float [slots], NaN for heads without patches, which are never selected.
        sizes: int [slots], the patches of each head.
        share: the selected heads hold more than this share of the patches.

    Returns:
        Their slots, worst first.
    """
    there = np.flatnonzero(sizes > 0)
    worst = there[np.argsort(means[there], kind="stable")]
    held = np.cumsum(sizes[worst])
    return worst[: 1 + int(np.searchsorted(held, share * sizes.sum(), side="right"))]


def plan_growth(heads: Heads, means: NDArray[np.float64], share: float, *, grow: bool) -> Growth:
    """Drop heads without patches and, where ``grow``, add one head to every cluster.

    The new head is a second copy of the one with the lowest mean log p.  A cluster with no more
    patches than heads is left as it is, and the last head of a cluster stays in any case.
    """
    sizes = heads.sizes()
    of: list[int] = []
    second: list[bool] = []
    kept, chosen = [], []
    worst = np.full(heads.clusters, -1)
    for cluster, members in enumerate(heads.table):
        stay = np.flatnonzero(sizes[cluster] > 0)
        stay = stay if len(stay) else np.zeros(1, np.intp)
        selected = select(means[cluster], sizes[cluster], share)
        of += members[stay].tolist()
        second += [False] * len(stay)
        if grow and sizes[cluster].sum() > len(stay) and sizes[cluster][selected[0]] > 1:
            worst[cluster] = selected[0]
            of.append(int(members[selected[0]]))
            second.append(True)
        kept.append(stay)
        chosen.append(selected)
    return Growth(np.array(of, np.int32), np.array(second), kept, chosen, worst)


def move(heads: Heads, growth: Growth) -> Heads:
    """Renumber the patches' heads as after a growth; new heads have no patches yet."""
    table = np.full(heads.table.shape, -1, np.int32)
    for cluster, stay in enumerate(growth.slots):
        table[cluster, stay] = np.arange(len(stay))
    slots = table[heads.cluster, heads.slots]
    return Heads(slots, heads.cluster, growth.owner(heads.owner), heads.clusters)


def recluster(features: Parts, heads: Heads, scores: Floats, growth: Growth) -> Heads:
    """Share the patches of the selected heads out among them and the new head, by k-means.

    It begins at the heads' means; the new head at that of the patches which its elder explains
    worse than on average.

    Args:
        features: of all patches.
        heads: before the growth.
        scores: float [patches, slots], log p under the heads before.
        growth: what is new.
    """
    moved = move(heads, growth)
    count = moved.table.shape[1]
    takes = np.zeros(heads.table.shape, np.bool_)
    for cluster, selected in enumerate(growth.selected):
        takes[cluster, selected] = growth.worst[cluster] >= 0
    active = takes[heads.cluster, heads.slots]
    own = scores[np.arange(len(scores)), heads.slots]
    means = head_means(heads, scores)
    elder = heads.slots == growth.worst[heads.cluster]
    poor = elder & (own < means[heads.cluster, heads.slots])
    centres = group_means(
        features, np.where(active, heads.cluster, -1), moved.slots, heads.clusters, count
    )
    last = np.array([len(stay) for stay in growth.slots], np.int32)
    fresh = group_means(
        features, np.where(poor, heads.cluster, -1), np.zeros_like(heads.slots), heads.clusters, 1
    )
    grown = np.flatnonzero(growth.worst >= 0)
    centres[grown, last[grown]] = fresh[grown, 0]
    found = split(features, np.where(active, heads.cluster, -1), centres)
    slots = np.where(active, found, moved.slots).astype(np.int32)
    return Heads(slots, moved.cluster, moved.owner, moved.clusters)


def _tally(cluster: IntArray, slots: IntArray, shape: tuple[int, ...]) -> NDArray[np.int64]:
    key = cluster.astype(np.int64) * shape[1] + slots
    return np.bincount(key, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)
