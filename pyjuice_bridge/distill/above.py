"""The latent circuit above patches: a distribution over the cluster ids of all positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.region_circuit import region_circuit
from pyjuice_bridge.circuit.region_graph import RegionGraph
from pyjuice_bridge.circuit.region_rectangles import Sides, quad_tree
from pyjuice_bridge.circuit.size import balanced_parents
from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.distill.counting import softened
from pyjuice_bridge.distill.latents import LatentValues
from pyjuice_bridge.distill.region_latents import region_latents
from pyjuice_bridge.distill.trees import parents_of, tree_stage
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.stages.store import Artifact

AboveName = Literal["chow_liu", "quad_tree"]


class Above(Protocol):
    """One way to build a latent circuit: one input block for each position, all in one layer."""

    @property
    def parents(self) -> tuple[Artifact, ...]:
        """The artifacts that it is made from."""

    def random(self, values: int) -> Circuit:
        """Build the circuit over ``values`` cluster ids, with Dirichlet(1) rows."""

    def counted(
        self, z: NDArray[np.int32], values: int, pseudocount: float, epsilon: float
    ) -> Circuit:
        """Start at the counts of ids int [N, positions] of training images.

        p(Z | H) of a position is (1 - ε)·identity + ε·uniform.
        """


def latent_structure(name: AboveName, grid: tuple[int, int], values: int) -> Circuit:
    """Build a latent circuit over uniform rows that take no memory, as large as a trained one.

    Args:
        name: of the way to build it.
        grid: rows and columns of positions.
        values: number of cluster ids.
    """
    if name == "quad_tree":
        return region_circuit(quad_tree((*grid, 1)), values, values)
    return hclt(balanced_parents(grid[0] * grid[1]), values, values)


@dataclass(frozen=True, eq=False)
class ChowLiu:
    """A hidden tree along the Chow-Liu tree of the ids."""

    context: Context
    tree: Artifact

    @classmethod
    def of(cls, context: Context, found: LatentValues, clusters: int) -> ChowLiu:
        """Learn the tree."""
        # Ids have no order, so none share a bin.
        tree = tree_stage(
            context,
            "latent tree",
            {},
            found.z["train"],
            clusters,
            parents=(found.artifact,),
            bins=clusters,
        )
        return cls(context, tree)

    @property
    def parents(self) -> tuple[Artifact, ...]:
        return (self.tree,)

    def random(self, values: int) -> Circuit:
        builders, seed = builders_of(self.context.engine), self.context.config.seed
        return builders.hclt(parents_of(self.tree), values, values, seed=seed)

    def counted(
        self, z: NDArray[np.int32], values: int, pseudocount: float, epsilon: float
    ) -> Circuit:
        return builders_of(self.context.engine).latent_circuit(
            z,
            values,
            pseudocount=pseudocount,
            epsilon=epsilon,
            parents=parents_of(self.tree),
        )


@dataclass(frozen=True, eq=False)
class QuadTree:
    """A quad tree over the grid of positions, with a latent variable for every region of it.

    Regions of several positions get their values as those of ``circuit.kind: region_graph`` do:
    from the teacher's vectors of their pixels.
    """

    context: Context
    graph: RegionGraph
    clusters: int
    regions: LatentValues

    @classmethod
    def of(
        cls, context: Context, places: IntArray, sides: Sides, patch: int, clusters: int
    ) -> QuadTree:
        """Cluster what the teacher says about every region.

        Args:
            context: of the run.
            places: int [positions, D], the variables of every patch.
            sides: of images.
            patch: side of a patch.
            clusters: values of the latent variables of regions.
        """
        graph = quad_tree((sides[0] // patch, sides[1] // patch, 1))
        scopes = tuple(tuple(sorted(places[list(s)].ravel().tolist())) for s in graph.scopes)
        pixels = RegionGraph(places.size, scopes, graph.partitions)
        values = np.array([clusters if len(scope) > 1 else 1 for scope in graph.scopes], np.int32)
        alone = np.full(len(values), -1, np.int32)
        found = region_latents(context, pixels, values, alone, patch=patch)
        return cls(context, graph, clusters, found)

    @property
    def parents(self) -> tuple[Artifact, ...]:
        return (self.regions.artifact,)

    def random(self, values: int) -> Circuit:
        return self._structure(values, self.context.config.seed)

    def counted(
        self, z: NDArray[np.int32], values: int, pseudocount: float, epsilon: float
    ) -> Circuit:
        ids = self.regions.z["train"].copy()
        for region, scope in enumerate(self.graph.scopes):
            if len(scope) == 1:
                ids[:, region] = z[:, scope[0]]
        start, builders = self._structure(values, None), builders_of(self.context.engine)
        return softened(builders.count_parameters(start, z, ids, pseudocount=pseudocount), epsilon)

    def _structure(self, values: int, seed: int | None) -> Circuit:
        widths = [self.clusters if len(scope) > 1 else values for scope in self.graph.scopes]
        builders = builders_of(self.context.engine)
        return builders.region_circuit(self.graph, np.array(widths), values, seed=seed)
