"""Maximum-likelihood parameters of an HCLT whose latent values are observed: counting.

With every hidden variable observed, log p(x, z) falls apart into one categorical distribution per
parameter row, and the maximum is the relative frequency (Liu, Zhang & Van den Broeck, *Scaling Up
Probabilistic Circuits by Latent Variable Distillation*, ICLR 2023, section 4).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.chow_liu import chow_liu_tree
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.types import (
    MISSING,
    Circuit,
    FloatArray,
    InputLayer,
    ProductLayer,
    SumLayer,
)
from pyjuice_bridge.errors import UserError


def count_parameters(
    circuit: Circuit, x: NDArray[Any], z: NDArray[Any], *, pseudocount: float
) -> Circuit:
    """The HCLT with p(H_child | H_parent), p(x | H) and the root's prior set to counts.

    Args:
        circuit: an HCLT whose ``latents["z"]`` lists the product block of each hidden variable;
            tied blocks add their counts.
        x: int [N, num_vars], -1 where a value is missing (it is not counted).
        z: int [N, hidden variables], the value of every hidden variable, none missing.
        pseudocount: added to every parameter row, shared evenly by its entries.

    Returns:
        The same structure with new parameters in the old precision.  A row that no data reaches
        becomes uniform, or stays as it was when ``pseudocount`` is 0.

    Raises:
        UserError: the circuit is not such an HCLT, or the data does not fit it.
    """
    x, z = np.asarray(x), np.asarray(z)
    hidden, owner = _hidden_variables(circuit)
    _check_shapes(circuit, x, z)
    if pseudocount < 0:
        raise UserError("pseudocount must be at least 0.")
    params: list[FloatArray | None] = []
    for i, layer in enumerate(circuit.layers):
        blocks = np.arange(circuit.starts[i], circuit.starts[i + 1])
        parents = np.where(owner[blocks] >= 0, hidden[owner[blocks]], -1)
        if isinstance(layer, InputLayer):
            pairs = np.stack([parents, layer.variables], axis=1)
            params.append(
                _counted(layer.params, layer.groups, pairs, {"z": z, "x": x}, pseudocount)
            )
        elif isinstance(layer, SumLayer):
            pairs = np.stack([parents, hidden[layer.children]], axis=1)
            params.append(_counted(layer.weights, layer.groups, pairs, {"z": z}, pseudocount))
        else:
            params.append(None)
    return circuit.with_layer_params(params)


def latent_circuit(
    z: NDArray[Any],
    clusters: int,
    *,
    pseudocount: float,
    epsilon: float,
    parents: ArrayLike | None = None,
) -> Circuit:
    """A hidden tree over cluster ids, started at the counts.

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
    start = hclt(parents, clusters, clusters, seed=0)
    circuit = count_parameters(start, z, z, pseudocount=pseudocount)
    leaf = circuit.layers[0]
    assert isinstance(leaf, InputLayer)
    softened = (1 - epsilon) * np.eye(clusters) + epsilon / clusters
    params = np.broadcast_to(softened, leaf.params.shape).astype(leaf.params.dtype)
    layers = (replace(leaf, params=params), *circuit.layers[1:])
    return replace(circuit, layers=layers, meta={**circuit.meta, "structure": "latent circuit"})


def _hidden_variables(circuit: Circuit) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """By block: the hidden variable of a product block, and the product a block is a factor of."""
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
            single = len(layer.children) == layer.num_blocks and layer.tied_to is None
            fits = single and bool((hidden[layer.children] >= 0).all())
        else:
            fits = True
        if not fits:
            raise UserError(
                f'The circuit is not an HCLT with latents "z" at every product block: layer {i} '
                "has other blocks."
            )
    return hidden, owner


def _check_shapes(circuit: Circuit, x: NDArray[Any], z: NDArray[Any]) -> None:
    for name, array, columns in (("x", x, circuit.num_vars), ("z", z, len(circuit.latents["z"]))):
        if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "iu":
            raise UserError(f"{name} must be an integer array of shape [rows, {columns}].")
    if len(x) != len(z):
        raise UserError(f"x has {len(x)} rows but z has {len(z)}; they must be the same rows.")


def _counted(
    old: FloatArray,
    groups: NDArray[np.int32],
    pairs: NDArray[np.int64],
    data: dict[str, NDArray[Any]],
    pseudocount: float,
) -> FloatArray:
    """Smoothed relative frequencies, [groups, width, entries].

    ``pairs`` holds for every block the column of ``data["z"]`` that picks the parameter row (-1: a
    root, one row) and the column that picks the entry, of ``data["x"]`` if there, else of the same.
    """
    entries = "x" if "x" in data else "z"
    new = np.empty_like(old)
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(len(old) + 1))
    width, size = old.shape[1:]
    for group in range(len(old)):
        counts = np.zeros(width * size, np.int64)
        for row_column, column in pairs[order[bounds[group] : bounds[group + 1]]]:
            values = _column(data, entries, column, size)
            ids = values.astype(np.int64)
            if row_column >= 0:
                ids += _column(data, "z", row_column, width).astype(np.int64) * size
            ids = ids[values != MISSING]
            counts += np.bincount(ids, minlength=counts.size)
        new[group] = _normalised(counts.reshape(width, size), old[group], pseudocount)
    return new


def _column(data: dict[str, NDArray[Any]], name: str, column: int, size: int) -> NDArray[Any]:
    """One column, once its values are known to be in range (``x`` may hold -1)."""
    values: NDArray[Any] = data[name][:, column]
    lowest = MISSING if name == "x" else 0
    if len(values) and (values.min() < lowest or values.max() >= size):
        raise UserError(
            f"{name} must hold values from {lowest} to {size - 1} in column {column}, but has "
            f"{values.min()} to {values.max()}."
        )
    return values


def _normalised(counts: NDArray[np.int64], old: FloatArray, pseudocount: float) -> FloatArray:
    smoothed = counts + pseudocount / counts.shape[1]
    totals = smoothed.sum(axis=1, keepdims=True)
    out: FloatArray = np.where(totals > 0, smoothed / np.where(totals > 0, totals, 1.0), old)
    return out
