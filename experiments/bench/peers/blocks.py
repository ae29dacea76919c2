"""A circuit built block by block, for programs that are made of such parts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

from pyjuice_bridge.circuit.types import Circuit, InputLayer, ProductLayer, SumLayer

T = TypeVar("T")


def groups_of(layer: SumLayer) -> list[list[int]]:
    """The groups of every block's edges."""
    return [layer.groups[start:end].tolist() for start, end in pairwise(layer.offsets.tolist())]


def assemble(
    circuit: Circuit,
    leaf: Callable[[InputLayer, int, int], T],
    product: Callable[[str, list[T]], T],
    mix: Callable[[SumLayer, list[int], list[T]], T],
) -> list[T]:
    """What becomes of every block, children first.

    Args:
        leaf: of a layer, a variable and a group.
        product: of the layer's kind and the children; a single child stands for itself.
        mix: a sum, of its layer, the groups of its edges and the children.
    """
    made: list[T] = []
    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            pairs = zip(layer.variables.tolist(), layer.groups.tolist(), strict=True)
            made += [leaf(layer, variable, group) for variable, group in pairs]
            continue
        spans = pairwise(layer.offsets.tolist())
        families = [[made[c] for c in layer.children[start:end].tolist()] for start, end in spans]
        if isinstance(layer, ProductLayer):
            made += [f[0] if len(f) == 1 else product(layer.kind, f) for f in families]
        else:
            pairs_of = zip(groups_of(layer), families, strict=True)
            made += [mix(layer, groups, parts) for groups, parts in pairs_of]
    return made
