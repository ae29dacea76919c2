"""Counting HMMs: against plain loops, and as the fixed point of EM with observed states."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.circuit.hmm import Hmm, random_hmm
from pyjuice_bridge.circuit.types import layer_params
from pyjuice_bridge.distill import counting
from pyjuice_bridge.distill.counting import count_parameters
from pyjuice_bridge.distill.hmm import interpolate
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.errors import UserError

ENGINE = TorchEngine(precision="float64")
STATES, TOKENS = 3, 4


def count_hmm(x: np.ndarray, z: np.ndarray, pseudocount: float) -> Hmm:
    """Count from the uniform start, as long as the windows."""
    start = random_hmm(STATES, TOKENS, None).circuit(x.shape[1])
    return Hmm.of(count_parameters(start, x, z, pseudocount=pseudocount))


def windows(seed: int, rows: int = 12, length: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Tokens with gaps and tails; states with the same tails."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, TOKENS, (rows, length))
    z = rng.integers(0, STATES, (rows, length))
    tail = np.arange(length) >= rng.integers(1, length + 1, (rows, 1))
    return np.where(tail | (rng.random(x.shape) < 0.2), -1, x), np.where(tail, -1, z)


def by_hand(x: np.ndarray, z: np.ndarray, pseudocount: float) -> list[np.ndarray]:
    tables = [np.zeros(STATES), np.zeros((STATES, STATES)), np.zeros((STATES, TOKENS))]
    for row, states in zip(x, z, strict=True):
        if states[0] >= 0:
            tables[0][states[0]] += 1
        for t, state in enumerate(states):
            if t and state >= 0 and states[t - 1] >= 0:
                tables[1][states[t - 1], state] += 1
            if state >= 0 and row[t] >= 0:
                tables[2][state, row[t]] += 1
    return [t + pseudocount / t.shape[-1] for t in tables]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), pseudocount=st.sampled_from([0.0, 0.1, 2.0]))
def test_relative_frequencies(seed: int, pseudocount: float) -> None:
    x, z = windows(seed, rows=6)
    hmm = count_hmm(x, z, pseudocount)
    found = (hmm.initial, hmm.transition, hmm.emission)
    for array, counts in zip(found, by_hand(x, z, pseudocount), strict=True):
        total = counts.sum(-1, keepdims=True)
        uniform = np.full_like(counts, 1 / counts.shape[-1])
        expected = np.divide(counts, total, out=uniform, where=total > 0)
        np.testing.assert_allclose(array, expected, atol=1e-7)
        np.testing.assert_allclose(array.sum(-1), 1, atol=1e-6)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x, z = windows(1, rows=40)
    whole = count_hmm(x, z, 0.3)
    monkeypatch.setattr(counting, "_ENTRIES", 7)
    parts = count_hmm(x, z, 0.3)
    np.testing.assert_array_equal(whole.transition, parts.transition)
    np.testing.assert_array_equal(whole.emission, parts.emission)


@pytest.mark.parametrize("pseudocount", [0.0, 0.5])
def test_counts_are_the_fixed_point_of_em(pseudocount: float) -> None:
    """EM with the states observed gets there in one step from anywhere, and then stays."""
    x, z = windows(2, rows=60)
    z = np.where(z < 0, 0, z)
    counted = count_hmm(x, z, pseudocount)
    start = Hmm(np.full(3, 1 / 3), np.full((3, 3), 1 / 3), np.full((3, 4), 1 / 4))
    options = FitOptions(optimizer="full_em", epochs=1, pseudocount=pseudocount)
    for first in (start, counted):
        after = Hmm.of(ENGINE.fit(first.circuit(5), x, options, latents={"z": z}).circuit)
        np.testing.assert_allclose(after.initial, counted.initial, atol=1e-6)
        np.testing.assert_allclose(after.transition, counted.transition, atol=1e-6)
        np.testing.assert_allclose(after.emission, counted.emission, atol=1e-6)


def test_counts_with_open_tails_are_a_fixed_point_too() -> None:
    """Unknown states in the tails say nothing new: their expected counts repeat the model."""
    x, z = windows(3, rows=60)
    x = np.where(z < 0, -1, x)
    counted = count_hmm(x, z, 0.0)
    options = FitOptions(optimizer="full_em", epochs=1, pseudocount=0.0)
    after = Hmm.of(ENGINE.fit(counted.circuit(5), x, options, latents={"z": z}).circuit)
    np.testing.assert_allclose(after.transition, counted.transition, atol=1e-6)
    np.testing.assert_allclose(after.emission, counted.emission, atol=1e-6)


@pytest.mark.parametrize("pseudocount", [0.0, 0.5])
def test_counting_is_one_step_of_em_in_both_precisions(pseudocount: float) -> None:
    """From the uniform start, with tokens missing and every state known; float64 to the digit."""
    x, z = windows(6, rows=60)
    z = np.where(z < 0, 1, z)
    start = random_hmm(STATES, TOKENS, None).circuit(5)
    double = start.with_layer_params(
        [None if p is None else p.astype(np.float64) for p in map(layer_params, start.layers)]
    )
    options = FitOptions(optimizer="full_em", epochs=1, pseudocount=pseudocount)
    for first, close in ((start, 1e-6), (double, 1e-12)):
        fitted = ENGINE.fit(first, x, options, latents={"z": z}).circuit
        counted = count_parameters(first, x, z, pseudocount=pseudocount)
        for ours, theirs in zip(counted.layers, fitted.layers, strict=True):
            if layer_params(ours) is not None:
                np.testing.assert_allclose(
                    layer_params(ours), layer_params(theirs), rtol=0, atol=close
                )


def test_counting_beats_every_other_model_of_the_same_states() -> None:
    x, z = windows(4, rows=50)
    z = np.where(z < 0, 0, z)
    best = ENGINE.log_likelihood(count_hmm(x, z, 0.0).circuit(5), x, {"z": z}).sum()
    for pseudocount in (0.5, 5.0):
        other = count_hmm(x, z, pseudocount).circuit(5)
        assert ENGINE.log_likelihood(other, x, {"z": z}).sum() < best


def test_what_does_not_fit() -> None:
    x, z = windows(5)
    with pytest.raises(UserError, match="z must be an integer array"):
        count_hmm(x, z[0], 0.1)
    with pytest.raises(UserError, match=r"z must be an integer array of shape \[rows, 5\]"):
        count_hmm(x, z[:, 1:], 0.1)
    with pytest.raises(UserError, match="x has 12 rows but z has 11; they must be the same rows"):
        count_hmm(x, z[1:], 0.1)
    for wrong in (-1.0, np.inf, np.nan):
        with pytest.raises(UserError, match="at least 0"):
            count_hmm(x, z, wrong)
    z[3, 2] = STATES
    with pytest.raises(UserError, match=r"z: row 3, column 2 is 3; values must be 0 … 2"):
        count_hmm(x, z, 0.1)
    x[1, 0] = -2
    with pytest.raises(UserError, match="x: row 1, column 0 is -2"):
        count_hmm(x, z, 0.1)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_interpolation_mixes_rows_with_what_is_frequent(seed: int, share: float) -> None:
    x, z = windows(seed, rows=6)
    x[0, 0], z[0, 0] = 1, 2
    counted = count_hmm(x, z, 0.5)
    mixed = interpolate(counted, x, z, share)
    np.testing.assert_array_equal(mixed.initial, counted.initial)
    for name, values in (("transition", z), ("emission", x)):
        before, after = getattr(counted, name), getattr(mixed, name)
        seen = [np.mean(values[values >= 0] == v) for v in range(before.shape[1])]
        np.testing.assert_allclose(after, (1 - share) * before + share * np.array(seen), atol=1e-6)
        np.testing.assert_allclose(after.sum(-1), 1, atol=1e-6)


def test_interpolation_refuses_other_shares_and_empty_data() -> None:
    x, z = windows(0)
    counted = count_hmm(x, z, 0.5)
    with pytest.raises(UserError, match=r"from 0 to 1, got 1\.5"):
        interpolate(counted, x, z, 1.5)
    with pytest.raises(UserError, match="x holds missing values only"):
        interpolate(counted, np.full_like(x, -1), z, 0.5)
