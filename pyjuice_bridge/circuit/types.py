"""A probabilistic circuit as plain arrays: layers of blocks.

A *block* is ``width`` nodes that share one scope.  Blocks are numbered through the whole
circuit in layer order, and a layer only refers to blocks of earlier layers, so the layer list
is a topological order.  All blocks of one layer have the same width.  Nothing here computes:
engines evaluate circuits, builders make them, ``hdf5`` stores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.families.base import Family
from pyjuice_bridge.circuit.families.categorical import Categorical

MISSING = -1
"""The integer that marks an unobserved value; it is marginalised."""

IntArray = NDArray[np.int32]
FloatArray = NDArray[Any]
ProductKind = Literal["hadamard", "kronecker", "concat"]


@dataclass(frozen=True, eq=False)
class InputLayer:
    """Leaves: node j of block b holds p(x_v | j) for ``v = variables[b]``.

    Attributes:
        variables: int32 [blocks], the variable of each block.
        groups: int32 [blocks], the parameter group of each block; equal groups are tied.
        params: float [groups, width, categories], every row a distribution.
        family: what rows may be, and how they are estimated from counts.
    """

    variables: IntArray
    groups: IntArray
    params: FloatArray
    family: Family = field(default_factory=Categorical)

    @property
    def num_blocks(self) -> int:
        return len(self.variables)

    @property
    def width(self) -> int:
        return int(self.params.shape[1])

    @property
    def categories(self) -> int:
        return int(self.params.shape[2])


@dataclass(frozen=True, eq=False)
class ProductLayer:
    """Products of blocks; block b has the children ``children[offsets[b]:offsets[b + 1]]``.

    ``hadamard`` multiplies node j of every child; ``kronecker`` multiplies every combination of
    nodes of two children, the second child's index running fastest; ``concat`` lists the nodes
    of its children one after another, each node a product with a single factor.
    """

    kind: ProductKind
    offsets: IntArray
    children: IntArray

    @property
    def num_blocks(self) -> int:
        return len(self.offsets) - 1


@dataclass(frozen=True, eq=False)
class SumLayer:
    """Mixtures: out = Σ over the block's edges of ``weights[groups[e]] @ value(children[e])``.

    Attributes:
        offsets: int32 [blocks + 1], block b has the edges ``offsets[b]:offsets[b + 1]``.
        children: int32 [edges], the child block of each edge; all have width ``width_in``.
        groups: int32 [edges], the weight matrix of each edge; equal groups are tied.
        weights: float [groups, width_out, width_in].  Row i of a block, over all edges of the
            block together, sums to one.
        tied_to: an earlier sum layer, not tied itself, whose weights this layer shares: ``weights``
            is then that layer's array.  None where the layer has weights of its own.
    """

    offsets: IntArray
    children: IntArray
    groups: IntArray
    weights: FloatArray
    tied_to: int | None = None

    @property
    def num_blocks(self) -> int:
        return len(self.offsets) - 1

    @property
    def width(self) -> int:
        return int(self.weights.shape[1])


Layer = InputLayer | ProductLayer | SumLayer


def layer_params(layer: Layer) -> FloatArray | None:
    """Return the parameters of a layer; None for products and tied sum layers."""
    if isinstance(layer, InputLayer):
        return layer.params
    return layer.weights if isinstance(layer, SumLayer) and layer.tied_to is None else None


def _own_parameters(layer: Layer) -> int:
    if isinstance(layer, InputLayer):
        groups, width, categories = layer.params.shape
        return int(groups * width * layer.family.parameters(categories))
    weights = layer_params(layer)
    return 0 if weights is None else int(weights.size)


def with_params(layer: Layer, params: FloatArray | None) -> Layer:
    """Copy ``layer`` with the parameters ``params`` (None: return it unchanged)."""
    if params is None or isinstance(layer, ProductLayer):
        return layer
    if isinstance(layer, InputLayer):
        return replace(layer, params=params)
    return replace(layer, weights=params)


@dataclass(frozen=True, eq=False)
class Circuit:
    """A smooth, decomposable circuit over ``num_vars`` discrete variables.

    Attributes:
        layers: in topological order.
        roots: int32 [roots], blocks of width 1; several roots are independent models.
        latents: name → int32 [positions]; node j of the listed block means "value j".
        meta: provenance, stored with the circuit.
    """

    num_vars: int
    layers: tuple[Layer, ...]
    roots: IntArray
    latents: Mapping[str, IntArray] = field(default_factory=dict)
    meta: Mapping[str, str | int | float] = field(default_factory=dict)

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Restore a pickled circuit: what is tied shares one array again."""
        layers = list(state["layers"])
        for i, layer in enumerate(layers):
            if isinstance(layer, SumLayer) and layer.tied_to is not None:
                layers[i] = replace(layer, weights=layers[layer.tied_to].weights)
        self.__dict__.update(state, layers=tuple(layers))

    @cached_property
    def starts(self) -> IntArray:
        """int32 [layers + 1]: layer i holds the blocks ``starts[i]:starts[i + 1]``."""
        return np.cumsum([0] + [layer.num_blocks for layer in self.layers]).astype(np.int32)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The width of the blocks of each layer."""
        widths: list[int] = []
        for layer in self.layers:
            if not isinstance(layer, ProductLayer):
                widths.append(layer.width)
                continue
            children = layer.children[layer.offsets[0] : layer.offsets[1]]
            sizes = [widths[self.layer_of(int(child))] for child in children]
            total = {"hadamard": sizes[0], "concat": sum(sizes), "kronecker": int(np.prod(sizes))}
            widths.append(total[layer.kind])
        return tuple(widths)

    @property
    def num_blocks(self) -> int:
        return int(self.starts[-1])

    @property
    def num_parameters(self) -> int:
        """Entries of sum layers, numbers that rows of leaves are made from; tied ones once."""
        return sum(map(_own_parameters, self.layers))

    @cached_property
    def categories(self) -> IntArray:
        """int32 [num_vars]: the number of values of each variable (0 where no leaf reads it)."""
        sizes = np.zeros(self.num_vars, np.int32)
        for layer in self.layers:
            if isinstance(layer, InputLayer):
                sizes[layer.variables] = layer.categories
        return sizes

    def layer_of(self, block: int) -> int:
        """Return the index of the layer that holds ``block``."""
        return int(np.searchsorted(self.starts, block, side="right")) - 1

    def with_layer_params(self, params: list[FloatArray | None]) -> Circuit:
        """Copy the circuit with other parameters, one entry per layer (None keeps a layer's).

        Layers tied to another follow it.
        """
        layers: list[Layer] = []
        for layer, array in zip(self.layers, params, strict=True):
            if isinstance(layer, SumLayer) and layer.tied_to is not None:
                array = params[layer.tied_to]
            layers.append(with_params(layer, array))
        return replace(self, layers=tuple(layers))

    def __repr__(self) -> str:
        return (
            f"Circuit({self.num_vars} variables, {len(self.layers)} layers, "
            f"{self.num_blocks} blocks, {self.num_parameters:,} parameters, "
            f"{len(self.roots)} root{'s' if len(self.roots) != 1 else ''})"
        )
