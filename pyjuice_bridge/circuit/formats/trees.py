"""Which well-known structure a list of blocks is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyjuice_bridge.circuit.formats.layering import Block, Leaf, Product, Sum, layered
from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.circuit.types import Circuit, InputLayer


def assembled(num_vars: int, blocks: Sequence[Block], program: str) -> Circuit:
    """Build the circuit of a file's blocks, the root last, as what they are recognised to be.

    Args:
        num_vars: variables of the circuit.
        blocks: children before parents.
        program: whose file it was, which is the structure of a circuit that is not recognised.
    """
    root = len(blocks) - 1
    hmm = chain(blocks, root, num_vars)
    if hmm is not None:
        return hmm.circuit(num_vars)
    places = latent_places(blocks, root, num_vars)
    if places is None:
        return layered(num_vars, blocks, root, {}, {"structure": program})
    meta: dict[str, str | int | float] = {
        "structure": "hclt",
        "latent_states": blocks[places[0]].width,
    }
    return layered(num_vars, blocks, root, {"z": places}, meta)


def chain(blocks: Sequence[Block], root: int, num_vars: int) -> Hmm | None:
    """Return the homogeneous HMM over variables in order, None if it is none."""
    top, leaves, moves = blocks[root], list[Leaf](), list[Sum]()
    if not isinstance(top, Sum) or len(top.children) != 1 or num_vars < 2:
        return None
    at = blocks[top.children[0]]
    while isinstance(at, Product):
        factors = [blocks[c] for c in at.children]
        own = [f for f in factors if isinstance(f, Leaf)]
        rest = [f for f in factors if isinstance(f, Sum)]
        if at.kind != "hadamard" or len(own) != 1 or len(own) + len(rest) != len(factors):
            return None
        if not rest:
            at = own[0]
            break
        if len(rest) > 1:
            return None
        leaves.append(own[0])
        moves.append(rest[0])
        if len(rest[0].children) != 1:
            return None
        at = blocks[rest[0].children[0]]
    if not isinstance(at, Leaf) or not moves:
        return None
    leaves.append(at)
    tied = all(np.array_equal(leaf.params, at.params) for leaf in leaves)
    tied = tied and all(np.array_equal(move.weights, moves[0].weights) for move in moves)
    if not tied or [leaf.variable for leaf in leaves] != list(range(num_vars)):
        return None
    return Hmm(top.weights[0, 0], moves[0].weights[0], leaves[0].params)


def latent_places(blocks: Sequence[Block], root: int, num_vars: int) -> list[int] | None:
    """List the block of every variable's latent in a hidden Chow-Liu tree, None if it is none.

    A variable that is a leaf of the tree may share the latent of its parent.
    """
    places: dict[int, int] = {}
    top = blocks[root]
    if not isinstance(top, Sum) or len(top.children) != 1:
        return None
    waiting, width = [top.children[0]], blocks[top.children[0]].width
    while waiting:
        place = waiting.pop()
        block = blocks[place]
        if isinstance(block, Leaf):
            places[block.variable] = place
            continue
        if not isinstance(block, Product) or block.kind != "hadamard" or block.width != width:
            return None
        factors = [(c, blocks[c]) for c in block.children]
        own = [f.variable for _, f in factors if isinstance(f, Leaf)]
        if not own:
            return None
        # One leaf is the variable's own; others are children of the tree without a latent.
        places.update({f.variable: c for c, f in factors if isinstance(f, Leaf)})
        places[own[-1]] = place
        for _, factor in factors:
            if isinstance(factor, Sum):
                if len(factor.children) != 1 or factor.width != width:
                    return None
                waiting.append(factor.children[0])
            elif not isinstance(factor, Leaf):
                return None
    if sorted(places) != list(range(num_vars)) or len(set(places.values())) < num_vars:
        return None
    return [places[v] for v in range(num_vars)]


def reached_blocks(circuit: Circuit) -> list[int]:
    """List the blocks that the roots reach, children before parents."""
    reached = np.zeros(circuit.num_blocks, bool)
    reached[circuit.roots] = True
    for i in range(len(circuit.layers) - 1, -1, -1):
        layer = circuit.layers[i]
        if not isinstance(layer, InputLayer):
            here = reached[circuit.starts[i] : circuit.starts[i + 1]]
            reached[layer.children[np.repeat(here, np.diff(layer.offsets))]] = True
    blocks: list[int] = np.flatnonzero(reached).tolist()
    return blocks
