"""Log-likelihoods and expected counts against plain evaluation and enumeration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
from circuits import random_rows

from pyjuice_bridge.circuit.types import Circuit, SumLayer
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.errors import UserError


def soft_evidence(circuit: Circuit, name: str, rows: int, seed: int) -> np.ndarray:
    width = circuit.widths[circuit.layer_of(int(circuit.latents[name][0]))]
    shape = (rows, len(circuit.latents[name]), width)
    return np.random.default_rng(seed).random(shape)


def test_rows_with_and_without_gaps(engine: Engine, circuit: Circuit) -> None:
    x = np.concatenate([random_rows(circuit, 12, 1, 0.0), random_rows(circuit, 12, 2, 0.4)])
    found = engine.log_likelihood(circuit, x)
    assert found.dtype == np.float64 and found.shape == (24, len(circuit.roots))
    expected = [oracle.log_likelihood(circuit, row) for row in x]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_every_root_sums_to_one(engine: Engine, circuit: Circuit) -> None:
    for root in range(len(circuit.roots)):
        everything = np.array(list(oracle.assignments(circuit, root=root)))
        log_p = engine.log_likelihood(circuit, everything)[:, root]
        assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)
    nothing = np.full((1, circuit.num_vars), -1)
    np.testing.assert_allclose(engine.log_likelihood(circuit, nothing), 0.0, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_every_integer_type_means_the_same(
    engine: Engine, circuit: Circuit, dtype: type[np.integer]
) -> None:
    x = random_rows(circuit, 5, 3)
    expected = engine.log_likelihood(circuit, x)
    np.testing.assert_array_equal(engine.log_likelihood(circuit, x.astype(dtype)), expected)


def test_observed_latents(engine: Engine, latent_circuit: Circuit) -> None:
    x = random_rows(latent_circuit, 10, 4)
    weights = soft_evidence(latent_circuit, "z", 10, 5)
    states = np.random.default_rng(6).integers(-1, weights.shape[2], weights.shape[:2])
    for z in (states, weights):
        found = engine.log_likelihood(latent_circuit, x, {"z": z})
        expected = [
            oracle.log_likelihood(latent_circuit, row, {"z": values})
            for row, values in zip(x, z, strict=True)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_observed_latents_split_the_likelihood(engine: Engine, latent_circuit: Circuit) -> None:
    """Summing p(x, z) over the values of one latent gives p(x) back."""
    x = random_rows(latent_circuit, 6, 7)
    width = soft_evidence(latent_circuit, "z", 1, 0).shape[2]
    positions = len(latent_circuit.latents["z"])
    parts = []
    for value in range(width):
        z = np.full((6, positions), -1)
        z[:, -1] = value
        parts.append(engine.log_likelihood(latent_circuit, x, {"z": z}))
    whole = engine.log_likelihood(latent_circuit, x)
    np.testing.assert_allclose(np.logaddexp.reduce(parts), whole, atol=1e-5)


def test_counts_are_derivatives(engine: Engine, circuit: Circuit) -> None:
    x = random_rows(circuit, 5, 8)
    weights = np.random.default_rng(9).random((5, len(circuit.roots)))
    weights[0] = 0.0
    found = engine.expected_counts(circuit, x, weights)
    log_p = oracle.log_likelihoods(circuit, x)
    assert found.log_likelihood == pytest.approx((weights * log_p).sum(), rel=1e-5)
    expected = oracle.expected_counts(circuit, x, weights)
    for counts, reference in zip(found.layers, expected, strict=True):
        assert (counts is None) == (reference is None)
        if counts is not None:
            np.testing.assert_allclose(counts, reference, atol=1e-5)


def test_counts_with_observed_latents(engine: Engine, latent_circuit: Circuit) -> None:
    x = random_rows(latent_circuit, 4, 10)
    z = soft_evidence(latent_circuit, "z", 4, 11)
    found = engine.expected_counts(latent_circuit, x, None, {"z": z})
    expected = oracle.expected_counts(latent_circuit, x, None, {"z": z})
    for counts, reference in zip(found.layers, expected, strict=True):
        if counts is not None:
            np.testing.assert_allclose(counts, reference, atol=1e-5)


def test_counts_with_soft_evidence_on_sums(engine: Engine, latent_circuit: Circuit) -> None:
    """A sum's value counts with its evidence, in the flow to its children too."""
    sums = [i for i, layer in enumerate(latent_circuit.layers) if isinstance(layer, SumLayer)]
    named = replace(latent_circuit, latents={"s": latent_circuit.starts[sums[:1]]})
    x = random_rows(named, 4, 12)
    s = soft_evidence(named, "s", 4, 13)
    found = engine.expected_counts(named, x, None, {"s": s})
    expected = oracle.expected_counts(named, x, None, {"s": s})
    for counts, reference in zip(found.layers, expected, strict=True):
        if counts is not None:
            np.testing.assert_allclose(counts, reference, atol=1e-5)


def test_what_does_not_fit_is_refused(engine: Engine, latent_circuit: Circuit) -> None:
    x = random_rows(latent_circuit, 3, 0)
    beyond = x.copy()
    beyond[1, 2] = latent_circuit.categories[2]
    for bad in (x[:, 1:], x.astype(float), beyond, x - 2):
        with pytest.raises(UserError):
            engine.log_likelihood(latent_circuit, bad)
    with pytest.raises(UserError, match="nonsense"):
        engine.log_likelihood(latent_circuit, x, {"nonsense": np.zeros((3, 1), int)})
