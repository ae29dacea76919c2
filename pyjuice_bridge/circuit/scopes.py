"""Smoothness and decomposability of large circuits.

Scopes are compared through fingerprints: every variable has a fixed pseudo-random 64-bit number,
a block's fingerprint is the sum (mod 2^64) over its leaves, so a product adds the fingerprints of
its children, and the children of a sum must all have the same one.  That is a scope counted with
multiplicity; two different ones agree by accident with probability 2^-64.  A block with
overlapping factors counts some variable twice, and so does everything above it.  Hence a circuit
is decomposable exactly if no block that is nobody's child counts more leaves than it has
variables.  Time and memory are linear in the number of edges, whatever the number of variables.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit, InputLayer, ProductLayer
from pyjuice_bridge.errors import UserError


def fingerprints(variables: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Hash variables, int32 [n] → uint64 [n], with the finaliser of SplitMix64."""
    bits = (variables.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def check_decomposable(
    circuit: Circuit, sizes: NDArray[np.int64], prints: NDArray[np.uint64], where: str
) -> None:
    """Compare leaves counted with multiplicity and variables, at the blocks nothing is above.

    All such blocks of different scope are compared together first: where they hold disjoint
    variables, as in a bundle of circuits, that settles it.

    Args:
        circuit: smooth, with children in earlier layers only.
        sizes: int64 [blocks], leaves counted with multiplicity.
        prints: uint64 [blocks], fingerprints.
        where: names the circuit in messages.

    Raises:
        UserError: the children of a product block share a variable.
    """
    starts = np.cumsum([0] + [layer.num_blocks for layer in circuit.layers])
    leaves = [layer for layer in circuit.layers if isinstance(layer, InputLayer)]
    variables = len(np.unique(np.concatenate([layer.variables for layer in leaves])))
    is_child = np.zeros(len(sizes), bool)
    for layer in circuit.layers:
        if not isinstance(layer, InputLayer):
            is_child[layer.children] = True
    tops = np.flatnonzero(~is_child)
    tops = tops[np.unique(prints[tops], return_index=True)[1]]
    if int(sizes[tops].sum()) == variables:
        return
    for top in tops:
        below = _below(circuit, starts, int(top))
        read = [
            layer.variables[below[starts[i] : starts[i + 1]]]
            for i, layer in enumerate(circuit.layers)
            if isinstance(layer, InputLayer)
        ]
        if len(np.unique(np.concatenate(read))) != sizes[top]:
            fail_overlap(circuit, below, where)


def _below(circuit: Circuit, starts: NDArray[np.int64], top: int) -> NDArray[np.bool_]:
    """Mark the blocks that ``top`` depends on, itself included: bool [blocks]."""
    below = np.zeros(int(starts[-1]), bool)
    below[top] = True
    for i, layer in reversed(list(enumerate(circuit.layers))):
        if not isinstance(layer, InputLayer):
            parents = below[starts[i] : starts[i + 1]]
            below[layer.children[np.repeat(parents, np.diff(layer.offsets))]] = True
    return below


def fail_overlap(circuit: Circuit, among: NDArray[np.bool_], where: str) -> NoReturn:
    """Find the first product block whose factors share a variable, by explicit scopes.

    Args:
        circuit: one that is known not to be decomposable.
        among: bool [blocks], where to look.
        where: names the circuit in messages.

    Raises:
        UserError: always.
    """
    starts = np.cumsum([0] + [layer.num_blocks for layer in circuit.layers])
    scopes: dict[int, frozenset[int]] = {}
    for i, layer in enumerate(circuit.layers):
        for b in np.flatnonzero(among[starts[i] : starts[i + 1]]):
            block = int(starts[i] + b)
            if isinstance(layer, InputLayer):
                scopes[block] = frozenset([int(layer.variables[b])])
                continue
            children = layer.children[layer.offsets[b] : layer.offsets[b + 1]].tolist()
            scope = scopes[children[0]]
            if isinstance(layer, ProductLayer) and layer.kind != "concat":
                for child in children[1:]:
                    if not scope.isdisjoint(scopes[child]):
                        shared = min(scope & scopes[child])
                        raise UserError(
                            f"{where}: /layers/{i}/children: block {block} is not decomposable: "
                            f"variable {shared} is in several of its children."
                        )
                    scope |= scopes[child]
            scopes[block] = scope
    raise AssertionError("sizes and scopes disagree")
