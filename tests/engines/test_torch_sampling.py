"""Sampling and MPE in pieces: bounded memory must not change what comes out."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from circuits import hmm, mixture, random_rows

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.types import Circuit, layer_params
from pyjuice_bridge.engines.torch import TorchEngine, descent, mpe, sample

ENGINE = TorchEngine()
DRAWS = 3000


def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "CHUNK", 7)
    monkeypatch.setattr(sample, "CHUNK", 7)
    monkeypatch.setattr(sample, "STATES", 500)
    monkeypatch.setattr(sample, "micro_batch", lambda *_: 2)
    monkeypatch.setattr(mpe, "STATES", 60)
    monkeypatch.setattr(mpe, "_TERMS", 20)


@pytest.fixture(params=range(3))
def circuit(request: pytest.FixtureRequest) -> Circuit:
    small = [hclt([-1, 0, 0, 1], 3, [2, 3, 2, 3], seed=0), hmm(4, 3, 3, 1), mixture(4, 2, 2)]
    return small[request.param]


def test_best_states_and_posteriors(circuit: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_rows(circuit, 9, 3, 0.5)
    name = next(iter(circuit.latents))
    whole = (*ENGINE.mpe(circuit, x), ENGINE.posteriors(circuit, x, name))
    in_pieces(monkeypatch)
    parts = (*ENGINE.mpe(circuit, x), ENGINE.posteriors(circuit, x, name))
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_sample_frequencies(circuit: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    in_pieces(monkeypatch)
    x = random_rows(circuit, 3, 4, 0.6)
    drawn = ENGINE.sample(circuit, DRAWS, x, seed=5)
    for row, some in zip(x, drawn, strict=True):
        evidence = oracle.log_likelihood(circuit, row)[0]
        for variable in np.flatnonzero(row < 0):
            for value in range(circuit.categories[variable]):
                known = row.copy()
                known[variable] = value
                p = np.exp(oracle.log_likelihood(circuit, known)[0] - evidence)
                error = abs((some[:, variable] == value).mean() - p)
                assert error < 5 * np.sqrt(p * (1 - p) / DRAWS) + 1e-6


def test_long_sharp_chains_are_drawn_consistently() -> None:
    """Hidden states that fix the symbols and hardly ever change, over 300 steps."""
    circuit = hmm(300, 3, 3, 6)
    emission, sticky = np.eye(3), np.full((3, 3), 1e-6) + (1 - 3e-6) * np.eye(3)
    params = [layer_params(layer) for layer in circuit.layers]
    params = [p if p is None or p.shape[1] == 1 else sticky[None] for p in params]
    circuit = circuit.with_layer_params([emission[None], *params[1:]])
    evidence = np.full((2, 300), -1)
    evidence[0, ::100] = [0, 1, 2]
    drawn = ENGINE.sample(circuit, 50, evidence, seed=7)
    assert (drawn[0, :, ::100] == [0, 1, 2]).all()
    jumps = (np.diff(drawn[0], axis=1) != 0).sum(axis=1)
    assert (jumps == 2).mean() > 0.9
    middle = drawn[0, :, 1:100] == 1
    assert 0.3 < middle.mean() < 0.7  # the jump from 0 to 1 is equally likely at every step


def test_more_draws_than_one_pass_holds() -> None:
    circuit = hclt(np.arange(-1, 39), 4, 5, seed=8)
    drawn = ENGINE.sample(circuit, 20_000, seed=9)
    marginal = np.full((5, 40), -1)
    marginal[:, 17] = np.arange(5)
    p = np.exp(ENGINE.log_likelihood(circuit, marginal)[:, 0])
    found = np.bincount(drawn[:, 17], minlength=5) / 20_000
    np.testing.assert_allclose(found, p, atol=0.02)
