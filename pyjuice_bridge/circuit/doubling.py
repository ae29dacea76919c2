"""Growing any circuit: the nodes with the least flow go, then every block becomes two copies.

After Dang, Liu & Van den Broeck, *Sparse Probabilistic Circuits via Pruning and Growing* (NeurIPS
2022).  Nodes are pruned in place of edges, so blocks become narrower and stay dense.

Nodes that are multiplied with each other, or read by the same tied weights, belong together: they
are kept, dropped and doubled together.  Blocks of one node stay as they are, and so do blocks that
list others (``concat``), those in Kronecker products, and what is multiplied with either: in a
patch circuit the insides of clusters grow, not their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.growing import (
    checked_counts,
    factors,
    following,
    normalised,
    two_leaves,
)
from pyjuice_bridge.circuit.initialise import uniform_leaves, uniform_weights
from pyjuice_bridge.circuit.types import (
    Circuit,
    FloatArray,
    InputLayer,
    Layer,
    SumLayer,
    layer_params,
)
from pyjuice_bridge.circuit.unions import components
from pyjuice_bridge.errors import UserError

_LEAST = 1e-12
"""Added to the weights of a narrowed block, whose other entries may all have gone."""


def double(circuit: Circuit, *, noise: float = 0.2, seed: int = 0) -> Circuit:
    """Make two copies of every block that can grow; both read both copies alike.

    Without noise the copies are what the block was, so that no root changes.

    Args:
        circuit: any circuit.
        noise: standard deviation of what parameters are multiplied by, around 1, so that the copies
            can part.
        seed: of the noise.

    Returns:
        A circuit in which value k of a latent that grew is now k or K + k.

    Raises:
        UserError: no block can grow, or the noise is negative.
    """
    grows = _growing_layers(circuit)
    if noise < 0:
        raise UserError("noise must be at least 0.")
    rng = np.random.default_rng(seed)
    layers: list[Layer] = []
    for layer, wider in zip(circuit.layers, grows, strict=True):
        if isinstance(layer, InputLayer) and wider:
            layers.append(replace(layer, params=two_leaves(layer, noise, rng)))
        elif isinstance(layer, SumLayer) and layer.tied_to is None:
            copies = (1, 1 + int(wider), 1 + int(_reads_growing(circuit, layer, grows)))
            weights = layer.weights
            if copies != (1, 1, 1):
                tiled = np.tile(weights, copies)
                noisy = tiled * factors(rng, tiled.shape, noise)
                weights = normalised(layer, noisy, weights.dtype)
            layers.append(replace(layer, weights=weights))
        else:
            layers.append(following(layer, layers))
    return _with_layers(circuit, layers, lambda width: 2 * width)


def narrow(circuit: Circuit, counts: Sequence[FloatArray | None], share: float) -> Circuit:
    """Drop the share of the nodes of every block that has the least flow, and renormalise.

    Args:
        circuit: what the flows were taken of.
        counts: per layer the flow of every parameter, as ``engine.expected_counts`` sums them.
        share: of the nodes of a block; at least two stay.

    Returns:
        A circuit whose latents have the values that are left, numbered anew.

    Raises:
        UserError: no block can grow, the share is none, or the counts are another circuit's.
    """
    grows = _growing_layers(circuit)
    if not 0 <= share < 1:
        raise UserError(f"share is {share}, must be at least 0 and below 1.")
    units = _Units(circuit)
    kept = units.kept(counts, grows, share)
    layers: list[Layer] = []
    for index, (layer, narrower) in enumerate(zip(circuit.layers, grows, strict=True)):
        theta = layer_params(layer)
        if theta is None:
            layers.append(following(layer, layers))
            continue
        if narrower:
            nodes = kept[theta.shape[1]][units.rows(index)]
            theta = np.take_along_axis(theta, nodes[..., None], 1)
        if isinstance(layer, InputLayer):
            layers.append(replace(layer, params=theta))
            continue
        assert isinstance(layer, SumLayer)
        if _reads_growing(circuit, layer, grows):
            nodes = kept[theta.shape[2]][units.entries(index)]
            theta = np.take_along_axis(theta, nodes[:, None], 2) + _LEAST
            theta = normalised(layer, theta, theta.dtype)
        layers.append(replace(layer, weights=theta))
    return _with_layers(circuit, layers, lambda width: _left(width, share))


def outline(circuit: Circuit, share: float) -> Circuit:
    """Return the structure of a circuit narrowed by ``share`` and doubled; its rows take no memory.

    Raises:
        UserError: no block can grow.
    """
    grows, layers = _growing_layers(circuit), list[Layer]()
    for layer, wider in zip(circuit.layers, grows, strict=True):
        theta = layer_params(layer)
        if theta is None:
            layers.append(following(layer, layers))
            continue
        groups, width, entries = theta.shape
        width = 2 * _left(width, share) if wider else width
        if isinstance(layer, InputLayer):
            layers.append(replace(layer, params=uniform_leaves(groups, width, entries)))
            continue
        assert isinstance(layer, SumLayer)
        if _reads_growing(circuit, layer, grows):
            entries = 2 * _left(entries, share)
        edges = np.ones(groups, np.int64)
        edges[layer.groups] = np.repeat(np.diff(layer.offsets), np.diff(layer.offsets))
        layers.append(replace(layer, weights=uniform_weights(edges, width, entries)))
    return _with_layers(circuit, layers, lambda width: 2 * _left(width, share))


def _growing_layers(circuit: Circuit) -> list[bool]:
    """Tell of every layer whether its blocks can grow; refuse a circuit where none can."""
    together: list[tuple[int, int]] = []
    fixed = np.array([width == 1 for width in circuit.widths])
    for index, layer in enumerate(circuit.layers):
        if isinstance(layer, InputLayer):
            continue
        below = np.unique(np.searchsorted(circuit.starts, layer.children, side="right") - 1)
        if isinstance(layer, SumLayer):
            # Entries are of one width, so what they read grows together.
            together += [(int(below[0]), int(child)) for child in below]
            if layer.tied_to is not None:
                owner = circuit.layers[layer.tied_to]
                assert isinstance(owner, SumLayer)
                together += [(index, layer.tied_to)]
                together += [(int(below[0]), circuit.layer_of(int(owner.children[0])))]
        elif layer.kind == "hadamard":
            together += [(index, int(child)) for child in below]
        else:
            fixed[[index, *below]] = True
    of = components(len(fixed), together)
    grows = ~np.isin(of, of[fixed])
    if not grows.any():
        raise UserError("the circuit has no blocks that can grow.")
    return [bool(each) for each in grows]


class _Units:
    """Classes of what belongs together: blocks, and the rows and entries of weight groups."""

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit
        self._first: dict[tuple[int, str], int] = {}
        total = circuit.num_blocks
        for index, layer in enumerate(circuit.layers):
            theta = layer_params(layer)
            if theta is not None:
                self._first[index, "rows"], self._first[index, "entries"] = (
                    total,
                    total + len(theta),
                )
                total += 2 * len(theta)
        self._of = components(total, self._pairs())

    def _pairs(self) -> NDArray[np.int64]:
        circuit, pairs = self._circuit, []
        for index, layer in enumerate(circuit.layers):
            blocks = np.arange(circuit.starts[index], circuit.starts[index + 1])
            if isinstance(layer, InputLayer):
                pairs.append((blocks, self._first[index, "rows"] + layer.groups))
                continue
            parents = np.repeat(blocks, np.diff(layer.offsets))
            if isinstance(layer, SumLayer):
                owner = index if layer.tied_to is None else layer.tied_to
                pairs.append((parents, self._first[owner, "rows"] + layer.groups))
                pairs.append((layer.children, self._first[owner, "entries"] + layer.groups))
            elif layer.kind == "hadamard":
                pairs.append((parents, layer.children))
        return np.concatenate([np.stack(pair, 1) for pair in pairs])

    def rows(self, index: int) -> NDArray[np.int64]:
        """Return the class of the rows of every group of a layer."""
        return self._classes(index, "rows")

    def entries(self, index: int) -> NDArray[np.int64]:
        """Return the class of the entries of every group of a sum layer."""
        return self._classes(index, "entries")

    def _classes(self, index: int, part: str) -> NDArray[np.int64]:
        theta = layer_params(self._circuit.layers[index])
        assert theta is not None
        first = self._first[index, part]
        return self._of[first : first + len(theta)]

    def kept(
        self, counts: Sequence[FloatArray | None], grows: Sequence[bool], share: float
    ) -> dict[int, NDArray[np.int64]]:
        """Choose the nodes that stay, by width of the blocks: int64 [classes, nodes], ascending."""
        flows: dict[int, NDArray[np.float64]] = {}
        for index, (layer, count) in enumerate(zip(self._circuit.layers, counts, strict=True)):
            theta = layer_params(layer)
            if theta is None or not grows[index]:
                continue
            count = checked_counts(index, theta, count)
            width = theta.shape[1]
            flow = flows.setdefault(width, np.zeros((int(self._of.max()) + 1, width)))
            np.add.at(flow, self.rows(index), count.sum(2, dtype=np.float64))
        return {
            width: np.sort(np.argsort(-flow, 1, kind="stable")[:, : _left(width, share)], 1)
            for width, flow in flows.items()
        }


def _reads_growing(circuit: Circuit, layer: SumLayer, grows: Sequence[bool]) -> bool:
    """Tell whether the entries of a sum layer are nodes that grow."""
    return grows[circuit.layer_of(int(layer.children[0]))]


def _left(width: int, share: float) -> int:
    """Return how many nodes of a block are left once a share of them is gone."""
    return max(2, width - int(share * width))


def _with_layers(
    circuit: Circuit, layers: Sequence[Layer], resized: Callable[[int], int]
) -> Circuit:
    """Copy a circuit with other layers; ``resized`` tells the new width of what grows."""
    meta = dict(circuit.meta)
    if "latent_states" in meta:
        meta["latent_states"] = resized(int(meta["latent_states"]))
    return replace(circuit, layers=tuple(layers), meta=meta)
