"""From embeddings to latent values: k-means fitted on the training split, then assigned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge import processes
from pyjuice_bridge.cluster.assignments import Assignments, assign_all
from pyjuice_bridge.cluster.kmeans import kmeans
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.numbers import COUNTS, SEEDS, whole
from pyjuice_bridge.teachers.base import Embeddings, Progress

Scope = Literal["position", "pooled"]

_FIT_FLOATS = 1 << 22
"""Training floats clustered together: enough positions to fill a batch, few enough for caches."""


def cluster_embeddings(
    embeddings: Mapping[str, Embeddings],
    k: int,
    *,
    scope: Scope = "position",
    iterations: int = 20,
    restarts: int = 1,
    points_per_centroid: int = 128,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Progress | None = None,
) -> Assignments:
    """Cluster the split "train" and assign every split.

    Args:
        embeddings: per split; all with the same positions and dimension.
        k: clusters; per position, or in all when pooled.
        scope: "position" clusters every position by itself (Liu et al., ICLR 2023), "pooled"
            all positions together (Liu et al., ICML 2023).
        iterations: Lloyd iterations, at most.
        restarts: k-means++ starts to choose from.
        points_per_centroid: training vectors per cluster, at most.
        seed: of the training sample and the starts.
        device: "cpu" or "cuda".
        on_progress: called with positions done (fitted, then assigned per split) and their sum.

    Raises:
        UserError: no training split, shapes that differ, or fewer vectors than clusters.
    """
    points_per_centroid = whole("points_per_centroid", points_per_centroid, COUNTS)
    k, seed = whole("clusters", k, COUNTS), whole("seed", seed, SEEDS)
    if "train" not in embeddings:
        raise UserError('clustering needs embeddings of the split "train"')
    if scope not in ("position", "pooled"):
        raise UserError(f'the scope of clustering is "position" or "pooled", found "{scope}"')
    train = embeddings["train"]
    _, positions, _ = train.shape
    for split, each in embeddings.items():
        if each.shape[1:] != train.shape[1:]:
            raise UserError(
                f'embeddings of "{split}" have (positions, dim) {each.shape[1:]}, '
                f'those of "train" {train.shape[1:]}; use one teacher for all splits'
            )
    total = positions * (1 + len(embeddings))

    def progress(done: int) -> Progress | None:
        return (lambda part, _: on_progress(done + part, total)) if on_progress else None

    settings = {"iterations": iterations, "restarts": restarts, "device": device}
    fit = _fit_positions if scope == "position" else _fit_pooled
    centroids, inertia = fit(train, k, k * points_per_centroid, seed, settings, progress(0))
    z = {
        split: assign_all(each, centroids, device=device, on_progress=progress(positions * (i + 1)))
        for i, (split, each) in enumerate(embeddings.items())
    }
    settled = {
        "scope": scope,
        "iterations": iterations,
        "restarts": restarts,
        "points_per_centroid": points_per_centroid,
        "seed": seed,
        "inertia": float(inertia.mean()),
    }
    return Assignments(z, k, centroids, {f"cluster_{key}": value for key, value in settled.items()})


def _fit_positions(
    train: Embeddings,
    k: int,
    points: int,
    seed: int,
    settings: Mapping[str, object],
    progress: Progress | None,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Fit centroids [P, K, D], inertia [P]; the same sample of rows serves every position.

    Of several processes each clusters some of the positions.
    """
    rows, positions, dim = train.shape
    sample = _sample(np.random.default_rng(seed), rows, points)
    count = rows if isinstance(sample, slice) else len(sample)
    width = max(1, _FIT_FLOATS // max(1, count * dim))
    centroids = np.zeros((positions, k, dim), np.float32)
    inertia = np.zeros(positions)
    for piece, start in enumerate(range(0, positions, width)):
        part = slice(start, min(start + width, positions))
        if processes.mine(piece):
            x = train.read(part, sample).transpose(1, 0, 2)
            with processes.alone():
                result = kmeans(x, k, seed=seed + start, **settings)  # type: ignore[arg-type]
            centroids[part], inertia[part] = result.centroids, result.inertia
        if progress:
            progress(part.stop, positions)
    for array in (centroids, inertia):
        processes.add(torch.from_numpy(array))
    return centroids, inertia


def _fit_pooled(
    train: Embeddings,
    k: int,
    points: int,
    seed: int,
    settings: Mapping[str, object],
    progress: Progress | None,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Fit centroids [1, K, D], inertia [1], to as many vectors of every position.

    Of rows that end early (``lengths``), positions beyond the end are left out.
    """
    rows, positions, dim = train.shape
    rng = np.random.default_rng(seed)
    lengths: NDArray[np.int32] | None = getattr(train, "lengths", None)
    samples, counts = [], [0]
    for position in range(positions):
        there = np.arange(rows) if lengths is None else np.flatnonzero(lengths > position)
        sample = _sample(rng, len(there), -(-points // positions))
        samples.append(sample if len(there) == rows else there[sample])
        counts.append(len(there[sample]))
    bounds = np.cumsum(counts)
    x = np.empty((bounds[-1], dim), np.float32)
    for position, sample in enumerate(samples):
        part = train.read(slice(position, position + 1), sample)[:, 0]
        x[bounds[position] : bounds[position + 1]] = part
        if progress:
            progress(position + 1, positions)
    result = kmeans(x[None], k, seed=seed, **settings)  # type: ignore[arg-type]
    return result.centroids, result.inertia


def _sample(rng: np.random.Generator, rows: int, count: int) -> slice | NDArray[np.int64]:
    """Choose all rows, or ``count`` of them at random, in order."""
    if rows <= count:
        return slice(None)
    return np.sort(rng.choice(rows, count, replace=False))
