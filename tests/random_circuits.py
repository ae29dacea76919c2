"""Small random circuits for property tests: every kind of layer, ragged sums and ties."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import (
    Circuit,
    InputLayer,
    Layer,
    ProductLayer,
    SumLayer,
    layer_params,
)

COPIES = 2
"""Blocks made for every scope."""


def circuits(max_vars: int = 4, dtype: Any = None) -> st.SearchStrategy[Circuit]:
    """Hypothesis strategy: valid circuits over 1 to ``max_vars`` variables, one root."""
    dtypes = st.sampled_from([np.float32, np.float64]) if dtype is None else st.just(dtype)
    seeds = st.integers(0, 2**32 - 1)
    return st.builds(random_circuit, seeds, st.integers(1, max_vars), dtypes)


def random_circuit(seed: int, num_vars: int, dtype: Any = np.float64) -> Circuit:
    """A circuit whose structure, ties and parameters follow from ``seed``."""
    builder = _Builder(np.random.default_rng(seed), dtype)
    top = builder.region(list(range(num_vars)))
    root = builder.mix(top, 1, blocks=1)
    return Circuit(
        num_vars,
        tuple(builder.layers),
        root[:1].astype(np.int32),
        {"z": top[:1]},
        {"seed": int(seed), "note": "random", "share": 0.5},
    )


def sharpened(circuit: Circuit, power: int, seed: int) -> Circuit:
    """Rows raised to random powers; what a float32 engine cannot hold as a parameter is zero."""
    rng = np.random.default_rng(seed)
    sharp: list[np.ndarray | None] = []
    for layer in circuit.layers:
        params = layer_params(layer)
        if params is None:
            sharp.append(None)
            continue
        raised = params.astype(float) ** rng.integers(1, power)
        families = {(g,) for g in range(len(params))}
        if isinstance(layer, SumLayer):
            families = {tuple(p.tolist()) for p in np.split(layer.groups, layer.offsets[1:-1])}
        for family in map(list, families):
            raised[family] /= raised[family].sum((0, 2))[:, None]
        sharp.append(np.where(raised < 1e-30, 0, raised).astype("f4"))
    return circuit.with_layer_params(sharp)


class _Builder:
    def __init__(self, rng: np.random.Generator, dtype: Any) -> None:
        self.rng, self.dtype = rng, dtype
        self.layers: list[Layer] = []
        self.blocks = 0

    def add(self, layer: Layer) -> NDArray[np.int32]:
        self.layers.append(layer)
        first, self.blocks = self.blocks, self.blocks + layer.num_blocks
        return np.arange(first, self.blocks, dtype=np.int32)

    def rows(self, *shape: int) -> NDArray[Any]:
        return self.rng.dirichlet(np.ones(shape[-1]), shape[:-1])

    def width(self, block: int) -> int:
        probe = Circuit(1, tuple(self.layers), np.zeros(1, np.int32))
        return probe.widths[probe.layer_of(block)]

    def region(self, variables: list[int]) -> NDArray[np.int32]:
        """COPIES blocks of width 2 over ``variables``."""
        if len(variables) == 1:
            tied = self.rng.random() < 0.5
            groups = np.zeros(COPIES, np.int32) if tied else np.arange(COPIES, dtype=np.int32)
            params = self.rows(int(groups.max()) + 1, 2, 2 + variables[0] % 2)
            where = np.full(COPIES, variables[0], np.int32)
            return self.add(InputLayer(where, groups, params.astype(self.dtype)))
        kind = self.rng.choice(["hadamard", "kronecker"])
        cuts = 1 if kind == "kronecker" else int(self.rng.integers(1, min(3, len(variables))))
        at = np.sort(self.rng.choice(np.arange(1, len(variables)), cuts, replace=False))
        parts = [self.region(list(part)) for part in np.split(np.array(variables), at)]
        children = np.concatenate([[self.rng.choice(p) for p in parts] for _ in range(COPIES)])
        offsets = np.arange(COPIES + 1) * len(parts)
        product = ProductLayer(str(kind), offsets.astype(np.int32), children.astype(np.int32))
        return self.upper(self.add(product))

    def upper(self, below: NDArray[np.int32]) -> NDArray[np.int32]:
        if self.rng.random() < 0.6:
            return self.mix(below, 2, COPIES)
        heads = self.mix(below, 1, 2 * COPIES)
        offsets = np.arange(COPIES + 1, dtype=np.int32) * 2
        return self.add(ProductLayer("concat", offsets, heads))

    def mix(self, below: NDArray[np.int32], width: int, blocks: int) -> NDArray[np.int32]:
        """``blocks`` sums of one or two edges; those of as many share their groups, or none do."""
        counts = np.full(blocks, self.rng.integers(1, 3))
        if self.rng.random() < 0.4:
            counts = self.rng.integers(1, 3, blocks)
        tied = self.rng.random() < 0.5
        width_in = self.width(int(below[0]))
        owners = [
            i
            for i, layer in enumerate(self.layers)
            if isinstance(layer, SumLayer)
            and layer.tied_to is None
            and layer.weights.shape[1:] == (width, width_in)
        ]
        if owners and self.rng.random() < 0.5:
            return self.mix_as(below, int(self.rng.choice(owners)), blocks)
        weights: list[NDArray[Any]] = []
        families: dict[int, list[int]] = {}
        groups: list[int] = []
        for block, edges in enumerate(counts.tolist()):
            family = edges if tied else block
            if family not in families:
                families[family] = list(range(len(weights), len(weights) + edges))
                rows = self.rows(width, edges * width_in).reshape(width, edges, width_in)
                weights += list(rows.swapaxes(0, 1))
            groups += families[family]
        children = self.rng.choice(below, len(groups))
        offsets = np.concatenate([[0], np.cumsum(counts)])
        arrays = (np.asarray(a, np.int32) for a in (offsets, children, groups))
        return self.add(SumLayer(*arrays, np.stack(weights).astype(self.dtype)))

    def mix_as(self, below: NDArray[np.int32], owner: int, blocks: int) -> NDArray[np.int32]:
        """``blocks`` sums tied to the layer ``owner``, each like one of its blocks."""
        like = self.layers[owner]
        assert isinstance(like, SumLayer)
        lists = np.split(like.groups, like.offsets[1:-1])
        picked = [lists[k] for k in self.rng.integers(0, len(lists), blocks)]
        offsets = np.cumsum([0, *(len(groups) for groups in picked)])
        groups = np.concatenate(picked)
        children = self.rng.choice(below, len(groups))
        arrays = (np.asarray(a, np.int32) for a in (offsets, children, groups))
        return self.add(SumLayer(*arrays, like.weights, owner))
