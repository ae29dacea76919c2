"""Every other engine against torch, on circuits too large for an oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from circuits import hmm, random_rows
from sklearn.datasets import load_digits

from pyjuice_bridge.circuit.chow_liu import chow_liu_tree
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.types import Circuit, layer_params
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import Engine, FitOptions, Schedule

TORCH = get_engine("torch", "cpu")


def digits() -> np.ndarray:
    return load_digits().data[:200].astype(np.uint8)


def binary_tree(count: int) -> np.ndarray:
    return (np.arange(count) + 1) // 2 - 1


def patches() -> Circuit:
    above = hclt(binary_tree(16), 8, 8, seed=1)
    places = np.arange(64).reshape(4, 2, 4, 2).swapaxes(1, 2).reshape(16, 4)
    return glue(above, patch_bundle(binary_tree(4), 8, 4, 17, seed=2), places)


LARGE: dict[str, Callable[[], tuple[Circuit, np.ndarray]]] = {
    "hclt": lambda: (hclt(chow_liu_tree(digits(), 17), 12, 17, seed=3), digits()),
    "patches": lambda: (patches(), digits()),
    "hmm": lambda: (c := hmm(24, 16, 50, seed=4), random_rows(c, 200, 5, 0.0)),
}


@pytest.fixture(scope="module", params=LARGE)
def large(request: pytest.FixtureRequest) -> tuple[Circuit, np.ndarray]:
    return LARGE[request.param]()


def with_gaps(x: np.ndarray, share: float) -> np.ndarray:
    gone = np.random.default_rng(6).random(x.shape) < share
    return np.where(gone, -1, x.astype(np.int16))


def states_of(circuit: Circuit, rows: int) -> np.ndarray:
    """int [rows, positions], a third unknown."""
    blocks = circuit.latents["z"]
    width = circuit.widths[circuit.layer_of(int(blocks[0]))]
    drawn = np.random.default_rng(7).integers(0, width, (rows, len(blocks)))
    return np.where(np.random.default_rng(8).random(drawn.shape) < 1 / 3, -1, drawn)


@pytest.mark.parametrize("gaps", [0.0, 0.4])
def test_log_likelihoods(other: Engine, large: tuple[Circuit, np.ndarray], gaps: float) -> None:
    circuit, x = large
    x = with_gaps(x, gaps)
    found, expected = (e.log_likelihood(circuit, x) for e in (other, TORCH))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    latents = {"z": states_of(circuit, len(x))}
    found, expected = (e.log_likelihood(circuit, x, latents) for e in (other, TORCH))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("gaps", [0.0, 0.4])
def test_counts(other: Engine, large: tuple[Circuit, np.ndarray], gaps: float) -> None:
    circuit, x = large
    weights = np.random.default_rng(9).random(len(x)) * 3
    found, expected = (
        e.expected_counts(circuit, with_gaps(x, gaps), weights) for e in (other, TORCH)
    )
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-5)
    for a, b in zip(found.layers, expected.layers, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_double_precision(other: Engine, large: tuple[Circuit, np.ndarray]) -> None:
    """Ten digits and more, which float32 cannot give."""
    circuit, x = large
    circuit = circuit.with_layer_params(
        [None if p is None else in_double(p) for p in map(layer_params, circuit.layers)]
    )
    both = [get_engine(name, "cpu", precision="float64") for name in (other.name, "torch")]
    np.testing.assert_allclose(*(e.log_likelihood(circuit, x) for e in both), rtol=1e-12)
    options = FitOptions(epochs=1, batch_size=40)
    fitted = [e.fit(circuit, x, options).circuit for e in both]
    for a, b in zip(fitted[0].layers, fitted[1].layers, strict=True):
        if layer_params(a) is not None:
            assert layer_params(a).dtype == np.float64
            np.testing.assert_allclose(layer_params(a), layer_params(b), atol=1e-10)


def in_double(params: np.ndarray) -> np.ndarray:
    """Float64 whose rows, over the last axis, sum to one as closely as that can say."""
    wide = params.astype(np.float64)
    return wide / wide.sum(-1, keepdims=True)


OPTIONS = {
    "full_em": FitOptions("full_em", epochs=5),
    "mini_em": FitOptions("mini_em", epochs=1, batch_size=40),
    "two passes": FitOptions("mini_em", epochs=2, batch_size=80, step_size=Schedule(0.5, 0.1)),
    "cosine": FitOptions(epochs=1, batch_size=40, step_size=Schedule(0.9, 0.1, "cosine")),
    "step": FitOptions(epochs=1, batch_size=40, step_size=Schedule(0.9, 0.1, "step", 0.6)),
    "anemone": FitOptions("anemone", epochs=1, batch_size=40, step_size=Schedule(0.4, 0.2)),
    "frozen": FitOptions(epochs=1, batch_size=40, frozen=(0,)),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_parameters_after_em_steps(
    other: Engine, large: tuple[Circuit, np.ndarray], options: FitOptions
) -> None:
    """Five or six steps over the same rows in the same order."""
    circuit, x = large
    options = replace(options, seed=11, skip=0)
    found, expected = (e.fit(circuit, x, options, valid=x[:50]) for e in (other, TORCH))
    for a, b in zip(found.circuit.layers, expected.circuit.layers, strict=True):
        if layer_params(a) is not None:
            np.testing.assert_allclose(layer_params(a), layer_params(b), atol=1e-4)
    for line, other_line in zip(found.history, expected.history, strict=True):
        assert line.epoch == other_line.epoch
        assert line.step_size == pytest.approx(other_line.step_size)
        assert line.train == pytest.approx(other_line.train, rel=1e-4)
        assert line.valid == pytest.approx(other_line.valid, rel=1e-4)


def test_training_with_latents_and_weights(
    other: Engine, large: tuple[Circuit, np.ndarray]
) -> None:
    circuit, x = large
    weights = np.random.default_rng(12).random((len(x), 1))
    latents = {"z": states_of(circuit, len(x))}
    options = FitOptions(epochs=1, batch_size=40, seed=13)
    both = [e.fit(circuit, x, options, weights=weights, latents=latents) for e in (other, TORCH)]
    for a, b in zip(both[0].circuit.layers, both[1].circuit.layers, strict=True):
        if layer_params(a) is not None:
            np.testing.assert_allclose(layer_params(a), layer_params(b), atol=1e-4)


def test_states_and_posteriors(other: Engine, large: tuple[Circuit, np.ndarray]) -> None:
    circuit, x = large
    evidence = with_gaps(x[:20], 0.5)
    values = [e.mpe(circuit, evidence)[1] for e in (other, TORCH)]
    np.testing.assert_allclose(*values, rtol=1e-5)
    posteriors = [e.posteriors(circuit, evidence, "z") for e in (other, TORCH)]
    np.testing.assert_allclose(*posteriors, atol=1e-4)
