"""``circuit.kind: hclt``: a hidden Chow-Liu tree over all variables, distilled by counting."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.leaves import with_leaves
from pyjuice_bridge.circuit.size import balanced_parents, nearest_width
from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.distill.base import Initialisation, Kind
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.distill.checks import check_counted, default_ring
from pyjuice_bridge.distill.counted import counted_start
from pyjuice_bridge.distill.latents import LatentValues, latents
from pyjuice_bridge.distill.leaves import LeafySection, LowRankSection
from pyjuice_bridge.distill.trees import data_tree, parents_of
from pyjuice_bridge.domains.base import Context, Shape
from pyjuice_bridge.sections import Pseudocount, States
from pyjuice_bridge.stages.store import Artifact


class HcltCircuit(LowRankSection):
    """An HCLT over the pixels of an image or the columns of a table, distilled by counting."""

    kind: Literal["hclt"] = "hclt"
    latents: States = 32
    pseudocount: Pseudocount = 0.1


def random_hclt(context: Context, tree: Artifact, arm: str, width: int) -> Initialisation:
    """Begin an arm with an HCLT whose rows are Dirichlet(1) draws."""
    builders, seed, sizes = (
        builders_of(context.engine),
        context.config.seed,
        context.data.categories,
    )
    section = context.config.circuit
    assert isinstance(section, LeafySection)
    key = {"random": "hclt", "latents": width, "seed": seed, "builders": builders.name}

    def make() -> Circuit:
        return section.leafy(builders.hclt(parents_of(tree), width, sizes, seed=seed), seed)

    return Initialisation(arm, {**key, **section.leaf_key}, make, (tree,))


def hclt_of_size(parameters: int, shape: Shape, section: LeafySection) -> Circuit:
    """Build the structure of the HCLT over the data whose size is nearest to ``parameters``."""
    tree = balanced_parents(len(shape.categories))

    def plain(width: int) -> Circuit:
        return section.leafy(hclt(tree, width, shape.categories))

    return plain(nearest_width(plain, parameters))


def random_hclt_like(context: Context, structure: Circuit) -> Initialisation:
    """Begin the arm ``hclt``, as wide as ``hclt_of_size`` has found."""
    return random_hclt(context, data_tree(context), "hclt", int(structure.meta["latent_states"]))


def _check(config: Settings) -> None:
    if config.teacher.patches_only:
        raise ValueError(
            f"'teacher.kind: {config.teacher.kind}' describes patches, while 'circuit.kind: hclt' "
            "needs features of every pixel; use 'pixels' or 'circuit.kind: patches'"
        )
    default_ring(config, 3)
    config.cluster.scope = config.cluster.scope or "position"
    check_counted(config)


def _scopes(_: HcltCircuit, shape: Shape) -> IntArray:
    """Return one latent for every pixel of an image, or column of a table."""
    channels = shape.sides[2] if shape.sides else 1
    return np.arange(len(shape.categories), dtype=np.int32).reshape(-1, channels)


def _structure(section: HcltCircuit, _: str, shape: Shape) -> Circuit:
    tree = balanced_parents(len(shape.categories))
    return section.leafy(hclt(tree, section.latents, shape.categories))


def _initialise(context: Context) -> list[Initialisation]:
    section = context.config.circuit
    assert isinstance(section, HcltCircuit)
    tree = data_tree(context)
    initialisations = []
    for arm in context.config.arms or []:
        if arm == "lvd":
            scopes = _scopes(section, context.data.shape)
            positions = (len(scopes), scopes.size)
            assignments = latents(context, section.latents, positions)
            initialisations.append(_counted(context, section, tree, assignments))
        else:
            initialisations.append(random_hclt(context, tree, arm, section.latents))
    return initialisations


def _counted(
    context: Context, section: HcltCircuit, tree: Artifact, found: LatentValues
) -> Initialisation:
    """Begin with the circuit counted in one pass over the rows and their latents."""
    data, builders = context.data, builders_of(context.engine)
    variables = len(data.categories)

    def make() -> Circuit:
        start = builders.hclt(parents_of(tree), section.latents, data.categories, seed=0)
        start = with_leaves(start, section.leaves, seed=0)
        z = per_variable(found.z["train"], variables)
        return section.low_rank(
            builders.count_parameters(start, data.rows["train"], z, pseudocount=section.pseudocount)
        )

    return counted_start(
        context,
        "counting",
        make,
        key={
            "latents": section.latents,
            "pseudocount": section.pseudocount,
            **section.leaf_key,
        },
        parents=(tree, found.artifact),
        valid=per_variable(found.z["valid"], variables),
    )


def per_variable(z: NDArray[np.int32], variables: int) -> NDArray[np.int32]:
    """Repeat the latent values of pixels for their channels: int32 [N, variables]."""
    return np.repeat(z, variables // z.shape[1], axis=1)


KIND = Kind(
    name="hclt",
    section=HcltCircuit,
    domains=("images", "table"),
    arms=("lvd", "random"),
    check=_check,
    scopes=_scopes,
    structure=_structure,
    initialise=_initialise,
)
