"""From a teacher to latent values: embeddings, then clusters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.cluster.assignments import FILE, Assignments
from pyjuice_bridge.cluster.cluster import cluster_embeddings
from pyjuice_bridge.distill.features import Features, features_of
from pyjuice_bridge.domains.base import Context, Samples
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.stages.store import Artifact
from pyjuice_bridge.teachers.base import Embeddings
from pyjuice_bridge.teachers.file import FileSection, load_cluster_ids


@dataclass(frozen=True, eq=False)
class LatentValues:
    """Cluster ids per sample and position.

    Attributes:
        z: per split int32 [N, positions], -1 after the end of a window of text.
        artifact: holds ``assignments.h5``.
    """

    z: Mapping[str, NDArray[np.int32]]
    artifact: Artifact


def latents(
    context: Context, clusters: int, positions: Sequence[int], *, patch: int = 1
) -> LatentValues:
    """Cluster the teacher's embeddings, or read the user's cluster ids.

    Args:
        context: of the run.
        clusters: the number of values of a latent variable.
        positions: how many positions of a sample the circuit can take latent values for.
        patch: side of a patch of an image in pixels, 1 where positions are pixels.

    Raises:
        UserError: the teacher, its embeddings or the ids do not fit the data or the circuit.
    """
    section, samples = context.config.teacher, context.data.samples
    if isinstance(section, FileSection) and section.assignments is not None:
        return _given(context, clusters, positions, section.assignments)
    artifact = _clustered(context, clusters, features_of(context, patch))
    z = Assignments.load(artifact.path / FILE).z
    _check(context, positions, z, "the teacher")
    return LatentValues(_ended(samples, z), artifact)


def _clustered(context: Context, clusters: int, features: Features) -> Artifact:
    config, settings = context.config, context.config.cluster.model_dump()
    inputs = {
        "features": features.key,
        "cluster": settings,
        "clusters": clusters,
        "seed": config.seed,
    }

    def build(folder: Path) -> None:
        embeddings = features.embeddings()
        _check_points(context, embeddings["train"], clusters)
        with context.reporter.task(f"clusters ({clusters:,})") as tick:
            found = cluster_embeddings(
                embeddings,
                clusters,
                **settings,
                seed=config.seed,
                device=context.engine.device,
                on_progress=tick,
            )
        facts = {f"teacher_{name}": value for name, value in features.facts.items()}
        attributes = {**found.attributes, **facts}
        Assignments(found.z, clusters, found.centroids, attributes).save(folder / FILE)

    parents = features.parents
    return context.store.stage("clusters", 3, inputs, build, parents=parents, together=True)


def _check_points(context: Context, embeddings: Embeddings, clusters: int) -> None:
    """Refuse more clusters than there are vectors to fill them with."""
    samples = context.data.samples
    rows, positions, _ = embeddings.shape
    points, unit = rows * positions, "points to cluster"
    if context.config.cluster.scope == "position":
        points = rows
    elif samples.lengths is not None:
        points, unit = int(samples.lengths["train"].sum()), "tokens"
    if points >= clusters:
        return
    field = _field(context.config.circuit)
    fewer = f"set 'circuit.{field}' to at most {points:,}, or " if points >= 2 else ""
    raise UserError(
        f"the {rows:,} training {samples.noun} hold {points:,} {unit}, which cannot fill "
        f"{clusters:,} clusters; {fewer}train on more {samples.noun}"
    )


def _field(section: object) -> str:
    """Name the field that says how many clusters there are."""
    return next(name for name in ("latents", "clusters", "states") if hasattr(section, name))


def _given(context: Context, clusters: int, positions: Sequence[int], path: str) -> LatentValues:
    """Read the user's own cluster ids."""
    samples = context.data.samples
    z = load_cluster_ids(path, missing=samples.lengths is not None)
    z = {split: ids for split, ids in z.items() if split in samples.splits}
    most = max((int(ids.max(initial=0)) for ids in z.values()), default=0) + 1
    if most > clusters:
        field = _field(context.config.circuit)
        raise UserError(
            f"{path} has {most} clusters, but 'circuit.{field}' is {clusters}; set it to {most}"
        )
    _check(context, positions, z, path)
    for split, ids in z.items():
        there = _ended(samples, {split: np.zeros_like(ids)})[split] >= 0
        if (ids[there] < 0).any():
            raise UserError(f"{path} gives -1 for positions of {split} {samples.noun} that count")
        z[split] = np.where(there, ids, 0).astype(np.int32)
    digests = {split: hashlib.sha256(ids.tobytes()).hexdigest() for split, ids in z.items()}
    inputs = {"given": digests, "shape": list(z["train"].shape), "clusters": clusters}

    def build(folder: Path) -> None:
        Assignments(z, clusters, None, {"teacher_path": path}).save(folder / FILE)

    artifact = context.store.stage("clusters", 3, inputs, build)
    return LatentValues(_ended(samples, z), artifact)


def _ended(samples: Samples, z: Mapping[str, NDArray[np.int32]]) -> dict[str, NDArray[np.int32]]:
    """Replace ids after the end of a sample by -1."""
    if samples.lengths is None:
        return dict(z)
    return {
        split: np.where(
            np.arange(ids.shape[1]) < samples.lengths[split][:, None], ids, np.int32(-1)
        )
        for split, ids in z.items()
    }


def _check(
    context: Context, positions: Sequence[int], z: Mapping[str, NDArray[np.int32]], where: str
) -> None:
    """Refuse ids that do not fit the samples or the circuit."""
    samples, circuit = context.data.samples, context.config.circuit
    for split in ("train", "valid"):
        if split not in z:
            raise UserError(f"{where} gives no cluster ids for the {split} {samples.noun}")
    for split, ids in z.items():
        rows = len(samples.splits[split])
        if len(ids) != rows:
            raise UserError(
                f"{where} gives {len(ids)} rows of cluster ids for {rows} {split} {samples.noun}"
            )
        if ids.shape[1] not in positions:
            numbers = " or ".join(map(str, dict.fromkeys(positions)))
            raise UserError(
                f"{where} describes {ids.shape[1]} positions of the {split} {samples.noun}, but "
                f"'circuit.kind: {circuit.kind}' needs {numbers}"
            )
