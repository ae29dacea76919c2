"""Partial E-steps against exact passes in which latents are known to have some of the values."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from circuits import random_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from test_torch_trees import glued

from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.base import Epoch, FitOptions, Schedule
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.errors import UserError

ENGINE = TorchEngine()
EXACT = TorchEngine(precision="float64")
FULL = FitOptions(optimizer="full_em", epochs=1, pseudocount=0.1, skip=0.0)
CLUSTERS = 6


def with_most(circuit: Circuit, x: np.ndarray, count: int) -> np.ndarray:
    """Say which values are among the ``count`` likeliest, float [N, positions, values]."""
    posteriors = EXACT.posteriors(circuit, x, "z")
    order = np.argsort(-posteriors, axis=2)[..., :count]
    mask = np.zeros_like(posteriors)
    np.put_along_axis(mask, order, 1, axis=2)
    return mask


def assert_same(found: Circuit, wanted: Circuit) -> None:
    for a, b in zip(found.layers, wanted.layers, strict=True):
        if hasattr(a, "params"):
            np.testing.assert_allclose(a.params, b.params, rtol=2e-4, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, CLUSTERS - 1))
def test_the_second_pass_evaluates_the_values_that_were_likeliest_in_the_first(
    seed: int, count: int
) -> None:
    circuit = glued(seed, 3, CLUSTERS)
    x = random_rows(circuit, 40, seed=seed)
    first = EXACT.fit(circuit, x, FULL).circuit
    among = {"z": with_most(circuit, x, count)}
    second = EXACT.fit(first, x, FULL, latents=among)
    found = ENGINE.fit(circuit, x, replace(FULL, epochs=2, candidates=count))
    assert_same(found.circuit, second.circuit)
    bound = EXACT.log_likelihood(first, x, among).mean()
    np.testing.assert_allclose(found.history[1].train, bound, rtol=1e-4)
    assert bound <= EXACT.log_likelihood(first, x).mean() + 1e-9


def test_every_fourth_pass_is_over_all_values_and_the_bound_never_falls() -> None:
    circuit = glued(3, 3, CLUSTERS)
    x = random_rows(circuit, 60, seed=1)
    options = replace(FULL, epochs=9, candidates=2, pseudocount=0.0)
    history = ENGINE.fit(circuit, x, options).history
    train = [epoch.train for epoch in history]
    assert all(after >= before - 1e-5 for before, after in pairwise(train[1:4]))
    for full in (4, 8):
        so_far = ENGINE.fit(circuit, x, replace(options, epochs=full)).circuit
        wanted = ENGINE.log_likelihood(so_far, x).mean()
        np.testing.assert_allclose(train[full], wanted, rtol=1e-5)


def test_as_many_candidates_as_values_change_nothing() -> None:
    circuit = glued(5, 3, CLUSTERS)
    x = random_rows(circuit, 30, seed=2)
    options = FitOptions(epochs=3, batch_size=8)
    plain = ENGINE.fit(circuit, x, options)
    all_values = ENGINE.fit(circuit, x, replace(options, candidates=CLUSTERS))
    assert [e.train for e in plain.history] == [e.train for e in all_values.history]


def _interrupted(circuit: Circuit, x: np.ndarray, options: FitOptions, path: Path) -> Path:
    """Keep the checkpoint that was there after two passes."""
    kept = path.with_name("kept.h5")

    def keep(epoch: Epoch) -> None:
        if epoch.epoch == 1:
            shutil.copy(path, kept)

    ENGINE.fit(circuit, x, options, checkpoint=path, on_epoch=keep)
    return kept


def test_a_resumed_training_takes_the_same_steps_as_an_uninterrupted_one(tmp_path: Path) -> None:
    circuit = glued(7, 3, CLUSTERS)
    x = random_rows(circuit, 50, seed=3)
    options = FitOptions(epochs=6, batch_size=16, step_size=Schedule(0.5, 0.1), candidates=2)
    whole = ENGINE.fit(circuit, x, options).circuit
    kept = _interrupted(circuit, x, options, tmp_path / "checkpoint.h5")
    resumed = ENGINE.fit(circuit, x, options, checkpoint=kept).circuit
    for a, b in zip(whole.layers, resumed.layers, strict=True):
        if hasattr(a, "params"):
            np.testing.assert_array_equal(a.params, b.params)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda known: known + CLUSTERS, "must hold numbers below 6"),
        (lambda known: known[:-1], "must be"),
        (lambda known: known.astype(float), "must be little-endian int32"),
    ],
)
def test_damaged_candidates_are_refused_in_one_sentence(
    damage, sentence: str, tmp_path: Path
) -> None:
    circuit = glued(7, 3, CLUSTERS)
    x = random_rows(circuit, 20, seed=3)
    options = FitOptions(epochs=3, batch_size=8, candidates=2)
    kept = _interrupted(circuit, x, options, tmp_path / "checkpoint.h5")
    with h5py.File(kept, "r+") as file:
        known = damage(file["candidates"][()])
        del file["candidates"]
        file["candidates"] = known
    with pytest.raises(UserError, match=sentence) as told:
        ENGINE.fit(circuit, x, options, checkpoint=kept)
    assert "candidates" in str(told.value) and "delete it" in str(told.value)
