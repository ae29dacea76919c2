"""``circuit.kind: patches``: patch circuits glued under a latent circuit (Liu et al., ICLR 2023).

The bound Σ log p(x, z) splits into problems that share no parameter (section 4 there): one circuit
per cluster of patches, all trained in one pass as a bundle with the cluster ids observed, and one
latent circuit over the cluster ids.  Glued together they are fine-tuned on the pixels alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from numpy.typing import NDArray
from pydantic import Field

from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.size import balanced_parents
from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.config.train import Phase
from pyjuice_bridge.distill.above import AboveName, latent_structure
from pyjuice_bridge.distill.base import Initialisation, Kind, Passes, Stage
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.distill.bundle import bundle_rows
from pyjuice_bridge.distill.checks import default_ring, pool
from pyjuice_bridge.distill.hclt import hclt_of_size
from pyjuice_bridge.distill.leaves import LeafySection
from pyjuice_bridge.distill.patch_parts import (
    PatchParts,
    initialise_arms,
    passes_before,
    patch_variables,
    set_phases,
)
from pyjuice_bridge.distill.training import load_circuit, phase_options, train_stage
from pyjuice_bridge.domains.base import Context, Shape
from pyjuice_bridge.sections import Pseudocount, States, at_most
from pyjuice_bridge.stages.store import Artifact


class PatchCircuit(LeafySection):
    """Patch circuits glued under a latent circuit.

    ``latents`` is the number of clusters, shared by all positions; ``patch_latents`` the width of
    the HCLT inside a patch; ``epsilon`` the mass that p(Z | H) spreads evenly at the start.
    ``above`` the positions is a hidden tree along their Chow-Liu tree, or a quad tree whose larger
    regions have latent variables too.
    """

    kind: Literal["patches"]
    latents: States = 64
    patch: Annotated[int, Field(ge=1), at_most(1024, "it is a number of pixels")] = 4
    patch_latents: States = 16
    above: AboveName = "chow_liu"
    pseudocount: Pseudocount = 0.1
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.1


def _check(config: Settings) -> None:
    pool(config, "patch circuits")
    default_ring(config, 0)
    set_phases(config)


def _scopes(section: PatchCircuit, shape: Shape) -> IntArray:
    assert shape.sides is not None
    return patch_variables(shape.sides, section.patch)


def _bundle(section: PatchCircuit, shape: Shape) -> Circuit:
    sizes = shape.categories[_scopes(section, shape)[0]]
    tree = balanced_parents(len(sizes))
    return section.leafy(patch_bundle(tree, section.latents, section.patch_latents, sizes))


def _above(section: PatchCircuit, shape: Shape) -> Circuit:
    assert shape.sides is not None
    grid = shape.sides[0] // section.patch, shape.sides[1] // section.patch
    return latent_structure(section.above, grid, section.latents)


def _structure(section: PatchCircuit, arm: str, shape: Shape) -> Circuit:
    glued = glue(_above(section, shape), _bundle(section, shape), _scopes(section, shape))
    return glued if arm != "hclt" else hclt_of_size(glued.num_parameters, shape, section)


def _before(config: Settings, shape: Shape) -> list[Passes]:
    section = config.circuit
    assert isinstance(section, PatchCircuit)
    dealt = shape.train * len(_scopes(section, shape)) // section.latents
    bundle, latent = _bundle(section, shape), _above(section, shape)
    return passes_before(config, [bundle], latent, shape.train, max(1, dealt))


def _initialise(context: Context) -> list[Initialisation]:
    section = context.config.circuit
    assert isinstance(section, PatchCircuit)
    return initialise_arms(
        context,
        section.latents,
        section.patch,
        {
            "lvd": lambda parts: _distilled(parts, section),
            "random": lambda parts: _random(parts, section),
        },
        lambda: _structure(section, "hclt", context.data.shape),
        section.above,
    )


def _glued(parts: PatchParts, above: Circuit, below: Circuit) -> Circuit:
    return builders_of(parts.context.engine).glue(above, below, parts.places)


def _key(parts: PatchParts, section: PatchCircuit) -> dict[str, Any]:
    return {
        "latents": [section.latents, section.patch_latents],
        "patch": section.patch,
        "seed": parts.context.config.seed,
        "builders": builders_of(parts.context.engine).name,
        **section.leaf_key,
    }


def _random(parts: PatchParts, section: PatchCircuit) -> Initialisation:
    """Begin with the same graph and Dirichlet(1) rows."""

    def make() -> Circuit:
        latent = parts.above.random(section.latents)
        return _glued(parts, latent, parts.random_bundle(section.patch_latents))

    key = {"random": "patches", **_key(parts, section)}
    return Initialisation("random", key, make, (parts.patch_tree, *parts.above.parents))


def _distilled(parts: PatchParts, section: PatchCircuit) -> Initialisation:
    """Begin with patch circuits and a latent circuit, each trained on its part of the bound."""
    phases = parts.context.config.train
    assert phases.patch_training is not None and phases.latent_training is not None
    bundle = _train_bundle(parts, section, phases.patch_training)
    latent = parts.train_latent(
        parts.latents.z,
        section.latents,
        section.pseudocount,
        section.epsilon,
        (parts.latents.artifact,),
    )
    bounds = _bounds(parts, section, bundle, latent)
    before = (parts.latents.artifact, parts.patch_tree, *parts.above.parents)
    stages = (
        Stage("start", 0, before, *bounds["start"]),
        Stage("patches", phases.patch_training.epochs, (*before, bundle), *bounds["patches"]),
        Stage("latent", phases.latent_training.epochs, (bundle, latent), *bounds["latent"]),
    )
    return Initialisation(
        "lvd",
        _key(parts, section),
        lambda: _glued(parts, load_circuit(latent), load_circuit(bundle)),
        (bundle, latent),
        stages,
        parts.latents.z["valid"],
    )


def _train_bundle(parts: PatchParts, section: PatchCircuit, phase: Phase) -> Artifact:
    """Train every patch circuit on its own cluster: a batch holds that many patches of each."""
    context, options = parts.context, phase_options(parts.context, phase)

    def rows() -> tuple[NDArray[Any], NDArray[Any]]:
        z = parts.latents.z["train"]
        return bundle_rows(parts.patches("train"), z, section.latents, seed=options.seed)

    return train_stage(
        context,
        "patches",
        "patch training",
        lambda: parts.random_bundle(section.patch_latents),
        rows,
        options,
        key={"data": context.data.key, **_key(parts, section)},
        parents=(parts.latents.artifact, parts.patch_tree),
    )


def _bounds(
    parts: PatchParts, section: PatchCircuit, bundle: Artifact, latent: Artifact
) -> Mapping[str, tuple[float, float]]:
    """Measure the bound and the marginal on validation after every stage."""
    z = parts.latents.z

    def steps() -> dict[str, tuple[Circuit, Circuit]]:
        start, patches = parts.random_bundle(section.patch_latents), load_circuit(bundle)
        counted = parts.above.counted(
            z["train"], section.latents, section.pseudocount, section.epsilon
        )
        return {
            "start": (counted, start),
            "patches": (counted, patches),
            "latent": (load_circuit(latent), patches),
        }

    return parts.bounds(steps, partial(_glued, parts), z["valid"], (bundle, latent))


KIND = Kind(
    name="patches",
    section=PatchCircuit,
    domains=("images",),
    arms=("lvd", "random", "hclt"),
    check=_check,
    scopes=_scopes,
    structure=_structure,
    initialise=_initialise,
    before=_before,
)
