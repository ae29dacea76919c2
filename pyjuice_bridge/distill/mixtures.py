"""``circuit.mixture``: several circuits side by side, with one latent variable at the root.

The latent's scope is the whole image, and k-means on whole images gives its values: every component
begins as the kind begins on the images of its own cluster.  Training then sees all images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.combine import mixture
from pyjuice_bridge.circuit.initialise import initialise
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.cluster.assignments import FILE, Assignments
from pyjuice_bridge.cluster.cluster import cluster_embeddings
from pyjuice_bridge.distill.base import CIRCUIT, Initialisation, Kind, Stage, ancestry
from pyjuice_bridge.distill.bound import bound_and_marginal
from pyjuice_bridge.distill.training import load_circuit
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.stages.store import Artifact, fingerprint
from pyjuice_bridge.teachers.base import ArrayEmbeddings

LATENT = "component"
_LATENT_SPLITS = ("train", "valid")


def mixed(context: Context, kind: Kind, components: int, arm: str) -> Initialisation:
    """Begin an arm of a kind with a mixture of so many circuits of it.

    Raises:
        UserError: a cluster of images is too small for what the kind needs.
    """
    if arm == "lvd":
        return _distilled(context, kind, components)
    config = context.config.model_copy(update={"arms": [arm]})
    (alone,) = kind.initialise(replace(context, config=config))
    seed = context.config.seed

    def make() -> Circuit:
        structure = alone.circuit()
        return mixture([initialise(structure, seed + k) for k in range(components)], latent=LATENT)

    return Initialisation(arm, {**alone.key, "mixture": components}, make, alone.parents)


def _distilled(context: Context, kind: Kind, components: int) -> Initialisation:
    """Begin every component on the images of its cluster."""
    clusters = _clusters(context, components)
    z = {split: each[:, 0] for split, each in Assignments.load(clusters.path / FILE).z.items()}
    starts = [_component(context, kind, clusters, z, k) for k in range(components)]
    passes = starts[0].passes
    parents = ancestry((clusters, *(a for each in starts for a in each.parents)))
    inputs = {
        "data": context.data.key,
        "engine": context.engine_key,
        "starts": [dict(each.key) for each in starts],
    }

    def build(folder: Path) -> Mapping[str, Any]:
        shares = np.bincount(z["train"], minlength=components) / len(z["train"])
        circuit = mixture([each.circuit() for each in starts], shares, latent=LATENT)
        hdf5.save(circuit, folder / CIRCUIT)
        with context.reporter.task("mixing the components"):
            bound, marginal = bound_and_marginal(
                context.engine,
                circuit,
                context.data.rows["valid"],
                z["valid"][:, None],
                latent=LATENT,
            )
        return {"bound": bound, "marginal": marginal}

    made = context.store.stage("mixture", 1, inputs, build, parents=parents)
    stage = Stage("components", passes, (made,), made.info["bound"], made.info["marginal"])
    return Initialisation("lvd", {}, lambda: load_circuit(made), (made,), (stage,))


def _component(
    context: Context, kind: Kind, clusters: Artifact, z: Mapping[str, NDArray[np.int32]], k: int
) -> Initialisation:
    rows = {split: np.flatnonzero(z[split] == k) for split in _LATENT_SPLITS}
    if not len(rows["train"]):
        raise UserError(f"cluster {k} of 'circuit.mixture' has no images; use fewer components")
    if not len(rows["valid"]):
        rows["valid"] = np.arange(len(z["valid"]))
    data = context.data.part(rows, fingerprint({"clusters": clusters.id, "component": k}))
    config = context.config.model_copy(update={"arms": ["lvd"]})
    (start,) = kind.initialise(replace(context, config=config, data=data, shared={}))
    return start


def _clusters(context: Context, components: int) -> Artifact:
    """Cluster whole images by their pixels."""
    data, config = context.data, context.config
    settings = config.cluster.model_dump(exclude={"scope"})
    inputs = {
        "data": data.key,
        "components": components,
        "cluster": settings,
        "seed": config.seed,
    }

    def build(folder: Path) -> None:
        splits = {split: data.rows[split] for split in _LATENT_SPLITS}
        points = {s: x[:, None, :].astype(np.float32) for s, x in splits.items()}
        with context.reporter.task(f"components ({components:,})") as tick:
            found = cluster_embeddings(
                {split: ArrayEmbeddings(each) for split, each in points.items()},
                components,
                scope="pooled",
                **settings,
                seed=config.seed,
                device=context.engine.device,
                on_progress=tick,
            )
        found.save(folder / FILE)

    return context.store.stage("components", 1, inputs, build, together=True)
