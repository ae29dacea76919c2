"""Hidden Chow-Liu trees: a tree of hidden variables, each with one observed child.

Variable i has its own hidden variable H_i with ``latents`` values, tree leaves included; the leaf
is p(x_i | H_i) and the edge p(H_child | H_parent) (Liu & Van den Broeck, *Tractable
Regularization of Probabilistic Circuits*, NeurIPS 2021).  In blocks: the product block of i
multiplies its input block with the sum blocks of its tree children, and the sum block of i,
p(H_i | H_parent) mixing the product block, is what the parent's product consumes.

Layout, the same for every builder of trees: all hidden variables of one depth form one level,
deepest first; a level is one product layer and one sum layer, both in breadth-first order, so that
siblings are neighbours; input blocks come in the order of the products that consume them.  There is
one input layer per distinct number of categories.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.initialise import initialise, uniform_leaves, uniform_weights
from pyjuice_bridge.circuit.types import (
    Circuit,
    InputLayer,
    IntArray,
    Layer,
    ProductLayer,
    SumLayer,
)
from pyjuice_bridge.errors import UserError


def check_parents(parents: ArrayLike) -> IntArray:
    """Return ``parents`` as int32 [n]; refuse other than one root and valid nodes."""
    tree = np.asarray(parents)
    if tree.ndim != 1 or tree.size == 0 or tree.dtype.kind not in "iu":
        raise UserError("parents must be a non-empty one-dimensional integer array.")
    if int((tree == -1).sum()) != 1:
        raise UserError("parents must hold -1 exactly once, at the root of the tree.")
    if tree.min() < -1 or tree.max() >= len(tree):
        raise UserError(f"parents must hold node indices below {len(tree)}, or -1 for the root.")
    return tree.astype(np.int32)


def bfs_levels(parents: ArrayLike) -> list[IntArray]:
    """List a tree's nodes by depth, root level first, siblings next to each other.

    Inside a level nodes follow the order of their parents, then their own index.

    Raises:
        UserError: ``parents`` is not a tree with one root.
    """
    tree = check_parents(parents)
    order = np.argsort(tree, kind="stable").astype(np.int32)
    first = np.searchsorted(tree[order], np.arange(len(tree) + 1))
    levels = [np.flatnonzero(tree == -1).astype(np.int32)]
    while True:
        level = levels[-1]
        counts = first[level + 1] - first[level]
        if not counts.any():
            break
        levels.append(order[ranges(first[level], counts)])
    if sum(map(len, levels)) != len(tree):
        raise UserError("parents holds a cycle: every node must lead to the root.")
    return levels


def ranges(starts: ArrayLike, counts: ArrayLike) -> NDArray[np.int64]:
    """Concatenate the ranges ``starts[i] : starts[i] + counts[i]``."""
    sizes: NDArray[np.int64] = np.asarray(counts, np.int64)
    shift: NDArray[np.int64] = np.asarray(starts, np.int64) - (np.cumsum(sizes) - sizes)
    return np.arange(int(sizes.sum()), dtype=np.int64) + np.repeat(shift, sizes)


def category_array(categories: ArrayLike, num_vars: int) -> IntArray:
    """Return ``categories`` (one number, or one per variable) as int32 [num_vars]."""
    sizes = np.asarray(categories)
    if sizes.dtype.kind not in "iu" or sizes.shape not in ((), (num_vars,)) or sizes.min() < 1:
        raise UserError(
            f"categories must be a positive integer, or an array of {num_vars} of them."
        )
    return np.broadcast_to(sizes, (num_vars,)).astype(np.int32)


def hclt(
    parents: ArrayLike, latents: int, categories: ArrayLike, *, seed: int | None = None
) -> Circuit:
    """Build a hidden Chow-Liu tree.

    Args:
        parents: int [n], the tree parent of each variable, -1 at the root.
        latents: values of every hidden variable.
        categories: values of every observed variable: one number, or int [n].
        seed: of Dirichlet(1) rows; None leaves uniform rows that take no memory.

    Returns:
        A circuit over n variables with one root.  ``latents["z"]`` lists the product block of each
        variable: its node j means H_i = j.

    Raises:
        UserError: an argument is not as described.
    """
    circuit, products = tree_copies(parents, 1, latents, categories, seed=seed)
    meta: dict[str, str | int | float] = {"structure": "hclt", "latent_states": int(latents)}
    return replace(circuit, latents={"z": products[:, 0].copy()}, meta=meta)


def tree_copies(
    parents: ArrayLike, copies: int, latents: int, categories: ArrayLike, *, seed: int | None
) -> tuple[Circuit, IntArray]:
    """Build disjoint HCLTs of one tree in the same layers, each with its own parameters and root.

    Copy j reads the variables ``j * n .. j * n + n - 1``.  Inside a layer blocks are ordered by
    tree node, then copy.

    Returns:
        The circuit and its product blocks, int32 [n, copies].
    """
    levels = bfs_levels(parents)[::-1]
    tree = check_parents(parents)
    if copies < 1 or latents < 1:
        raise UserError("latents and clusters must be at least 1.")
    sizes = category_array(categories, len(tree))
    order = np.concatenate(levels)
    layers: list[Layer] = []
    leaf_of = np.empty((len(tree), copies), np.int32)
    for size in np.unique(sizes):
        nodes = order[sizes[order] == size]
        first = sum(layer.num_blocks for layer in layers)
        leaf_of[nodes] = first + np.arange(nodes.size * copies).reshape(-1, copies)
        variables = nodes[:, None] + len(tree) * np.arange(copies)
        params = uniform_leaves(variables.size, latents, int(size))
        layers.append(InputLayer(_i32(variables.ravel()), _i32(np.arange(variables.size)), params))
    products = np.empty_like(leaf_of)
    start = len(tree) * copies
    below = np.empty(0, np.int32)
    for level in levels:
        blocks = np.arange(level.size * copies).reshape(-1, copies)
        products[level] = start + blocks
        sums = start + blocks.size
        layers.append(_products(level, leaf_of, below, tree, start - below.size * copies))
        width = 1 if tree[level[0]] == -1 else latents
        flat = _i32(np.arange(blocks.size + 1))
        weights = uniform_weights(np.ones(blocks.size, np.int32), width, latents)
        layers.append(SumLayer(flat, _i32(products[level].ravel()), flat[:-1], weights))
        start = sums + blocks.size
        below = level
    roots = _i32(np.arange(start - copies, start))
    circuit = Circuit(len(tree) * copies, tuple(layers), roots)
    return circuit if seed is None else initialise(circuit, seed), products


def _products(
    level: IntArray, own: IntArray, below: IntArray, tree: IntArray, sums: int
) -> ProductLayer:
    """Multiply each node's input block by the sum blocks (from ``sums`` on) ``below`` it."""
    copies = own.shape[1]
    counts = np.bincount(tree[below], minlength=len(tree))[level]
    position = np.cumsum(counts) - counts
    offsets = np.concatenate([[0], np.cumsum(np.repeat(counts + 1, copies))])
    children = np.empty(int(offsets[-1]), np.int32)
    heads = offsets[:-1].reshape(-1, copies)
    children[heads] = own[level]
    rest = ranges((heads + 1).ravel(), np.repeat(counts, copies))
    node = ranges(np.repeat(position, copies), np.repeat(counts, copies))
    copy = np.repeat(np.tile(np.arange(copies), len(level)), np.repeat(counts, copies))
    children[rest] = sums + node * copies + copy
    return ProductLayer("hadamard", _i32(offsets), children)


def _i32(values: ArrayLike) -> IntArray:
    return np.asarray(values, np.int32)
