"""Distributions of single variables, marginal MAP and divergences against enumeration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
from circuits import random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.types import Circuit, InputLayer, SumLayer, layer_params
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.query.table import structures

ENGINE = get_engine("torch", "cpu")
NAMES = ["HCLT", "RAT-SPN", "glued patches", "HMM"]


def enumerated(circuit: Circuit, row: np.ndarray) -> np.ndarray:
    """p(x_v = c | row) as a ratio of sums over all completions: [V, C]."""
    completions = np.array(list(oracle.assignments(circuit, row)))
    p = np.exp([oracle.log_likelihood(circuit, full)[0] for full in completions])
    out = np.zeros((circuit.num_vars, int(circuit.categories.max())))
    for full, weight in zip(completions, p / p.sum(), strict=True):
        out[np.arange(circuit.num_vars), full] += weight
    return out


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), structure=st.sampled_from(NAMES))
def test_marginals_are_sums_over_all_completions(seed: int, structure: str) -> None:
    circuit = structures()[structure]
    rows = random_rows(circuit, 2, seed, 0.6)
    found = Model(circuit, ENGINE).marginals(rows)
    for row, marginal in zip(rows, found, strict=True):
        np.testing.assert_allclose(marginal, enumerated(circuit, row), atol=1e-5)


@pytest.mark.parametrize("structure", NAMES)
def test_a_slice_equals_the_full_answer(structure: str) -> None:
    circuit = structures()[structure]
    model = Model(circuit, ENGINE)
    rows = random_rows(circuit, 5, 1, 0.5)
    full = model.marginals(rows)
    for variables in ([2, 0], [3], np.array([1, 2, 3])):
        np.testing.assert_array_equal(model.marginals(rows, variables), full[:, list(variables)])
    assert model.marginals(rows, []).shape == (5, 0, 4)


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(structures()["glued patches"], ENGINE)
    rows = random_rows(model.circuit, 7, 2, 0.5)
    whole = model.marginals(rows)
    monkeypatch.setattr("pyjuice_bridge.query.marginals._ENTRIES", 30)
    np.testing.assert_allclose(model.marginals(rows), whole, atol=1e-6)


def test_variables_of_different_sizes_and_leaves_of_different_widths() -> None:
    """Two input layers; values that a variable does not have get nothing."""
    circuit = hclt([-1, 0, 1], 2, [2, 4, 3], seed=0)
    found = Model(circuit, ENGINE).marginals(np.array([[-1, -1, 2]]))
    np.testing.assert_allclose(found[0], enumerated(circuit, np.array([-1, -1, 2])), atol=1e-6)
    assert (found[0, 0, 2:] == 0).all() and found[0, 2].tolist() == [0, 0, 1, 0]


def test_moments_and_entropies() -> None:
    circuit = structures()["HCLT"]
    model = Model(circuit, ENGINE)
    rows = random_rows(circuit, 4, 3, 0.6)
    mean, variance = model.moments(rows)
    entropy = model.entropies(rows)
    for i, row in enumerate(rows):
        for v, p in enumerate(enumerated(circuit, row)):
            expected = sum(c * p[c] for c in range(4))
            assert mean[i, v] == pytest.approx(expected, abs=1e-5)
            second = sum(c * c * p[c] for c in range(4))
            assert variance[i, v] == pytest.approx(second - expected**2, abs=1e-4)
            assert entropy[i, v] == pytest.approx(-sum(q * np.log(q) for q in p if q), abs=1e-4)
    assert (entropy[rows >= 0] == 0).all() and (mean[rows >= 0] == rows[rows >= 0]).all()


@pytest.mark.parametrize("structure", NAMES)
def test_marginal_map_sums_the_others_out(structure: str) -> None:
    """Of variables 0 and 2; no better value of one of them, exact log p, 1 and 3 stay open."""
    circuit = structures()[structure]
    model = Model(circuit, ENGINE)
    evidence = np.array([[-1, -1, -1, 1], [-1, 0, -1, -1]])
    found = model.map_approximate(evidence, [0, 2], sweeps=4)
    np.testing.assert_array_equal(found.x[:, [1, 3]], evidence[:, [1, 3]])
    for row, x, value in zip(evidence, found.x, found.log_p, strict=True):
        assert value == pytest.approx(oracle.enumerate_log_likelihood(circuit, x), abs=1e-5)
        scores = {}
        for a, b in np.ndindex(4, 4):
            row[[0, 2]] = a, b
            scores[a, b] = oracle.enumerate_log_likelihood(circuit, row)
        a, b = x[[0, 2]]
        assert value <= max(scores.values()) + 1e-5
        near = [s for (c, d), s in scores.items() if c == a or d == b]
        assert value >= max(near) - 1e-5


def with_other_parameters(circuit: Circuit, seed: int) -> Circuit:
    rng = np.random.default_rng(seed)
    params = []
    for layer in circuit.layers:
        array = layer_params(layer)
        if array is None or isinstance(layer, InputLayer):
            params.append(
                None if array is None else rng.dirichlet(np.ones(array.shape[2]), array.shape[:2])
            )
            continue
        assert isinstance(layer, SumLayer)
        fresh = rng.random(array.shape) + 0.1
        for first, last in zip(layer.offsets, layer.offsets[1:], strict=False):
            groups = layer.groups[first:last]
            fresh[groups] /= fresh[groups].sum(axis=(0, 2), keepdims=True)
        params.append(fresh)
    return circuit.with_layer_params(params)


def test_a_divergence_is_a_sum_over_variables_and_states() -> None:
    """Of an HMM, enumerated; it bounds that of the texts alone."""
    p, q = (random_hmm(2, 3, seed) for seed in (1, 2))
    joint, alone = 0.0, 0.0
    for x in np.ndindex(3, 3, 3):
        sums = [0.0, 0.0]
        for z in np.ndindex(2, 2, 2):
            probability = []
            for hmm in (p, q):
                value = float(hmm.initial[z[0]])
                for t in range(3):
                    value *= float(hmm.emission[z[t], x[t]])
                    value *= float(hmm.transition[z[t], z[t + 1]]) if t < 2 else 1.0
                probability.append(value)
            sums[0] += probability[0]
            sums[1] += probability[1]
            joint += probability[0] * np.log(probability[0] / probability[1])
        alone += sums[0] * np.log(sums[0] / sums[1])
    model = Model(p.circuit(3), ENGINE)
    found = model.divergence(Model(q.circuit(3), ENGINE))
    assert found == pytest.approx(joint, rel=1e-4) and found >= alone
    assert model.divergence(p.circuit(3)) == 0.0


@pytest.mark.parametrize("structure", ["HCLT", "RAT-SPN", "glued patches"])
def test_a_divergence_bounds_that_of_the_variables(structure: str) -> None:
    p = structures()[structure]
    q = with_other_parameters(p, 5)
    rows = np.array(list(oracle.assignments(p)))
    logs = [np.array([oracle.log_likelihood(c, row)[0] for row in rows]) for c in (p, q)]
    alone = float((np.exp(logs[0]) * (logs[0] - logs[1])).sum())
    assert Model(p, ENGINE).divergence(q) >= alone > 0


def test_a_divergence_from_the_impossible_is_infinite() -> None:
    p = hclt([-1, 0], 2, 2, seed=0)
    leaves = p.layers[0].params.copy()  # type: ignore[union-attr]
    leaves[..., 0], leaves[..., 1] = 0.0, 1.0
    q = p.with_layer_params([leaves, *[None] * (len(p.layers) - 1)])
    assert Model(p, ENGINE).divergence(q) == np.inf
    assert np.isfinite(Model(q, ENGINE).divergence(p))


def test_what_has_no_answer() -> None:
    model = Model(structures()["HCLT"], ENGINE)
    blank = np.full((1, 4), -1)
    for variables in ([4], [-1], [0.5], [True]):
        with pytest.raises(UserError, match=r"a variable is .* must be a whole number from 0 to 3"):
            model.marginals(blank, variables)
    with pytest.raises(UserError, match="differ in parameters alone"):
        model.divergence(structures()["RAT-SPN"])
    bundle = Model(structures()["patch bundle"], ENGINE)
    with pytest.raises(UserError, match=r"select\(root\)"):
        bundle.marginals(np.full((1, 4), -1))
    one = bundle.select(1).marginals(np.full((1, 4), -1))
    assert (one[0, :2] == 0).all() and one[0, 2:].sum(-1) == pytest.approx(1.0)
    empty = replace(model.circuit, meta={})
    assert Model(empty, ENGINE).marginals(np.empty((0, 4), int)).shape == (0, 4, 4)
