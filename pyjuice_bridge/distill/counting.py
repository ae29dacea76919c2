"""Maximum-likelihood parameters of a circuit whose latent values are observed: counting.

With every hidden variable observed, log p(x, z) falls apart into one categorical distribution per
parameter row, and the maximum is the relative frequency (Liu, Zhang & Van den Broeck, *Scaling Up
Probabilistic Circuits by Latent Variable Distillation*, ICLR 2023, section 4).  One full-batch EM
step with the latents observed gives the same parameters; counting integers is exact for any number
of rows, takes seconds, and knows what to do with windows whose end has neither token nor state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.chow_liu import chow_liu_tree
from pyjuice_bridge.circuit.families.categorical import Categorical
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.leaves import fitted_rows
from pyjuice_bridge.circuit.types import (
    MISSING,
    Circuit,
    FloatArray,
    InputLayer,
    ProductLayer,
    SumLayer,
    layer_params,
)
from pyjuice_bridge.errors import UserError

_ENTRIES = 1 << 22
"""Rows, or table entries, worked on at once."""


def count_parameters(
    circuit: Circuit, x: NDArray[Any], z: NDArray[Any], *, pseudocount: float
) -> Circuit:
    """Set every parameter of an HCLT or HMM to its smoothed relative frequency.

    Args:
        circuit: one whose ``latents["z"]`` lists the product block of each hidden variable, such as
            those of ``hclt`` and ``Hmm.circuit``; tied blocks and layers add their counts.
        x: int [N, num_vars], -1 where a value is missing (no emission is counted there).
        z: int [N, hidden variables], -1 where there is none (nothing that involves it is counted).
        pseudocount: added to every parameter row, shared evenly by its entries.

    Returns:
        The same structure with new parameters in the old precision.  A row that no data reaches
        becomes uniform, or stays as it was when ``pseudocount`` is 0.

    Raises:
        UserError: the circuit is not such a circuit, or the data does not fit it.
    """
    x, z = np.asarray(x), np.asarray(z)
    hidden, owner = _hidden_variables(circuit)
    _check_shapes(circuit, x, z)
    if not 0 <= pseudocount < np.inf:
        raise UserError("pseudocount must be a finite number of at least 0.")
    _check_range(x, circuit.categories, "x")
    _check_range(z, _latent_sizes(circuit), "z")
    tables: dict[int, NDArray[np.int64]] = {}
    for i, layer in enumerate(circuit.layers):
        if isinstance(layer, ProductLayer):
            continue
        blocks = np.arange(circuit.starts[i], circuit.starts[i + 1])
        parents = np.where(owner[blocks] >= 0, hidden[owner[blocks]], -1)
        if isinstance(layer, InputLayer):
            values, which, params, target = x, layer.variables, layer.params, i
        else:
            values, which, params = z, hidden[layer.children].astype(np.int32), layer.weights
            target = i if layer.tied_to is None else layer.tied_to
        counts = tables.setdefault(target, np.zeros(params.shape, np.int64))
        for block, parent in enumerate(parents):
            rows = z[:, parent] if parent >= 0 else None
            _add(counts[layer.groups[block]], rows, values[:, which[block]])
    arrays: list[FloatArray | None] = []
    for i, layer in enumerate(circuit.layers):
        old = layer_params(layer)
        if isinstance(layer, InputLayer) and layer.family != Categorical():
            arrays.append(fitted_rows(layer.family, tables[i], layer.params, pseudocount))
        else:
            arrays.append(None if old is None else _normalised(tables[i], old, pseudocount))
    return circuit.with_layer_params(arrays)


def latent_circuit(
    z: NDArray[Any],
    clusters: int,
    *,
    pseudocount: float,
    epsilon: float,
    parents: ArrayLike | None = None,
) -> Circuit:
    """Build a hidden tree over cluster ids, started at the counts.

    Every position has a hidden variable with as many values as there are clusters: p(H_child |
    H_parent) is the smoothed frequency of the ids and p(Z | H) is (1 - ε)·identity + ε·uniform, so
    that EM can move away from H = Z.

    Args:
        z: int [N, positions], ids below ``clusters``.
        clusters: number of ids, K.
        pseudocount: added to every row of p(H_child | H_parent), shared evenly by its entries.
        epsilon: in [0, 1]; zero leaves entries EM can never revive.
        parents: int [positions], the tree; by default the Chow-Liu tree of the ids.

    Returns:
        An HCLT over the positions, K categories each; ``latents["z"]`` lists the H blocks.

    Raises:
        UserError: an argument is not as described.
    """
    z = np.asarray(z)
    if not 0 <= epsilon <= 1:
        raise UserError("epsilon must be between 0 and 1.")
    if z.ndim != 2 or z.size == 0:
        raise UserError("z must be a non-empty integer array of shape [rows, positions].")
    if parents is None:
        parents = chow_liu_tree(z, clusters, bins=clusters)
    start = hclt(parents, clusters, clusters)
    circuit = count_parameters(start, z, z, pseudocount=pseudocount)
    leaf = circuit.layers[0]
    assert isinstance(leaf, InputLayer)
    softened = (1 - epsilon) * np.eye(clusters) + epsilon / clusters
    params = np.broadcast_to(softened, leaf.params.shape).astype(leaf.params.dtype)
    layers = (replace(leaf, params=params), *circuit.layers[1:])
    return replace(circuit, layers=layers, meta={**circuit.meta, "structure": "latent circuit"})


def _hidden_variables(circuit: Circuit) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Map blocks to the hidden variable of a product block, and to the product they are in."""
    hidden = np.full(circuit.num_blocks, -1)
    owner = np.full(circuit.num_blocks, -1)
    if "z" not in circuit.latents:
        raise UserError('The circuit has no latents named "z"; build it with hclt().')
    hidden[circuit.latents["z"]] = np.arange(len(circuit.latents["z"]))
    for i, layer in enumerate(circuit.layers):
        blocks = np.arange(circuit.starts[i], circuit.starts[i + 1])
        if isinstance(layer, ProductLayer):
            owner[layer.children] = np.repeat(blocks, np.diff(layer.offsets))
            fits = layer.kind == "hadamard" and bool((hidden[blocks] >= 0).all())
        elif isinstance(layer, SumLayer):
            single = len(layer.children) == layer.num_blocks
            fits = single and bool((hidden[layer.children] >= 0).all())
        else:
            fits = True
        if not fits:
            raise UserError(
                f'The circuit is not an HCLT or HMM with latents "z" at every product block: layer '
                f"{i} has other blocks."
            )
    return hidden, owner


def _latent_sizes(circuit: Circuit) -> NDArray[np.int64]:
    """Return the number of values of every hidden variable."""
    blocks = circuit.latents["z"]
    layers = np.searchsorted(circuit.starts, blocks, side="right") - 1
    return np.asarray(circuit.widths, np.int64)[layers]


def _check_shapes(circuit: Circuit, x: NDArray[Any], z: NDArray[Any]) -> None:
    for name, array, columns in (("x", x, circuit.num_vars), ("z", z, len(circuit.latents["z"]))):
        if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "iu":
            raise UserError(f"{name} must be an integer array of shape [rows, {columns}].")
    if len(x) != len(z):
        raise UserError(f"x has {len(x)} rows but z has {len(z)}; they must be the same rows.")


def _check_range(values: NDArray[Any], sizes: NDArray[Any], name: str) -> None:
    """Refuse values that do not lie below their column's size."""
    for part in _parts(values):
        chunk = values[part].astype(np.int64)
        bad = (chunk < MISSING) | (chunk >= sizes)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise UserError(
                f"{name}: row {part.start + row}, column {column} is {chunk[row, column]}; values "
                f"must be 0 … {sizes[column] - 1}, or -1 where missing."
            )


def _parts(values: NDArray[Any]) -> Iterator[slice]:
    step = max(1, _ENTRIES // max(1, values.shape[1] if values.ndim > 1 else 1))
    for start in range(0, len(values), step):
        yield slice(start, start + step)


def _add(counts: NDArray[np.int64], rows: NDArray[Any] | None, columns: NDArray[Any]) -> None:
    """Count one more at every pair of row and column that are both there; None is row 0."""
    flat = counts.reshape(-1)
    for part in _parts(columns):
        ids = columns[part].astype(np.int64)
        there = ids != MISSING
        if rows is not None:
            above = rows[part].astype(np.int64)
            there &= above != MISSING
            ids += above * counts.shape[1]
        np.add.at(flat, ids[there], 1)


def _normalised(counts: NDArray[np.int64], old: FloatArray, pseudocount: float) -> FloatArray:
    out = np.empty(old.shape, old.dtype)
    size = counts.shape[-1]
    table, kept, made = (a.reshape(-1, size) for a in (counts, old, out))
    for part in _parts(table):
        smoothed = table[part] + pseudocount / size
        totals = smoothed.sum(axis=1, keepdims=True)
        made[part] = np.where(totals > 0, smoothed / np.where(totals > 0, totals, 1.0), kept[part])
    return out
