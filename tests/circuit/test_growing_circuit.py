"""Pruning, choosing roots and widening, against enumeration."""

from __future__ import annotations

from itertools import product as cartesian

import numpy as np
import oracle
import pytest
from circuits import mixture
from hypothesis import given, settings
from hypothesis import strategies as st
from random_circuits import circuits

from pyjuice_bridge.circuit.growing import (
    choose_roots,
    count_edges,
    heads_by_cluster,
    prune,
    widen,
)
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.types import Circuit, SumLayer, layer_params
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.errors import UserError

TREE = [1, -1, 1, 2]


def heads(seed: int, of: tuple[int, ...] = (0, 0, 1)) -> Circuit:
    """Two clusters whose heads share a circuit; the heads of one have rows of their own."""
    circuit = choose_roots(patch_bundle(TREE, 2, 2, [2, 3, 2, 2], seed=seed), np.array(of))
    rows = np.random.default_rng(seed + 1).dirichlet(np.ones(2), (len(of), 1)).astype("f4")
    params = [layer_params(layer) for layer in circuit.layers]
    return circuit.with_layer_params([*params[:-1], rows])


def rows_of(circuit: Circuit) -> np.ndarray:
    """Every assignment of the first copy of the variables, repeated for the second."""
    sizes = circuit.categories[:4].tolist()
    return np.array([row + row for row in cartesian(*map(range, sizes))])


def values(circuit: Circuit) -> np.ndarray:
    """log p of every assignment, float64 [assignments, roots]."""
    return oracle.log_likelihoods(circuit, rows_of(circuit))


def flows(circuit: Circuit, row: np.ndarray, root: int) -> list[np.ndarray | None]:
    weights = np.zeros((1, len(circuit.roots)))
    weights[0, root] = 1
    return oracle.expected_counts(circuit, row, weights)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cross=st.floats(0, 2),
    second=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_growing_without_noise_changes_no_head(seed: int, cross: float, second: list[bool]) -> None:
    circuit = heads(seed)
    grown = widen(circuit, np.array(second), cross=cross, noise=0)
    check(grown)
    assert [w for w in grown.widths if w > 1] == [2 * w for w in circuit.widths if w > 1]
    np.testing.assert_allclose(values(grown), values(circuit), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(0.01, 1))
def test_growing_with_noise_parts_the_copies(seed: int, noise: float) -> None:
    """Every head still sums to one, and the two copies of a head are not the same."""
    circuit = choose_roots(heads(seed), np.array([0, 1, 2, 0]))
    second = np.array([False, False, False, True])
    grown = widen(circuit, second, cross=0, noise=noise, seed=seed)
    check(grown)
    log_p = values(grown)
    assert np.abs(np.exp(log_p).sum(0) - 1).max() < 1e-5
    assert np.abs(log_p[:, 0] - log_p[:, 3]).max() > 1e-6
    again = widen(circuit, second, cross=0, noise=noise, seed=seed)
    np.testing.assert_array_equal(values(again), log_p)


def test_the_cross_term_weighs_the_other_copy() -> None:
    circuit = heads(0)
    grown = widen(circuit, np.array([False, True, False]), cross=0.2, noise=0)
    before = [layer for layer in circuit.layers if isinstance(layer, SumLayer)]
    after = [layer for layer in grown.layers if isinstance(layer, SumLayer)]
    for old, new in zip(before[:-1], after[:-1], strict=True):
        for row, col, share in ((0, 0, 1), (1, 1, 1), (0, 1, 0.2), (1, 0, 0.2)):
            part = new.weights[:, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
            np.testing.assert_allclose(part, share * old.weights / 1.2, rtol=1e-5)
    old, new = before[-1].weights, after[-1].weights
    np.testing.assert_allclose(new[0, 0, :2], old[0, 0] / 1.2, rtol=1e-5)
    np.testing.assert_allclose(new[1, 0, 2:], old[1, 0] / 1.2, rtol=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_pruning_at_zero_changes_nothing(seed: int) -> None:
    circuit = heads(seed)
    counts = oracle.expected_counts(circuit, rows_of(circuit)[:3])
    pruned = prune(circuit, counts, 0.0)
    assert count_edges(pruned) == count_edges(circuit)
    np.testing.assert_allclose(values(pruned), values(circuit), atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.05, 0.4))
def test_pruning_loses_at_most_what_its_flow_says(seed: int, share: float) -> None:
    """log p falls by at most log(1 - what flows through the edges that go)."""
    circuit = heads(seed)
    rows = rows_of(circuit)[:3]
    pruned = prune(circuit, oracle.expected_counts(circuit, rows), share)
    check(pruned)
    gone = [
        None if a is None else (np.asarray(b) == 0) & (a > 0)
        for a, b in zip(
            map(layer_params, circuit.layers), map(layer_params, pruned.layers), strict=True
        )
    ]
    for row in rows:
        for root in range(3):
            flow = flows(circuit, row, root)
            lost = sum(f[g].sum() for f, g in zip(flow, gone, strict=True) if f is not None)
            before = oracle.log_likelihood(circuit, row)[root]
            after = oracle.log_likelihood(pruned, row)[root]
            if lost < 1 - 1e-6:
                assert after >= before + np.log1p(-lost) - 1e-5


@settings(max_examples=30, deadline=None)
@given(circuit=circuits(), share=st.floats(0, 1))
def test_every_circuit_can_be_pruned(circuit: Circuit, share: float) -> None:
    """Ragged sums and ties: the result is a circuit, and no row loses all of its entries."""
    rng = np.random.default_rng(0)
    counts = [None if p is None else rng.random(p.shape) for p in map(layer_params, circuit.layers)]
    pruned = prune(circuit, counts, share)
    check(pruned)
    assert count_edges(pruned) <= count_edges(circuit)
    assert abs(oracle.enumerate_log_likelihood(pruned)) < 1e-5


def test_a_row_without_flow_stays() -> None:
    circuit = heads(3)
    counts = [None if p is None else 0 * p for p in map(layer_params, circuit.layers)]
    np.testing.assert_array_equal(values(prune(circuit, counts, 0.5)), values(circuit))


def test_roots_are_chosen_and_repeated() -> None:
    circuit = heads(5)
    chosen = choose_roots(circuit, [2, 0, 2])
    check(chosen)
    np.testing.assert_array_equal(values(chosen), values(circuit)[:, [2, 0, 2]])
    assert len(chosen.layers[-1].weights) == 3


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0, 0.3))
def test_a_composed_model_sums_to_one(seed: int, share: float) -> None:
    """2 × 2 binary images of two patches: heads are pruned, grown and put under a top circuit."""
    bundle = choose_roots(patch_bundle([-1, 0], 2, 2, 2, seed=seed), [0, 1, 1])
    rows = np.random.default_rng(seed).integers(0, 2, (20, 4))
    bundle = prune(bundle, oracle.expected_counts(bundle, rows), share)
    bundle = widen(choose_roots(bundle, [0, 1, 2, 2]), np.arange(4) == 3, seed=seed)
    model = glue(hclt([-1, 0], 3, 4, seed=seed), bundle, [[0, 2], [1, 3]])
    check(model)
    assert oracle.enumerate_log_likelihood(model) == pytest.approx(0, abs=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    circuit = heads(0)
    with pytest.raises(UserError, match="roots from 0 to 2"):
        choose_roots(circuit, [3])
    with pytest.raises(UserError, match="non-empty"):
        choose_roots(circuit, [])
    with pytest.raises(UserError, match="3 booleans"):
        widen(circuit, np.array([True]))
    with pytest.raises(UserError, match="at least 0"):
        widen(circuit, np.zeros(3, bool), cross=-1)
    with pytest.raises(UserError, match="of a circuit that grows must be"):
        widen(mixture(4, 2, 0), np.zeros(2, bool))
    with pytest.raises(UserError, match="other counts"):
        prune(circuit, [None] * len(circuit.layers), 0.1)


def test_heads_are_listed_by_cluster() -> None:
    table = heads_by_cluster(np.array([1, 0, 1, 3]), 4)
    assert table.tolist() == [[1, -1], [0, 2], [-1, -1], [3, -1]]
