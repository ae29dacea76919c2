"""Mixtures and products of circuits, against the oracle on their parts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product as cartesian

import circuits as made
import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_circuits import random_circuit

import pyjuice_bridge as pj
from pyjuice_bridge.circuit import check, load, save
from pyjuice_bridge.circuit.combine import mixture, product
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.types import SumLayer
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.errors import UserError


def everything(circuit: pj.Circuit) -> np.ndarray:
    return np.array(list(cartesian(*(range(n) for n in circuit.categories))))


def log_p(circuit: pj.Circuit, x: np.ndarray) -> np.ndarray:
    return np.array([oracle.log_likelihood(circuit, row)[0] for row in x])


def test_a_mixture_is_the_weighted_sum_of_its_parts() -> None:
    parts = [hclt([-1, 0, 1], 2, 3, seed=0), hclt([1, -1, 1], 4, 3, seed=1)]
    circuit = mixture(parts, [0.3, 0.7])
    check(circuit)
    x = everything(circuit)
    expected = 0.3 * np.exp(log_p(parts[0], x)) + 0.7 * np.exp(log_p(parts[1], x))
    np.testing.assert_allclose(np.exp(log_p(circuit, x)), expected, rtol=1e-6)
    np.testing.assert_allclose(np.exp(log_p(circuit, x)).sum(), 1, rtol=1e-6)


def test_the_posterior_of_the_component_is_bayes_rule() -> None:
    parts = [made.hmm(3, 2, 3, seed) for seed in range(3)]
    weights = np.array([0.2, 0.5, 0.3])
    circuit = mixture(parts, weights, latent="author")
    x = np.array([[0, 1, 2], [2, -1, 0], [-1, -1, -1]])
    joint = weights * np.exp(np.stack([log_p(part, x) for part in parts], axis=1))
    found = get_engine("torch", "cpu").posteriors(circuit, x, "author")[:, 0]
    np.testing.assert_allclose(found, joint / joint.sum(1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(found[2], weights, rtol=1e-6)


def test_parts_of_one_form_share_their_layers_and_keep_their_ties(tmp_path) -> None:
    parts = [made.hmm(4, 2, 3, seed) for seed in range(2)]
    circuit = mixture(parts)
    assert len(circuit.layers) == len(parts[0].layers) + 2
    ties = [layer.tied_to for layer in circuit.layers if isinstance(layer, SumLayer)]
    assert ties == [None, 2, 2, None, None]
    save(circuit, tmp_path / "mixed.h5")
    x = everything(circuit)
    np.testing.assert_array_equal(log_p(load(tmp_path / "mixed.h5"), x), log_p(circuit, x))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**16), min_size=1, max_size=3), st.integers(1, 3))
def test_any_circuits_multiply_to_independent_variables(seeds: list[int], size: int) -> None:
    parts = [random_circuit(seed, size) for seed in seeds]
    circuit = product(parts)
    check(circuit)
    rng = np.random.default_rng(seeds[0])
    x = rng.integers(-1, np.maximum(circuit.categories, 1), (8, circuit.num_vars))
    expected = sum(log_p(part, x[:, k * size : (k + 1) * size]) for k, part in enumerate(parts))
    np.testing.assert_allclose(log_p(circuit, x), expected, rtol=1e-9)
    names = {"z"} if len(parts) == 1 else {f"z{k}" for k in range(len(parts))}
    assert set(circuit.latents) == names


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**16), min_size=1, max_size=3))
def test_any_circuits_over_the_same_variables_mix(seeds: list[int]) -> None:
    parts = [random_circuit(seed, 2) for seed in seeds]
    if any(not np.array_equal(part.categories, parts[0].categories) for part in parts):
        with pytest.raises(UserError, match="circuits 0 and"):
            mixture(parts)
        return
    circuit = mixture(parts)
    check(circuit)
    x = everything(circuit)
    expected = np.mean([np.exp(log_p(part, x)) for part in parts], axis=0)
    np.testing.assert_allclose(np.exp(log_p(circuit, x)), expected, rtol=1e-9)


def test_latents_of_a_product_answer_for_their_factor() -> None:
    parts = [hclt([-1, 0], 2, 2, seed=0), hclt([-1, 0, 0], 3, 2, seed=1)]
    circuit = product(parts)
    engine = get_engine("torch", "cpu")
    x = np.array([[0, 1, 1, 0, 1]])
    for k, columns in enumerate([slice(0, 2), slice(2, 5)]):
        alone = engine.posteriors(parts[k], x[:, columns], "z")
        np.testing.assert_allclose(engine.posteriors(circuit, x, f"z{k}"), alone, rtol=1e-5)


def test_what_all_parts_say_of_their_data_is_kept() -> None:
    parts = [
        replace(hclt([-1, 0], 2, 2, seed=s), meta={"columns": '["a", "b"]', "seed": s})
        for s in range(2)
    ]
    assert pj.Model(pj.mixture(parts)).codec.columns == ("a", "b")
    assert "seed" not in pj.mixture(parts).meta


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ([0.5, 0.6], "weights: expected 2 probabilities"),
        ([1.0], "weights: expected 2 probabilities"),
        ([-0.5, 1.5], "weights: expected 2 probabilities"),
        ([np.nan, 1.0], "weights: expected 2 probabilities"),
        (["a", "b"], "must be a list of probabilities"),
    ],
)
def test_weights_that_are_none_are_refused(weights, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        mixture([hclt([-1], 2, 2, seed=s) for s in range(2)], weights)


def test_parts_that_do_not_fit_are_refused() -> None:
    small = hclt([-1], 2, 2, seed=0)
    with pytest.raises(UserError, match="at least one"):
        mixture([])
    with pytest.raises(UserError, match="must be a Circuit"):
        product([small, "x.h5"])  # type: ignore[list-item]
    with pytest.raises(UserError, match="circuits 0 and 1"):
        mixture([small, hclt([-1], 2, 3, seed=0)])
    with pytest.raises(UserError, match="circuit 0 has 2 roots"):
        product([made.mixture(2, 2, seed=0)])
