"""Circuits over any region graph, with a latent variable for every region.

The block of a region has K nodes, one for each value of the region's latent variable Z.  Two kinds
of layers say how a partition puts the blocks of its children together:

``cp``
    Every child has a dense sum block p(Z_child | Z_region) of its own, and these are multiplied
    elementwise.  The product block is the region's; a region with several partitions has one for
    each, and the sums above mix them all.  Of the tree of a hidden Chow-Liu tree this is the HCLT.
``tucker``
    The Kronecker product of two children, then a dense sum p(Z_left, Z_right | Z_region) over all
    partitions of the region, which is the region's block (as in RAT-SPNs and EiNets).

A leaf region is the elementwise product of one input block per variable.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pyjuice_bridge.circuit.hclt import category_array
from pyjuice_bridge.circuit.initialise import initialise, uniform_leaves, uniform_weights
from pyjuice_bridge.circuit.region_graph import RegionGraph
from pyjuice_bridge.circuit.types import (
    Circuit,
    InputLayer,
    IntArray,
    Layer,
    ProductLayer,
    SumLayer,
)
from pyjuice_bridge.errors import UserError


def region_circuit(
    graph: RegionGraph,
    latents: ArrayLike,
    categories: ArrayLike,
    *,
    shapes: ArrayLike | None = None,
    seed: int | None = None,
) -> Circuit:
    """Build the circuit of a region graph with ``cp`` layers.

    Args:
        graph: the regions and their partitions.
        latents: values of every region's latent variable: one number, or int [regions].
        categories: values of every variable: one number, or int [num_vars].
        shapes: int [regions]; regions of equal numbers share their parameters, and so must be
            split alike (``region_rectangles.congruent``).  Negative: shares none.
        seed: of Dirichlet(1) rows; None leaves uniform rows that take no memory.

    Returns:
        A circuit with one root.  ``latents["z"]`` lists the product blocks, one for every partition
        of a region and one for a leaf, in the order of ``latent_regions``.

    Raises:
        UserError: an argument is not as described.
    """
    widths = per_region(latents, graph, "latents")
    if widths.min() < 1:
        raise UserError("latents must be at least 1.")
    sizes = category_array(categories, graph.num_vars)
    alike = (
        np.full(len(graph.scopes), -1) if shapes is None else per_region(shapes, graph, "shapes")
    )
    circuit = _CpBuilder(graph, widths, sizes, alike).circuit()
    return circuit if seed is None else initialise(circuit, seed)


def latent_regions(graph: RegionGraph) -> IntArray:
    """Return the region of every position of ``region_circuit``'s latents, int32 [positions]."""
    return np.repeat(
        np.arange(len(graph.scopes), dtype=np.int32), [max(1, len(s)) for s in graph.splits]
    )


class _Edge(NamedTuple):
    """The place of a child in a partition."""

    parent: int
    partition: int
    slot: int


@dataclass(frozen=True)
class _Bundle:
    """Regions of one product layer, and what it takes to be in it."""

    height: int
    width: int
    above: tuple[tuple[int, int], ...]


class _CpBuilder:
    """The layers so far, and the blocks of each region."""

    def __init__(
        self, graph: RegionGraph, widths: IntArray, sizes: IntArray, shapes: IntArray
    ) -> None:
        self.graph, self.widths, self.sizes, self.shapes = graph, widths, sizes, shapes
        self.layers: list[Layer] = []
        self.blocks = 0
        self.products: dict[int, range] = {}
        self.sums: dict[_Edge, int] = {}
        self.inputs: dict[int, list[int]] = defaultdict(list)
        self.parents: list[list[_Edge]] = [[] for _ in graph.scopes]
        for region, splits in enumerate(graph.splits):
            for partition, children in enumerate(splits):
                for slot, child in enumerate(children):
                    self.parents[child].append(_Edge(region, partition, slot))
        self.matrix, self.uses = self._matrices()

    def _matrices(self) -> tuple[dict[_Edge, int], list[int]]:
        """Give a number to the weights of every sum, and count the sums that share each.

        In a tree, sums of different numbers of users stand in different layers, so that engines
        find every matrix next to all that it is multiplied with.
        """
        numbers: dict[object, int] = {}
        matrix = {}
        for edges in self.parents:
            for edge in edges:
                shape = int(self.shapes[edge.parent])
                key = edge if shape < 0 else (shape, edge.partition, edge.slot, "shared")
                matrix[edge] = numbers.setdefault(key, len(numbers))
        uses = np.bincount(list(matrix.values()), minlength=len(numbers))
        if any(len(edges) > 1 for edges in self.parents):
            uses[:] = 1  # No order of the products would be that of all the sums.
        return matrix, uses.tolist()

    def circuit(self) -> Circuit:
        self._add_inputs()
        bundles: dict[_Bundle, list[int]] = defaultdict(list)
        for region, height in enumerate(self.graph.heights):
            above = {
                (int(self.widths[e.parent]), self.uses[self.matrix[e]])
                for e in self.parents[region]
            }
            bundles[_Bundle(height, int(self.widths[region]), tuple(sorted(above)))].append(region)
        for bundle in sorted(bundles, key=lambda b: (b.height, b.width, b.above)):
            # Tied sums next to each other, in the order of what they read.
            regions = sorted(
                bundles[bundle], key=lambda r: ([self.matrix[e] for e in self.parents[r]], r)
            )
            self._add_products(regions)
            for width, uses in bundle.above:
                self._add_sums(regions, width, uses)
        root = self.products[self.graph.root]
        self._append(_sum_layer([list(root)], [0], 1, int(self.widths[self.graph.root])))
        meta: dict[str, str | int | float] = {
            "structure": "region graph",
            "layer": "cp",
            "latent_states": int(self.widths.max()),
        }
        blocks = [b for region in range(len(self.graph.scopes)) for b in self.products[region]]
        return Circuit(
            self.graph.num_vars,
            tuple(self.layers),
            np.array([self.blocks - 1], np.int32),
            {"z": np.array(blocks, np.int32)},
            meta,
        )

    def _append(self, layer: Layer) -> range:
        """Add a layer and return the ids of its blocks."""
        ids = range(self.blocks, self.blocks + layer.num_blocks)
        self.layers.append(layer)
        self.blocks = ids.stop
        return ids

    def _add_inputs(self) -> None:
        """Add an input layer for every number of categories and width."""
        places: dict[tuple[int, int], list[tuple[int, int, object]]] = defaultdict(list)
        for region, variables in enumerate(self.graph.leaves):
            shape = int(self.shapes[region])
            for slot, v in enumerate(variables):
                key = (region, slot) if shape < 0 else (shape, slot, "shared")
                places[int(self.sizes[v]), int(self.widths[region])].append((region, v, key))
        for (size, width), chosen in sorted(places.items()):
            groups = _numbered(key for _, _, key in chosen)
            read = np.array([v for _, v, _ in chosen], np.int32)
            params = uniform_leaves(int(groups.max()) + 1, width, size)
            ids = self._append(InputLayer(read, groups, params))
            for (region, _, _), block in zip(chosen, ids, strict=True):
                self.inputs[region].append(block)

    def _add_products(self, regions: Sequence[int]) -> None:
        """Add a product block for every partition of the regions, and for leaves."""
        children, counts = [], []
        for region in regions:
            splits = self.graph.splits[region]
            for partition, below in enumerate(splits or ((),)):
                edges = (_Edge(region, partition, slot) for slot in range(len(below)))
                children.append([*self.inputs[region], *(self.sums[edge] for edge in edges)])
            counts.append(max(1, len(splits)))
        flat, offsets = ragged(children)
        first = self._append(ProductLayer("hadamard", offsets, flat)).start
        for region, count in zip(regions, counts, strict=True):
            self.products[region] = range(first, first + count)
            first += count

    def _add_sums(self, regions: Sequence[int], width: int, uses: int) -> None:
        """Add the sums of this width above regions, over all partitions of each."""
        edges = [
            (edge, region)
            for region in regions
            for edge in self.parents[region]
            if (int(self.widths[edge.parent]), self.uses[self.matrix[edge]]) == (width, uses)
        ]
        if not edges:
            return
        children = [list(self.products[region]) for _, region in edges]
        matrices = [self.matrix[edge] for edge, _ in edges]
        ids = self._append(_sum_layer(children, matrices, width, int(self.widths[regions[0]])))
        self.sums.update(zip((edge for edge, _ in edges), ids, strict=True))


def _sum_layer(
    children: list[list[int]], matrices: Iterable[object], width: int, width_in: int
) -> SumLayer:
    """Make the sums over lists of blocks; those of equal ``matrices`` share their weights."""
    flat, offsets = ragged(children)
    places = (
        (matrix, i) for matrix, c in zip(matrices, children, strict=True) for i in range(len(c))
    )
    groups = _numbered(places)
    edges = np.zeros(int(groups.max()) + 1, np.int64)
    edges[groups] = np.repeat(np.diff(offsets), np.diff(offsets))
    return SumLayer(offsets, flat, groups, uniform_weights(edges, width, width_in))


def _numbered(keys: Iterable[object]) -> IntArray:
    """Give every key its number in the order of their first appearance."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int32)


def ragged(lists: Sequence[Sequence[int]]) -> tuple[IntArray, IntArray]:
    """Concatenate lists; return also the offset of each."""
    flat = np.array([item for part in lists for item in part], np.int32)
    return flat, np.cumsum([0, *map(len, lists)]).astype(np.int32)


def per_region(values: ArrayLike, graph: RegionGraph, name: str) -> IntArray:
    """Return one number, or one for every region, as int32 [regions]."""
    array = np.asarray(values)
    count = len(graph.scopes)
    if array.dtype.kind not in "iu" or array.shape not in ((), (count,)):
        raise UserError(f"{name} must be an integer, or an array of {count} of them.")
    return np.broadcast_to(array, (count,)).astype(np.int32)
