"""Maximum-likelihood parameters of a circuit whose latent values are observed: counting.

With every hidden variable observed, log p(x, z) falls apart into one categorical distribution per
parameter row, and the maximum is the relative frequency (Liu, Zhang & Van den Broeck, *Scaling Up
Probabilistic Circuits by Latent Variable Distillation*, ICLR 2023, section 4).  One full-batch EM
step with the latents observed gives the same parameters; counting integers is exact for any number
of rows, takes seconds, and knows what to do with windows whose end has neither token nor state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.chow_liu import chow_liu_tree
from pyjuice_bridge.circuit.families.categorical import Categorical
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.leaves import fitted_rows
from pyjuice_bridge.circuit.ties import leads
from pyjuice_bridge.circuit.types import (
    MISSING,
    Circuit,
    FloatArray,
    InputLayer,
    Layer,
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
    """Set every parameter to its smoothed relative frequency, all hidden variables observed.

    Args:
        circuit: one whose ``latents["z"]`` lists every block that stands for a hidden variable,
            such as those of ``hclt``, ``Hmm.circuit`` and ``region_circuit``; tied blocks and
            layers add their counts.  The edges of one sum, where it has several, are a choice that
            nothing is known about: each gets an equal share.
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
    nodes = _nodes(circuit)
    _check_shapes(circuit, x, z)
    if not 0 <= pseudocount < np.inf:
        raise UserError("pseudocount must be a finite number of at least 0.")
    _check_range(x, circuit.categories, "x")
    _check_range(z, _latent_sizes(circuit), "z")
    tables: dict[int, NDArray[np.int64]] = {}
    for i, layer in enumerate(circuit.layers):
        if isinstance(layer, ProductLayer):
            continue
        first = circuit.starts[i]
        if isinstance(layer, InputLayer):
            edges = np.arange(layer.num_blocks)
            params, target = layer.params, i
        else:
            edges = np.repeat(np.arange(layer.num_blocks), np.diff(layer.offsets))
            params, target = layer.weights, i if layer.tied_to is None else layer.tied_to
        counts = tables.setdefault(target, np.zeros(params.shape, np.int64))
        for edge, block in enumerate(edges):
            if isinstance(layer, InputLayer):
                columns: NDArray[Any] | None = x[:, layer.variables[edge]]
            else:
                columns = nodes[layer.children[edge]].of(z)
            assert columns is not None
            _add(counts[layer.groups[edge]], nodes[first + block].of(z), columns)
    arrays = [
        None if i not in tables else _parameters(layer, tables[i], pseudocount)
        for i, layer in enumerate(circuit.layers)
    ]
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
    soft = softened(circuit, epsilon)
    return replace(soft, meta={**circuit.meta, "structure": "latent circuit"})


def softened(circuit: Circuit, epsilon: float) -> Circuit:
    """Set p(Z | H) of all input blocks to (1 - ε)·identity + ε·uniform."""
    leaf = circuit.layers[0]
    assert isinstance(leaf, InputLayer)
    soft = (1 - epsilon) * np.eye(leaf.categories) + epsilon / leaf.categories
    params = np.broadcast_to(soft, leaf.params.shape).astype(leaf.params.dtype)
    return replace(circuit, layers=(replace(leaf, params=params), *circuit.layers[1:]))


@dataclass(frozen=True)
class _Nodes:
    """Which node of a block is active: the number that some hidden variables are the digits of.

    Attributes:
        columns: of the hidden variables; none at a root.
        sizes: the number of values of each.
    """

    columns: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()

    def __add__(self, other: _Nodes) -> _Nodes:
        return _Nodes(self.columns + other.columns, self.sizes + other.sizes)

    def of(self, z: NDArray[Any]) -> NDArray[Any] | None:
        """Return the active node of every row, -1 where it is not known; None at a root."""
        if not self.columns:
            return None
        if len(self.columns) == 1:
            return z[:, self.columns[0]]
        digits = z[:, self.columns].astype(np.int64)
        numbers = np.ravel_multi_index(tuple(np.maximum(digits, 0).T), self.sizes)
        return np.where((digits == MISSING).any(axis=1), MISSING, numbers)


def _nodes(circuit: Circuit) -> list[_Nodes]:
    """Find what says which node of each block is active.

    It is the block's own hidden variable, of a Kronecker product those of its children together,
    and otherwise that of the product that the block is a factor of.
    """
    if "z" not in circuit.latents:
        raise UserError('The circuit has no latents named "z"; build it with hclt().')
    found: list[_Nodes | None] = [None] * circuit.num_blocks
    for column, block in enumerate(circuit.latents["z"].tolist()):
        found[block] = _Nodes((column,), (circuit.widths[circuit.layer_of(block)],))
    for root in circuit.roots.tolist():
        found[root] = _Nodes()
    for i in reversed(range(len(circuit.layers))):
        layer = circuit.layers[i]
        if not isinstance(layer, ProductLayer):
            continue
        bounds = pairwise(layer.offsets.tolist())
        for block, (start, stop) in enumerate(bounds, int(circuit.starts[i])):
            children = layer.children[start:stop].tolist()
            if layer.kind == "kronecker":
                found[block] = _joined([found[child] for child in children])
            elif layer.kind == "hadamard":
                for child in children:
                    found[child] = found[child] or found[block]
    missing = next((b for b, nodes in enumerate(found) if nodes is None), None)
    if missing is not None:
        raise UserError(
            'The circuit is not an HCLT, an HMM or one over a region graph with latents "z" for '
            f"all of its blocks: layer {circuit.layer_of(missing)} has other blocks."
        )
    return [nodes for nodes in found if nodes is not None]


def _joined(parts: list[_Nodes | None]) -> _Nodes | None:
    known = [part for part in parts if part is not None]
    return sum(known, _Nodes()) if len(known) == len(parts) else None


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


def _parameters(layer: Layer, counts: NDArray[np.int64], pseudocount: float) -> FloatArray:
    """Normalise the counts of a layer; rows without any stay."""
    if isinstance(layer, InputLayer) and layer.family != Categorical():
        return fitted_rows(layer.family, counts, layer.params, pseudocount)
    old = layer_params(layer)
    assert old is not None
    if not isinstance(layer, SumLayer) or (np.diff(layer.offsets) == 1).all():
        return _normalised(counts, old, pseudocount)
    made = np.empty(old.shape, old.dtype)
    family = leads(layer)
    for lead in np.unique(family):
        groups = np.flatnonzero(family == lead)
        # A row runs over all edges of a block, each of which counted every sample.
        row, kept = (np.concatenate([a[g] for g in groups], axis=1) for a in (counts, old))
        new = _normalised(row, kept, pseudocount * len(groups))
        made[groups] = np.stack(np.split(new, len(groups), axis=1))
    return made


def _normalised(counts: NDArray[np.int64], old: FloatArray, pseudocount: float) -> FloatArray:
    out = np.empty(old.shape, old.dtype)
    size = counts.shape[-1]
    table, kept, made = (a.reshape(-1, size) for a in (counts, old, out))
    for part in _parts(table):
        smoothed = table[part] + pseudocount / size
        totals = smoothed.sum(axis=1, keepdims=True)
        made[part] = np.where(totals > 0, smoothed / np.where(totals > 0, totals, 1.0), kept[part])
    return out
