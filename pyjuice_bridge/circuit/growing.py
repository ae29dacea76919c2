"""Growing circuits of several roots: prune, choose roots, widen (Liu et al., ICML 2023).

A circuit whose roots, its *heads*, mix the nodes of one shared circuit grows by doubling that
circuit: every block of K nodes becomes a block of 2K, two copies that mix each other a little, and
a head belongs to one of the copies.  In blocks the weights W become [[W, cW], [cW, W]], c the
*cross term*, with noise, so that the copies can part.

Pruning sets weights to zero; blocks keep their shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.hclt import ranges
from pyjuice_bridge.circuit.ties import leads
from pyjuice_bridge.circuit.types import (
    Circuit,
    FloatArray,
    InputLayer,
    IntArray,
    Layer,
    ProductLayer,
    SumLayer,
    layer_params,
)
from pyjuice_bridge.errors import UserError

_NOISE, _LEAF_NOISE = (0.1, 10.0), (0.1, 2.0)
"""Bounds of the noise that weights and leaves are multiplied by."""
_CHUNK = 1 << 24
"""Parameters of leaves that are drawn noise for together."""


def count_edges(circuit: Circuit) -> int:
    """Count the sum weights that are not zero, tied ones once."""
    sums = (layer for layer in circuit.layers if isinstance(layer, SumLayer))
    return sum(int(np.count_nonzero(a)) for a in map(layer_params, sums) if a is not None)


def prune(circuit: Circuit, counts: Sequence[FloatArray | None], share: float) -> Circuit:
    """Set sum weights to zero that have at most a share of their block's flow; renormalise rows.

    The entries of a row with its largest flow stay, so a row without flow stays as it is.

    Args:
        circuit: what the flows were taken of.
        counts: per layer the flow of every parameter, as ``engine.expected_counts`` sums them.
        share: of the flow of all weights of a block.

    Raises:
        UserError: the counts are not those of the circuit's layers.
    """
    params: list[FloatArray | None] = []
    for index, (layer, count) in enumerate(zip(circuit.layers, counts, strict=True)):
        theta = layer_params(layer)
        if theta is None or not isinstance(layer, SumLayer):
            params.append(theta)
            continue
        count = checked_counts(index, theta, count)
        lead = leads(layer)
        most = np.zeros((*theta.shape[:2], 1), count.dtype)
        np.maximum.at(most, lead, count.max(2, keepdims=True))
        total = np.zeros((len(theta), 1, 1))
        np.add.at(total, lead, count.sum((1, 2), dtype=np.float64)[:, None, None])
        keep = (count > share * total[lead]) | (count >= most[lead])
        params.append(normalised(layer, np.where(keep, theta, 0), theta.dtype))
    return circuit.with_layer_params(params)


def choose_roots(circuit: Circuit, of: ArrayLike) -> Circuit:
    """Return the circuit whose root i is a copy, with weights of its own, of root ``of[i]``.

    Args:
        circuit: its last layer consists of its roots.
        of: int [roots], which may leave out roots and name one several times.

    Raises:
        UserError: the last layer is another, or a root is not there.
    """
    layer, start = _root_layer(circuit)
    chosen = np.asarray(of)
    if chosen.ndim != 1 or not chosen.size or chosen.dtype.kind not in "iu":
        raise UserError("of must be a non-empty one-dimensional integer array.")
    if chosen.min() < 0 or chosen.max() >= len(circuit.roots):
        raise UserError(f"of must hold roots from 0 to {len(circuit.roots) - 1}.")
    blocks = circuit.roots[chosen] - start
    counts = np.diff(layer.offsets)[blocks]
    edges = ranges(layer.offsets[blocks], counts)
    last = SumLayer(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        layer.children[edges],
        np.arange(len(edges), dtype=np.int32),
        layer.weights[layer.groups[edges]],
    )
    roots = start + np.arange(len(chosen), dtype=np.int32)
    return replace(circuit, layers=(*circuit.layers[:-1], last), roots=roots.astype(np.int32))


def widen(
    circuit: Circuit, second: ArrayLike, *, cross: float = 0.2, noise: float = 0.2, seed: int = 0
) -> Circuit:
    """Double every block but the roots: two copies that mix each other with the cross term.

    Without noise both copies are what the block was, so that no root changes.

    Args:
        circuit: its last layer consists of its roots, each with weights of its own; its products
            multiply node by node.  Latents that it names are gone.
        second: bool [roots], whether a root belongs to the second copy.
        cross: what a copy weighs the nodes of the other by, relative to its own.
        noise: standard deviation of what weights are multiplied by, around 1.
        seed: of the noise.

    Raises:
        UserError: the circuit or an argument is not as described.
    """
    _root_layer(circuit)
    side = np.asarray(second)
    if side.shape != circuit.roots.shape or side.dtype != np.bool_:
        raise UserError(f"second must be {len(circuit.roots)} booleans, one for every root.")
    if cross < 0 or noise < 0:
        raise UserError("cross and noise must be at least 0.")
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    for index, layer in enumerate(circuit.layers):
        if isinstance(layer, ProductLayer):
            if layer.kind != "hadamard":
                raise UserError(f"layer {index} is a {layer.kind} product, which cannot be grown.")
            layers.append(layer)
        elif isinstance(layer, InputLayer):
            layers.append(replace(layer, params=two_leaves(layer, noise, rng)))
        elif layer.tied_to is not None:
            layers.append(following(layer, layers))
        else:
            last = index == len(circuit.layers) - 1
            mixed = _root_rows(layer, circuit, side, cross) if last else _two_by_two(layer, cross)
            mixed = mixed * factors(rng, mixed.shape, noise)
            layers.append(replace(layer, weights=normalised(layer, mixed, layer.weights.dtype)))
    return replace(circuit, layers=tuple(layers), latents={})


def _root_layer(circuit: Circuit) -> tuple[SumLayer, int]:
    """Return the last layer and its first block; refuse other blocks than roots there."""
    layer, start = circuit.layers[-1], int(circuit.starts[-2])
    blocks = np.arange(start, circuit.num_blocks)
    if not isinstance(layer, SumLayer) or layer.tied_to is not None or layer.width != 1:
        raise UserError("The last layer of a circuit that grows must be the sums that are roots.")
    if not np.array_equal(np.sort(circuit.roots), blocks):
        raise UserError("Every block of the last layer of a circuit that grows must be a root.")
    return layer, start


def checked_counts(index: int, theta: FloatArray, count: FloatArray | None) -> FloatArray:
    """Return the counts of a layer; refuse those of another one."""
    if count is None or np.shape(count) != theta.shape:
        raise UserError(f"counts: layer {index} has other counts than the circuit parameters.")
    return count


def following(layer: Layer, layers: Sequence[Layer]) -> Layer:
    """Give a tied sum layer the weights that its owner has in ``layers``; other layers stay."""
    if not isinstance(layer, SumLayer) or layer.tied_to is None:
        return layer
    owner = layers[layer.tied_to]
    assert isinstance(owner, SumLayer)
    return replace(layer, weights=owner.weights)


def two_leaves(layer: InputLayer, noise: float, rng: np.random.Generator) -> FloatArray:
    """Repeat the rows of leaves with noise, inside their family: [groups, 2 width, categories]."""
    params = layer.params
    groups, width, categories = params.shape
    out = np.empty((groups, 2 * width, categories), params.dtype)
    step = max(1, _CHUNK // (2 * width * categories))
    for start in range(0, groups, step):
        part = slice(start, start + step)
        rows = np.concatenate([params[part], params[part]], 1)
        noisy = rows * factors(rng, rows.shape, noise, _LEAF_NOISE)
        noisy = noisy / noisy.sum(2, keepdims=True, dtype=np.float64)
        out[part] = layer.family.projected(noisy, rows)
    return out


def _two_by_two(layer: SumLayer, cross: float) -> FloatArray:
    own, other = layer.weights, cross * layer.weights
    upper, lower = np.concatenate([own, other], 2), np.concatenate([other, own], 2)
    return np.concatenate([upper, lower], 1)


def _root_rows(
    layer: SumLayer, circuit: Circuit, second: NDArray[np.bool_], cross: float
) -> FloatArray:
    """Weigh the copy that a root belongs to by 1, the other by the cross term."""
    start = int(circuit.starts[-2])
    of_block = np.empty(layer.num_blocks, np.bool_)
    of_block[circuit.roots - start] = second
    of_group = np.empty(len(layer.weights), np.bool_)
    of_group[layer.groups] = np.repeat(of_block, np.diff(layer.offsets))
    first = np.where(of_group, cross, 1.0)[:, None, None]
    rest = np.where(of_group, 1.0, cross)[:, None, None]
    return np.concatenate([first * layer.weights, rest * layer.weights], 2)


def factors(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    noise: float,
    bounds: tuple[float, float] = _NOISE,
) -> NDArray[np.float32] | float:
    """Draw what parameters are multiplied by: around 1, within ``bounds``."""
    if not noise:
        return 1.0
    draws = 1 + noise * rng.standard_normal(shape, np.float32)
    clipped: NDArray[np.float32] = np.clip(draws, *bounds)
    return clipped


def normalised(layer: SumLayer, weights: NDArray[Any], dtype: np.dtype[Any]) -> FloatArray:
    """Divide weights [groups, rows, entries] by the sums of their rows over a block's edges."""
    lead = leads(layer)
    total = np.zeros((*weights.shape[:2], 1))
    np.add.at(total, lead, weights.sum(2, keepdims=True, dtype=np.float64))
    normal: FloatArray = (weights / total[lead]).astype(dtype)
    return normal


def heads_by_cluster(owner: IntArray, clusters: int) -> IntArray:
    """List the heads of every cluster, int32 [clusters, most], -1 after the last one."""
    counts = np.bincount(owner, minlength=clusters)
    order = np.argsort(owner, kind="stable")
    slot = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((clusters, int(counts.max())), -1, np.int32)
    table[owner[order], slot] = order
    return table
