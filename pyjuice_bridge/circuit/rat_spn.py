"""RAT-SPNs: circuits with dense sums and products over a region graph.

A leaf region is the elementwise product of one input block per variable; a partition is the
Kronecker product of its two regions; a region with partitions is one sum block over all of them
together, and the sum block of the root has width one (Peharz et al., *Random Sum-Product Networks*,
UAI 2019).  ``region_graph`` describes the file format and draws random region graphs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from pyjuice_bridge.circuit.hclt import category_array
from pyjuice_bridge.circuit.initialise import initialise, uniform_leaves, uniform_weights
from pyjuice_bridge.circuit.region_circuit import ragged
from pyjuice_bridge.circuit.region_graph import (
    RegionGraph,
    load_region_graph,
    random_region_graph,
)
from pyjuice_bridge.circuit.types import (
    Circuit,
    InputLayer,
    IntArray,
    Layer,
    ProductKind,
    ProductLayer,
    SumLayer,
)
from pyjuice_bridge.errors import UserError

__all__ = ["RegionGraph", "load_region_graph", "random_region_graph", "rat_spn", "tucker_circuit"]


def rat_spn(
    graph: RegionGraph, sums: int, inputs: int, categories: ArrayLike, *, seed: int | None = None
) -> Circuit:
    """Build a RAT-SPN over ``graph``.

    Args:
        graph: the regions and their partitions.
        sums: width of the sum block of every region but the root.
        inputs: width of the leaf regions.
        categories: values of every variable: one number, or int [num_vars].
        seed: of Dirichlet(1) rows; None leaves uniform rows that take no memory.

    Returns:
        A circuit with one root.  Regions are placed by their height above the leaves, one product
        and one sum layer per height and width.

    Raises:
        UserError: a number is out of range, or the partitions of a region differ in width, which
            cannot happen when ``inputs`` equals ``sums``.
    """
    if sums < 1 or inputs < 1:
        raise UserError("sums and inputs must be at least 1.")
    circuit = _built(graph, sums, inputs, categories).circuit()
    return circuit if seed is None else initialise(circuit, seed)


def tucker_circuit(
    graph: RegionGraph, latents: int, categories: ArrayLike, *, seed: int | None = None
) -> Circuit:
    """Build a circuit of RAT-SPN layers in which every region but the root has a latent variable.

    Args:
        graph: the regions and their partitions, into two each.
        latents: values of every latent variable.
        categories: values of every variable: one number, or int [num_vars].
        seed: of Dirichlet(1) rows; None leaves uniform rows that take no memory.

    Returns:
        The circuit of ``rat_spn``; ``latents["z"]`` lists the blocks of all regions but the root.

    Raises:
        UserError: an argument is not as described.
    """
    if latents < 1:
        raise UserError("latents must be at least 1.")
    builder = _built(graph, latents, latents, categories)
    blocks = [builder.block[r] for r in range(len(graph.scopes)) if r != graph.root]
    if not blocks:
        raise UserError("the region graph has one region alone, which has nothing to mix.")
    meta: dict[str, str | int | float] = {
        "structure": "region graph",
        "layer": "tucker",
        "latent_states": int(latents),
    }
    z = np.array(blocks, np.int32)
    circuit = replace(builder.circuit(), latents={"z": z}, meta=meta)
    return circuit if seed is None else initialise(circuit, seed)


def _built(graph: RegionGraph, sums: int, inputs: int, categories: ArrayLike) -> _Builder:
    for region, *children in graph.partitions:
        if len(children) != 2 or (graph.own and graph.own[region]):
            raise UserError(
                f"Region {region} has a partition into other than two regions, which Kronecker "
                "products cannot multiply."
            )
    builder = _Builder(graph, sums, inputs)
    builder.add_leaves(category_array(categories, graph.num_vars))
    for regions in _by_height(graph):
        builder.add_regions(regions)
    if not graph.splits[graph.root]:
        builder.add_sums([graph.root], [[builder.block[graph.root]]], 1, inputs)
    return builder


class _Builder:
    """The layers so far, and the block of each region."""

    def __init__(self, graph: RegionGraph, sums: int, inputs: int) -> None:
        self.graph = graph
        self.sums = sums
        self.widths = [sums if splits else inputs for splits in graph.splits]
        self.inputs = inputs
        self.layers: list[Layer] = []
        self.blocks = 0
        self.block: dict[int, int] = {}

    def circuit(self) -> Circuit:
        """Return the circuit of a RAT-SPN."""
        meta: dict[str, str | int | float] = {
            "structure": "rat-spn",
            "sums": int(self.sums),
            "inputs": int(self.inputs),
        }
        root = np.array([self.block[self.graph.root]], np.int32)
        return Circuit(self.graph.num_vars, tuple(self.layers), root, {}, meta)

    def _append(self, layer: Layer) -> range:
        """Add a layer and return the ids of its blocks."""
        ids = range(self.blocks, self.blocks + layer.num_blocks)
        self.layers.append(layer)
        self.blocks = ids.stop
        return ids

    def add_leaves(self, categories: IntArray) -> None:
        """Add an input layer per number of categories, and the products of the leaf regions."""
        regions = [region for region, splits in enumerate(self.graph.splits) if not splits]
        pairs = [(region, v) for region in regions for v in self.graph.scopes[region]]
        factors: dict[int, list[int]] = defaultdict(list)
        for size in np.unique(categories):
            chosen = [(region, v) for region, v in pairs if categories[v] == size]
            params = uniform_leaves(len(chosen), self.inputs, int(size))
            variables = np.array([v for _, v in chosen], np.int32)
            layer = InputLayer(variables, np.arange(len(chosen), dtype=np.int32), params)
            for (region, _), block in zip(chosen, self._append(layer), strict=True):
                factors[region].append(block)
        ids = self._append(_product("hadamard", [factors[region] for region in regions]))
        self.block.update(zip(regions, ids, strict=True))

    def add_regions(self, regions: list[int]) -> None:
        """Add the products of the partitions of ``regions``, and the sums over them."""
        for width, alike in self._by_width(regions).items():
            pairs = [pair for region in alike for pair in self.graph.splits[region]]
            children = [[self.block[left], self.block[right]] for left, right in pairs]
            ids = iter(self._append(_product("kronecker", children)))
            edges = {region: [next(ids) for _ in self.graph.splits[region]] for region in alike}
            root = [region for region in alike if region == self.graph.root]
            inner = [region for region in alike if region != self.graph.root]
            for group, out in ((inner, self.sums), (root, 1)):
                if group:
                    self.add_sums(group, [edges[region] for region in group], out, width)

    def _by_width(self, regions: list[int]) -> dict[int, list[int]]:
        """Group regions by the width of their partitions."""
        regions_by_width: dict[int, list[int]] = defaultdict(list)
        for region in regions:
            widths = {self.widths[a] * self.widths[b] for a, b in self.graph.splits[region]}
            if len(widths) > 1:
                raise UserError(
                    f"Region {region} has partitions of different widths; use inputs equal to sums."
                )
            regions_by_width[widths.pop()].append(region)
        return regions_by_width

    def add_sums(self, regions: list[int], edges: list[list[int]], width: int, size: int) -> None:
        """Add a sum layer: a block of ``width`` nodes per region, over blocks of width ``size``."""
        children, offsets = ragged(edges)
        groups = np.arange(len(children), dtype=np.int32)
        counts = np.repeat(np.diff(offsets), np.diff(offsets))
        weights = uniform_weights(counts, width, size)
        ids = self._append(SumLayer(offsets, children, groups, weights))
        self.block.update(zip(regions, ids, strict=True))


def _by_height(graph: RegionGraph) -> list[list[int]]:
    """Group regions with partitions by the longest path down to a leaf, lowest first."""
    levels: list[list[int]] = [[] for _ in range(max(graph.heights))]
    for region, height in enumerate(graph.heights):
        if height:
            levels[height - 1].append(region)
    return levels


def _product(kind: ProductKind, children: list[list[int]]) -> ProductLayer:
    flat, offsets = ragged(children)
    return ProductLayer(kind, offsets, flat)
