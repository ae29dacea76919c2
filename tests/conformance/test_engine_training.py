"""EM steps against counts from plain evaluation, worked out by hand."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from circuits import random_rows

from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.types import Circuit, FloatArray, SumLayer, layer_params
from pyjuice_bridge.engines.base import Engine, FitOptions, Schedule


def m_step(
    circuit: Circuit, counts: list[FloatArray | None], step: float, pseudocount: float
) -> list[FloatArray | None]:
    """θ ← (1 - η)·θ + η·normalise(counts + c / siblings); rows without counts stay."""
    result: list[FloatArray | None] = []
    for layer, count in zip(circuit.layers, counts, strict=True):
        params = layer_params(layer)
        if params is None or count is None:
            result.append(None)
            continue
        new = params.astype(np.float64)
        families = [np.array([g]) for g in range(len(params))]
        if isinstance(layer, SumLayer):
            families = [np.array(g) for g in {tuple(g) for g in _groups_of_blocks(layer)}]
        for family in families:
            total = count[family].sum(axis=(0, 2))[None, :, None]
            siblings = len(family) * params.shape[2]
            seen = np.where(total > 0, total + pseudocount, 1.0)
            moved = (1 - step) * new[family] + step * (
                count[family] + pseudocount / siblings
            ) / seen
            new[family] = np.where(total > 0, moved, new[family])
        result.append(new)
    return result


def _groups_of_blocks(layer: SumLayer) -> list[list[int]]:
    cuts = layer.offsets[1:-1]
    return [part.tolist() for part in np.split(layer.groups, cuts)]


def close(found: Circuit, expected: list[FloatArray | None]) -> None:
    for layer, params in zip(found.layers, expected, strict=True):
        if params is not None:
            np.testing.assert_allclose(layer_params(layer), params, atol=2e-5)


def total(engine: Engine, circuit: Circuit, x: np.ndarray) -> float:
    return float(engine.log_likelihood(circuit, x).sum())


@pytest.mark.parametrize(("optimizer", "step"), [("full_em", 1.0), ("mini_em", 0.3)])
def test_one_step(engine: Engine, circuit: Circuit, optimizer: str, step: float) -> None:
    x = random_rows(circuit, 6, 1)
    weights = np.random.default_rng(2).random((6, len(circuit.roots)))
    options = FitOptions(
        optimizer, epochs=1, batch_size=6, step_size=Schedule(step, step), pseudocount=0.5
    )
    fitted = engine.fit(circuit, x, options, weights=weights)
    expected = m_step(circuit, oracle.expected_counts(circuit, x, weights), step, 0.5)
    close(fitted.circuit, expected)
    assert len(fitted.history) == 1


def test_one_step_with_observed_latents(engine: Engine, latent_circuit: Circuit) -> None:
    x = random_rows(latent_circuit, 6, 3)
    positions = len(latent_circuit.latents["z"])
    z = np.random.default_rng(4).integers(-1, 2, (6, positions))
    options = FitOptions("full_em", epochs=1, batch_size=6, pseudocount=0.0)
    fitted = engine.fit(latent_circuit, x, options, latents={"z": z}).circuit
    counts = oracle.expected_counts(latent_circuit, x, None, {"z": z})
    close(fitted, m_step(latent_circuit, counts, 1.0, 0.0))


def test_a_root_without_weight_is_left_alone(engine: Engine, bundle: Circuit) -> None:
    x = random_rows(bundle, 8, 5, 0.0)
    weights = np.tile([1.0, 0.0], (8, 1))
    options = FitOptions("mini_em", epochs=2, batch_size=4, pseudocount=0.1)
    fitted = engine.fit(bundle, x, options, weights=weights).circuit
    rows = np.full((1, bundle.num_vars), -1)
    rows[0, 2:] = 1
    before, after = engine.log_likelihood(bundle, rows), engine.log_likelihood(fitted, rows)
    assert after[0, 1] == pytest.approx(before[0, 1], rel=1e-6)
    assert total(engine, fitted, x) != total(engine, bundle, x)


def test_full_batch_em_never_falls(engine: Engine, circuit: Circuit) -> None:
    x = random_rows(circuit, 20, 6)
    options = FitOptions("full_em", epochs=8, batch_size=7, pseudocount=0.0)
    curve = [epoch.train for epoch in engine.fit(circuit, x, options).history]
    assert np.diff(curve).min() > -1e-5
    assert curve[-1] > curve[0]


@pytest.mark.parametrize("optimizer", ["mini_em", "anemone"])
def test_training_improves_and_repeats(engine: Engine, circuit: Circuit, optimizer: str) -> None:
    x = random_rows(circuit, 40, 7, 0.1)
    options = FitOptions(optimizer, epochs=6, batch_size=16, pseudocount=0.01, seed=8)
    first, second = (engine.fit(circuit, x, options) for _ in range(2))
    assert total(engine, first.circuit, x) > total(engine, circuit, x)
    for a, b in zip(first.circuit.layers, second.circuit.layers, strict=True):
        if layer_params(a) is not None:
            np.testing.assert_array_equal(layer_params(a), layer_params(b))


def test_frozen_layers_stay(engine: Engine, circuit: Circuit) -> None:
    x = random_rows(circuit, 20, 9)
    options = FitOptions("mini_em", epochs=2, batch_size=10, frozen=(0,))
    fitted = engine.fit(circuit, x, options).circuit
    expected = layer_params(circuit.layers[0])
    np.testing.assert_allclose(layer_params(fitted.layers[0]), expected, atol=1e-7)
    assert total(engine, fitted, x) > total(engine, circuit, x)


@pytest.mark.parametrize("optimizer", ["mini_em", "anemone"])
def test_rows_of_a_vocabulary_sum_to_one_after_many_small_steps(
    engine: Engine, optimizer: str
) -> None:
    """Rounding must not add up: 30,522 word pieces, 600 steps of 0.003 in single precision."""
    circuit = random_hmm(3, 30_522, 0).circuit(2)
    x = (np.random.default_rng(0).zipf(1.3, (4000, 2)) % 30_522).astype(np.int32)
    size = Schedule(0.003, 0.003)
    options = FitOptions(optimizer, epochs=3, batch_size=20, step_size=size, pseudocount=0.1)
    for params in map(layer_params, engine.fit(circuit, x, options).circuit.layers):
        if params is not None:
            assert abs(params.sum(2, dtype=np.float64) - 1).max() < 2e-6
