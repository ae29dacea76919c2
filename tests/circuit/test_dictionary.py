"""Low-rank leaves against the circuits that they were made of."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import oracle
import pytest
from circuits import CIRCUITS, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import log_likelihoods
from random_circuits import circuits

from pyjuice_bridge.circuit.dictionary import factors, with_dictionary
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.initialise import initialise
from pyjuice_bridge.circuit.types import Circuit, InputLayer
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.errors import UserError


@settings(max_examples=40, deadline=None)
@given(circuit=circuits(), seed=st.integers(0, 1000))
def test_a_dictionary_of_all_rows_changes_nothing(circuit: Circuit, seed: int) -> None:
    rows = random_rows(circuit, 8, seed)
    low = with_dictionary(circuit, 40)
    check(low)
    np.testing.assert_allclose(
        log_likelihoods(low, rows), log_likelihoods(circuit, rows), atol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(circuit=circuits(), size=st.integers(1, 3), seed=st.integers(0, 1000))
def test_any_circuit_can_have_random_or_fitted_dictionaries(
    circuit: Circuit, size: int, seed: int
) -> None:
    nothing_seen = np.full(circuit.num_vars, -1)
    for low in (with_dictionary(circuit, size), with_dictionary(circuit, size, seed=seed)):
        check(low)
        leaves = [layer for layer in low.layers if isinstance(layer, InputLayer)]
        assert {layer.width for layer in leaves} == {size}
        assert abs(oracle.log_likelihood(low, nothing_seen)[0]) < 1e-5


@pytest.mark.parametrize("name", ["hclt", "hmm", "glued", "regions"])
def test_tied_leaves_share_a_dictionary_and_em_trains_it(name: str) -> None:
    circuit = CIRCUITS[name]()
    low = with_dictionary(circuit, 2, seed=1)
    leaves, before = (
        [layer for layer in each.layers if isinstance(layer, InputLayer)] for each in (low, circuit)
    )
    assert sum(len(layer.variables) for layer in leaves) == circuit.num_vars
    for own, old in zip(leaves, before, strict=True):
        assert len(own.params) <= len(old.params)
    x = random_rows(circuit, 30, 2)
    options = FitOptions("full_em", epochs=6, pseudocount=0)
    fitted = TorchEngine(precision="float64").fit(low, x, options)
    train = [epoch.train for epoch in fitted.history]
    assert all(a <= b + 1e-9 for a, b in pairwise(train))
    assert train[-1] > train[0]


def test_structures_stay_uniform_and_can_be_drawn() -> None:
    low = with_dictionary(hclt([-1, 0], 4, 5), 3)
    check(low)
    for layer in low.layers:
        if isinstance(layer, InputLayer):
            assert layer.params.shape[1:] == (3, 5) and not any(layer.params.strides)
    assert abs(oracle.log_likelihood(initialise(low, 0), np.array([-1, -1]))[0]) < 1e-6


def test_factors_find_a_product_of_low_rank() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.dirichlet(np.full(3, 0.2), 40) @ rng.dirichlet(np.full(12, 0.2), 3)
    mixed, book = factors(wanted, 3)
    np.testing.assert_allclose([mixed.sum(1).std(), book.sum(1).std()], 0, atol=1e-12)
    kl = (wanted * np.log(wanted / (mixed @ book))).sum(1).mean()
    worse = (wanted * np.log(wanted / wanted.mean(0))).sum(1).mean()
    assert kl < 0.05 * worse


def test_wrong_arguments_are_named() -> None:
    circuit = hclt([-1, 0], 2, 3, seed=0)
    with pytest.raises(UserError, match="size is 0"):
        with_dictionary(circuit, 0)
