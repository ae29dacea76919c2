"""Distillation with patch circuits: stages 4 to 6 of METHOD §5 for images cut into patches.

The bound Σ log p(x, z) splits into problems that share no parameter (Liu et al., ICLR 2023,
section 4): one circuit per cluster of patches, all trained in one batched pass as a *bundle*, and
one *latent circuit* over the cluster ids.  Gluing puts the two together,
log p(x, z) = log p_latent(z) + Σ_i log p_patch(x_i | z_i), and fine-tuning trains the whole on x
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.patches import glue
from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.distill.bound import bound_and_marginal
from pyjuice_bridge.engines.base import Engine, Epoch, FitOptions, FitResult, Schedule
from pyjuice_bridge.errors import UserError

LATENT_SCHEDULE = Schedule(0.1, 0.001)
"""Step sizes of latent distribution training."""


@dataclass(frozen=True)
class Labelled:
    """Rows and the values of their latents.

    Attributes:
        x: int [N, num_vars], flattened images.
        z: int [N, positions], cluster ids, -1 where unknown.
    """

    x: NDArray[Any]
    z: NDArray[Any]


@dataclass(frozen=True)
class PatchOptions:
    """How to train each stage.

    Attributes:
        patches: for the bundle; one of its rows holds a patch of every cluster.
        latent: for the latent circuit.
        fine_tune: for the glued circuit on x alone.
        max_rows: at most this many patches of a cluster are used (see ``bundle_rows``).
    """

    patches: FitOptions = field(default_factory=lambda: FitOptions(batch_size=256))
    latent: FitOptions = field(default_factory=lambda: FitOptions(step_size=LATENT_SCHEDULE))
    fine_tune: FitOptions = field(default_factory=FitOptions)
    max_rows: int | None = None


@dataclass(frozen=True)
class Stage:
    """What a stage ended with.

    ``bound`` and ``marginal`` are the mean log p(x, z) and log p(x) of the glued circuit on the
    validation rows, in nats per row; bound ≤ marginal.
    """

    name: str
    circuit: Circuit
    bound: float
    marginal: float
    history: tuple[Epoch, ...] = ()


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


def train_bundle(
    engine: Engine,
    bundle: Circuit,
    patches: NDArray[Any],
    z: NDArray[Any],
    options: FitOptions,
    *,
    max_rows: int | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> FitResult:
    """Train every patch circuit of ``bundle`` on its own cluster, all in one batched pass.

    Args:
        engine: runs the circuit.
        bundle: K roots over K disjoint copies of the D variables of a patch.
        patches: int [N, positions, D].
        z: int [N, positions], the cluster of each patch (-1: leave the patch out).
        options: a batch of b rows holds up to b patches of every cluster.
        max_rows: see ``bundle_rows``.
        checkpoint: as in ``Engine.fit``.
        on_epoch: as in ``Engine.fit``.
        on_batch: as in ``Engine.fit``.

    Raises:
        UserError: the patches do not fit the bundle, or ``z`` does not fit the patches.
    """
    clusters = len(bundle.roots)
    if patches.ndim != 3 or patches.shape[2] * clusters != bundle.num_vars:
        raise UserError(
            f"patches: expected shape [N, positions, {bundle.num_vars // clusters}] for this "
            f"bundle of {clusters} patch circuits, got {patches.shape}."
        )
    rows, weights = bundle_rows(patches, z, clusters, max_rows=max_rows, seed=options.seed)
    return engine.fit(
        bundle,
        rows,
        options,
        weights=weights,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        on_batch=on_batch,
    )


def train_latent(
    engine: Engine,
    latent: Circuit,
    z: NDArray[Any],
    options: FitOptions,
    *,
    valid: NDArray[Any] | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> FitResult:
    """Latent distribution training: fit the latent circuit to the cluster ids.

    ``z`` and ``valid`` are int [N, positions], -1 where unknown (marginalised).  The published
    step sizes are ``LATENT_SCHEDULE``.
    """
    if z.ndim != 2 or z.shape[1] != latent.num_vars:
        raise UserError(
            f"z: expected shape [N, {latent.num_vars}] for this latent circuit, got {z.shape}."
        )
    return engine.fit(
        latent,
        z,
        options,
        valid=valid,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        on_batch=on_batch,
    )


def fine_tune(
    engine: Engine,
    circuit: Circuit,
    x: NDArray[Any],
    options: FitOptions,
    *,
    valid: NDArray[Any] | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> FitResult:
    """Train the whole glued circuit, patch circuits included, on x alone (latents summed out)."""
    return engine.fit(
        circuit,
        x,
        options,
        valid=valid,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        on_batch=on_batch,
    )


def distil(
    engine: Engine,
    latent: Circuit,
    bundle: Circuit,
    patch_variables: IntArray,
    train: Labelled,
    valid: Labelled,
    options: PatchOptions,
    *,
    checkpoints: Path | None = None,
    on_epoch: Callable[[str, Epoch], None] | None = None,
) -> Iterator[Stage]:
    """Run all stages; yields the glued circuit after each: start, patches, latent, fine-tune.

    Args:
        engine: runs the circuits.
        latent: over the cluster ids, one variable per position.
        bundle: one root per cluster.
        patch_variables: int32 [positions, D], the variables of each patch.
        train: images and cluster ids to train on.
        valid: images and cluster ids on which bound and marginal are measured.
        options: of each stage.
        checkpoints: folder for one checkpoint file per stage, resumed from where present.
        on_epoch: called with the stage's name and each finished epoch.
    """

    def keep(name: str) -> tuple[Path | None, Callable[[Epoch], None]]:
        path = checkpoints / f"{name}.checkpoint" if checkpoints is not None else None
        return path, lambda epoch: on_epoch(name, epoch) if on_epoch is not None else None

    def measured(name: str, circuit: Circuit, history: tuple[Epoch, ...] = ()) -> Stage:
        bound, marginal = bound_and_marginal(engine, circuit, valid.x, valid.z)
        return Stage(name, circuit, bound, marginal, history)

    yield measured("start", glue(latent, bundle, patch_variables))

    path, report = keep("patches")
    patches = train.x[:, patch_variables]
    trained = train_bundle(
        engine,
        bundle,
        patches,
        train.z,
        options.patches,
        max_rows=options.max_rows,
        checkpoint=path,
        on_epoch=report,
    )
    bundle = trained.circuit
    del patches
    yield measured("patches", glue(latent, bundle, patch_variables), trained.history)

    path, report = keep("latent")
    trained = train_latent(
        engine, latent, train.z, options.latent, valid=valid.z, checkpoint=path, on_epoch=report
    )
    glued = glue(trained.circuit, bundle, patch_variables)
    yield measured("latent", glued, trained.history)

    path, report = keep("fine-tune")
    trained = fine_tune(
        engine, glued, train.x, options.fine_tune, valid=valid.x, checkpoint=path, on_epoch=report
    )
    yield measured("fine-tune", trained.circuit, trained.history)


def _range(labels: NDArray[Any]) -> str:
    return f"{labels.min()} … {labels.max()}"
