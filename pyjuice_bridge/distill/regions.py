"""``circuit.kind: region_graph``: a latent variable for every region, distilled at every scale.

Every region gets a vector from the teacher and a value from clustering.  With all values observed,
the parameters are counted; then, in stages, only the values of large regions are, and at last none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pyjuice_bridge.circuit.leaves import with_leaves
from pyjuice_bridge.circuit.region_circuit import latent_regions
from pyjuice_bridge.circuit.region_graph import (
    RegionGraph,
    load_region_graph,
    random_region_graph,
    tree_regions,
)
from pyjuice_bridge.circuit.region_rectangles import (
    bounding_boxes,
    congruent,
    poon_domingos,
    quad_graph,
    quad_tree,
)
from pyjuice_bridge.circuit.size import balanced_parents
from pyjuice_bridge.circuit.types import MISSING, Circuit, IntArray
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.config.train import ObservedPhase
from pyjuice_bridge.distill.base import Initialisation, Kind, Stage
from pyjuice_bridge.distill.bound import bound_and_marginal
from pyjuice_bridge.distill.builders import Builders, PythonBuilders, builders_of
from pyjuice_bridge.distill.checks import check_counted, default_ring
from pyjuice_bridge.distill.counted import counted_start
from pyjuice_bridge.distill.hclt import hclt_of_size, random_hclt_like
from pyjuice_bridge.distill.leaves import LowRankSection
from pyjuice_bridge.distill.region_latents import region_latents
from pyjuice_bridge.distill.training import load_circuit, phase_options, train_stage
from pyjuice_bridge.distill.trees import data_tree, parents_of
from pyjuice_bridge.domains.base import Context, Shape
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.sections import A_FEW, Count, Pseudocount, Section, States, at_most
from pyjuice_bridge.stages.store import Artifact, fingerprint

GraphName = Literal[
    "quad_tree", "quad_graph", "poon_domingos", "random", "chow_liu", "chain", "file"
]
_OPTIONS: dict[GraphName, dict[str, Any]] = {
    "quad_tree": {"splits": 4},
    "quad_graph": {},
    "poon_domingos": {"steps": [7.0]},
    "random": {"depth": 4, "replicas": 10},
    "chow_liu": {},
    "chain": {},
    "file": {"path": None},
}
"""The options of every region graph, and their defaults; None where there is none."""
_OF_IMAGES = ("quad_tree", "quad_graph", "poon_domingos")
_WIDEST_PAIRS = 256
_PIXELS = at_most(1024, "it is a number of pixels")


class Scale(Section):
    """Regions of at least ``pixels`` pixels (columns of a table) have ``latents`` values."""

    pixels: Count
    latents: States


class RegionCircuit(LowRankSection):
    """A circuit over a region graph with a latent variable of ``latents`` values for every region.

    ``scales`` give large regions another number of values.

    ``graph`` is ``quad_tree`` (``splits``: 4, or 2 for halves), ``quad_graph``, ``poon_domingos``
    (``steps`` between cuts, in pixels), ``random`` (``replicas`` times halved ``depth`` times),
    ``chow_liu``, ``chain`` or ``file`` (``path`` of a region-graph file).  ``layer: cp`` has a
    dense sum for every child and multiplies them, ``tucker`` a dense sum over pairs of values.
    Regions of at most ``share`` × ``share`` pixels share the parameters of what is below them with
    all regions of their shape.  ``patch`` is the side of the patches that a teacher of patches
    embeds.
    """

    kind: Literal["region_graph"]
    graph: GraphName = "quad_tree"
    splits: Literal[2, 4] | None = None
    steps: Annotated[list[Annotated[float, Field(ge=1)]], A_FEW] | None = None
    depth: Annotated[int, Field(ge=1), at_most(30, "2 to that many leaf regions")] | None = None
    replicas: Annotated[int, Field(ge=1), at_most(10_000, "each has its own sums")] | None = None
    path: str | None = None
    layer: Literal["cp", "tucker"] = "cp"
    latents: States = 32
    scales: Annotated[list[Scale], A_FEW] | None = None
    share: Annotated[int, Field(ge=1), _PIXELS] | None = None
    patch: Annotated[int, Field(ge=1), _PIXELS] = 4
    pseudocount: Pseudocount = 1.0

    @model_validator(mode="after")
    def _options_fit(self) -> RegionCircuit:
        wanted = _OPTIONS[self.graph]
        for name in dict.fromkeys(name for options in _OPTIONS.values() for name in options):
            if name not in wanted:
                if getattr(self, name) is not None:
                    owner = next(graph for graph, options in _OPTIONS.items() if name in options)
                    raise ValueError(f"'{name}' belongs to 'graph: {owner}' only")
            elif getattr(self, name) is None:
                if wanted[name] is None:
                    raise ValueError(f"'graph: {self.graph}' needs '{name}'")
                setattr(self, name, wanted[name])
        if self.layer == "tucker":
            self._fits_tucker()
        return self

    def _fits_tucker(self) -> None:
        if self.share is not None:
            raise ValueError("'share' belongs to 'layer: cp' only")
        if self.scales is not None:
            raise ValueError("'scales' belong to 'layer: cp' only")
        if self.graph in ("chow_liu", "chain") or self.splits == 4:
            hint = "; use 'splits: 2'" if self.splits == 4 else ""
            raise ValueError(f"'layer: tucker' needs partitions into two regions{hint}")
        if self.latents > _WIDEST_PAIRS:
            raise ValueError(
                f"'latents' is {self.latents}, but 'layer: tucker' has a node for every pair; use "
                f"at most {_WIDEST_PAIRS}"
            )


@dataclass(frozen=True, eq=False)
class Regions:
    """A region graph and what is over it.

    Attributes:
        graph: the regions.
        values: int32 [regions], the number of values of every region's latent variable.
        shapes: int32 [regions]; regions of one shape share parameters, unless it is negative.
        layer: ``cp`` or ``tucker``.
    """

    graph: RegionGraph
    values: IntArray
    shapes: IntArray
    layer: str

    @property
    def positions(self) -> IntArray:
        """int32 [positions]: the region of every position of the circuit's latents."""
        regions = latent_regions(self.graph)
        if self.layer == "cp":
            return regions
        return np.flatnonzero(np.arange(len(self.graph.scopes)) != self.graph.root).astype(np.int32)

    def circuit(self, builders: Builders, sizes: IntArray, seed: int | None) -> Circuit:
        """Build the circuit, over uniform rows where there is no seed."""
        if self.layer == "cp":
            return builders.region_circuit(
                self.graph, self.values, sizes, shapes=self.shapes, seed=seed
            )
        return builders.tucker_circuit(self.graph, int(self.values[0]), sizes, seed=seed)

    @property
    def key(self) -> dict[str, Any]:
        """What names it in the hashes of artifacts."""
        return {
            "graph": fingerprint(self.graph.to_json()),
            "values": fingerprint(self.values.tolist()),
            "shapes": fingerprint(self.shapes.tolist()),
            "layer": self.layer,
        }


def regions_of(
    section: RegionCircuit, shape: Shape, seed: int, tree: Callable[[], IntArray]
) -> Regions:
    """Make the region graph that a config asks for.

    Args:
        section: of the config.
        shape: of the data.
        seed: of random graphs.
        tree: gives the parents of the data's Chow-Liu tree.

    Raises:
        UserError: the graph does not fit the data.
    """
    graph = _graph(section, shape, seed, tree)
    count = len(graph.scopes)
    shapes = np.full(count, -1, np.int32)
    if section.share is not None:
        assert shape.sides is not None
        boxes = bounding_boxes(graph, shape.sides)
        small = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) <= section.share
        shapes = np.where(small, congruent(graph, shape.sides), shapes).astype(np.int32)
    values = np.full(count, section.latents, np.int32)
    sizes = np.array([len(scope) for scope in graph.scopes]) / _channels(shape)
    for scale in sorted(section.scales or [], key=lambda scale: scale.pixels):
        values[sizes >= scale.pixels] = scale.latents
    return Regions(graph, values, shapes, section.layer)


def _channels(shape: Shape) -> int:
    """Return how many variables a pixel has; the columns of a table are pixels here."""
    return shape.sides[2] if shape.sides else 1


def _graph(
    section: RegionCircuit, shape: Shape, seed: int, tree: Callable[[], IntArray]
) -> RegionGraph:
    variables = len(shape.categories)
    if section.graph in _OF_IMAGES:
        assert shape.sides is not None
        if section.graph == "quad_graph":
            return quad_graph(shape.sides)
        if section.graph == "quad_tree":
            return quad_tree(shape.sides, section.splits or 4)
        return poon_domingos(shape.sides, section.steps or [])
    if section.graph == "random":
        assert section.depth is not None and section.replicas is not None
        return random_region_graph(variables, section.depth, section.replicas, seed=seed)
    if section.graph == "file":
        graph = load_region_graph(Path(str(section.path)))
        if graph.num_vars != variables:
            raise UserError(
                f"{section.path} is a region graph of {graph.num_vars} variables, but the data "
                f"have {variables}"
            )
        return graph
    return tree_regions(tree() if section.graph == "chow_liu" else np.arange(-1, variables - 1))


def _check(config: Settings) -> None:
    section = config.circuit
    assert isinstance(section, RegionCircuit)
    if config.data.kind != "images":
        for name, wanted in (("graph", section.graph in _OF_IMAGES), ("share", section.share)):
            if wanted:
                value = getattr(section, name)
                raise ValueError(f"'circuit.{name}: {value}' is for images, but the data are not")
    default_ring(config, 0)
    config.cluster.scope = config.cluster.scope or "position"
    check_counted(config)
    before = 1 + sum(phase.epochs for phase in config.train.observed or [])
    if config.train.epochs <= before:
        raise ValueError(
            f"'train.epochs' is {config.train.epochs}, but counting and 'train.observed' already "
            f"take {before} of the passes; use at least {before + 1}"
        )


def _structure(section: RegionCircuit, arm: str, shape: Shape) -> Circuit:
    regions = regions_of(section, shape, 0, lambda: balanced_parents(len(shape.categories)))
    circuit = section.leafy(regions.circuit(PythonBuilders(), shape.categories, None))
    return circuit if arm != "hclt" else hclt_of_size(circuit.num_parameters, shape, section)


def _initialise(context: Context) -> list[Initialisation]:
    section, shape = context.config.circuit, context.data.shape
    assert isinstance(section, RegionCircuit)
    trees = (data_tree(context),) if section.graph == "chow_liu" else ()
    regions = regions_of(section, shape, context.config.seed, lambda: parents_of(*trees))
    initialisations = []
    for arm in context.config.arms or []:
        if arm == "lvd":
            initialisations.append(_counted(context, section, regions, trees))
        elif arm == "random":
            initialisations.append(_random(context, section, regions, trees))
        else:
            structure = _structure(section, arm, shape)
            initialisations.append(random_hclt_like(context, structure))
    return initialisations


def _random(
    context: Context, section: RegionCircuit, regions: Regions, trees: tuple[Artifact, ...]
) -> Initialisation:
    """Begin with the same structure and Dirichlet(1) rows."""

    def make() -> Circuit:
        return section.leafy(regions.circuit(builders, sizes, seed), seed)

    builders, seed = builders_of(context.engine), context.config.seed
    sizes = context.data.categories
    key = {"random": "region_graph", **regions.key, "seed": seed, "builders": builders.name}
    return Initialisation("random", {**key, **section.leaf_key}, make, trees)


def _counted(
    context: Context, section: RegionCircuit, regions: Regions, trees: tuple[Artifact, ...]
) -> Initialisation:
    """Begin with the circuit counted in one pass over the rows and the values of all regions."""
    data = context.data
    found = region_latents(
        context, regions.graph, regions.values, regions.shapes, patch=section.patch
    )

    def positions(split: str) -> NDArray[np.int32]:
        return np.ascontiguousarray(found.z[split][:, regions.positions])

    def make() -> Circuit:
        builders = builders_of(context.engine)
        start = with_leaves(regions.circuit(builders, data.categories, None), section.leaves)
        x, z = data.rows["train"], positions("train")
        return section.low_rank(
            builders.count_parameters(start, x, z, pseudocount=section.pseudocount)
        )

    start = counted_start(
        context,
        "counting",
        make,
        key={**regions.key, "pseudocount": section.pseudocount, **section.leaf_key},
        parents=(*trees, found.artifact),
        valid=positions("valid"),
    )
    sizes = np.array([len(scope) for scope in regions.graph.scopes])
    for phase in context.config.train.observed or []:
        large = (sizes >= phase.pixels * _channels(data.shape))[regions.positions]
        start = _observed(context, start, phase, partial(_shown, positions, large))
    return start


def _shown(
    z: Callable[[str], NDArray[np.int32]], positions: NDArray[np.bool_], split: str
) -> NDArray[np.int32]:
    """Return a split's values at some positions, -1 at the others."""
    return np.where(positions, z(split), np.int32(MISSING))


def _observed(
    context: Context,
    start: Initialisation,
    phase: ObservedPhase,
    z: Callable[[str], NDArray[np.int32]],
) -> Initialisation:
    """Continue with a training in which some of the latents are observed.

    Args:
        context: of the run.
        start: what came before.
        phase: of the config.
        z: gives a split's values int32 [N, positions], -1 where they are hidden.
    """
    rows = context.data.rows

    def measure(circuit: Circuit) -> Mapping[str, Any]:
        bound, marginal = bound_and_marginal(context.engine, circuit, rows["valid"], z("valid"))
        return {"bound": bound, "marginal": marginal}

    name = f"{phase.pixels} pixels"
    artifact = train_stage(
        context,
        f"observed-{phase.pixels}",
        f"training ({name} observed)",
        start.circuit,
        lambda: (rows["train"], None),
        phase_options(context, phase),
        key={"data": context.data.key, "pixels": phase.pixels},
        parents=start.parents,
        passes_before=start.passes,
        latents=lambda: {"z": z("train")},
        measure=measure,
    )
    info = artifact.info
    stage = Stage(name, phase.epochs, (artifact,), info["bound"], info["marginal"])
    return replace(
        start,
        circuit=lambda: load_circuit(artifact),
        parents=(artifact,),
        stages=(*start.stages, stage),
    )


KIND = Kind(
    name="region_graph",
    section=RegionCircuit,
    domains=("images", "table"),
    arms=("lvd", "random", "hclt"),
    check=_check,
    scopes=None,
    structure=_structure,
    initialise=_initialise,
)
