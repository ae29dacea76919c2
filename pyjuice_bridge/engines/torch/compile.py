"""From a circuit's arrays to the slices and index tensors of a program."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.circuit.ties import leads
from pyjuice_bridge.circuit.types import Circuit, InputLayer, ProductLayer, SumLayer
from pyjuice_bridge.engines.torch.fused.trees import cut
from pyjuice_bridge.engines.torch.program import (
    Blocks,
    Edges,
    Factor,
    InputPlan,
    LatentSite,
    LayerPlan,
    ProductPlan,
    Program,
    SumPlan,
    index_of,
)

_RUN_VALUES = 64
"""Values per sample from which a factor of consecutive blocks is worth an operation of its own."""


class _Compiler:
    def __init__(self, circuit: Circuit, device: torch.device, dtype: torch.dtype) -> None:
        self.circuit, self.device, self.dtype = circuit, device, dtype
        sizes = np.diff(circuit.starts)
        self.layer_of = np.repeat(np.arange(len(circuit.layers)), sizes)
        self.local = np.arange(circuit.num_blocks) - circuit.starts[self.layer_of]

    def blocks(self, layer: int, local: NDArray[np.integer]) -> Blocks:
        index = index_of(local, self.device)
        size = self.circuit.layers[layer].num_blocks
        whole = isinstance(index, slice) and len(local) == size
        return Blocks(layer, index, len(local), whole)

    def long(self, values: NDArray[np.integer]) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, np.int64), device=self.device)

    def input(self, layer: InputLayer) -> InputPlan:
        offsets = layer.groups.astype(np.int64) * (layer.categories + 1)
        if len(layer.params) * (layer.categories + 1) >= 2**31:
            raise OverflowError("an input layer with more than 2^31 table rows")
        return InputPlan(
            self.long(layer.variables),
            torch.as_tensor(offsets.astype(np.int32), device=self.device)[:, None],
            layer.family,
        )

    def cut(self, children: NDArray[np.integer]) -> tuple[Blocks, ...]:
        """Blocks in the given order, cut where the layer changes."""
        runs = np.split(children, np.flatnonzero(np.diff(self.layer_of[children])) + 1)
        return tuple(self.blocks(int(self.layer_of[run[0]]), self.local[run]) for run in runs)

    def product(self, layer: ProductLayer, width: int) -> ProductPlan:
        if layer.kind == "hadamard":
            return self.hadamard(layer, width)
        slots = tuple(self.cut(s) for s in layer.children.reshape(layer.num_blocks, -1).T)
        return ProductPlan(layer.kind, layer.num_blocks, width, self.edges(layer), slots=slots)

    def edges(self, layer: ProductLayer) -> Edges:
        places = self.layer_of[layer.children], self.local[layer.children]
        return Edges(layer.offsets.astype(np.int64), *(p.astype(np.int64) for p in places))

    def hadamard(self, layer: ProductLayer, width: int) -> ProductPlan:
        arity = np.diff(layer.offsets)
        parent = np.repeat(np.arange(layer.num_blocks), arity)
        slot = np.arange(len(parent)) - np.repeat(layer.offsets[:-1], arity)
        source, local = self.layer_of[layer.children], self.local[layer.children]
        factors, hand_down = [], []
        for s in range(int(arity.max())):
            for src in np.unique(source[slot == s]):
                pick = np.flatnonzero((slot == s) & (source == src))
                for run in self.runs(parent[pick], local[pick], width):
                    factors.append(
                        self.factor(layer, int(src), parent[pick[run]], local[pick[run]])
                    )
        factors.sort(key=lambda f: not f.covers)
        for src in np.unique(source):
            pick = np.flatnonzero(source == src)
            pick = pick[np.argsort(local[pick], kind="stable")]
            hand_down.append(
                (self.blocks(int(src), local[pick]), index_of(parent[pick], self.device))
            )
        return ProductPlan(
            layer.kind,
            layer.num_blocks,
            width,
            self.edges(layer),
            tuple(factors),
            tuple(hand_down),
        )

    def runs(
        self, target: NDArray[np.integer], source: NDArray[np.integer], width: int
    ) -> list[NDArray[np.int64]]:
        """Places to cut a factor so that both sides are slices, where that pays.

        On a CPU a multiplication of slices in place beats gathering, multiplying and scattering
        unless the pieces are tiny.
        """
        places = np.arange(len(target))
        cuts = np.flatnonzero((np.diff(target) != 1) | (np.diff(source) != 1)) + 1
        small = len(target) * width < _RUN_VALUES * (len(cuts) + 1)
        if self.device.type != "cpu" or small:
            return [places]
        return np.split(places, cuts)

    def factor(
        self,
        layer: ProductLayer,
        source: int,
        target: NDArray[np.integer],
        children: NDArray[np.integer],
    ) -> Factor:
        position = np.full(layer.num_blocks, -1)
        position[target] = np.arange(len(target))
        index = index_of(target, self.device)
        covers = isinstance(index, slice) and len(target) == layer.num_blocks
        return Factor(index, covers, self.long(position), self.blocks(source, children))

    def sum(self, layer: SumLayer) -> SumPlan:
        edges = np.diff(layer.offsets)
        sources = self.cut(layer.children)
        scaled = all(isinstance(self.circuit.layers[b.layer], ProductLayer) for b in sources)
        direct = bool((edges == 1).all()) and scaled and len(sources) == 1
        num_groups = len(layer.weights)
        repeats, rest = divmod(len(layer.groups), num_groups)
        major = not rest and np.array_equal(layer.groups, np.repeat(np.arange(num_groups), repeats))
        _, family = np.unique(leads(layer), return_inverse=True)
        siblings = np.bincount(family).astype(float) * layer.weights.shape[2]
        return SumPlan(
            num_blocks=layer.num_blocks,
            width=layer.width,
            terms=int(edges.max()) * layer.weights.shape[2],
            sources=sources,
            direct=direct,
            block_of_edge=self.long(np.repeat(np.arange(layer.num_blocks), edges)),
            num_groups=num_groups,
            groups=None if major else self.long(layer.groups),
            family_of_group=None if (edges == 1).all() else self.long(family),
            num_families=int(family.max()) + 1,
            siblings=torch.as_tensor(siblings, device=self.device, dtype=self.dtype),
        )

    def latents(self) -> dict[int, tuple[LatentSite, ...]]:
        sites: dict[int, tuple[LatentSite, ...]] = {}
        for name, blocks in self.circuit.latents.items():
            for layer in np.unique(self.layer_of[blocks]):
                here = np.flatnonzero(self.layer_of[blocks] == layer)
                site = LatentSite(name, self.long(here), self.long(self.local[blocks[here]]))
                sites[int(layer)] = (*sites.get(int(layer), ()), site)
        return sites

    def run(self) -> Program:
        circuit = self.circuit
        plans: list[LayerPlan] = []
        owners = list(range(len(circuit.layers)))
        for i, (layer, width) in enumerate(zip(circuit.layers, circuit.widths, strict=True)):
            if isinstance(layer, InputLayer):
                plans.append(self.input(layer))
            elif isinstance(layer, ProductLayer):
                plans.append(self.product(layer, width))
            else:
                plans.append(self.sum(layer))
                owners[i] = i if layer.tied_to is None else layer.tied_to
        return Program(
            layers=tuple(plans),
            owners=tuple(owners),
            widths=circuit.widths,
            sizes=tuple(int(n) for n in np.diff(circuit.starts)),
            roots=self.cut(circuit.roots),
            latents=self.latents(),
            num_vars=circuit.num_vars,
            device=self.device,
            dtype=self.dtype,
        )


def compile_circuit(
    circuit: Circuit, device: torch.device, dtype: torch.dtype, *, trees: bool = True
) -> Program:
    """Work out the static indices of ``circuit`` once; parameters may change afterwards.

    Without ``trees`` none are looked for, which only likelihoods and counts evaluate depth first.
    """
    program = _Compiler(circuit, device, dtype).run()
    if trees and device.type == "cpu" and dtype == torch.float32:
        program = replace(program, cut=cut(program))
    return program
