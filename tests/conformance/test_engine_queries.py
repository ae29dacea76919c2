"""Samples, most probable explanations and posteriors against enumeration."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from circuits import hmm, random_rows
from scipy.stats import chisquare

from pyjuice_bridge.circuit.types import Circuit, layer_params
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.marginals import variable_marginals

DRAWS = 4000


def check_distribution(
    circuit: Circuit,
    drawn: np.ndarray,
    evidence: np.ndarray | None = None,
    latents: dict[str, np.ndarray] | None = None,
    root: int = 0,
) -> None:
    """Pearson's chi-square of the draws against enumerated probabilities; rare ones pooled."""
    rows = list(oracle.assignments(circuit, evidence, root=root))
    log_p = np.array([oracle.log_likelihood(circuit, row, latents)[root] for row in rows])
    expected = np.exp(log_p - np.logaddexp.reduce(log_p)) * len(drawn)
    place = {tuple(row): i for i, row in enumerate(rows)}
    counts = np.bincount([place[tuple(row)] for row in drawn.tolist()], minlength=len(rows))
    assert not counts[expected == 0].any()
    rare = expected < 5
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        counts = np.append(counts[~rare], counts[rare].sum())
    keep = expected > 0
    assert keep.sum() == 1 or chisquare(counts[keep], expected[keep]).pvalue > 1e-4


def test_samples_follow_every_root(engine: Engine, circuit: Circuit) -> None:
    for root in range(len(circuit.roots)):
        drawn = engine.sample(circuit, DRAWS, seed=1, root=root)
        assert drawn.shape == (DRAWS, circuit.num_vars) and drawn.dtype == np.int32
        check_distribution(circuit, drawn, root=root)


def test_samples_given_evidence(engine: Engine, circuit: Circuit) -> None:
    evidence = random_rows(circuit, 3, 2, 0.5)
    drawn = engine.sample(circuit, DRAWS, evidence, seed=3)
    assert drawn.shape == (3, DRAWS, circuit.num_vars)
    for row, some in zip(evidence, drawn, strict=True):
        check_distribution(circuit, some, row)


def test_samples_given_latents(engine: Engine, latent_circuit: Circuit) -> None:
    positions = len(latent_circuit.latents["z"])
    z = np.array([[-1, 1, 0, 1][:positions], [0, -1, -1, -1][:positions]])
    drawn = engine.sample(latent_circuit, DRAWS, None, {"z": z}, seed=4)
    for values, some in zip(z, drawn, strict=True):
        check_distribution(latent_circuit, some, None, {"z": values})


def test_samples_repeat_by_seed(engine: Engine, circuit: Circuit) -> None:
    evidence = random_rows(circuit, 2, 5, 0.6)
    first, again, other = (engine.sample(circuit, 50, evidence, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    unconditional = [engine.sample(circuit, 50, seed=s) for s in (1, 1)]
    np.testing.assert_array_equal(*unconditional)


def test_variables_of_other_roots_stay_missing(engine: Engine, bundle: Circuit) -> None:
    drawn = engine.sample(bundle, 5, seed=1, root=1)
    assert (drawn[:, :2] == -1).all() and (drawn[:, 2:] >= 0).all()


def test_best_joint_state(engine: Engine, circuit: Circuit) -> None:
    evidence = np.concatenate([random_rows(circuit, 6, 6, 0.5), np.full((1, circuit.num_vars), -1)])
    for root in range(len(circuit.roots)):
        x, value = engine.mpe(circuit, evidence, root=root)
        expected = [oracle.max_value(circuit, row)[root] for row in evidence]
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        attained = [oracle.max_value(circuit, row)[root] for row in x]
        np.testing.assert_allclose(attained, expected, rtol=1e-6)
        observed = evidence >= 0
        np.testing.assert_array_equal(x[observed], evidence[observed])
        scope = sorted(oracle.scopes(circuit)[circuit.roots[root]])
        assert (x[:, scope] >= 0).all()


def test_best_state_sequence_is_viterbi(engine: Engine) -> None:
    """Against the recursion of Viterbi on plain arrays."""
    circuit = hmm(5, 3, 4, seed=7)
    emission = circuit.layers[0].params[0]
    transition, initial = circuit.layers[2].weights[0], circuit.layers[-1].weights[0, 0]
    x = random_rows(circuit, 10, 8, 0.0)
    for row, value in zip(x, engine.mpe(circuit, x)[1], strict=True):
        score = np.log(initial) + np.log(emission[:, row[0]])
        for symbol in row[1:]:
            score = (score[:, None] + np.log(transition)).max(0) + np.log(emission[:, symbol])
        assert value == pytest.approx(score.max(), rel=1e-6)


def test_posteriors(engine: Engine, latent_circuit: Circuit) -> None:
    x = random_rows(latent_circuit, 5, 9, 0.4)
    found = engine.posteriors(latent_circuit, x, "z")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-5)
    for row, posterior in zip(x, found, strict=True):
        marginal = oracle.log_likelihood(latent_circuit, row)[0]
        for position, value in np.ndindex(posterior.shape):
            z = np.full(len(posterior), -1)
            z[position] = value
            joint = oracle.log_likelihood(latent_circuit, row, {"z": z})[0]
            assert posterior[position, value] == pytest.approx(np.exp(joint - marginal), abs=1e-5)


def test_marginals_of_variables_from_the_posteriors_of_leaves(
    engine: Engine, circuit: Circuit
) -> None:
    for root in range(len(circuit.roots)):
        rows = random_rows(circuit, 3, 11, 0.6)
        found = variable_marginals(engine, circuit, rows, np.arange(circuit.num_vars), root=root)
        read = sorted(oracle.scopes(circuit)[circuit.roots[root]])
        for row, marginals in zip(rows, found, strict=True):
            completions = np.array(list(oracle.assignments(circuit, row, root=root)))
            log_p = np.array([oracle.log_likelihood(circuit, full)[root] for full in completions])
            p = np.exp(log_p - np.logaddexp.reduce(log_p))
            for variable in read:
                expected = np.bincount(completions[:, variable], p, marginals.shape[1])
                np.testing.assert_allclose(marginals[variable], expected, atol=1e-5)


def test_impossible_evidence(engine: Engine) -> None:
    """Refused where nothing could be drawn; its best state has the log-value -inf."""
    circuit = hmm(3, 2, 3, seed=10)
    params = [layer_params(layer) for layer in circuit.layers]
    assert params[0] is not None
    emission = params[0].copy()
    emission[:, :, 2] = 0.0
    emission /= emission.sum(-1, keepdims=True)
    circuit = circuit.with_layer_params([emission, *params[1:]])
    evidence = np.array([[0, -1, 1], [-1, 2, 0]])
    with pytest.raises(UserError, match="1"):
        engine.sample(circuit, 2, evidence, seed=0)
    with pytest.raises(UserError, match="1"):
        engine.posteriors(circuit, evidence, "z")
    value = engine.mpe(circuit, evidence)[1]
    assert np.isfinite(value[0]) and value[1] == -np.inf
    check_distribution(circuit, engine.sample(circuit, DRAWS, evidence[:1], seed=1)[0], evidence[0])


def test_no_rows(engine: Engine, latent_circuit: Circuit) -> None:
    none = np.empty((0, latent_circuit.num_vars), np.int32)
    assert engine.log_likelihood(latent_circuit, none).shape == (0, 1)
    assert engine.sample(latent_circuit, 2, none, seed=0).shape == (0, 2, latent_circuit.num_vars)
    x, value = engine.mpe(latent_circuit, none)
    assert x.shape == none.shape and value.shape == (0,)
    assert engine.posteriors(latent_circuit, none, "z").shape[0] == 0
