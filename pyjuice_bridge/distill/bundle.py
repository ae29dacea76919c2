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
        z: int [N, positions], the cluster of each patch; patches with -1 are left out.
        clusters: number of clusters K.
        max_rows: most patches taken from a cluster.
        seed: of the order.

    Returns:
        rows [R, K * D] with the dtype of ``patches``, weights float32 [R, K] of zeros and ones.

    Raises:
        UserError: shapes disagree, a cluster id is out of range, or no patch has a cluster.
    """
    if patches.ndim != 3 or patches.shape[:2] != z.shape:
        raise UserError(
            f"z: expected one cluster id for each of the patches {patches.shape[:2]}, "
            f"got shape {z.shape}."
        )
    labels = z.reshape(-1)
    if labels.size and (labels.min() < -1 or labels.max() >= clusters):
        raise UserError(f"z: cluster ids must be -1 … {clusters - 1}, got {_range(labels)}.")
    chosen = np.flatnonzero(labels >= 0)
    if not len(chosen):
        raise UserError("z: no patch has a cluster; assign clusters before training patches.")
    if max_rows is None:
        max_rows = max(256, -(-2 * len(chosen) // clusters))
    chosen = np.random.default_rng(seed).permutation(chosen)
    chosen = chosen[np.argsort(labels[chosen], kind="stable")]
    cluster = labels[chosen]
    sizes = np.bincount(cluster, minlength=clusters)
    rank = np.arange(len(chosen)) - (np.cumsum(sizes) - sizes)[cluster]
    keep = rank < max_rows
    chosen, cluster, rank = chosen[keep], cluster[keep], rank[keep]
    height, size = int(rank.max()) + 1, patches.shape[2]
    rows = np.zeros((height, clusters, size), patches.dtype)
    rows[rank, cluster] = patches.reshape(-1, size)[chosen]
    weights = np.zeros((height, clusters), np.float32)
    weights[rank, cluster] = 1
    return rows.reshape(height, clusters * size), weights


def _range(labels: NDArray[Any]) -> str:
    return f"{labels.min()} … {labels.max()}"
