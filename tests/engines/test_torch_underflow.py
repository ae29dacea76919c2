"""What underflow would take away in float32: circuits whose parts agree only far below their
maxima, against plain evaluation and against float64.

All of it with the passes for CPUs and with those for GPUs, which any device can run.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import oracle
import pytest
import torch
from circuits import hmm, ids, mixture, random_rows
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_circuits import random_circuit, sharpened

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.types import Circuit, InputLayer, ProductLayer, SumLayer, layer_params
from pyjuice_bridge.engines.torch import TorchEngine, batches
from pyjuice_bridge.engines.torch.fused import upward
from pyjuice_bridge.engines.torch.program import Program
from pyjuice_bridge.engines.torch.steady import SteadyUpward

ENGINE = TorchEngine()
EXACT = TorchEngine(precision="float64")


@pytest.fixture(scope="module", autouse=True, params=["kernels", "steady"])
def passes(request: pytest.FixtureRequest) -> Iterator[None]:
    def steady(program: Program, *given: object) -> object:
        single = program.dtype == torch.float32
        return SteadyUpward(program, *given) if single else upward(program, *given)

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "steady":
            patch.setattr(batches, "upward", steady)
        yield


def check_against_float64(circuit: Circuit, x: np.ndarray) -> None:
    expected = EXACT.log_likelihood(circuit, x)
    np.testing.assert_allclose(ENGINE.log_likelihood(circuit, x), expected, rtol=1e-5, atol=1e-5)
    possible = x[np.isfinite(expected).all(1)]
    if len(possible):
        counts, exact = (e.expected_counts(circuit, possible).layers for e in (ENGINE, EXACT))
        for a, b in zip(counts, exact, strict=True):
            if a is not None:
                np.testing.assert_allclose(a, b, atol=1e-3)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 100_000), size=st.integers(3, 8), power=st.sampled_from([5, 30, 100]))
@example(seed=1543, size=3, power=100)
def test_sharp_random_circuits(seed: int, size: int, power: int) -> None:
    circuit = sharpened(random_circuit(seed, size), power, seed)
    check_against_float64(circuit, random_rows(circuit, 20, seed, 0.1))


@settings(max_examples=75, deadline=None)
@given(seed=st.integers(0, 100_000), size=st.integers(3, 8), power=st.sampled_from([5, 30, 100]))
def test_sharp_trees(seed: int, size: int, power: int) -> None:
    rng = np.random.default_rng(seed)
    parents = [-1, *(int(rng.integers(0, i)) for i in range(1, size))]
    circuit = sharpened(hclt(parents, 3, 3, seed=seed), power, seed)
    check_against_float64(circuit, random_rows(circuit, 20, seed, 0.1))


def chain_of_factors(factors: np.ndarray) -> Circuit:
    """One product of many binary leaves: p(x_v = 1 | node j) = factors[v, j]."""
    count, width = factors.shape
    params = np.stack([1 - factors, factors], -1)
    variables = np.arange(count, dtype=np.int32)
    layers = (
        InputLayer(variables, variables, params),
        ProductLayer("hadamard", ids(0, count), variables),
        SumLayer(ids(0, 1), ids(count), ids(0), np.full((1, 1, width), 1 / width)),
    )
    return Circuit(count, layers, ids(count + 1))


@pytest.mark.parametrize(
    "factors",
    [
        [[1.0, 1e-30], [1e-30, 1.0], [1e-30, 1.0]],
        [[1.0, 1e-37], [1e-37, 1.0], [1e-37, 1e-37], [1.0, 1e-30]],
        [[1e-20, 1e-35], [1e-20, 1e-30], [1e-35, 1e-20], [1e-30, 1e-20], [1e-37, 1e-36]],
        [[0.0, 1e-30], [1e-30, 1e-30], [1.0, 1e-30]],
    ],
)
def test_products_of_opposed_scales_do_not_underflow(factors: list[list[float]]) -> None:
    circuit = chain_of_factors(np.array(factors))
    x = np.ones((1, circuit.num_vars), np.int32)
    expected = oracle.log_likelihood(circuit, x[0])
    np.testing.assert_allclose(ENGINE.log_likelihood(circuit, x)[0], expected, rtol=1e-5)
    counts = ENGINE.expected_counts(circuit, x).layers
    exact = EXACT.expected_counts(circuit, x).layers
    np.testing.assert_allclose(counts[2], exact[2], atol=1e-5)
    np.testing.assert_allclose(counts[0], exact[0], atol=1e-5)


def test_three_thousand_sharp_variables() -> None:
    rng = np.random.default_rng(0)
    parents = np.array([-1] + [int(rng.integers(max(0, i - 4), i)) for i in range(1, 3072)])
    circuit = hclt(parents, 4, 16, seed=1)
    sharp = [p if p is None else p**8 for p in map(layer_params, circuit.layers)]
    sharp = [p if p is None else (p / p.sum(-1, keepdims=True)) for p in sharp]
    circuit = circuit.with_layer_params([None if p is None else p.astype("f4") for p in sharp])
    x = random_rows(circuit, 8, 2, missing=0.0)
    exact = EXACT.log_likelihood(circuit, x)
    assert exact.max() < -10_000
    np.testing.assert_allclose(ENGINE.log_likelihood(circuit, x), exact, rtol=1e-5)


def test_what_underflows_before_a_tile_is_divided_by_its_maximum() -> None:
    """[1e-12, 1e-39] becomes [1, 0]; a factor of [1e-30, 1] makes the zero decide."""
    first, last = [[1e-12, 1e-20], [1.0, 1e-19]], [1e-30, 1.0]
    factors = np.array([*first, last])
    layers = (
        InputLayer(ids(0, 1, 2), ids(0, 1, 2), np.stack([1 - factors, factors], -1)),
        ProductLayer("hadamard", ids(0, 2), ids(0, 1)),
        SumLayer(ids(0, 1), ids(3), ids(0), np.eye(2)[None]),
        ProductLayer("hadamard", ids(0, 2), ids(2, 4)),
        SumLayer(ids(0, 1), ids(5), ids(0), np.full((1, 1, 2), 0.5)),
    )
    circuit = Circuit(3, layers, ids(6), {"z": ids(3)})
    x = np.ones((1, 3), np.int32)
    expected = oracle.log_likelihood(circuit, x[0])
    np.testing.assert_allclose(ENGINE.log_likelihood(circuit, x)[0], expected, rtol=1e-6)
    share = 1e-12 * 1e-30 / (1e-12 * 1e-30 + 1e-39)
    found = ENGINE.posteriors(circuit, x, "z")[0, 0]
    np.testing.assert_allclose(found, [share, 1 - share], rtol=1e-4)


@pytest.mark.parametrize("seed", [19, 108, 156, 209])
def test_blocks_that_vanish_are_not_taken_for_zero(seed: int) -> None:
    """Mixtures of products whose factors agree on no node that float32 can see."""
    circuit = sharpened(random_circuit(seed, 8), 100, seed)
    x = random_rows(circuit, 20, seed, 0.1)
    check_against_float64(circuit, x)


def sticky_hmm(length: int) -> Circuit:
    """Two states that never change: what looks lost half-way decides at the end."""
    circuit = hmm(length, 2, 2, 0)
    emission = np.array([[[1 - 1e-4, 1e-4], [1e-4, 1 - 1e-4]]])
    identity = np.eye(2)[None]
    params = [layer_params(layer) for layer in circuit.layers]
    params = [None if p is None else identity if p.shape == (1, 2, 2) else p for p in params]
    params[0], params[-1] = emission, np.array([[[0.5, 0.5]]])
    return circuit.with_layer_params(params)


def test_a_state_that_underflowed_can_come_back() -> None:
    circuit = sticky_hmm(24)
    x = np.array([[0] * 12 + [1] * 12, [0] * 11 + [1] * 13, [0] * 24, [-1] * 24], np.int32)
    expected = oracle.log_likelihoods(circuit, x)
    np.testing.assert_allclose(ENGINE.log_likelihood(circuit, x), expected, rtol=1e-5, atol=1e-6)
    counts, exact = (e.expected_counts(circuit, x).layers for e in (ENGINE, EXACT))
    for a, b in zip(counts, exact, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, atol=1e-4)
    share = ENGINE.posteriors(circuit, x[:1], "z")[0, 0]
    np.testing.assert_allclose(share, [0.5, 0.5], atol=1e-5)


def test_mixtures_of_opposed_parts_are_exact() -> None:
    """Sums of sums and products whose parts only agree far below their maxima."""
    rng = np.random.default_rng(0)
    for seed in range(5):
        circuit = mixture(4, 3, seed)
        sharp = [
            None if p is None else p ** rng.integers(10, 60)
            for p in map(layer_params, circuit.layers)
        ]
        sharp = [None if p is None else p / p.sum(-1, keepdims=True) for p in sharp]
        edges = circuit.layers[3]
        sharp[3] = edges.weights
        sharp = [None if p is None else np.where(p < 1e-37, 0, p).astype("f4") for p in sharp]
        circuit = circuit.with_layer_params(sharp)
        x = random_rows(circuit, 40, seed, missing=0.0)
        expected = oracle.log_likelihoods(circuit, x)
        np.testing.assert_allclose(
            ENGINE.log_likelihood(circuit, x), expected, rtol=1e-5, atol=1e-6
        )
