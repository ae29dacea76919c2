"""The top-down pass that turns values into states: shared by sampling and MPE.

A *state* is a node of a block.  Starting from the root, every active sum block picks one (edge,
child node); every active product block hands states to its children; an active input block whose
variable is missing picks a value.  Smooth, decomposable circuits reach a block at most once per
column, so the states are one array int32 [blocks, columns], -1 where a block is not active.  Work
is done for all blocks of a layer and all columns at once, and only where a block is active.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike

from pyjuice_bridge.circuit.types import Circuit, InputLayer, ProductLayer, SumLayer

CHUNK = 1 << 22
"""Most scores held at once while choosing."""
STATES = 1 << 25
"""Most states held at once."""


@dataclass(frozen=True)
class SumIndex:
    """Edges of each sum block, padded to the largest number E: int64 [blocks, E]."""

    first: int
    children: torch.Tensor
    """Global block ids, padded with the block's first child."""
    edges: torch.Tensor
    """The edge's place in the layer, -1 where padded."""
    groups: torch.Tensor
    width: int
    width_in: int


@dataclass(frozen=True)
class ProductIndex:
    """One entry per (product, child): the child's state is ``(s - low) // step % size``.

    It is inactive where ``s - low`` lies outside ``[0, span)``; ``step`` and ``size`` are those of
    a mixed-radix digit for ``kronecker``, ``low`` is the offset of a ``concat`` child.
    """

    first: int
    parents: torch.Tensor
    children: torch.Tensor
    low: torch.Tensor
    span: torch.Tensor
    step: torch.Tensor
    size: torch.Tensor


@dataclass(frozen=True)
class InputIndex:
    """Variable and parameter group of each input block: int64 [blocks]."""

    first: int
    variables: torch.Tensor
    groups: torch.Tensor


LayerIndex = SumIndex | ProductIndex | InputIndex


class Chooser(Protocol):
    """How a descent chooses; M (block, column) pairs at a time."""

    def edge(
        self,
        layer: int,
        index: SumIndex,
        block: torch.Tensor,
        state: torch.Tensor,
        row: torch.Tensor,
    ) -> torch.Tensor:
        """int64 [M] into the E * width_in (edge, child node) pairs of each block."""

    def leaf(
        self, layer: int, index: InputIndex, block: torch.Tensor, state: torch.Tensor
    ) -> torch.Tensor:
        """int64 [M]: a category for each (input block, state)."""


def layer_indices(circuit: Circuit, device: torch.device) -> list[LayerIndex]:
    """Return the static indices of every layer of ``circuit``."""

    def long(values: ArrayLike) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, np.int64), device=device)

    indices: list[LayerIndex] = []
    for layer, start in zip(circuit.layers, circuit.starts[:-1], strict=True):
        first = int(start)
        if isinstance(layer, InputLayer):
            indices.append(InputIndex(first, long(layer.variables), long(layer.groups)))
            continue
        arity = np.diff(layer.offsets)
        parent = np.repeat(np.arange(layer.num_blocks), arity)
        if isinstance(layer, SumLayer):
            slot = np.arange(len(parent)) - np.repeat(layer.offsets[:-1], arity)
            shape = (layer.num_blocks, int(arity.max()))
            edge, group = np.full(shape, -1), np.zeros(shape)
            child = np.repeat(layer.children[layer.offsets[:-1], None], shape[1], axis=1)
            child[parent, slot] = layer.children
            edge[parent, slot] = np.arange(len(parent))
            group[parent, slot] = layer.groups
            out, inner = layer.weights.shape[1:]
            indices.append(SumIndex(first, long(child), long(edge), long(group), out, inner))
        else:
            digits = _digits(circuit, layer)
            indices.append(
                ProductIndex(first, long(parent), long(layer.children), *map(long, digits))
            )
    return indices


def _digits(circuit: Circuit, layer: ProductLayer) -> tuple[ArrayLike, ...]:
    """low, span, step and size of every (product, child) entry."""
    widths = np.asarray(circuit.widths)
    layer_of = np.searchsorted(circuit.starts, layer.children, side="right") - 1
    size = widths[layer_of].astype(np.int64)
    zero, one = np.zeros_like(size), np.ones_like(size)
    if layer.kind == "hadamard":
        return zero, size, one, size
    ends = np.cumsum(size)
    opening = np.repeat(layer.offsets[:-1], np.diff(layer.offsets))
    if layer.kind == "concat":
        low = ends - size - (ends - size)[opening]
        return low, size, one, size
    step = one.copy()
    step[0::2] = size[1::2]
    total = np.repeat(size[0::2] * size[1::2], 2)
    return zero, total, step, size


def descend(
    indices: list[LayerIndex],
    num_blocks: int,
    root: int,
    x: torch.Tensor,
    rows: torch.Tensor,
    chooser: Chooser,
) -> torch.Tensor:
    """Fill in the missing values of ``x[rows]`` below one root.

    Args:
        indices: of the circuit's layers.
        num_blocks: blocks of the circuit.
        root: the block to start from.
        x: int [batch, num_vars], -1 where missing.
        rows: int64 [columns], the row of ``x`` (and of the values) each column belongs to.
        chooser: makes the choices.

    Returns:
        int32 [columns, num_vars]; variables outside the root's scope stay as in ``x``.
    """
    states = torch.full((num_blocks, len(rows)), -1, dtype=torch.int32, device=x.device)
    states[root] = 0
    out = x.to(torch.int32).index_select(0, rows)
    for layer in reversed(range(len(indices))):
        index = indices[layer]
        if isinstance(index, SumIndex):
            _choose_edges(layer, index, states, rows, chooser)
        elif isinstance(index, ProductIndex):
            _hand_down(index, states)
        else:
            _choose_leaves(layer, index, states, out, chooser)
    return out


def _choose_edges(
    layer: int, index: SumIndex, states: torch.Tensor, rows: torch.Tensor, chooser: Chooser
) -> None:
    here = states[index.first : index.first + len(index.children)]
    blocks, columns = (here >= 0).nonzero(as_tuple=True)
    if not len(blocks):
        return
    step = max(1, CHUNK // (index.children.shape[1] * index.width_in))
    for block, column in zip(blocks.split(step), columns.split(step), strict=True):
        choice = chooser.edge(layer, index, block, here[block, column].long(), rows[column])
        child = index.children[block, choice // index.width_in]
        states[child, column] = (choice % index.width_in).int()


def _hand_down(index: ProductIndex, states: torch.Tensor) -> None:
    shifted = states[index.parents + index.first] - index.low[:, None].int()
    active = (shifted >= 0) & (shifted < index.span[:, None])
    digit = shifted // index.step[:, None].int() % index.size[:, None].int()
    digit.masked_fill_(~active, -1)
    target = index.children[:, None].expand_as(digit)
    states.scatter_reduce_(0, target, digit, "amax")


def _choose_leaves(
    layer: int, index: InputIndex, states: torch.Tensor, out: torch.Tensor, chooser: Chooser
) -> None:
    here = states[index.first : index.first + len(index.variables)]
    missing = out.index_select(1, index.variables).t() < 0
    blocks, columns = ((here >= 0) & missing).nonzero(as_tuple=True)
    if not len(blocks):
        return
    for block, column in zip(blocks.split(CHUNK), columns.split(CHUNK), strict=True):
        value = chooser.leaf(layer, index, block, here[block, column].long())
        out[column, index.variables[block]] = value.int()
