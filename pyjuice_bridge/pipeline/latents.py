"""From images to latent values: teacher, embeddings, clusters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.cluster.assignments import Assignments
from pyjuice_bridge.cluster.cluster import cluster_embeddings
from pyjuice_bridge.config import FileTeacher, PatchCircuit
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.context import ImageContext
from pyjuice_bridge.pipeline.teachers import features_of
from pyjuice_bridge.stages.store import Artifact
from pyjuice_bridge.teachers import load_cluster_ids

FILE = "assignments.h5"


@dataclass(frozen=True, eq=False)
class LatentValues:
    """The teacher's word on every image.

    Attributes:
        z: per split int32 [N, positions].
        artifact: holds ``assignments.h5``.
        seconds: of teacher, embeddings and clustering, also where they are reused.
        parts: the same seconds by stage.
    """

    z: Mapping[str, NDArray[np.int32]]
    artifact: Artifact
    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)


def latent_values(context: ImageContext, teacher: object | None) -> LatentValues:
    """Cluster ids of all splits, from the configured teacher or from the user's files."""
    config = context.config
    if isinstance(config.teacher, FileTeacher) and config.teacher.assignments is not None:
        return _given(context, config.teacher.assignments)
    features = features_of(context, teacher)
    clusters = config.cluster.model_dump()
    inputs = {
        "features": features.key,
        "cluster": clusters,
        "clusters": context.circuit.latents,
        "seed": config.seed,
    }

    def build(folder: Path) -> None:
        embeddings = features.embeddings()
        _enough(context, embeddings["train"].shape)
        with context.reporter.task("clusters") as tick:
            found = cluster_embeddings(
                embeddings,
                context.circuit.latents,
                **clusters,
                seed=config.seed,
                device=context.engine.device,
                on_progress=tick,
            )
        facts = {f"teacher_{k}": v for k, v in features.facts.items()}
        Assignments(found.z, found.clusters, found.centroids, {**found.attributes, **facts}).save(
            folder / FILE
        )

    artifact = context.store.stage("clusters", 1, inputs, build, together=True)
    z = Assignments.load(artifact.path / FILE).z
    parts = {**features.seconds, "clusters": artifact.seconds}
    return LatentValues(_checked(context, z, "the teacher"), artifact, sum(parts.values()), parts)


def _enough(context: ImageContext, shape: tuple[int, int, int]) -> None:
    """Refuse more clusters than vectors [rows, positions, dim] to fill them with."""
    rows, positions, _ = shape
    config, latents = context.config, context.circuit.latents
    points = rows if config.cluster.scope == "position" else rows * positions
    if points < latents:
        images = f"the {rows} training images give {points} points to cluster"
        raise UserError(
            f"{images}, which cannot fill {latents} clusters; set 'circuit.latents' to at most "
            f"{points}, or train on more images"
        )


def _given(context: ImageContext, path: str) -> LatentValues:
    """Cluster ids made elsewhere."""
    z = {split: np.array(ids) for split, ids in load_cluster_ids(path).items()}
    clusters = context.circuit.latents
    most = max(int(ids.max(initial=0)) for ids in z.values()) + 1
    if most > clusters:
        raise UserError(
            f"{path} has {most} clusters, but 'circuit.latents' is {clusters}; set it to {most}"
        )
    _checked(context, z, path)
    digests = {split: hashlib.sha256(ids.tobytes()).hexdigest() for split, ids in z.items()}
    inputs = {"given": digests, "shape": list(z["train"].shape), "clusters": clusters}

    def build(folder: Path) -> None:
        Assignments(z, clusters, None, {"teacher_path": path}).save(folder / FILE)

    artifact = context.store.stage("clusters", 1, inputs, build)
    return LatentValues(z, artifact, artifact.seconds, {"clusters": artifact.seconds})


def _checked(
    context: ImageContext, z: Mapping[str, NDArray[np.int32]], where: str
) -> Mapping[str, NDArray[np.int32]]:
    """Refuse ids that do not fit the images or the circuit."""
    data, circuit = context.data, context.circuit
    for split in ("train", "valid"):
        if split not in z:
            raise UserError(f"{where} gives no cluster ids for the {split} images")
    for split, values in z.items():
        rows = len(data.rows[split])
        if len(values) != rows:
            raise UserError(
                f"{where} gives {len(values)} rows of cluster ids for {rows} {split} images"
            )
    height, width, channels = data.shape.sides
    positions = z["train"].shape[1]
    if isinstance(circuit, PatchCircuit):
        wanted: tuple[int, ...] = ((height // circuit.patch) * (width // circuit.patch),)
    else:
        wanted = (height * width, height * width * channels)
    if positions not in wanted:
        numbers = " or ".join(map(str, dict.fromkeys(wanted)))
        raise UserError(
            f"{where} describes {positions} positions of an image, but 'circuit.kind: "
            f"{circuit.kind}' needs {numbers}"
        )
    return z
