"""A slow, plain float64 evaluator of circuits: what every engine is checked against.

One row at a time, one block at a time, straight from the definitions; nothing is shared with the
engines.  Use ``from oracle import log_likelihood`` in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product as cartesian
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.types import (
    MISSING,
    Circuit,
    InputLayer,
    ProductLayer,
    SumLayer,
    layer_params,
)

Array = NDArray[np.float64]
Evidence = Mapping[str, ArrayLike]


def node_values(
    circuit: Circuit, row: ArrayLike, latents: Evidence | None = None, *, maximum: bool = False
) -> list[Array]:
    """The log value of every node: one float64 [width] array per block.

    ``row`` is int [num_vars], -1 = marginalised.  ``latents`` maps a name to int [positions]
    (-1 = unobserved) or float [positions, width] weights.  With ``maximum`` sums and
    marginalised variables are maximised instead (max-product).
    """
    x = np.asarray(row)
    evidence = _log_evidence(circuit, latents or {})
    reduce = np.max if maximum else np.sum
    values: list[Array] = []
    with np.errstate(divide="ignore"):
        for layer in circuit.layers:
            for b in range(layer.num_blocks):
                if isinstance(layer, InputLayer):
                    value = _input(layer, b, x, maximum)
                elif isinstance(layer, ProductLayer):
                    value = _product(layer, b, values)
                else:
                    value = _sum(layer, b, values, reduce)
                values.append(value + evidence.get(len(values), 0.0))
    return values


def _log_evidence(circuit: Circuit, latents: Evidence) -> dict[int, Array]:
    """Block → log evidence [width], summed over the latents that name the block."""
    evidence: dict[int, Array] = {}
    with np.errstate(divide="ignore"):
        for name, observed in latents.items():
            for block, value in zip(circuit.latents[name], np.asarray(observed), strict=True):
                width = circuit.widths[circuit.layer_of(int(block))]
                if value.ndim == 0:
                    weights = np.ones(width) if value == MISSING else np.eye(width)[value]
                else:
                    weights = np.asarray(value, np.float64)
                evidence[int(block)] = evidence.get(int(block), 0.0) + np.log(weights)
    return evidence


def _input(layer: InputLayer, b: int, x: NDArray[Any], maximum: bool) -> Array:
    table = layer.params[layer.groups[b]].astype(np.float64)
    value = x[layer.variables[b]]
    if value != MISSING:
        return np.log(table[:, value])
    return np.log(table.max(axis=1)) if maximum else np.zeros(layer.width)


def _product(layer: ProductLayer, b: int, values: list[Array]) -> Array:
    children = layer.children[layer.offsets[b] : layer.offsets[b + 1]]
    parts = [values[child] for child in children]
    if layer.kind == "concat":
        return np.concatenate(parts)
    if layer.kind == "hadamard":
        return np.sum(parts, axis=0)
    left, right = parts
    return np.array([p + q for p in left for q in right])


def _sum(layer: SumLayer, b: int, values: list[Array], reduce: Callable[[Array], Any]) -> Array:
    edges = range(layer.offsets[b], layer.offsets[b + 1])
    inputs = np.concatenate([values[layer.children[e]] for e in edges])
    out = []
    for i in range(layer.width):
        weights = np.concatenate([layer.weights[layer.groups[e], i] for e in edges])
        terms = np.log(weights.astype(np.float64)) + inputs
        top = terms.max()
        out.append(top if np.isneginf(top) else top + np.log(reduce(np.exp(terms - top))))
    return np.array(out)


def log_likelihood(circuit: Circuit, row: ArrayLike, latents: Evidence | None = None) -> Array:
    """log p(observed values, observed latents), float64 [roots]."""
    values = node_values(circuit, row, latents)
    return np.array([values[root][0] for root in circuit.roots])


def log_likelihoods(circuit: Circuit, rows: ArrayLike) -> Array:
    """log p of every row, float64 [rows, roots]."""
    return np.array([log_likelihood(circuit, row) for row in np.asarray(rows)])


def max_value(circuit: Circuit, row: ArrayLike, latents: Evidence | None = None) -> Array:
    """The log value of the best joint completion of variables and latents, float64 [roots]."""
    values = node_values(circuit, row, latents, maximum=True)
    return np.array([values[root][0] for root in circuit.roots])


def scopes(circuit: Circuit) -> list[frozenset[int]]:
    """The variables each block depends on."""
    found: list[frozenset[int]] = []
    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            found += [frozenset([int(v)]) for v in layer.variables]
            continue
        for b in range(layer.num_blocks):
            children = layer.children[layer.offsets[b] : layer.offsets[b + 1]]
            found.append(frozenset().union(*(found[child] for child in children)))
    return found


def assignments(
    circuit: Circuit, evidence: ArrayLike | None = None, *, root: int = 0
) -> Iterator[NDArray[np.int32]]:
    """Every completion of ``evidence`` (int [num_vars], default all missing).

    Only the variables below ``circuit.roots[root]`` are filled in; the others stay as they are.
    """
    row = np.full(circuit.num_vars, MISSING) if evidence is None else np.asarray(evidence)
    scope = scopes(circuit)[circuit.roots[root]]
    free = [v for v in sorted(scope) if row[v] == MISSING]
    for choice in cartesian(*(range(circuit.categories[v]) for v in free)):
        complete = row.astype(np.int32)
        complete[free] = choice
        yield complete


def enumerate_log_likelihood(
    circuit: Circuit,
    evidence: ArrayLike | None = None,
    latents: Evidence | None = None,
    *,
    root: int = 0,
) -> float:
    """log Σ p(x) over all completions of ``evidence``: 0 for a circuit and no evidence."""
    rows = assignments(circuit, evidence, root=root)
    terms = [log_likelihood(circuit, row, latents)[root] for row in rows]
    return float(np.logaddexp.reduce(terms))


def expected_counts(
    circuit: Circuit,
    rows: ArrayLike,
    weights: ArrayLike | None = None,
    latents: Mapping[str, ArrayLike] | None = None,
) -> list[Array | None]:
    """Σ over rows and roots of weight · ∂ log p / ∂ log θ, per layer, by central differences.

    ``weights`` is float [N, roots] (default one); ``latents`` has a leading row axis.  Entries
    that are exactly zero get a count of zero.  Accurate to about 1e-9.
    """
    x = np.atleast_2d(np.asarray(rows))
    w = np.ones((len(x), len(circuit.roots))) if weights is None else np.asarray(weights)
    exact = [None if p is None else p.astype(np.float64) for p in map(layer_params, circuit.layers)]

    def total(params: list[Array | None]) -> float:
        changed = circuit.with_layer_params(params)
        evidence = [
            {k: np.asarray(v)[n] for k, v in (latents or {}).items()} for n in range(len(x))
        ]
        found = [log_likelihood(changed, row, e) for row, e in zip(x, evidence, strict=True)]
        return float(np.sum(w[w != 0] * np.array(found)[w != 0]))

    counts: list[Array | None] = [None if p is None else np.zeros(p.shape) for p in exact]
    step = 1e-5
    for i, params in enumerate(exact):
        for index in np.argwhere(params > 0) if params is not None else ():
            sides = []
            for sign in (1, -1):
                moved = params.copy()
                moved[tuple(index)] *= np.exp(sign * step)
                sides.append(total([*exact[:i], moved, *exact[i + 1 :]]))
            counts[i][tuple(index)] = (sides[0] - sides[1]) / (2 * step)
    return counts
