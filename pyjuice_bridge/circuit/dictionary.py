"""Low-rank leaves: rows that mix a few distributions, which many leaves share.

A table of K rows over C values becomes weights [K, M] of a dictionary [M, C]: a sum block above a
leaf block of M nodes, which engines train like any others.  Leaves that read the same variable
share a dictionary, so that what one learns of a rare value serves the others.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.initialise import is_uniform, uniform_leaves, uniform_weights
from pyjuice_bridge.circuit.rows import dirichlet_rows
from pyjuice_bridge.circuit.types import Circuit, FloatArray, InputLayer, Layer, SumLayer
from pyjuice_bridge.circuit.unions import components
from pyjuice_bridge.errors import UserError

_ITERATIONS = 60
"""Of EM for the factors of rows."""
_MIXED = 0.1
"""How much of the mean row is in every entry of a dictionary at the start."""


def with_dictionary(circuit: Circuit, size: int, *, seed: int | None = None) -> Circuit:
    """Copy a circuit, its leaves being mixtures of ``size`` shared distributions.

    Args:
        circuit: any circuit; what is above its leaves stays as it is.
        size: of every dictionary.
        seed: draws random dictionaries and weights; without it they are fitted to the rows, exactly
            where there are no more of them than ``size``, and uniform rows stay uniform (of a
            structure without numbers).

    Raises:
        UserError: the size is not at least 1.
    """
    if size < 1:
        raise UserError(f"size is {size}, must be at least 1.")
    of = _roles(circuit)
    rng = None if seed is None else np.random.default_rng([seed, 2])
    layers: list[Layer] = []
    moved = np.empty(circuit.num_blocks, np.int32)
    total = 0
    for layer, start in zip(circuit.layers, circuit.starts[:-1], strict=True):
        here = slice(start, start + layer.num_blocks)
        if isinstance(layer, InputLayer):
            leaves, sums = _factored(layer, size, of, rng)
            layers += [leaves, replace(sums, children=sums.children + np.int32(total))]
            total += leaves.num_blocks
        else:
            if isinstance(layer, SumLayer) and layer.tied_to is not None:
                layer = replace(layer, tied_to=_place(circuit, layer.tied_to))
            layers.append(replace(layer, children=moved[layer.children]))
        moved[here] = np.arange(total, total + layer.num_blocks)
        total += layer.num_blocks
    latents = {name: moved[blocks] for name, blocks in circuit.latents.items()}
    return replace(circuit, layers=tuple(layers), roots=moved[circuit.roots], latents=latents)


def _place(circuit: Circuit, index: int) -> int:
    """Return where a layer is once every input layer before it has become two."""
    return index + sum(isinstance(layer, InputLayer) for layer in circuit.layers[:index])


def _roles(circuit: Circuit) -> NDArray[np.int64]:
    """Give variables that tied leaves read the same number, int64 [num_vars]."""
    pairs, count = [], circuit.num_vars
    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            pairs.append(np.stack([layer.variables, count + layer.groups], 1))
            count += len(layer.params)
    return components(count, np.concatenate(pairs))[: circuit.num_vars]


def _factored(
    layer: InputLayer, size: int, roles: NDArray[np.int64], rng: np.random.Generator | None
) -> tuple[InputLayer, SumLayer]:
    """Return the dictionaries of a layer, a block for every variable, and the sums above them."""
    variables, child = np.unique(layer.variables, return_inverse=True)
    here, book = np.unique(roles[variables], return_inverse=True)
    groups, width, categories = layer.params.shape
    book_of_group = np.empty(groups, np.int64)
    book_of_group[layer.groups] = book[child]
    dtype = layer.params.dtype
    if rng is not None:
        books = layer.family.rows(rng, (len(here), size, categories)).astype(dtype)
        weights = dirichlet_rows(rng, (groups, width, size)).astype(dtype)
    elif is_uniform(layer.params):
        books = uniform_leaves(len(here), size, categories)
        weights = uniform_weights(np.ones(groups, np.int64), width, size)
    else:
        books = np.empty((len(here), size, categories), dtype)
        weights = np.empty((groups, width, size), dtype)
        for each in range(len(here)):
            own = np.flatnonzero(book_of_group == each)
            rows = layer.params[own].reshape(-1, categories).astype(np.float64)
            mixed, found = factors(rows, size)
            books[each] = found
            weights[own] = mixed.reshape(len(own), width, size)
    leaves = InputLayer(
        variables.astype(np.int32), book.astype(np.int32), books, family=layer.family
    )
    offsets = np.arange(layer.num_blocks + 1, dtype=np.int32)
    return leaves, SumLayer(offsets, child.astype(np.int32), layer.groups, weights)


def factors(rows: NDArray[np.float64], size: int) -> tuple[FloatArray, FloatArray]:
    """Factor rows of probabilities into weights [R, size] and a dictionary [size, C], by EM.

    What is maximised is Σ rows · log(weights @ dictionary) (Hofmann, *Probabilistic Latent Semantic
    Analysis*, UAI 1999).  Rows are their own dictionary where there are no more of them than
    ``size``.
    """
    count, categories = rows.shape
    if count <= size:
        spare = np.full((size - count, categories), 1 / categories)
        return np.eye(count, size), np.concatenate([rows, spare])
    chosen = np.linspace(0, count - 1, size).astype(np.int64)
    book = (1 - _MIXED) * rows[chosen] + _MIXED * rows.mean(0)
    weights = np.full((count, size), 1 / size)
    for _ in range(_ITERATIONS):
        mixed = weights @ book
        ratio = np.divide(rows, mixed, out=np.zeros_like(rows), where=mixed > 0)
        counts = book * (weights.T @ ratio)
        weights = weights * (ratio @ book.T)
        book = counts / np.maximum(counts.sum(1, keepdims=True), 1e-300)
    return weights / weights.sum(1, keepdims=True), book
