"""Every engine on circuits of random structure, with ties, ragged sums, gaps and latents."""

from __future__ import annotations

import numpy as np
import oracle
from circuits import random_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from random_circuits import circuits

from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.base import Engine, FitOptions

GAPS = st.sampled_from([0.0, 0.3, 0.9])


@settings(max_examples=60, deadline=None)
@given(circuit=circuits(5), seed=st.integers(0, 10_000), missing=GAPS)
def test_likelihoods(engine: Engine, circuit: Circuit, seed: int, missing: float) -> None:
    x = random_rows(circuit, 6, seed, missing)
    z = np.random.default_rng(seed).integers(-1, 2, (6, 1))
    found = engine.log_likelihood(circuit, x)
    np.testing.assert_allclose(
        found, [oracle.log_likelihood(circuit, row) for row in x], rtol=1e-5, atol=1e-5
    )
    rows = zip(x, z, strict=True)
    expected = [oracle.log_likelihood(circuit, row, {"z": state}) for row, state in rows]
    found = engine.log_likelihood(circuit, x, {"z": z})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(circuit=circuits(4), seed=st.integers(0, 10_000), missing=GAPS)
def test_counts(engine: Engine, circuit: Circuit, seed: int, missing: float) -> None:
    x = random_rows(circuit, 3, seed, missing)
    weights = np.random.default_rng(seed).random((3, 1)) * 5
    found = engine.expected_counts(circuit, x, weights).layers
    for a, b in zip(found, oracle.expected_counts(circuit, x, weights), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, atol=5e-5)


@settings(max_examples=40, deadline=None)
@given(circuit=circuits(5), seed=st.integers(0, 10_000), missing=GAPS)
def test_full_batch_em_never_falls(
    engine: Engine, circuit: Circuit, seed: int, missing: float
) -> None:
    x = random_rows(circuit, 15, seed, missing)
    options = FitOptions("full_em", epochs=6, pseudocount=0.0)
    fitted = engine.fit(circuit, x, options)
    curve = [epoch.train for epoch in fitted.history]
    assert np.diff(curve).min() >= -1e-5
    assert abs(oracle.enumerate_log_likelihood(fitted.circuit)) < 1e-5


@settings(max_examples=40, deadline=None)
@given(circuit=circuits(5), seed=st.integers(0, 10_000), missing=GAPS)
def test_best_joint_states(engine: Engine, circuit: Circuit, seed: int, missing: float) -> None:
    evidence = random_rows(circuit, 5, seed, missing)
    x, value = engine.mpe(circuit, evidence)
    expected = [oracle.max_value(circuit, row)[0] for row in evidence]
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    attained = [oracle.max_value(circuit, row)[0] for row in x]
    np.testing.assert_allclose(attained, expected, rtol=1e-5, atol=1e-6)
