"""Which weights are shared: in a sum layer through groups, across layers through ``tied_to``."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit, SumLayer
from pyjuice_bridge.errors import UserError


def fail(item: str, problem: str) -> NoReturn:
    """Raise the one sentence that says what is wrong with ``item``."""
    raise UserError(f"{item}: {problem}.")


def first_of(bad: NDArray[np.bool_]) -> int:
    """Return the index of the first True."""
    return int(np.argmax(bad))


class _Places(NamedTuple):
    """By edge: its place in the block's list, its block, and the length of the list."""

    place: NDArray[np.int64]
    block: NDArray[np.int64]
    length: NDArray[np.int64]


def _places(layer: SumLayer) -> _Places:
    counts = np.diff(layer.offsets)
    block = np.repeat(np.arange(layer.num_blocks), counts)
    place = np.arange(len(layer.groups)) - np.repeat(layer.offsets[:-1], counts)
    return _Places(place, block, counts[block])


def first_edges(layer: SumLayer) -> NDArray[np.int64]:
    """Find the first edge of each group, int64 [groups]."""
    return np.unique(layer.groups, return_index=True)[1]


def leads(layer: SumLayer) -> NDArray[np.int64]:
    """Find the first group of the blocks that each group belongs to, int64 [groups]."""
    lead = np.arange(len(layer.weights))
    lead[layer.groups] = np.repeat(layer.groups[layer.offsets[:-1]], np.diff(layer.offsets))
    return lead


def check_ties(
    layer: SumLayer, start: int, item: str
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Refuse half-shared lists of groups; return every distinct list once, and where each begins.

    Compares each edge with the first edge of its group: both must be at the same place of equally
    long lists that began sharing with the same block.
    """
    place, block, counts = _places(layer)
    first = first_edges(layer)[layer.groups]
    twice = (block[first] == block) & (first != np.arange(len(first)))
    if twice.any():
        e = first_of(twice)
        fail(f"{item}/groups", f"block {start + block[e]} names group {layer.groups[e]} twice")
    owner = block[first]
    bad = (
        (place != place[first])
        | (counts[first] != counts)
        | (owner != owner[layer.offsets[:-1]][block])
    )
    if bad.any():
        e = first_of((block == block[first_of(bad)]) & (owner != block))
        fail(
            f"{item}/groups",
            f"blocks {start + owner[e]} and {start + block[e]} share group {layer.groups[e]}, so "
            "their whole ordered lists of groups must be equal",
        )
    kept = owner == block
    return layer.groups[kept], np.flatnonzero(place[kept] == 0)


def check_owner(circuit: Circuit, index: int, item: str) -> None:
    """Check that ``tied_to`` names an earlier sum layer, and that ``weights`` is its array."""
    layer = circuit.layers[index]
    assert isinstance(layer, SumLayer)
    if layer.tied_to is None:
        return
    owner = circuit.layers[layer.tied_to] if 0 <= layer.tied_to < index else None
    if not isinstance(owner, SumLayer) or owner.tied_to is not None:
        fail(
            f"{item}/tied_to",
            f"names layer {layer.tied_to}, must be an earlier sum layer with weights of its own",
        )
    if layer.weights is not owner.weights:
        fail(f"{item}/weights", f"must be the very array of layer {layer.tied_to}, its owner")


def check_tied_lists(circuit: Circuit, layer: SumLayer, start: int, item: str) -> None:
    """Check that every block's ordered list of groups occurs in the owner.

    All groups of the owner are in use and its own lists are checked already, so an edge is right
    exactly if it is at the position of the owner's first edge of the same group, in a list as long,
    and its whole list belongs to the same block there.
    """
    owner = circuit.layers[layer.tied_to if layer.tied_to is not None else 0]
    assert isinstance(owner, SumLayer)
    theirs, ours = _places(owner), _places(layer)
    first = first_edges(owner)[layer.groups]
    lead = layer.offsets[:-1]
    bad = (
        (ours.place != theirs.place[first])
        | (ours.length != theirs.length[first])
        | (theirs.block[first] != theirs.block[first[lead]][ours.block])
    )
    if bad.any():
        block = start + int(ours.block[first_of(bad)])
        fail(
            f"{item}/groups",
            f"the list of groups of block {block} is not one of layer {layer.tied_to}, to which "
            "this layer is tied",
        )
