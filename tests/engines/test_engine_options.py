"""What engines refuse on entry: options, numbers, circuits and rows that mean nothing."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from circuits import hmm, random_rows

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.types import Circuit, layer_params
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.engines.base import FitOptions, Schedule
from pyjuice_bridge.engines.evidence import unseen_rows
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.errors import UserError

ENGINE = TorchEngine()


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    return hclt([-1, 0, 0, 1], 3, [2, 3, 2, 3], seed=1)


REFUSED: dict[str, tuple[type, dict[str, Any], str]] = {
    "another optimizer": (
        FitOptions,
        {"optimizer": "adam"},
        "FitOptions: optimizer is 'adam', must be one of full_em, mini_em, anemone.",
    ),
    "no optimizer": (FitOptions, {"optimizer": None}, "optimizer is None, must be one of"),
    "negative epochs": (
        FitOptions,
        {"epochs": -3},
        "FitOptions: epochs is -3, must be a whole number from 0 to 100000.",
    ),
    "too many epochs": (FitOptions, {"epochs": 10**9}, "epochs is 1000000000"),
    "half an epoch": (FitOptions, {"epochs": 2.5}, "epochs is 2.5"),
    "true epochs": (FitOptions, {"epochs": True}, "epochs is True"),
    "no batch": (FitOptions, {"batch_size": 0}, "batch_size is 0, must be a whole number from 1"),
    "words": (FitOptions, {"batch_size": "12"}, "batch_size is '12'"),
    "a schedule by name": (FitOptions, {"step_size": 0.1}, "step_size is 0.1, must be a Schedule."),
    "negative pseudocount": (FitOptions, {"pseudocount": -1}, "pseudocount is -1, must be a"),
    "pseudocount NaN": (FitOptions, {"pseudocount": float("nan")}, "pseudocount is nan"),
    "huge pseudocount": (FitOptions, {"pseudocount": 1e38}, "pseudocount is 1e+38"),
    "momentum": (
        FitOptions,
        {"momentum": 2},
        "FitOptions: momentum is 2, must be a number from 0 and below 1.",
    ),
    "no patience": (FitOptions, {"patience": 0}, "patience is 0, must be a whole number from 1"),
    "frozen by name": (FitOptions, {"frozen": "all"}, "frozen is 'all', must be a list"),
    "frozen below zero": (FitOptions, {"frozen": (-1,)}, "frozen is -1"),
    "negative seed": (FitOptions, {"seed": -1}, "seed is -1"),
    "long seed": (FitOptions, {"seed": 10**5000}, "seed is a number of thousands of digits"),
    "step of two": (
        Schedule,
        {"start": 2.0},
        "Schedule: start is 2.0, must be a number above 0 and at most 1.",
    ),
    "no step": (Schedule, {"end": 0.0}, "Schedule: end is 0.0"),
    "endless step": (Schedule, {"start": np.inf}, "Schedule: start is inf"),
    "another kind": (
        Schedule,
        {"kind": "exp"},
        "Schedule: kind is 'exp', must be one of linear, cosine, constant, step.",
    ),
    "switch": (Schedule, {"switch": 1.5}, "Schedule: switch is 1.5, must be a number from 0 to 1."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_that_mean_nothing_cannot_be_made(case: str) -> None:
    made, given, sentence = REFUSED[case]
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        made(**given)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)
    if case != "long seed":
        with pytest.raises(UserError, match=re.escape(sentence)):
            replace(made(), **given)


def test_numbers_of_any_kind_become_pythons() -> None:
    options = FitOptions(
        epochs=np.int64(3),
        batch_size=np.uint8(7),
        pseudocount=np.float32(0.5),
        patience=torch.tensor(2),
        frozen=np.array([0, 2]),
        seed=np.int32(4),
        candidates=np.int16(5),
        step_size=Schedule(start=1, end=np.float64(0.25)),
    )
    assert options == FitOptions(
        epochs=3,
        batch_size=7,
        pseudocount=0.5,
        patience=2,
        frozen=(0, 2),
        seed=4,
        candidates=5,
        step_size=Schedule(1.0, 0.25),
    )
    kinds = {type(value) for value in vars(options).values()}
    assert kinds == {str, int, float, tuple, Schedule}


@pytest.mark.parametrize("optimizer", ["full_em", "mini_em", "anemone"])
@pytest.mark.parametrize("weights", [1e-38, 1e-20, 1.0, 1e30])
@pytest.mark.parametrize("pseudocount", [0.0, 1e-30, 1e9])
@pytest.mark.parametrize("engine", [ENGINE, TorchEngine(precision="float64")])
def test_what_leaves_fit_is_a_circuit(
    engine: TorchEngine, circuit: Circuit, optimizer: Any, weights: float, pseudocount: float
) -> None:
    x = random_rows(circuit, 20, 1)
    options = FitOptions(
        optimizer, epochs=2, batch_size=7, pseudocount=pseudocount, step_size=Schedule(1.0, 1e-9)
    )
    found = engine.fit(circuit, x, options, weights=np.full(20, weights))
    check(found.circuit)
    assert all(np.isfinite(epoch.train) for epoch in found.history)


def test_options_are_compared_with_the_circuit(circuit: Circuit) -> None:
    x = random_rows(circuit, 5, 1)
    with pytest.raises(UserError, match="frozen names layer 99, but the circuit has the layers"):
        ENGINE.fit(circuit, x, FitOptions(frozen=(99,)))
    tied = hmm(4, 3, 3, seed=2)
    index = next(i for i, layer in enumerate(tied.layers) if getattr(layer, "tied_to", None))
    owner = tied.layers[index].tied_to
    with pytest.raises(UserError, match=f"frozen names layer {index}, whose .* of layer {owner};"):
        ENGINE.fit(tied, random_rows(tied, 5, 1), FitOptions(frozen=(index,)))
    with pytest.raises(UserError, match="options is dict, must be FitOptions"):
        ENGINE.fit(circuit, x, {"epochs": 3})
    assert len(ENGINE.fit(circuit, x).history) == FitOptions().epochs
    with pytest.raises(UserError, match="valid has no rows; leave it out"):
        ENGINE.fit(circuit, x, FitOptions(epochs=1), valid=x[:0])


def test_no_epochs_give_the_circuit_back(circuit: Circuit) -> None:
    found = ENGINE.fit(circuit, random_rows(circuit, 5, 1), FitOptions(epochs=0))
    assert found.history == ()
    for old, new in zip(circuit.layers, found.circuit.layers, strict=True):
        if layer_params(old) is not None:
            np.testing.assert_array_equal(layer_params(old).astype("f4"), layer_params(new))


def test_seeds_numbers_and_roots_may_be_integers_of_any_kind(circuit: Circuit) -> None:
    plain = ENGINE.sample(circuit, 5, seed=3)
    for number in (np.int64, np.uint8, torch.tensor):
        given = ENGINE.sample(circuit, number(5), seed=number(3), root=number(0))
        np.testing.assert_array_equal(given, plain)
    evidence = random_rows(circuit, 2, 0)
    np.testing.assert_array_equal(
        ENGINE.mpe(circuit, evidence, root=np.int64(0))[0], ENGINE.mpe(circuit, evidence)[0]
    )
    ENGINE.posteriors(circuit, evidence, "z", root=np.int16(0))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"n": 2.5}, "n is 2.5, must be a whole number from 0 and below 2147483648."),
        ({"n": -1}, "n is -1"),
        ({"n": "3"}, "n is '3'"),
        ({"n": True}, "n is True"),
        ({"n": 10**23}, "n is 1000"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"seed": None}, "seed is None"),
        ({"root": 1}, "root is 1, must be a whole number from 0 to 0."),
        ({"root": -1}, "root is -1"),
    ],
)
def test_other_seeds_numbers_and_roots_are_refused(
    circuit: Circuit, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        ENGINE.sample(circuit, **{"n": 1, "seed": 0, **given})
    if "root" in given:
        rows = random_rows(circuit, 2, 0)
        with pytest.raises(UserError, match=re.escape(sentence)):
            ENGINE.mpe(circuit, rows, **given)
        with pytest.raises(UserError, match=re.escape(sentence)):
            ENGINE.posteriors(circuit, rows, "z", **given)


def test_circuits_are_checked_before_anything_follows_their_indices(circuit: Circuit) -> None:
    leaves, rest = circuit.layers[0], circuit.layers[1:]
    far = replace(leaves, groups=leaves.groups + 10**6)
    broken = replace(circuit, layers=(far, *rest))
    x = random_rows(circuit, 3, 0)
    calls = (
        lambda: ENGINE.log_likelihood(broken, x),
        lambda: ENGINE.expected_counts(broken, x),
        lambda: ENGINE.fit(broken, x, FitOptions(epochs=1)),
        lambda: ENGINE.sample(broken, 2, seed=0),
        lambda: ENGINE.mpe(broken, x),
        lambda: ENGINE.posteriors(broken, x, "z"),
    )
    for call in calls:
        with pytest.raises(UserError, match="circuit: /layers/0/groups: names group 1000000"):
            call()
    with pytest.raises(UserError, match="circuit is dict, must be a Circuit"):
        ENGINE.log_likelihood({}, x)


def test_masked_rows_have_missing_values(circuit: Circuit) -> None:
    x = np.array([[0, 1, 1, 2], [1, 2, 0, 0]], np.uint8)
    mask = np.array([[True, False, False, True], [False, False, True, False]])
    found = ENGINE.log_likelihood(circuit, np.ma.masked_array(x, mask))
    holes = np.where(mask, -1, x.astype(int))
    np.testing.assert_array_equal(found, ENGINE.log_likelihood(circuit, holes))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"x": [[0, 1], [0]]}, "x cannot be made an array ("),
        ({"x": "0101"}, "x: expected shape [N, 4], got []."),
        ({"weights": ["a", "b"]}, "weights must be numbers, got <U1."),
        ({"weights": [[1], [2, 3]]}, "weights cannot be made an array ("),
        ({"latents": {"z": [["a"] * 4] * 2}}, "Latents 'z' must hold whole states or weights"),
        ({"latents": {"z": [[0], [1, 2]]}}, "Latents 'z' cannot be made an array ("),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(
    circuit: Circuit, arguments: dict[str, Any], sentence: str
) -> None:
    given = {"x": random_rows(circuit, 2, 0), **arguments}
    with pytest.raises(UserError, match=re.escape(sentence)):
        ENGINE.expected_counts(circuit, **given)


def test_rows_that_training_makes_impossible_are_counted() -> None:
    x = np.array([[0, 1], [1, -1], [0, 2]])
    valid = np.array([[0, 1], [2, 1], [1, 0], [-1, -1], [1, 2]])
    assert unseen_rows(x, valid) == 2


@pytest.mark.parametrize("pseudocount", [0.0, 0.1])
def test_a_training_without_pseudocounts_warns_of_impossible_rows(
    circuit: Circuit, caplog: pytest.LogCaptureFixture, pseudocount: float
) -> None:
    x = np.array([[0, 1, 0, 2], [0, 0, 1, 1]])
    valid = np.array([[0, 1, 1, 1], [1, 1, 1, 1], [0, 2, 1, 1]])
    options = FitOptions("full_em", epochs=1, pseudocount=pseudocount)
    with caplog.at_level(logging.WARNING):
        found = ENGINE.fit(circuit, x, options, valid=valid)
    told = [record.getMessage() for record in caplog.records]
    assert (found.history[-1].valid == -np.inf) == bool(told) == (pseudocount == 0)
    assert told == [line for line in told if "2 of 3 validation rows hold a value" in line]
    scores = ENGINE.log_likelihood(found.circuit, valid)[:, 0]
    assert np.isneginf(scores).sum() == (2 if pseudocount == 0 else 0)
