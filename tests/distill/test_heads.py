"""Heads of clusters: k-means inside clusters, re-assignment, selection, growth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.distill.heads import (
    Heads,
    Parts,
    features_in_parts,
    first_heads,
    group_means,
    head_means,
    move,
    plan_growth,
    reassign,
    recluster,
    select,
    split,
)
from pyjuice_bridge.teachers.base import ArrayEmbeddings


def in_parts(x: np.ndarray, step: int = 7) -> Parts:
    """Yield vectors a few at a time."""

    def parts() -> Iterator[tuple[slice, np.ndarray]]:
        for start in range(0, len(x), step):
            yield slice(start, start + step), x[start : start + step].astype(np.float32)

    return parts


def ids(values: object) -> np.ndarray:
    return np.asarray(values, np.int32)


def random_state(seed: int) -> tuple[Heads, np.ndarray]:
    """Heads of three clusters (2, 1 and 3 of them) and scores, -inf where there is no head."""
    rng = np.random.default_rng(seed)
    counts = np.array([2, 1, 3])
    cluster = ids(rng.integers(0, 3, 60))
    slots = ids(rng.integers(0, counts[cluster]))
    scores = rng.normal(size=(60, 3)).astype(np.float32)
    scores[np.arange(3) >= counts[cluster][:, None]] = -np.inf
    return Heads(slots, cluster, ids(np.repeat(np.arange(3), counts)), 3), scores


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), reluctance=st.sampled_from([0.0, 0.5, 1.0]))
def test_reassigning_never_lowers_the_likelihood(seed: int, reluctance: float) -> None:
    """A patch moves exactly if another head is better by more than the reluctance."""
    heads, scores = random_state(seed)
    slots = reassign(scores, heads.slots, reluctance)
    every = np.arange(len(scores))
    before, after = scores[every, heads.slots], scores[every, slots]
    assert (after >= before).all()
    gain = scores.max(1) - before
    np.testing.assert_array_equal(slots != heads.slots, gain > reluctance)
    np.testing.assert_array_equal(after[slots != heads.slots], scores.max(1)[gain > reluctance])


def test_a_patch_that_is_impossible_everywhere_stays() -> None:
    scores = np.full((2, 3), -np.inf, np.float32)
    assert reassign(scores, ids([2, 1]), 0.0).tolist() == [2, 1]


def test_a_group_is_selected_worst_first() -> None:
    means, sizes = np.array([-1.0, -3.0, np.nan, -2.0]), np.array([50, 10, 0, 40])
    assert select(means, sizes, 0.4).tolist() == [1, 3]
    assert select(means, sizes, 0.05).tolist() == [1]
    assert select(means, sizes, 0.5).tolist() == [1, 3, 0]
    assert select(np.full(2, np.nan), np.zeros(2, int), 0.4).tolist() == []


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), step=st.integers(1, 40))
def test_k_means_inside_clusters_is_k_means_of_each(seed: int, step: int) -> None:
    rng = np.random.default_rng(seed)
    x, cluster = rng.normal(size=(40, 3)), ids(rng.integers(-1, 3, 40))
    centres = rng.normal(size=(3, 2, 3))
    centres[2, 1] = np.nan
    found = split(in_parts(x, step), cluster, centres)
    assert (found[cluster < 0] == -1).all() and (found[cluster == 2] == 0).all()
    for own in range(2):
        points, middle = x[cluster == own], centres[own]
        for _ in range(10):
            near = ((points[:, None] - middle) ** 2).sum(2).argmin(1)
            there = [(near == s).any() for s in range(2)]
            middle = np.array(
                [points[near == s].mean(0) if there[s] else middle[s] for s in range(2)]
            )
        np.testing.assert_array_equal(found[cluster == own], near)


def test_means_by_group_are_means() -> None:
    x = np.arange(12.0).reshape(6, 2)
    means = group_means(in_parts(x, 4), ids([0, 0, 1, -1, 1, 0]), ids([0, 1, 1, 0, 1, 0]), 3, 2)
    np.testing.assert_array_equal(means[0], [[5, 6], [2, 3]])
    np.testing.assert_array_equal(means[1], [[np.nan, np.nan], [6, 7]])
    assert np.isnan(means[2]).all()


def test_first_heads_of_clusters_of_any_size() -> None:
    """No patch, one patch, two groups apart, and copies of one vector."""
    x = np.array([[0.0], [0], [9], [9], [9], [5], [1], [1], [1]])
    cluster = ids([1, 1, 1, 1, 1, 2, 3, 3, 3])
    heads = first_heads(in_parts(x), cluster, 4, 2, seed=0)
    assert heads.owner.tolist() == [0, 1, 1, 2, 3, 3]
    sizes = heads.sizes()
    assert sizes.sum(1).tolist() == [0, 5, 1, 3]
    assert sorted(sizes[1].tolist()) == [2, 3] and sizes[3].max() == 3
    assert (heads.owner[heads.labels] == cluster).all()


def test_features_are_read_in_the_order_of_patches() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    found = [part for _, part in features_in_parts(ArrayEmbeddings(x))()]
    np.testing.assert_array_equal(np.concatenate(found), x.reshape(-1, 2))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000))
def test_growth_adds_one_head_to_every_cluster_that_can_share_patches(seed: int) -> None:
    heads, scores = random_state(seed)
    growth = plan_growth(heads, head_means(heads, scores), 0.4, grow=True)
    sizes, means = heads.sizes(), head_means(heads, scores)
    owner = growth.owner(heads.owner)
    assert (np.diff(owner) >= 0).all()
    used = (sizes > 0).sum(1)
    grows = sizes[np.arange(3), np.nanargmin(means, axis=1)] > 1
    assert np.bincount(owner).tolist() == (used + grows).tolist()
    for cluster in np.flatnonzero(grows):
        worst = growth.worst[cluster]
        assert means[cluster, worst] == np.nanmin(means[cluster])
        mine = np.flatnonzero(owner == cluster)
        assert growth.second[mine].tolist() == [False] * (len(mine) - 1) + [True]
        assert growth.of[mine[-1]] == heads.table[cluster, worst]
        assert sizes[cluster, growth.selected[cluster]].sum() > 0.4 * sizes[cluster].sum()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000))
def test_only_the_selected_are_clustered_anew(seed: int) -> None:
    heads, scores = random_state(seed)
    x = np.random.default_rng(seed + 1).normal(size=(60, 2))
    growth = plan_growth(heads, head_means(heads, scores), 0.4, grow=True)
    after = recluster(in_parts(x), heads, scores, growth)
    assert (after.cluster == heads.cluster).all()
    assert (after.owner[after.labels] == heads.cluster).all()
    old = growth.of[after.labels]
    for cluster in range(3):
        mine = heads.cluster == cluster
        chosen = heads.table[cluster, growth.selected[cluster]]
        stays = mine & ~np.isin(heads.labels, chosen)
        np.testing.assert_array_equal(old[stays], heads.labels[stays])
        assert np.isin(old[mine & ~stays], chosen).all()


def test_the_new_head_takes_what_its_elder_explains_badly() -> None:
    """Two clumps at one head: the worse one becomes the new head's."""
    x = np.array([[0.0]] * 6 + [[8.0]] * 4)
    heads = Heads(ids([0] * 10), ids([0] * 10), ids([0]), 1)
    scores = np.array([[-1.0]] * 6 + [[-5.0]] * 4, np.float32)
    growth = plan_growth(heads, head_means(heads, scores), 0.4, grow=True)
    assert recluster(in_parts(x), heads, scores, growth).slots.tolist() == [0] * 6 + [1] * 4


def test_heads_without_patches_are_dropped_and_the_last_stays() -> None:
    """Cluster 0 has lost its first head; cluster 1 never had a patch, cluster 2 has one."""
    heads = Heads(ids([1, 1, 0]), ids([0, 0, 2]), ids([0, 0, 1, 1, 2]), 3)
    scores = np.array([[-9, -1], [-9, -2], [-1, -np.inf]], np.float32)
    growth = plan_growth(heads, head_means(heads, scores), 0.4, grow=True)
    assert growth.of.tolist() == [1, 1, 2, 4]
    assert growth.second.tolist() == [False, True, False, False]
    assert growth.worst.tolist() == [1, -1, -1]
    last = plan_growth(heads, head_means(heads, scores), 0.4, grow=False)
    assert last.of.tolist() == [1, 2, 4] and not last.second.any()
    assert move(heads, last).labels.tolist() == [0, 0, 2]


def test_copies_of_one_patch_cannot_be_split() -> None:
    x = np.ones((4, 2))
    heads = Heads(ids([0] * 4), ids([0] * 4), ids([0]), 1)
    scores = np.full((4, 1), -0.1, np.float32)
    growth = plan_growth(heads, head_means(heads, scores), 0.4, grow=True)
    after = recluster(in_parts(x), heads, scores, growth)
    assert after.owner.tolist() == [0, 0] and after.sizes().max() == 4
