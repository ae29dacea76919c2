"""From single blocks, in any order of levels, to the layers of a circuit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import (
    Circuit,
    InputLayer,
    IntArray,
    Layer,
    ProductKind,
    ProductLayer,
    SumLayer,
)


@dataclass(frozen=True, eq=False)
class Leaf:
    """Categorical leaves of a variable.

    Attributes:
        variable: that they read.
        params: float [width, categories].
        owner: the index of the block whose parameters these are; None for its own.
    """

    variable: int
    params: NDArray[Any]
    owner: int | None = None

    children: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        return int(self.params.shape[0])


@dataclass(frozen=True, eq=False)
class Product:
    """A product of blocks, given by their indices."""

    kind: ProductKind
    children: tuple[int, ...]
    width: int


@dataclass(frozen=True, eq=False)
class Sum:
    """A mixture of blocks.

    Attributes:
        children: indices of blocks of one width.
        weights: float [children, width, width of the children].
        owner: as in ``Leaf``.
    """

    children: tuple[int, ...]
    weights: NDArray[Any]
    owner: int | None = None

    @property
    def width(self) -> int:
        return int(self.weights.shape[1])


Block = Leaf | Product | Sum


def layered(
    num_vars: int,
    blocks: Sequence[Block],
    root: int,
    latents: Mapping[str, Sequence[int]],
    meta: Mapping[str, str | int | float],
) -> Circuit:
    """Put blocks of one depth, kind and width into a layer each.

    Args:
        num_vars: variables of the circuit.
        blocks: children before parents.  An owner has no owner, and is no deeper than its tenants.
        root: the index of the root.
        latents: name → indices of blocks.
        meta: of the circuit.
    """
    depths: list[int] = []
    for block in blocks:
        depths.append(1 + max((depths[child] for child in block.children), default=-1))
    keys = [_key(block, blocks, depths, depths[i]) for i, block in enumerate(blocks)]
    order = sorted(set(keys), key=lambda key: (key[0], str(key)))
    members: dict[tuple[Any, ...], list[int]] = {key: [] for key in order}
    for i, key in enumerate(keys):
        members[key].append(i)
    number = np.empty(len(blocks), np.int32)
    number[[i for key in order for i in members[key]]] = np.arange(len(blocks))
    groups: dict[int, tuple[int, int]] = {}
    layers: list[Layer] = []
    for key in order:
        layers.append(_layer([(i, blocks[i]) for i in members[key]], number, groups, layers))
    named = {name: number[list(places)] for name, places in latents.items()}
    return Circuit(num_vars, tuple(layers), number[[root]], named, dict(meta))


def _key(
    block: Block, blocks: Sequence[Block], depths: Sequence[int], depth: int
) -> tuple[Any, ...]:
    """Describe the layer that a block belongs to."""
    if isinstance(block, Leaf):
        return (0, "leaf", *block.params.shape)
    if isinstance(block, Product):
        return (depth, block.kind, block.width)
    owner = None if block.owner is None else depths[block.owner]
    return (depth, "sum", *block.weights.shape[1:], -1 if owner in (None, depth) else owner)


def _layer(
    members: Sequence[tuple[int, Any]],
    number: IntArray,
    groups: dict[int, tuple[int, int]],
    layers: Sequence[Layer],
) -> Layer:
    """Make a layer; ``groups`` gives the layer and first group of every owner so far."""
    first = members[0][1]
    counts = [len(block.children) for _, block in members]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    children = number[[child for _, block in members for child in block.children]]
    if isinstance(first, Product):
        return ProductLayer(first.kind, offsets, children)
    own: list[NDArray[Any]] = []
    taken: list[int] = []
    owner: int | None = None
    count = 0
    for i, block in members:
        if block.owner is None:
            groups[i] = (len(layers), count)
            arrays = block.params[None] if isinstance(block, Leaf) else block.weights
            own.append(arrays)
            count += len(arrays)
    for i, block in members:
        where, start = groups[i if block.owner is None else block.owner]
        owner = None if where == len(layers) else where
        size = 1 if isinstance(block, Leaf) else len(block.weights)
        taken += range(start, start + size)
    group = np.array(taken, np.int32)
    if isinstance(first, Leaf):
        variables = np.array([block.variable for _, block in members], np.int32)
        return InputLayer(variables, group, np.concatenate(own))
    if owner is None:
        return SumLayer(offsets, children, group, np.concatenate(own))
    source = layers[owner]
    assert isinstance(source, SumLayer)
    return SumLayer(offsets, children, group, source.weights, owner)
