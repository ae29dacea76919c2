"""A circuit compiled for tensors: who reads what, as slices and index tensors.

Activations are tiles [blocks, batch, width].  A parameter of an input layer lives on the device
as [groups, 1 + categories, width], row 0 being all ones: the row a missing value reads, so that
marginalisation needs no mask.  A sum layer keeps [groups, width_out, width_in].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import (
    Circuit,
    FloatArray,
    InputLayer,
    ProductKind,
    ProductLayer,
    SumLayer,
    layer_params,
)

Index = slice | torch.Tensor
Params = list[torch.Tensor | None]

_RUN_VALUES = 64
"""Values per sample from which a factor of consecutive blocks is worth an operation of its own."""


@dataclass(frozen=True)
class Blocks:
    """Some blocks of one layer, in order."""

    layer: int
    index: Index
    count: int
    whole: bool
    """True when these are all blocks of the layer, in order."""


@dataclass(frozen=True)
class InputPlan:
    """Where an input layer reads: its variables and the rows of its table."""

    variables: torch.Tensor
    offsets: torch.Tensor
    """int32 [blocks, 1]: the row of the flattened table where the block's group starts."""


@dataclass(frozen=True)
class Factor:
    """One child for each of the product blocks ``target``: ``target[i] *= source[i]``."""

    target: Index
    covers: bool
    """True when every block of the layer has this factor, in order."""
    position: torch.Tensor
    """int64 [blocks]: where block b stands in ``source``, or -1."""
    source: Blocks


@dataclass(frozen=True)
class ProductPlan:
    """A product layer's children, as slices and index tensors."""

    kind: ProductKind
    num_blocks: int
    width: int
    factors: tuple[Factor, ...] = ()
    """Hadamard only."""
    hand_down: tuple[tuple[Blocks, Index], ...] = ()
    """Hadamard only: (children, the product each child hangs under), by source layer."""
    slots: tuple[tuple[Blocks, ...], ...] = ()
    """Concat and Kronecker: the first child of every block, then the second, …; each cut where
    the source layer changes."""


@dataclass(frozen=True)
class SumPlan:
    """A sum layer's edges, as slices and index tensors."""

    num_blocks: int
    width: int
    sources: tuple[Blocks, ...]
    """Child blocks in edge order, cut where the source layer changes."""
    direct: bool
    """One edge per block and children already scaled: no gather, no rescaling."""
    block_of_edge: torch.Tensor
    groups: torch.Tensor | None
    """int64 [edges], or None when edges are group-major with equal numbers per group."""
    family_of_group: torch.Tensor | None
    """int64 [groups] naming groups whose rows share one total; None when each stands alone."""
    num_families: int
    siblings: torch.Tensor
    """float [families or groups]: entries per row, over all edges of a block."""


LayerPlan = InputPlan | ProductPlan | SumPlan


@dataclass(frozen=True)
class LatentSite:
    """Latent positions that live in one layer."""

    name: str
    positions: torch.Tensor
    blocks: torch.Tensor


@dataclass(frozen=True)
class Program:
    """The static side of a circuit on one device; parameters are held apart."""

    layers: tuple[LayerPlan, ...]
    widths: tuple[int, ...]
    sizes: tuple[int, ...]
    roots: tuple[Blocks, ...]
    latents: dict[int, tuple[LatentSite, ...]]
    num_vars: int
    device: torch.device
    dtype: torch.dtype

    @property
    def tile_entries(self) -> tuple[int, ...]:
        """Values per sample in each layer; none for input layers, which are read where used."""
        return tuple(
            0 if isinstance(plan, InputPlan) else size * width
            for plan, size, width in zip(self.layers, self.sizes, self.widths, strict=True)
        )

    @property
    def largest_tile(self) -> int:
        """Bytes of one sample's values in the widest layer."""
        return max(self.tile_entries) * self.dtype.itemsize

    @property
    def activation_bytes(self) -> int:
        """Bytes kept per sample between the upward and the downward pass."""
        return sum(self.tile_entries) * self.dtype.itemsize + 8 * sum(self.sizes)


def _index(ids: NDArray[np.integer], device: torch.device) -> Index:
    """A slice where the ids are consecutive, else an index tensor."""
    if len(ids) and np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids))):
        return slice(int(ids[0]), int(ids[0]) + len(ids))
    return torch.as_tensor(np.asarray(ids, np.int64), device=device)


class _Compiler:
    def __init__(self, circuit: Circuit, device: torch.device, dtype: torch.dtype) -> None:
        self.circuit, self.device, self.dtype = circuit, device, dtype
        sizes = np.diff(circuit.starts)
        self.layer_of = np.repeat(np.arange(len(circuit.layers)), sizes)
        self.local = np.arange(circuit.num_blocks) - circuit.starts[self.layer_of]

    def blocks(self, layer: int, local: NDArray[np.integer]) -> Blocks:
        index = _index(local, self.device)
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
        )

    def cut(self, children: NDArray[np.integer]) -> tuple[Blocks, ...]:
        """Blocks in the given order, cut where the layer changes."""
        runs = np.split(children, np.flatnonzero(np.diff(self.layer_of[children])) + 1)
        return tuple(self.blocks(int(self.layer_of[run[0]]), self.local[run]) for run in runs)

    def product(self, layer: ProductLayer, width: int) -> ProductPlan:
        if layer.kind == "hadamard":
            return self.hadamard(layer, width)
        slots = layer.children.reshape(layer.num_blocks, -1).T
        return ProductPlan(
            layer.kind, layer.num_blocks, width, slots=tuple(self.cut(s) for s in slots)
        )

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
                (self.blocks(int(src), local[pick]), _index(parent[pick], self.device))
            )
        return ProductPlan(layer.kind, layer.num_blocks, width, tuple(factors), tuple(hand_down))

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
        index = _index(target, self.device)
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
        family, siblings = self._families(layer)
        return SumPlan(
            num_blocks=layer.num_blocks,
            width=layer.width,
            sources=sources,
            direct=direct,
            block_of_edge=self.long(np.repeat(np.arange(layer.num_blocks), edges)),
            groups=None if major else self.long(layer.groups),
            family_of_group=None if (edges == 1).all() else self.long(family),
            num_families=int(family.max()) + 1,
            siblings=torch.as_tensor(siblings, device=self.device, dtype=self.dtype),
        )

    @staticmethod
    def _families(layer: SumLayer) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        first = np.repeat(layer.groups[layer.offsets[:-1]], np.diff(layer.offsets))
        lead = np.arange(len(layer.weights))
        lead[layer.groups] = first
        _, family = np.unique(lead, return_inverse=True)
        return family, np.bincount(family).astype(float) * layer.weights.shape[2]

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
        for layer, width in zip(circuit.layers, circuit.widths, strict=True):
            if isinstance(layer, InputLayer):
                plans.append(self.input(layer))
            elif isinstance(layer, ProductLayer):
                plans.append(self.product(layer, width))
            else:
                plans.append(self.sum(layer))
        return Program(
            layers=tuple(plans),
            widths=circuit.widths,
            sizes=tuple(int(n) for n in np.diff(circuit.starts)),
            roots=self.cut(circuit.roots),
            latents=self.latents(),
            num_vars=circuit.num_vars,
            device=self.device,
            dtype=self.dtype,
        )


def compile_circuit(circuit: Circuit, device: torch.device, dtype: torch.dtype) -> Program:
    """Work out the static indices of ``circuit`` once; parameters may change afterwards."""
    return _Compiler(circuit, device, dtype).run()


def to_device(circuit: Circuit, device: torch.device, dtype: torch.dtype) -> Params:
    """The circuit's parameters in the engine's layout (see the module's docstring)."""
    params: Params = []
    for layer in circuit.layers:
        array = layer_params(layer)
        if array is None:
            params.append(None)
            continue
        tensor = torch.tensor(array, device=device, dtype=dtype)
        if isinstance(layer, InputLayer):
            table = tensor.new_ones(tensor.shape[0], tensor.shape[2] + 1, tensor.shape[1])
            table[:, 1:] = tensor.transpose(1, 2)
            tensor = table
        params.append(tensor)
    return params


def to_numpy(program: Program, tensors: Params) -> list[FloatArray | None]:
    """Parameters or counts back in the layout of the circuit's layers."""
    arrays: list[FloatArray | None] = []
    for plan, tensor in zip(program.layers, tensors, strict=True):
        if tensor is None:
            arrays.append(None)
            continue
        if isinstance(plan, InputPlan):
            tensor = tensor[:, 1:].transpose(1, 2)
        arrays.append(tensor.contiguous().cpu().numpy().copy())
    return arrays


def in_double(program: Program) -> Program:
    """The same program in float64, for samples that float32 cannot hold; parameters stay."""
    return replace(program, dtype=torch.float64)
