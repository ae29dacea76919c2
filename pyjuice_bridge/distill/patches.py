"""``circuit.kind: patches``: patch circuits glued under a latent circuit (Liu et al., ICLR 2023).

The bound Σ log p(x, z) splits into problems that share no parameter (section 4 there): one circuit
per cluster of patches, all trained in one pass as a bundle with the cluster ids observed, and one
latent circuit over the cluster ids.  Glued together they are fine-tuned on the pixels alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.size import balanced_parents
from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.config.train import LatentPhase, Phase
from pyjuice_bridge.distill.base import CIRCUIT, Initialisation, Kind, Stage
from pyjuice_bridge.distill.bound import bound_and_marginal
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.distill.bundle import bundle_rows
from pyjuice_bridge.distill.checks import default_ring, pool, refuse_sweep
from pyjuice_bridge.distill.hclt import hclt_of_size, random_hclt_like
from pyjuice_bridge.distill.latents import LatentValues, latents
from pyjuice_bridge.distill.leaves import LeafySection
from pyjuice_bridge.distill.training import train_stage
from pyjuice_bridge.distill.trees import parents_of, tree_stage
from pyjuice_bridge.domains.base import Context, Shape
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.sections import Pseudocount, States, at_most
from pyjuice_bridge.stages.store import Artifact
from pyjuice_bridge.teachers.base import patch_grid

_PATCH_ROWS = 200_000
"""Patches that the tree inside a patch is learnt from, at most."""


class PatchCircuit(LeafySection):
    """Patch circuits glued under a latent circuit.

    ``latents`` is the number of clusters, shared by all positions; ``patch_latents`` the width of
    the HCLT inside a patch; ``epsilon`` the mass that p(Z | H) spreads evenly at the start.
    """

    kind: Literal["patches"]
    latents: States = 64
    patch: Annotated[int, Field(ge=1), at_most(1024, "it is a number of pixels")] = 4
    patch_latents: States = 16
    pseudocount: Pseudocount = 0.1
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.1


def patch_variables(sides: tuple[int, int, int], patch: int) -> IntArray:
    """Return the variables of every patch, int32 [positions, patch * patch * C], row-major."""
    channels = sides[2]
    rows, columns = patch_grid(np.empty((0, *sides), np.uint8), patch)
    ids = np.arange(math.prod(sides), dtype=np.int32)
    tiles = ids.reshape(rows, patch, columns, patch, channels).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(rows * columns, -1))


def _check(config: Settings) -> None:
    refuse_sweep(config)
    pool(config, "patch circuits")
    default_ring(config, 0)
    train = config.train
    train.patch_training = train.patch_training or Phase()
    train.latent_training = train.latent_training or LatentPhase()
    before = train.patch_training.epochs + train.latent_training.epochs
    if train.epochs <= before:
        raise ValueError(
            f"'train.epochs' is {train.epochs}, but patch and latent training already take "
            f"{before} of the passes; use at least {before + 1}"
        )


def _scopes(section: PatchCircuit, shape: Shape) -> IntArray:
    assert shape.sides is not None
    return patch_variables(shape.sides, section.patch)


def _structure(section: PatchCircuit, arm: str, shape: Shape, _: int | None) -> Circuit:
    places = _scopes(section, shape)
    positions, size = places.shape
    sizes = shape.categories[places[0]]
    bundle = patch_bundle(balanced_parents(size), section.latents, section.patch_latents, sizes)
    above = hclt(balanced_parents(positions), section.latents, section.latents)
    glued = glue(above, section.leafy(bundle), places)
    return glued if arm != "hclt" else hclt_of_size(glued.num_parameters, shape, section)


def _initialise(context: Context) -> list[Initialisation]:
    section, arms = context.config.circuit, context.config.arms or []
    assert isinstance(section, PatchCircuit)
    initialisations: dict[str, Initialisation] = {}
    if "lvd" in arms or "random" in arms:
        parts = _Parts.of(context, section)
        if "lvd" in arms:
            initialisations["lvd"] = _distilled(parts)
        if "random" in arms:
            initialisations["random"] = _random(parts)
    if "hclt" in arms:
        structure = _structure(section, "hclt", context.data.shape, None)
        initialisations["hclt"] = random_hclt_like(context, structure)
    return [initialisations[arm] for arm in arms]


@dataclass(frozen=True, eq=False)
class _Parts:
    """What the glued arms are made of: positions, latent values and the two trees."""

    context: Context
    section: PatchCircuit
    places: IntArray
    latents: LatentValues
    patch_tree: Artifact
    latent_tree: Artifact

    @classmethod
    def of(cls, context: Context, section: PatchCircuit) -> _Parts:
        places = _scopes(section, context.data.shape)
        (assignments,) = latents(context, [section.latents], (len(places),), patch=section.patch)
        train = context.data.rows["train"]
        some = train[: max(1, _PATCH_ROWS // len(places))]
        patches = some[:, places].reshape(-1, places.shape[1])
        inputs = {"data": context.data.key, "patch": section.patch, "seed": context.config.seed}
        sizes = context.data.categories[places[0]]
        patch_tree = tree_stage(context, "patch tree", inputs, patches, sizes)
        # Ids have no order, so none share a bin.
        count = section.latents
        latent_tree = tree_stage(
            context,
            "latent tree",
            {},
            assignments.z["train"],
            count,
            parents=(assignments.artifact,),
            bins=count,
        )
        return cls(context, section, places, assignments, patch_tree, latent_tree)

    def random_bundle(self) -> Circuit:
        sizes, seed = self.context.data.categories[self.places[0]], self.context.config.seed
        tree, section = parents_of(self.patch_tree), self.section
        bundle = builders_of(self.context.engine).patch_bundle(
            tree, section.latents, section.patch_latents, sizes, seed=seed
        )
        return section.leafy(bundle, seed)

    def random_latent(self) -> Circuit:
        tree, count = parents_of(self.latent_tree), self.section.latents
        return builders_of(self.context.engine).hclt(
            tree, count, count, seed=self.context.config.seed
        )

    def counted_latent(self) -> Circuit:
        """Build p(H_c | H_p) from counts of cluster ids, p(Z | H) near the identity."""
        return builders_of(self.context.engine).latent_circuit(
            self.latents.z["train"],
            self.section.latents,
            pseudocount=self.section.pseudocount,
            epsilon=self.section.epsilon,
            parents=parents_of(self.latent_tree),
        )

    def glued(self, above: Circuit, below: Circuit) -> Circuit:
        return builders_of(self.context.engine).glue(above, below, self.places)

    @property
    def key(self) -> dict[str, Any]:
        section = self.section
        return {
            "latents": [section.latents, section.patch_latents],
            "patch": section.patch,
            "seed": self.context.config.seed,
            "builders": builders_of(self.context.engine).name,
            **section.leaf_key,
        }


def _random(parts: _Parts) -> Initialisation:
    """Begin with the same graph and Dirichlet(1) rows."""
    return Initialisation(
        "random",
        {"random": "patches", **parts.key},
        lambda: parts.glued(parts.random_latent(), parts.random_bundle()),
        (parts.patch_tree, parts.latent_tree),
    )


def _distilled(parts: _Parts) -> Initialisation:
    """Begin with patch circuits and a latent circuit, each trained on its part of the bound."""
    phases = parts.context.config.train
    assert phases.patch_training is not None and phases.latent_training is not None
    bundle = _train_bundle(parts, phases.patch_training)
    latent = _train_latent(parts, phases.latent_training)
    bounds = _bounds(parts, bundle, latent)
    before = (parts.latents.artifact, parts.patch_tree, parts.latent_tree)
    stages = (
        Stage("start", 0, before, *bounds["start"]),
        Stage("patches", phases.patch_training.epochs, (*before, bundle), *bounds["patches"]),
        Stage("latent", phases.latent_training.epochs, (bundle, latent), *bounds["latent"]),
    )
    return Initialisation(
        "lvd",
        parts.key,
        lambda: parts.glued(_trained(latent), _trained(bundle)),
        (bundle, latent),
        stages,
        parts.latents.z["valid"],
    )


def _options(context: Context, phase: Phase) -> FitOptions:
    return FitOptions(
        epochs=phase.epochs,
        batch_size=phase.batch_size,
        step_size=phase.step_size.schedule,
        pseudocount=context.config.train.pseudocount,
        seed=context.config.seed,
    )


def _train_bundle(parts: _Parts, phase: Phase) -> Artifact:
    """Train every patch circuit on its own cluster: a batch holds that many patches of each."""
    context, data = parts.context, parts.context.data
    clusters = parts.section.latents
    options = _options(context, phase)

    def rows() -> tuple[NDArray[Any], NDArray[Any]]:
        patches = data.rows["train"][:, parts.places]
        return bundle_rows(patches, parts.latents.z["train"], clusters, seed=options.seed)

    return train_stage(
        context,
        "patches",
        "patch training",
        parts.random_bundle,
        rows,
        options,
        key={"data": data.key, **parts.key},
        parents=(parts.latents.artifact, parts.patch_tree),
    )


def _train_latent(parts: _Parts, phase: Phase) -> Artifact:
    """Fit the latent circuit to the cluster ids: latent distribution training."""
    z, section = parts.latents.z, parts.section
    return train_stage(
        parts.context,
        "latent",
        "latent training",
        parts.counted_latent,
        lambda: (z["train"], None),
        _options(parts.context, phase),
        key={"epsilon": section.epsilon, "counting": section.pseudocount},
        parents=(parts.latents.artifact, parts.latent_tree),
        valid=z["valid"],
    )


def _bounds(parts: _Parts, bundle: Artifact, latent: Artifact) -> Mapping[str, tuple[float, float]]:
    """Measure the bound and the marginal on validation after every stage."""
    context = parts.context
    valid, z = context.data.rows["valid"], parts.latents.z["valid"]

    def build(folder: Path) -> Mapping[str, Any]:
        start, patches = parts.random_bundle(), _trained(bundle)
        counted, trained = parts.counted_latent(), _trained(latent)
        steps = {
            "start": (counted, start),
            "patches": (counted, patches),
            "latent": (trained, patches),
        }
        bounds = {}
        for name, (above, below) in steps.items():
            with context.reporter.task(f"bound ({name})"):
                glued = parts.glued(above, below)
                bounds[name] = bound_and_marginal(context.engine, glued, valid, z)
        return bounds

    inputs = {"data": context.data.key, "engine": context.engine_key}
    artifact = context.store.stage("bounds", 1, inputs, build, parents=(bundle, latent))
    return artifact.info


def _trained(artifact: Artifact) -> Circuit:
    return hdf5.load(artifact.path / CIRCUIT)


KIND = Kind(
    name="patches",
    section=PatchCircuit,
    domains=("images",),
    arms=("lvd", "random", "hclt"),
    check=_check,
    scopes=_scopes,
    structure=_structure,
    initialise=_initialise,
)
