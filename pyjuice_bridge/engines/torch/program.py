"""A circuit compiled for tensors: who reads what, as slices and index tensors.

Activations are tiles [blocks, batch, width].  A parameter of an input layer lives on the device
as [groups, 1 + categories, width], row 0 being all ones: the row a missing value reads, so that
marginalisation needs no mask.  A sum layer keeps [groups, width_out, width_in].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.circuit.families.base import Family
from pyjuice_bridge.circuit.types import (
    Circuit,
    FloatArray,
    InputLayer,
    ProductKind,
    layer_params,
)

Index = slice | torch.Tensor
Params = list[torch.Tensor | None]


def index_of(ids: NDArray[np.integer], device: torch.device) -> Index:
    """Return a slice where the ids are consecutive, else an index tensor."""
    if len(ids) and np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids))):
        return slice(int(ids[0]), int(ids[0]) + len(ids))
    return torch.as_tensor(np.asarray(ids, np.int64), device=device)


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
    family: Family


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
class Edges:
    """The children of a layer's blocks one by one: int64 [blocks + 1] and int64 [edges]."""

    offsets: NDArray[np.int64]
    layers: NDArray[np.int64]
    blocks: NDArray[np.int64]
    """Each child's place in its layer."""


@dataclass(frozen=True)
class ProductPlan:
    """A product layer's children, as slices and index tensors."""

    kind: ProductKind
    num_blocks: int
    width: int
    edges: Edges
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
    terms: int
    """Most terms that one sum adds up."""
    sources: tuple[Blocks, ...]
    """Child blocks in edge order, cut where the source layer changes."""
    direct: bool
    """One edge per block and children already scaled: no gather, no rescaling."""
    block_of_edge: torch.Tensor
    num_groups: int
    groups: torch.Tensor | None
    """int64 [edges], or None when edges are group-major with equal numbers per group."""
    family_of_group: torch.Tensor | None
    """int64 [groups] naming groups whose rows share one total; None when each stands alone."""
    num_families: int
    siblings: torch.Tensor
    """float [families or groups]: entries per row, over all edges of a block."""


@dataclass(frozen=True)
class GivenPlan:
    """Values that another pass provides."""

    num_blocks: int
    width: int


@dataclass(frozen=True)
class AbsentPlan:
    """A layer that another pass evaluates."""


LayerPlan = InputPlan | ProductPlan | SumPlan | GivenPlan | AbsentPlan


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
    owners: tuple[int, ...]
    """By layer: where its parameters and counts are kept, another layer's place if it is tied."""
    widths: tuple[int, ...]
    sizes: tuple[int, ...]
    roots: tuple[Blocks, ...]
    latents: dict[int, tuple[LatentSite, ...]]
    num_vars: int
    device: torch.device
    dtype: torch.dtype
    factors: torch.dtype | None = None
    """What the factors of matrix products are rounded to, unless a setting of PyTorch does it."""
    cut: Any = None
    """The ``fused.trees.Cut`` of a program whose trees are evaluated depth first."""

    @cached_property
    def tile_entries(self) -> tuple[int, ...]:
        """Values per sample in each layer; none for input layers, which are read where used."""
        return tuple(
            0 if isinstance(plan, (InputPlan, AbsentPlan)) else size * width
            for plan, size, width in zip(self.layers, self.sizes, self.widths, strict=True)
        )

    @cached_property
    def largest_tile(self) -> int:
        """Bytes of one sample's values in the widest layer, at least one value."""
        return max(1, *self.tile_entries) * self.dtype.itemsize

    @cached_property
    def activation_bytes(self) -> int:
        """Bytes kept per sample between the upward and the downward pass."""
        return sum(self.tile_entries) * self.dtype.itemsize + 8 * sum(self.sizes)

    @cached_property
    def in_double(self) -> Program:
        """The same in float64, for samples that float32 cannot hold; parameters stay."""
        return replace(self, dtype=torch.float64, factors=None)


def to_device(circuit: Circuit, device: torch.device, dtype: torch.dtype) -> Params:
    """Return the circuit's parameters in the engine's layout (see the module's docstring)."""
    params: Params = []
    for layer in circuit.layers:
        array = layer_params(layer)
        if array is None:
            params.append(None)
            continue
        tensor = torch.tensor(array, device=device, dtype=dtype).contiguous()
        if isinstance(layer, InputLayer):
            table = tensor.new_ones(tensor.shape[0], tensor.shape[2] + 1, tensor.shape[1])
            table[:, 1:] = tensor.transpose(1, 2)
            tensor = table
        params.append(tensor)
    return params


def to_numpy(program: Program, tensors: Params) -> list[FloatArray | None]:
    """Parameters or counts back in the layout of the circuit's layers."""
    return list(in_layers(program, tensors))


def in_layers(program: Program, tensors: Params) -> Iterator[FloatArray | None]:
    """Yield parameters or counts layer by layer, as ``to_numpy`` returns them."""
    for plan, tensor in zip(program.layers, tensors, strict=True):
        if tensor is not None and isinstance(plan, InputPlan):
            tensor = tensor[:, 1:].transpose(1, 2)
        yield None if tensor is None else np.array(tensor.cpu().numpy(), order="C")
