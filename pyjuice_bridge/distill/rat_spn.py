"""``circuit.kind: rat_spn``: a random region graph, trained from a random start (a baseline)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pyjuice_bridge.circuit.rat_spn import rat_spn
from pyjuice_bridge.circuit.region_graph import (
    RegionGraph,
    load_region_graph,
    random_region_graph,
)
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.distill.base import Initialisation, Kind
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.distill.checks import refuse_phases
from pyjuice_bridge.distill.hclt import hclt_of_size, random_hclt_like
from pyjuice_bridge.distill.leaves import LowRankSection
from pyjuice_bridge.domains.base import Context, Shape
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.sections import at_most

_MOST_NODES = 256
"""Sums of a region, at most: their products are pairs of nodes."""


class RatSpnCircuit(LowRankSection):
    """A RAT-SPN (Peharz et al., UAI 2019): Kronecker products over random splits.

    ``depth`` is how often a region is halved, 4 times unless it is given; ``replicas`` how often
    that is begun anew, 10 times; ``graph`` is a region-graph file in place of both.  ``sums`` nodes
    of every region, ``inputs`` of a leaf region, where ``sums`` is meant unless it is given.
    """

    kind: Literal["rat_spn"]
    depth: Annotated[int, Field(ge=1), at_most(30, "2 to that many leaf regions")] | None = None
    replicas: Annotated[int, Field(ge=1), at_most(10_000, "each has its own sums")] | None = None
    graph: str | None = None
    sums: Annotated[int, Field(ge=1, le=_MOST_NODES)] = 10
    inputs: Annotated[int, Field(ge=1, le=_MOST_NODES)] | None = None

    @model_validator(mode="after")
    def _graph_or_numbers(self) -> RatSpnCircuit:
        if self.graph is None:
            self.depth, self.replicas = self.depth or 4, self.replicas or 10
        elif self.depth is not None or self.replicas is not None:
            raise ValueError("give either 'graph' or 'depth' and 'replicas', not both")
        if self.inputs is None:
            self.inputs = self.sums
        return self


def _check(config: Settings) -> None:
    refuse_phases(config)


def _graph(section: RatSpnCircuit, variables: int, seed: int) -> RegionGraph:
    if section.graph is None:
        assert section.depth is not None and section.replicas is not None
        return random_region_graph(variables, section.depth, section.replicas, seed=seed)
    graph = load_region_graph(Path(section.graph))
    if graph.num_vars != variables:
        raise UserError(
            f"{section.graph} is a region graph of {graph.num_vars} variables, but the data have "
            f"{variables}"
        )
    return graph


def _structure(section: RatSpnCircuit, arm: str, shape: Shape) -> Circuit:
    sizes = shape.categories
    graph = _graph(section, len(sizes), 0)
    circuit = section.leafy(rat_spn(graph, section.sums, section.inputs or section.sums, sizes))
    return circuit if arm != "hclt" else hclt_of_size(circuit.num_parameters, shape, section)


def _initialise(context: Context) -> list[Initialisation]:
    section = context.config.circuit
    assert isinstance(section, RatSpnCircuit)
    initialisations = []
    for arm in context.config.arms or []:
        if arm == "random":
            initialisations.append(_random(context, section))
        else:
            structure = _structure(section, arm, context.data.shape)
            initialisations.append(random_hclt_like(context, structure))
    return initialisations


def _random(context: Context, section: RatSpnCircuit) -> Initialisation:
    builders, seed, sizes = (
        builders_of(context.engine),
        context.config.seed,
        context.data.categories,
    )
    graph = _graph(section, len(sizes), seed)
    inputs = section.inputs or section.sums
    key = {
        "random": "rat_spn",
        "graph": graph.to_json(),
        "sums": section.sums,
        "inputs": inputs,
        "seed": seed,
        "builders": builders.name,
        **section.leaf_key,
    }

    def make() -> Circuit:
        circuit = builders.rat_spn(graph, section.sums, inputs, sizes, seed=seed)
        return section.leafy(circuit, seed)

    return Initialisation("random", key, make, ())


KIND = Kind(
    name="rat_spn",
    section=RatSpnCircuit,
    domains=("images", "table"),
    arms=("random", "hclt"),
    check=_check,
    scopes=None,
    structure=_structure,
    initialise=_initialise,
)
