"""From a teacher to a value of every region's latent variable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.region_graph import RegionGraph
from pyjuice_bridge.circuit.types import IntArray
from pyjuice_bridge.cluster.assignments import FILE, Assignments
from pyjuice_bridge.cluster.cluster import cluster_embeddings
from pyjuice_bridge.distill.latents import LatentValues, latents
from pyjuice_bridge.distill.region_features import RegionFeatures, RegionGroup, region_features
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.stages.store import fingerprint
from pyjuice_bridge.teachers.file import FileSection


def region_latents(
    context: Context, graph: RegionGraph, values: IntArray, shapes: IntArray, *, patch: int
) -> LatentValues:
    """Cluster the vectors of every region, or read the user's cluster ids.

    Args:
        context: of the run.
        graph: over the variables of the data.
        values: int [regions], the number of values of every region's latent variable.
        shapes: int [regions]; regions of one shape share their clusters, unless it is negative.
        patch: side of the patches that teachers of patches embed.

    Returns:
        Cluster ids int32 [N, regions] per split.

    Raises:
        UserError: the teacher, its embeddings or the ids do not fit the data or the circuit.
    """
    section = context.config.teacher
    if isinstance(section, FileSection) and section.assignments is not None:
        return latents(context, int(values.max()), (len(values),))
    features = region_features(context, graph, patch)
    settings = context.config.cluster.model_dump()
    inputs = {
        "features": features.key,
        "graph": fingerprint({"graph": graph.to_json()}),
        "values": values.tolist(),
        "shapes": shapes.tolist(),
        "cluster": settings,
        "seed": context.config.seed,
    }

    def build(folder: Path) -> None:
        z = _clustered(context, features, values, shapes, settings)
        facts = {f"teacher_{name}": value for name, value in features.facts.items()}
        Assignments(z, int(values.max()), None, facts).save(folder / FILE)

    parents = features.parents
    artifact = context.store.stage("clusters", 3, inputs, build, parents=parents, together=True)
    return LatentValues(Assignments.load(artifact.path / FILE).z, artifact)


def _clustered(
    context: Context,
    features: RegionFeatures,
    values: IntArray,
    shapes: IntArray,
    settings: Mapping[str, Any],
) -> dict[str, NDArray[np.int32]]:
    """Cluster group by group; regions that share clusters are in one group."""
    labels = np.unique(np.stack([values, shapes]), axis=1, return_inverse=True)[1].ravel()
    groups = features.groups(labels)
    splits = groups[0].embeddings
    z = {split: np.zeros((each.shape[0], len(values)), np.int32) for split, each in splits.items()}
    done = 0
    with context.reporter.task("clusters") as tick:
        for group in groups:
            chosen = group.regions
            count, shared = int(values[chosen[0]]), bool(shapes[chosen[0]] >= 0)
            if count == 1:
                continue
            scope = "pooled" if shared else settings["scope"]
            _check_points(context, group, count, pooled=scope == "pooled")
            found = cluster_embeddings(
                group.embeddings,
                count,
                **{**settings, "scope": scope},
                seed=context.config.seed,
                device=context.engine.device,
            )
            for split, ids in found.z.items():
                z[split][:, chosen] = ids
            done += len(chosen)
            tick(done, len(values))
    return z


def _check_points(context: Context, group: RegionGroup, count: int, *, pooled: bool) -> None:
    """Refuse more clusters than there are vectors to fill them with."""
    rows, positions, _ = group.embeddings["train"].shape
    points = rows * positions if pooled else rows
    if points < count:
        noun = context.data.samples.noun
        raise UserError(
            f"the {rows:,} training {noun} hold {points:,} vectors of a region, which cannot fill "
            f"{count:,} clusters; set 'circuit.latents' to at most {points:,}, or train on more "
            f"{noun}"
        )
