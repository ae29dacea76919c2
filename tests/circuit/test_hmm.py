"""Hidden Markov models as value objects and as circuits, against enumeration and hmmlearn."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from circuits import hmm as chain
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.hmm import Hmm, random_hmm
from pyjuice_bridge.circuit.types import InputLayer, SumLayer
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.errors import UserError

ENGINE = TorchEngine(precision="float64")


def double(hmm: Hmm) -> Hmm:
    """The same model in float64, rows summing to one."""
    arrays = (a.astype(np.float64) for a in (hmm.initial, hmm.transition, hmm.emission))
    return Hmm(*(a / a.sum(-1, keepdims=True) for a in arrays))


def joint(hmm: Hmm, z: tuple[int, ...], x: tuple[int, ...]) -> float:
    """p(x, z) straight from the definition; -1 in x is not observed."""
    p = hmm.initial[z[0]]
    for t, (state, token) in enumerate(zip(z, x, strict=True)):
        p *= hmm.transition[z[t - 1], state] if t else 1.0
        p *= hmm.emission[state, token] if token >= 0 else 1.0
    return float(p)


@settings(max_examples=20, deadline=None)
@given(
    states=st.integers(1, 3),
    vocabulary=st.integers(1, 4),
    length=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_the_circuit_is_the_model(states: int, vocabulary: int, length: int, seed: int) -> None:
    hmm = double(random_hmm(states, vocabulary, seed))
    rng = np.random.default_rng(seed)
    x = rng.integers(-1, vocabulary, (5, length))
    circuit = hmm.circuit(length)
    check(circuit)
    paths = list(product(range(states), repeat=length))
    expected = [np.log(sum(joint(hmm, z, tuple(row)) for z in paths)) for row in x]
    found = ENGINE.log_likelihood(circuit, x)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    z = rng.integers(0, states, (5, length))
    both = [np.log(joint(hmm, tuple(s), tuple(row))) for s, row in zip(z, x, strict=True)]
    np.testing.assert_allclose(
        ENGINE.log_likelihood(circuit, x, {"z": z})[:, 0], both, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("length", [1, 2, 5])
def test_missing_tails_are_shorter_texts(length: int) -> None:
    hmm = double(random_hmm(3, 5, 1))
    short = np.random.default_rng(0).integers(0, 5, (6, length))
    padded = np.concatenate([short, np.full((6, 4), -1)], axis=1)
    np.testing.assert_allclose(
        ENGINE.log_likelihood(hmm.circuit(length), short),
        ENGINE.log_likelihood(hmm.circuit(length + 4), padded),
        atol=1e-12,
    )


def test_one_set_of_parameters_at_every_length() -> None:
    hmm = random_hmm(4, 9, 0)
    for length in (2, 3, 7):
        assert hmm.circuit(length).num_parameters == hmm.num_parameters == 4 + 16 + 36


@pytest.mark.parametrize("length", [2, 3, 6])
def test_a_circuit_gives_its_model_back(tmp_path: Path, length: int) -> None:
    hmm = random_hmm(3, 5, 4)
    path = tmp_path / "hmm.h5"
    hdf5.save(hmm.circuit(length), path)
    for back in (Hmm.of(hmm.circuit(length)), Hmm.of(hdf5.load(path))):
        for name in ("initial", "transition", "emission"):
            np.testing.assert_array_equal(getattr(back, name), getattr(hmm, name))
    assert repr(hmm) == "Hmm(3 states, 5 tokens, 27 parameters)"


def test_other_circuits_are_no_hmm() -> None:
    good = random_hmm(3, 5, 4).circuit(4)
    loose = list(good.layers)
    assert isinstance(loose[4], SumLayer)
    loose[4] = replace(loose[4], tied_to=None)
    own = list(good.layers)
    assert isinstance(own[0], InputLayer)
    own[0] = replace(own[0], groups=np.arange(4, dtype=np.int32), params=own[0].params.repeat(4, 0))
    for layers in (loose, own, good.layers[:3]):
        with pytest.raises(UserError, match="not a homogeneous HMM"):
            Hmm.of(replace(good, layers=tuple(layers)))
    with pytest.raises(UserError, match="single variable"):
        Hmm.of(random_hmm(3, 5, 4).circuit(1))
    assert Hmm.of(chain(4, 3, 5, 0)).states == 3


def test_arrays_that_do_not_fit() -> None:
    initial, square, table = np.ones(2) / 2, np.eye(2), np.ones((2, 3)) / 3
    with pytest.raises(UserError, match=r"\[2\] and \[3, 3\]"):
        Hmm(initial, np.eye(3), table)
    with pytest.raises(UserError, match=r"emission: expected shape \[2, V\], got \[3, 2\]"):
        Hmm(initial, square, table.T)
    with pytest.raises(UserError, match="emission: expected an array of numbers"):
        Hmm(initial, square, [["a", "b"]])
    lists = Hmm([1, 0], square.tolist(), table.tolist())
    assert lists.circuit(2).num_vars == 2 and lists.initial.dtype == np.float64
    with pytest.raises(UserError, match="at least 1 position"):
        Hmm(initial, square, table).circuit(0)
    with pytest.raises(UserError, match="at least 1 state"):
        random_hmm(0, 3, 0)


def test_random_rows() -> None:
    hmm = random_hmm(50, 70, 3)
    same, other = random_hmm(50, 70, 3), random_hmm(50, 70, 4)
    np.testing.assert_array_equal(hmm.emission, same.emission)
    assert not np.allclose(hmm.transition, other.transition)
    for array in (hmm.initial, hmm.transition, hmm.emission):
        assert array.dtype == np.float32 and (array >= 0).all()
        np.testing.assert_allclose(array.sum(-1), 1, atol=1e-5)
    # The entries of a Dirichlet(1) row of k have the variance (k - 1) / (k² (k + 1)).
    assert hmm.emission.var() == pytest.approx(69 / (70**2 * 71), rel=0.1)


# hmmlearn.


def categorical(hmm: Hmm, **options: object) -> object:
    reference = pytest.importorskip("hmmlearn.hmm", reason="hmmlearn is not installed")
    model = reference.CategoricalHMM(hmm.states, n_features=hmm.vocabulary_size, **options)
    model.startprob_, model.transmat_, model.emissionprob_ = (
        np.array(a) for a in (hmm.initial, hmm.transition, hmm.emission)
    )
    return model


def test_likelihoods_are_those_of_hmmlearn() -> None:
    hmm = double(random_hmm(5, 7, 2))
    model = categorical(hmm)
    x = np.random.default_rng(1).integers(0, 7, (4, 9))
    lengths = [9, 4, 1, 7]
    padded = np.where(np.arange(9) < np.array(lengths)[:, None], x, -1)
    expected = [model.score(row[:n, None]) for row, n in zip(x, lengths, strict=True)]
    found = ENGINE.log_likelihood(hmm.circuit(9), padded)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    single = TorchEngine().log_likelihood(hmm.circuit(9), padded)[:, 0]
    np.testing.assert_allclose(single, expected, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_em_steps_are_those_of_hmmlearn(precision: str) -> None:
    hmm = double(random_hmm(4, 6, 5))
    x = np.random.default_rng(2).integers(0, 6, (20, 8))
    steps = 3
    model = categorical(hmm, n_iter=steps, tol=-np.inf, init_params="", params="ste")
    model.fit(x.reshape(-1, 1), [8] * 20)
    options = FitOptions(optimizer="full_em", epochs=steps, pseudocount=0.0)
    trained = TorchEngine(precision=precision).fit(hmm.circuit(8), x, options).circuit
    learned = Hmm.of(trained)
    np.testing.assert_allclose(learned.initial, model.startprob_, atol=1e-4)
    np.testing.assert_allclose(learned.transition, model.transmat_, atol=1e-4)
    np.testing.assert_allclose(learned.emission, model.emissionprob_, atol=1e-4)
    # The model is usable at another length at once.
    y = np.random.default_rng(3).integers(0, 6, (1, 12))
    assert ENGINE.log_likelihood(learned.circuit(12), y)[0, 0] == pytest.approx(
        model.score(y.reshape(-1, 1)), abs=1e-4
    )
    if precision == "float64":
        np.testing.assert_allclose(learned.transition, model.transmat_, atol=1e-10)


def test_viterbi_is_that_of_hmmlearn() -> None:
    hmm = double(random_hmm(4, 6, 8))
    model = categorical(hmm)
    x = np.random.default_rng(4).integers(0, 6, (5, 7))
    expected = [model.decode(row[:, None])[0] for row in x]
    np.testing.assert_allclose(ENGINE.mpe(hmm.circuit(7), x)[1], expected, atol=1e-9)
