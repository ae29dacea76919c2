"""Precisions that round the factors of matrix products."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from circuits import random_rows

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.errors import UserError


def bf16() -> TorchEngine:
    try:
        return TorchEngine(precision="bf16")
    except UserError as lacking:
        pytest.skip(str(lacking))


def test_tf32_needs_a_gpu() -> None:
    with pytest.raises(UserError, match=r"precision: 'tf32' needs a CUDA device; set 'float32'."):
        TorchEngine(precision="tf32")


def test_julia_has_two_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyjuice_bridge import engines

    choice = engines.EngineChoice("julia", "cpu", "asked for")
    monkeypatch.setattr(engines, "choose_engine", lambda *_: choice)
    with pytest.raises(UserError, match="precision: 'bf16' is for the engine 'torch'"):
        get_engine("julia", precision="bf16")


def test_a_processor_without_the_units_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "bmm", lambda a, b: a.double() @ b.double())
    with pytest.raises(UserError, match="this CPU has no matrix units for 'bf16'"):
        TorchEngine(precision="bf16")


def test_bf16_is_close_and_leaves_no_trace() -> None:
    engine, exact = bf16(), TorchEngine()
    circuit = hclt([-1, 0, 1, 1], 64, 5, seed=2)
    x = random_rows(circuit, 200, 1)
    before = exact.log_likelihood(circuit, x)
    found = engine.log_likelihood(circuit, x)
    assert 1e-7 < np.abs(found / before - 1).max() < 1e-2
    np.testing.assert_array_equal(exact.log_likelihood(circuit, x), before)


def test_training_in_bf16_ends_near_training_in_float32() -> None:
    circuit = hclt([-1, 0, 1, 1], 64, 5, seed=2)
    x = random_rows(circuit, 400, 1)
    options = FitOptions("mini_em", epochs=5, batch_size=100, pseudocount=0.1, seed=0)
    low, high = (e.fit(circuit, x, options).history[-1].train for e in (bf16(), TorchEngine()))
    assert abs(low - high) < 5e-3 * abs(high)
