"""K-means for many positions at once: Lloyd's iterations as batched matrix products.

Every position of an image has its own vectors and its own centroids (Liu et al.,
ICLR 2023, section 4), so the natural problem is a batch of P independent k-means.  Starts are
k-means++ on a random subset of the points; the best start per position is then refined on all
of them.  Memory beyond the points themselves is bounded by one tile of scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyjuice_bridge import processes
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.numbers import COUNTS, SEEDS, whole

POINTS_PER_START = 32
"""Points per centroid that a start is made and judged on."""

_TILE = 1 << 21
"""Scores (points x centroids, over all positions of a batch) held at a time on a CPU."""

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class KMeansResult:
    """Centroids and how well they fit.

    Attributes:
        centroids: float32 [P, K, D], or [K, D] when a single problem was given.
        inertia: float64 [P], or [] for a single problem: the mean squared distance of the
            points to their nearest centroid.
    """

    centroids: FloatArray
    inertia: NDArray[np.float64]


def kmeans(
    x: NDArray[Any],
    k: int,
    *,
    iterations: int = 20,
    restarts: int = 1,
    seed: int = 0,
    device: str = "cpu",
) -> KMeansResult:
    """Run k-means on ``x``, float [N, D] or P independent problems [P, N, D].

    Half of the ``iterations`` run on 32 points per centroid for each of the ``restarts``; the
    start of lowest inertia gets the other half on all points.  Iterations end early when one
    lowers the inertia by less than a thousandth.  Where a position has fewer distinct points
    than ``k``, the surplus centroids repeat others and own no points.

    Raises:
        UserError: fewer points than clusters, or values that are not finite.
    """
    single = x.ndim == 2
    points = torch.as_tensor(x[None] if single else x, dtype=torch.float32).to(device)
    k, iterations, restarts = (
        whole(f"k-means: {name}", value, COUNTS)
        for name, value in (("k", k), ("iterations", iterations), ("restarts", restarts))
    )
    seed = whole("k-means: seed", seed, SEEDS)
    _check(points, k)
    mean = points.mean(1, keepdim=True)
    points = points - mean
    floor = points.square().sum(-1).mean(1) * 1e-6 + mean.square().sum(-1)[:, 0] * 1e-12
    generator = torch.Generator().manual_seed(seed)
    best, lowest = _best_start(points, floor, k, iterations // 2, restarts, generator)
    if iterations - iterations // 2 > 0:
        best, lowest = _lloyd(points, best, floor, iterations - iterations // 2)
    centroids = (best + mean).cpu().numpy()
    inertia = lowest.cpu().numpy()
    return KMeansResult(*((centroids[0], inertia[0]) if single else (centroids, inertia)))


def assign(x: NDArray[Any], centroids: FloatArray, *, device: str = "cpu") -> IntArray:
    """Find the nearest centroid of every point.

    Args:
        x: float [N, D] or [P, N, D].
        centroids: float32 [K, D] or [P, K, D]; one set (P = 1) serves every position.
        device: where to compute.

    Returns:
        int32 [N] or [P, N].
    """
    single = x.ndim == 2
    points = torch.as_tensor(x[None] if single else x, dtype=torch.float32).to(device)
    centres = torch.as_tensor(centroids, dtype=torch.float32).to(device)
    centres = centres[None] if centres.ndim == 2 else centres
    if points.shape[2] != centres.shape[2] or centres.shape[0] not in (1, points.shape[0]):
        raise UserError(
            f"the vectors have shape {list(points.shape)} (positions, points, dimensions) but the "
            f"centroids have shape {list(centres.shape)}; use the teacher they were made with"
        )
    shift = centres.mean(1, keepdim=True)
    centres = (centres - shift).expand(points.shape[0], -1, -1)
    points = points - shift
    index, _ = _nearest(points, points.new_zeros(points.shape[:2]), centres)
    result: IntArray = index.to(torch.int32).cpu().numpy()
    return result[0] if single else result


def _check(points: Tensor, k: int) -> None:
    if points.ndim != 3:
        raise UserError(f"k-means wants 2 or 3 axes, found {points.ndim}")
    if points.shape[1] < k:
        raise UserError(
            f"{points.shape[1]} points cannot fill {k} clusters; ask for fewer clusters"
        )
    if not bool(torch.isfinite(points.sum(dtype=torch.float64))):
        raise UserError("the vectors to cluster hold NaN or infinite values; check the teacher")


def _best_start(
    x: Tensor, floor: Tensor, k: int, iterations: int, restarts: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose the best of ``restarts`` k-means++ starts per position, on one subset of points."""
    size = min(x.shape[1], POINTS_PER_START * k)
    rows = torch.randperm(x.shape[1], generator=generator)[:size].to(x.device)
    subset = x[:, rows]
    best, lowest = None, None
    for _ in range(restarts):
        start = _plus_plus(subset, k, generator)
        centres, inertia = _lloyd(subset, start, floor, iterations)
        if best is None or lowest is None:
            best, lowest = centres, inertia
            continue
        better = inertia < lowest
        best = torch.where(better[:, None, None], centres, best)
        lowest = torch.where(better, inertia, lowest)
    assert best is not None and lowest is not None
    return best, lowest


def _plus_plus(x: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw k-means++ seeds, each with probability proportional to squared distance."""
    positions, n, dim = x.shape
    uniform = torch.rand(k, positions, 1, generator=generator).to(x.device)
    norm = x.square().sum(-1)
    nearest: Tensor | None = None
    centres = x.new_empty(positions, k, dim)
    for j in range(k):
        if nearest is None:
            pick = (uniform[0] * n).long()
        else:
            total = nearest.cumsum(-1)
            pick = torch.searchsorted(total, uniform[j] * total[:, -1:], right=True)
        centre = x.gather(1, pick.clamp_(max=n - 1)[..., None].expand(-1, -1, dim))
        centres[:, j] = centre[:, 0]
        gap = norm + centre.square().sum(-1)
        gap = torch.baddbmm(gap[..., None], x, centre.transpose(1, 2), alpha=-2)[..., 0]
        gap.clamp_(min=0).scatter_(1, pick, 0.0)
        nearest = gap if nearest is None else torch.minimum(nearest, gap, out=nearest)
    return centres


def _lloyd(
    x: Tensor, centres: Tensor, floor: Tensor, iterations: int, tolerance: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Take at most ``iterations`` Lloyd steps; return the final centres and inertia [P].

    A centroid without points moves to the point farthest from its own centroid, unless that
    point is nearer than ``floor`` (squared, [P]): then there is nothing left to split.  Stops
    when no position's inertia fell by more than ``tolerance`` of itself.
    """
    norm = x.square().sum(-1)
    index, distance = _all_nearest(x, norm, centres)
    inertia = distance.mean(1, dtype=torch.float64)
    for _ in range(iterations):
        moved, empty = _means(x, index, centres)
        if bool(empty.any()):
            moved = _reseed(x, moved, empty, distance, floor)
        centres = moved
        index, distance = _all_nearest(x, norm, centres)
        before, inertia = inertia, distance.mean(1, dtype=torch.float64)
        if bool((before - inertia <= tolerance * before).all()):
            break
    return centres, inertia


def _all_nearest(x: Tensor, norm: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest of ``centres``; each process looks at its part of the points."""
    count = x.shape[1]
    own = processes.part(count)
    index, distance = _nearest(x[:, own], norm[:, own], centres)
    return processes.gather(index, count, 1), processes.gather(distance, count, 1)


def _nearest(x: Tensor, norm: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the index [P, N] of the nearest of ``centres`` [P, K, D], and its squared distance.

    ``norm`` [P, N] is the squared length of the points.
    """
    positions, n, _ = x.shape
    index = torch.empty(positions, n, dtype=torch.int64, device=x.device)
    best = x.new_empty(positions, n)
    half = centres.square().sum(-1)[:, None]
    weights = centres.transpose(1, 2)
    tile = _TILE if x.device.type == "cpu" else _TILE << 4
    step = max(64, tile // (positions * centres.shape[1]))
    for start in range(0, n, step):
        part = slice(start, start + step)
        score = torch.baddbmm(half, x[:, part], weights, beta=-0.5)
        best[:, part], index[:, part] = score.max(-1)
    return index, torch.add(norm, best, alpha=-2).clamp_(min=0)


def _means(x: Tensor, index: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of every centroid's points, and which centroids have none (they stay)."""
    positions, k, dim = centres.shape
    offset = torch.arange(positions, device=x.device)[:, None] * k
    flat = (index + offset).reshape(-1)
    count = torch.bincount(flat, minlength=positions * k).view(positions, k, 1)
    if x.device.type == "cpu":
        total = x.new_zeros(positions * k, dim)
        total.index_add_(0, flat, x.reshape(-1, dim))
        total = total.view(positions, k, dim)
    else:
        total = _sums_by_product(x, index, k)
    empty = count == 0
    return torch.where(empty, centres, total / count.clamp(min=1)), empty[..., 0]


def _sums_by_product(x: Tensor, index: Tensor, k: int) -> Tensor:
    """Sum the points of every centroid, as a product with a one-hot matrix.

    Atomic adds on a GPU come in any order; this gives the same bits every time.
    """
    positions, n, dim = x.shape
    total = x.new_zeros(positions, k, dim)
    step = max(64, (_TILE << 4) // (positions * k))
    for start in range(0, n, step):
        part = slice(start, start + step)
        chosen = index[:, None, part] == torch.arange(k, device=x.device)[None, :, None]
        total.baddbmm_(chosen.to(x.dtype), x[:, part])
    return total


def _reseed(x: Tensor, centres: Tensor, empty: Tensor, distance: Tensor, floor: Tensor) -> Tensor:
    """Move the ``empty`` centroids of a position to its farthest points, one each."""
    most = int(empty.sum(1).max())
    far, where = distance.topk(most, dim=1)
    rank = (empty.cumsum(1) - 1).clamp_(min=0, max=most - 1)
    worthwhile = empty & (far.gather(1, rank) > floor[:, None])
    chosen = where.gather(1, rank)
    points = x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2]))
    return torch.where(worthwhile[..., None], points, centres)
