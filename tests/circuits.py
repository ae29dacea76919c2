"""Small random circuits of every kind, for tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pyjuice_bridge.circuit.growing import choose_roots, widen
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.rat_spn import rat_spn, tucker_circuit
from pyjuice_bridge.circuit.region_circuit import region_circuit
from pyjuice_bridge.circuit.region_graph import random_region_graph
from pyjuice_bridge.circuit.region_rectangles import congruent, quad_graph
from pyjuice_bridge.circuit.types import Circuit, InputLayer, ProductLayer, SumLayer


def rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1])


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def hmm(length: int, states: int, values: int, seed: int) -> Circuit:
    """A homogeneous HMM: one emission group, one transition matrix, evaluated back to front."""
    rng = np.random.default_rng(seed)
    emission, transition = rows(rng, 1, states, values), rows(rng, 1, states, states)
    layers = [InputLayer(np.arange(length, dtype=np.int32), np.zeros(length, np.int32), emission)]
    latent, block = [], length
    below: tuple[int, ...] = ()
    for t in reversed(range(length)):
        children = (t, *below)
        layers.append(ProductLayer("hadamard", ids(0, len(children)), ids(*children)))
        latent.append(block)
        weights = transition if t else rows(rng, 1, 1, states)
        owner = 2 if 0 < t < length - 1 else None
        layers.append(SumLayer(ids(0, 1), ids(block), ids(0), weights, owner))
        below, block = (block + 1,), block + 2
    return Circuit(length, tuple(layers), ids(block - 1), {"z": ids(*reversed(latent))})


def mixture(variables: int, values: int, seed: int) -> Circuit:
    """Two roots: a sum over Kronecker and Hadamard-of-sums parts; and one over a concat."""
    rng = np.random.default_rng(seed)
    half = variables // 2
    inputs = InputLayer(
        np.tile(np.arange(variables, dtype=np.int32), 2),
        np.arange(2 * variables, dtype=np.int32),
        rows(rng, 2 * variables, 2, values),
    )
    n = 2 * variables
    sides = ProductLayer(
        "hadamard",
        ids(0, half, variables, variables + half, n),
        np.arange(n, dtype=np.int32),
    )
    cross = ProductLayer("kronecker", ids(0, 2, 4), ids(n, n + 1, n + 2, n + 3))
    mixed = SumLayer(
        ids(0, 2, 3),
        ids(n + 4, n + 5, n + 5),
        ids(0, 1, 2),
        np.concatenate(
            [rows(rng, 1, 1, 8).reshape(1, 2, 4).transpose(1, 0, 2), rows(rng, 1, 1, 4)]
        ),
    )
    pair = ProductLayer("concat", ids(0, 2), ids(n + 6, n + 7))
    top = SumLayer(ids(0, 1), ids(n + 8), ids(0), rows(rng, 1, 1, 2))
    return Circuit(
        variables,
        (inputs, sides, cross, mixed, pair, top),
        ids(n + 6, n + 9),
        {"z": ids(n + 8), "w": ids(n + 4)},
    )


def random_rows(circuit: Circuit, count: int, seed: int, missing: float = 0.2) -> np.ndarray:
    """int32 [count, num_vars] with a share of missing values."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, circuit.categories, (count, circuit.num_vars))
    return np.where(rng.random(x.shape) < missing, -1, x).astype(np.int32)


def grown(seed: int) -> Circuit:
    """Two clusters, one of two heads over one circuit, grown once."""
    bundle = choose_roots(patch_bundle([-1, 0], 2, 1, [2, 3], seed=seed), [0, 1, 1])
    return widen(bundle, np.array([False, False, True]), seed=seed)


def shared_regions(seed: int) -> Circuit:
    """Regions with two partitions each, of which halves of one shape share their parameters."""
    graph = quad_graph((2, 2, 1))
    return region_circuit(graph, 2, 2, shapes=congruent(graph, (2, 2, 1)), seed=seed)


CIRCUITS: dict[str, Callable[[], Circuit]] = {
    "hclt": lambda: hclt([1, -1, 1, 2], 3, [2, 3, 2, 3], seed=1),
    "hmm": lambda: hmm(4, 3, 3, seed=2),
    "bundle": lambda: patch_bundle([-1, 0], 2, 2, [2, 3], seed=3),
    "glued": lambda: glue(
        hclt([-1, 0], 2, 3, seed=4),
        patch_bundle([1, -1], 3, 2, 2, seed=5),
        np.array([[0, 3], [2, 1]]),
    ),
    "grown": lambda: grown(8),
    "rat_spn": lambda: rat_spn(random_region_graph(4, 2, 2, seed=0), 2, 2, [2, 3, 2, 2], seed=7),
    "regions": lambda: shared_regions(9),
    "tucker": lambda: tucker_circuit(quad_graph((2, 2, 1)), 2, [2, 3, 2, 2], seed=10),
    "mixture": lambda: mixture(4, 2, seed=6),
}
