"""Check that arrays are a circuit, in structure and numbers, before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.families.base import Family
from pyjuice_bridge.circuit.scopes import check_decomposable, fail_overlap, fingerprints
from pyjuice_bridge.circuit.ties import check_owner, check_tied_lists, check_ties, fail, first_of
from pyjuice_bridge.circuit.types import Circuit, InputLayer, Layer, ProductLayer, SumLayer
from pyjuice_bridge.errors import shown

TOLERANCE = 1e-5
"""How far the sum of a row of probabilities may be from one."""

_LIMIT = 2**31 - 1


def check(circuit: Circuit, where: str = "circuit") -> None:
    """Raise unless ``circuit`` is smooth, decomposable, normalised and consistently stored.

    Args:
        circuit: what to check; it stays as it is.
        where: names the circuit in messages, for instance its file.

    Raises:
        UserError: one sentence that names the array at fault as ``/layers/<i>/<array>``,
            ``/roots``, ``/latents/<name>`` or ``/meta``.
    """
    _check_header(circuit, where)
    for i, layer in enumerate(circuit.layers):
        _check_arrays(layer, f"{where}: /layers/{i}")
        if isinstance(layer, SumLayer):
            check_owner(circuit, i, f"{where}: /layers/{i}")
    starts = np.cumsum([0] + [layer.num_blocks for layer in circuit.layers], dtype=np.int64)
    total = int(starts[-1])
    if total > _LIMIT:
        fail(f"{where}: /layers", f"{total} blocks in all, at most {_LIMIT} are possible")
    variables = _check_variables(circuit, where)
    blocks = _Blocks(np.zeros(total, int), np.zeros(total, int), np.zeros(total, np.uint64))
    for i, layer in enumerate(circuit.layers):
        _check_layer(circuit, layer, blocks, int(starts[i]), f"{where}: /layers/{i}")
        if isinstance(layer, ProductLayer) and blocks.sizes.max() > variables:
            fail_overlap(circuit, np.ones(total, bool), where)
    _check_blocks_listed(circuit, blocks, where)
    check_decomposable(circuit, blocks.sizes, blocks.prints, where)


@dataclass(frozen=True)
class _Blocks:
    """Facts about every block checked so far: int64 and uint64 arrays over all blocks."""

    widths: NDArray[np.int64]
    sizes: NDArray[np.int64]
    prints: NDArray[np.uint64]


def _check_header(circuit: Circuit, where: str) -> None:
    if not 1 <= circuit.num_vars <= _LIMIT:
        fail(where, f"num_vars is {circuit.num_vars}, must be from 1 to {_LIMIT}")
    if not circuit.layers:
        fail(f"{where}: /layers", "there is no layer")
    for name in (*circuit.latents, *circuit.meta):
        if not isinstance(name, str) or not name or not _storable(name):
            fail(where, f"the name {shown(name)} must be non-empty text without NUL characters")
    for name in circuit.latents:
        if "/" in name or name in (".", ".."):
            fail(
                f"{where}: /latents", f"the name {shown(name)} must not be '.', '..' or hold a '/'"
            )
    for name, value in circuit.meta.items():
        if isinstance(value, int):
            good = -(2**63) <= value < 2**63
        else:
            good = isinstance(value, float) or (isinstance(value, str) and _storable(value))
        if not good:
            fail(
                f"{where}: /meta",
                f"{shown(name)} must be text without NUL characters, a 64-bit integer or a float",
            )


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _check_array(array: Any, kinds: tuple[type, ...], ndim: int, item: str) -> None:
    names = " or ".join(np.dtype(kind).name for kind in kinds)
    if not isinstance(array, np.ndarray) or array.dtype not in [np.dtype(kind) for kind in kinds]:
        fail(item, f"has type {getattr(array, 'dtype', type(array))}, must be {names}")
    if array.ndim != ndim or 0 in array.shape:
        fail(item, f"has shape {array.shape}, must have {ndim} dimension(s), none of size 0")


def _check_arrays(layer: Layer, item: str) -> None:
    """Check the types, shapes and ids that need no other layer."""
    if isinstance(layer, InputLayer):
        if not isinstance(layer.family, Family):
            fail(item, f"family is {shown(layer.family)}, must be a leaf family such as Smooth()")
        _check_array(layer.variables, (np.int32,), 1, f"{item}/variables")
        _check_tied(layer.groups, ("params", layer.params), ("variables", layer.variables), item)
        return
    if isinstance(layer, ProductLayer) and layer.kind not in ("hadamard", "kronecker", "concat"):
        fail(item, f"kind {shown(layer.kind)} is unknown, must be hadamard, kronecker or concat")
    _check_array(layer.offsets, (np.int32,), 1, f"{item}/offsets")
    _check_array(layer.children, (np.int32,), 1, f"{item}/children")
    offsets = layer.offsets
    ascending = len(offsets) > 1 and offsets[0] == 0 and bool((offsets[1:] > offsets[:-1]).all())
    if not ascending or offsets[-1] != len(layer.children):
        fail(
            f"{item}/offsets",
            f"must rise strictly from 0 to the number of children ({len(layer.children)})",
        )
    if isinstance(layer, SumLayer):
        params, entries = ("weights", layer.weights), ("children", layer.children)
        _check_tied(layer.groups, params, entries, item, shared=layer.tied_to is not None)


def _check_tied(
    groups: NDArray[np.int32],
    params: tuple[str, NDArray[Any]],
    entries: tuple[str, NDArray[np.int32]],
    item: str,
    *,
    shared: bool = False,
) -> None:
    """Check that ``groups`` names a matrix of ``params`` for each entry, and every matrix.

    A layer that shares the matrices of another may leave some out.
    """
    array, matrices = params
    _check_array(groups, (np.int32,), 1, f"{item}/groups")
    _check_array(matrices, (np.float32, np.float64), 3, f"{item}/{array}")
    name, wanted = entries
    if len(groups) != len(wanted):
        fail(f"{item}/groups", f"has {len(groups)} entries, but {name} has {len(wanted)}")
    count = len(matrices)
    bad = (groups < 0) | (groups >= count)
    if bad.any():
        fail(
            f"{item}/groups", f"names group {groups[first_of(bad)]}, but {array} has {count} groups"
        )
    unused = np.bincount(groups, minlength=count) == 0
    if unused.any() and not shared:
        fail(f"{item}/{array}", f"group {first_of(unused)} is used by no block; leave it out")


def _check_variables(circuit: Circuit, where: str) -> int:
    """Count the variables that leaves read; each must have the same categories everywhere."""
    inputs = [(i, a) for i, a in enumerate(circuit.layers) if isinstance(a, InputLayer)]
    if not inputs:
        fail(f"{where}: /layers", "there is no input layer")
    for i, layer in inputs:
        bad = (layer.variables < 0) | (layer.variables >= circuit.num_vars)
        if bad.any():
            fail(
                f"{where}: /layers/{i}/variables",
                f"names variable {layer.variables[first_of(bad)]}, but num_vars is "
                f"{circuit.num_vars}",
            )
    variables, first = np.unique(
        np.concatenate([layer.variables for _, layer in inputs]), return_index=True
    )
    counts = [layer.num_blocks for _, layer in inputs]
    categories = np.repeat([layer.categories for _, layer in inputs], counts)[first]
    for i, layer in inputs:
        bad = categories[np.searchsorted(variables, layer.variables)] != layer.categories
        if bad.any():
            fail(
                f"{where}: /layers/{i}/params",
                f"gives variable {layer.variables[first_of(bad)]} {layer.categories} categories, "
                "but another layer gives it another number",
            )
    return len(variables)


def _check_layer(circuit: Circuit, layer: Layer, blocks: _Blocks, start: int, item: str) -> None:
    """Check children, widths, scopes, ties and rows, and fill in the facts of the blocks."""
    here = slice(start, start + layer.num_blocks)
    if isinstance(layer, InputLayer):
        groups = np.arange(len(layer.params))
        _check_rows(layer.params, groups, groups, f"{item}/params")
        strays = layer.family.strays(layer.params)
        if strays.any():
            group, row = np.argwhere(strays)[0]
            fail(
                f"{item}/params",
                f"row {row} of group {group} is no {layer.family.family} distribution; "
                "circuit.leaves.with_leaves() makes rows that are",
            )
        blocks.widths[here] = layer.width
        blocks.sizes[here] = 1
        blocks.prints[here] = fingerprints(layer.variables)
        return
    bad = (layer.children < 0) | (layer.children >= start)
    if bad.any():
        fail(
            f"{item}/children",
            f"names block {layer.children[first_of(bad)]}, but earlier layers hold only the blocks "
            f"below {start}",
        )
    mixes = isinstance(layer, SumLayer) or layer.kind == "concat"
    firsts = layer.offsets[:-1]
    for known in (blocks.sizes, blocks.prints):
        values = known[layer.children]
        known[here] = values[firsts] if mixes else np.add.reduceat(values, firsts)
    if mixes:
        counts = np.diff(layer.offsets)
        bad = blocks.prints[layer.children] != np.repeat(blocks.prints[here], counts)
        if bad.any():
            block = start + int(np.searchsorted(layer.offsets, first_of(bad), side="right")) - 1
            fail(
                f"{item}/children",
                f"block {block} is not smooth: its children have different scopes",
            )
    if isinstance(layer, ProductLayer):
        blocks.widths[here] = _product_width(layer, blocks.widths[layer.children], item)
        return
    width_in = layer.weights.shape[2]
    bad = blocks.widths[layer.children] != width_in
    if bad.any():
        fail(
            f"{item}/children",
            f"block {layer.children[first_of(bad)]} has another width than the {width_in} of "
            "weights",
        )
    blocks.widths[here] = layer.width
    if layer.tied_to is None:
        _check_rows(layer.weights, *check_ties(layer, start, item), f"{item}/weights")
    else:
        check_tied_lists(circuit, layer, start, item)


def _product_width(layer: ProductLayer, widths: NDArray[np.int64], item: str) -> int:
    firsts = layer.offsets[:-1]
    if layer.kind == "hadamard":
        totals = widths
    elif layer.kind == "concat":
        totals = np.add.reduceat(widths, firsts)
    else:
        if (np.diff(layer.offsets) != 2).any():
            fail(f"{item}/offsets", "every kronecker block must have exactly two children")
        totals = np.multiply.reduceat(widths, firsts)
    if (totals != totals[0]).any():
        rule = "children" if layer.kind == "hadamard" else "blocks"
        fail(f"{item}/children", f"the {rule} of this {layer.kind} layer differ in width")
    if totals[0] > _LIMIT:
        fail(f"{item}/children", f"blocks of width {totals[0]}, at most {_LIMIT} is possible")
    return int(totals[0])


def _check_rows(params: NDArray[Any], order: NDArray[Any], firsts: NDArray[Any], item: str) -> None:
    """Check probabilities; row k spans the groups ``order[firsts[k]:firsts[k + 1]]``."""
    with np.errstate(invalid="ignore", over="ignore"):
        low = params.min()
        if not low >= 0:
            g, i, j = (int(k) for k in np.argwhere(~(params >= 0))[0])
            fail(
                item, f"holds {params[g, i, j]} at [{g}, {i}, {j}], must be probabilities from 0 on"
            )
        sums = np.add.reduceat(params.sum(axis=2, dtype=np.float64)[order], firsts, axis=0)
        bad = ~(np.abs(sums - 1) <= TOLERANCE)
    if bad.any():
        k, i = (int(index) for index in np.argwhere(bad)[0])
        fail(
            item,
            f"row {i} of group {order[firsts[k]]} (with the groups listed beside it) sums to "
            f"{sums[k, i]:.6g}, must be 1 within {TOLERANCE:g}",
        )


def _check_blocks_listed(circuit: Circuit, blocks: _Blocks, where: str) -> None:
    total = len(blocks.widths)
    listed = {"roots": circuit.roots}
    listed.update({f"latents/{name}": array for name, array in circuit.latents.items()})
    for name, array in listed.items():
        item = f"{where}: /{name}"
        _check_array(array, (np.int32,), 1, item)
        bad = (array < 0) | (array >= total)
        if bad.any():
            fail(item, f"names block {array[first_of(bad)]}, but there are {total} blocks")
    bad = blocks.widths[circuit.roots] != 1
    if bad.any():
        root = circuit.roots[first_of(bad)]
        fail(f"{where}: /roots", f"block {root} has width {blocks.widths[root]}, must be 1")
