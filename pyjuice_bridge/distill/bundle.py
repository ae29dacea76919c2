"""Patches dealt out by cluster, so that a bundle of patch circuits trains in one batched pass.

The bound Σ log p(x, z) splits into problems that share no parameter (Liu et al., ICLR 2023,
section 4): one circuit per cluster of patches, all of them a *bundle*, and one *latent circuit*
over the cluster ids.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError


def bundle_rows(
    patches: NDArray[Any],
    z: NDArray[Any],
    clusters: int,
    *,
    owner: NDArray[np.integer[Any]] | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Deal patches out so that one row holds one patch of every cluster.

    Row r holds the r-th patch (in random order) of each cluster; where a cluster has run out its
    variables are 0 and its weight is 0.  A cluster with more patches than ``max_rows`` gives a
    random subset, the same one in every epoch.  Without ``max_rows`` the limit is twice the mean
    cluster size, at least 256, which bounds the work to twice that of seeing every patch.

    Args:
        patches: int [N, positions, D].
        z: int [N, positions], the root that each patch belongs to; patches with -1 are left out.
        clusters: number of clusters K.
        owner: int [roots], the cluster of every root; None where root j is that of cluster j.
        max_rows: most patches taken from a cluster.
        seed: of the order.

    Returns:
        rows [R, K * D] with the dtype of ``patches``, weights float32 [R, roots] of zeros and ones.

    Raises:
        UserError: shapes disagree, a root is out of range, or no patch has one.
    """
    if patches.ndim != 3 or patches.shape[:2] != z.shape:
        raise UserError(
            f"z: expected one cluster id for each of the patches {patches.shape[:2]}, "
            f"got shape {z.shape}."
        )
    if owner is None:
        owner = np.arange(clusters)
    labels, count = z.reshape(-1), len(owner)
    if labels.size and (labels.min() < -1 or labels.max() >= count):
        raise UserError(f"z: cluster ids must be -1 … {count - 1}, got {_range(labels)}.")
    cluster_of = np.where(labels >= 0, owner[labels], -1)
    if max_rows is None:
        max_rows = max(256, -(-2 * int((labels >= 0).sum()) // clusters))
    dealt = deal(cluster_of, clusters, max_rows=max_rows, seed=seed)
    weights = np.zeros((len(dealt), count), np.float32)
    row, cluster = np.nonzero(dealt >= 0)
    weights[row, labels[dealt[row, cluster]]] = 1
    return take(patches, dealt), weights


def deal(
    cluster: NDArray[np.integer[Any]], clusters: int, *, max_rows: int | None, seed: int
) -> NDArray[np.int64]:
    """Deal samples out by cluster: int64 [R, K], the sample of every row and cluster, or -1.

    Args:
        cluster: int [n], -1 for samples that are left out.
        clusters: their number K.
        max_rows: most samples taken from a cluster (None: all).
        seed: of the order.

    Raises:
        UserError: no sample has a cluster.
    """
    chosen = np.flatnonzero(cluster >= 0)
    if not len(chosen):
        raise UserError("z: no patch has a cluster; assign clusters before training patches.")
    chosen = np.random.default_rng(seed).permutation(chosen)
    chosen = chosen[np.argsort(cluster[chosen], kind="stable")]
    own = cluster[chosen]
    sizes = np.bincount(own, minlength=clusters)
    rank = np.arange(len(chosen)) - (np.cumsum(sizes) - sizes)[own]
    keep = rank < (len(rank) if max_rows is None else max_rows)
    dealt = np.full((int(rank[keep].max()) + 1, clusters), -1, np.int64)
    dealt[rank[keep], own[keep]] = chosen[keep]
    return dealt


def take(patches: NDArray[Any], dealt: NDArray[np.int64]) -> NDArray[Any]:
    """Return the rows [R, K * D] of dealt patches [N, positions, D], 0 where there is none."""
    size = patches.shape[2]
    rows = patches.reshape(-1, size)[np.maximum(dealt, 0)]
    rows[dealt < 0] = 0
    return rows.reshape(len(dealt), -1)


def _range(labels: NDArray[Any]) -> str:
    return f"{labels.min()} … {labels.max()}"
