"""Leaves of every family, trained by every engine."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from circuits import random_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from random_circuits import circuits
from test_engine_training import close, m_step

from pyjuice_bridge.circuit.families.base import Family
from pyjuice_bridge.circuit.families.binomial import Binomial
from pyjuice_bridge.circuit.families.gaussian import Gaussian
from pyjuice_bridge.circuit.families.logistic import Logistic
from pyjuice_bridge.circuit.families.smooth import Smooth
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.leaves import with_leaves
from pyjuice_bridge.circuit.types import Circuit, FloatArray, InputLayer, layer_params
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import Engine, FitOptions, Schedule

LIKELY: tuple[Family, ...] = (Binomial(), Gaussian(), Logistic(), Logistic(uniform=0.0))
"""Families whose M-step maximises the likelihood."""
FAMILIES = (*LIKELY, Smooth())


def wide(family: Family) -> Circuit:
    """An HCLT over variables of 2 to 12 values."""
    return with_leaves(hclt([1, -1, 1, 2], 3, [2, 12, 5, 12], seed=1), family, seed=2)


def family_step(
    circuit: Circuit, counts: list[FloatArray | None], step: float, pseudocount: float
) -> list[FloatArray | None]:
    """The step of ``circuit.families.base``: pool, step as a categorical, project."""
    pooled: list[FloatArray | None] = [
        layer.family.pooled(count) if isinstance(layer, InputLayer) and count is not None else count
        for layer, count in zip(circuit.layers, counts, strict=True)
    ]
    moved = m_step(circuit, pooled, step, pseudocount)
    return [
        layer.family.projected(row, layer.params.astype(float))
        if isinstance(layer, InputLayer) and row is not None
        else row
        for layer, row in zip(circuit.layers, moved, strict=True)
    ]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize(("optimizer", "step"), [("full_em", 1.0), ("mini_em", 0.3)])
def test_one_step(engine: Engine, family: Family, optimizer: str, step: float) -> None:
    circuit = wide(family)
    x = random_rows(circuit, 6, 1)
    options = FitOptions(
        optimizer, epochs=1, batch_size=6, step_size=Schedule(step, step), pseudocount=0.5
    )
    fitted = engine.fit(circuit, x, options).circuit
    counts = oracle.expected_counts(circuit, x)
    close(fitted, family_step(circuit, counts, step, 0.5))
    found = engine.expected_counts(circuit, x)
    close(engine.m_step(circuit, found, step_size=step, pseudocount=0.5), layers_of(fitted))
    assert [layer.family for layer in inputs(fitted)] == [family, family, family]


def inputs(circuit: Circuit) -> list[InputLayer]:
    return [layer for layer in circuit.layers if isinstance(layer, InputLayer)]


def layers_of(circuit: Circuit) -> list[FloatArray | None]:
    return [layer_params(layer) for layer in circuit.layers]


@settings(max_examples=30, deadline=None)
@given(circuit=circuits(4), family=st.sampled_from(LIKELY), seed=st.integers(0, 10_000))
def test_full_batch_em_never_falls(
    engine: Engine, circuit: Circuit, family: Family, seed: int
) -> None:
    start = with_leaves(circuit, family, seed=seed)
    x = random_rows(start, 15, seed, 0.2)
    fitted = engine.fit(start, x, FitOptions("full_em", epochs=6, pseudocount=0.0))
    curve = [epoch.train for epoch in fitted.history]
    assert np.diff(curve).min() >= -1e-5
    assert abs(oracle.enumerate_log_likelihood(fitted.circuit)) < 1e-5


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("optimizer", ["mini_em", "anemone"])
def test_training_improves(engine: Engine, family: Family, optimizer: str) -> None:
    circuit = wide(family)
    x = random_rows(circuit, 40, 7, 0.1) // 2
    options = FitOptions(optimizer, epochs=6, batch_size=16, pseudocount=0.01, seed=8)
    fitted = engine.fit(circuit, x, options).circuit
    assert engine.log_likelihood(fitted, x).sum() > engine.log_likelihood(circuit, x).sum() + 5


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_engines_train_the_same_tables(other: Engine, family: Family) -> None:
    circuit = wide(family)
    x = random_rows(circuit, 60, 3)
    options = FitOptions(epochs=3, batch_size=20, pseudocount=0.1)
    fitted = [each.fit(circuit, x, options).circuit for each in (get_engine("torch", "cpu"), other)]
    close(fitted[1], layers_of(fitted[0]))


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_counting_is_one_full_step(engine: Engine, family: Family) -> None:
    circuit = wide(family)
    x = random_rows(circuit, 50, 4, 0.0)
    z = np.random.default_rng(5).integers(0, 3, x.shape).astype(np.int32)
    counted = builders_of(engine).count_parameters(circuit, x, z, pseudocount=0.2)
    options = FitOptions("full_em", epochs=25, pseudocount=0.2)
    close(counted, layers_of(engine.fit(circuit, x, options, latents={"z": z}).circuit))
    assert [layer.family for layer in inputs(counted)] == [family, family, family]


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_samples_and_missing_values(engine: Engine, family: Family) -> None:
    circuit = wide(family)
    drawn = engine.sample(circuit, 4000, seed=1)
    evidence = np.full((12, 4), -1)
    evidence[:, 1] = np.arange(12)
    expected = np.exp(engine.log_likelihood(circuit, evidence)[:, 0])
    assert expected.sum() == pytest.approx(1, abs=1e-5)
    shares = np.bincount(drawn[:, 1], minlength=12) / len(drawn)
    assert np.abs(shares - expected).max() < 0.04
