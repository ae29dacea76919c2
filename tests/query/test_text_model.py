"""Infilling and token distributions of text models against enumeration."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_brute import Text, exact_model, small_hmm, text_probability

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import Hmm, random_hmm
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.query.text import TextModel
from pyjuice_bridge.query.text_phrases import Constraint

HMM = small_hmm(3, 4, 3)
MODEL = exact_model(HMM)


def with_token(text: Text, position: int, token: int) -> Text:
    longer = [*text, -1]
    longer[position] = token
    return tuple(longer)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    text=st.lists(st.integers(-1, 3), min_size=1, max_size=6).map(tuple),
    data=st.data(),
)
def test_the_token_anywhere(seed: int, text: Text, data: st.DataObject) -> None:
    """With gaps before and after, at every place of the text and after it."""
    position = data.draw(st.integers(0, len(text)))
    hmm = small_hmm(3, 4, seed)
    joint = [text_probability(hmm, with_token(text, position, v)) for v in range(4)]
    expected = np.array(joint) / sum(joint)
    for model, tolerance in ((exact_model(hmm), 1e-7), (TextModel(hmm, TorchEngine()), 1e-5)):
        found = model.token_distribution(np.array([text]), position)
        np.testing.assert_allclose(found[0], expected, atol=tolerance)
        assert found.sum() == pytest.approx(1, abs=1e-5)


def test_a_position_for_every_row() -> None:
    x = np.random.default_rng(0).integers(-1, 4, (5, 6))
    places = np.array([0, 2, 3, 5, 6])
    found = MODEL.token_distribution(x, places)
    for row, place, distribution in zip(x, places, found, strict=True):
        alone = MODEL.token_distribution(row[None], int(place))
        np.testing.assert_array_equal(distribution, alone[0])
    assert MODEL.token_distribution(x[:0], 1).shape == (0, 4)


def test_long_texts_stay_in_range() -> None:
    model = TextModel(random_hmm(4, 2000, 0), TorchEngine())
    x = np.random.default_rng(0).integers(0, 2000, (2, 400))
    x[:, 200] = -1
    found = model.token_distribution(x, 200)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    near = model.token_distribution(x[:, 180:220], 20)
    np.testing.assert_allclose(found, near, rtol=1e-3)


def test_blocks_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(1).integers(-1, 4, (7, 5))
    constraint = Constraint.any_of([[1, 2]], 3)
    whole = MODEL.token_distribution(x, 2), MODEL.phrase_probability(x, constraint)
    monkeypatch.setattr("pyjuice_bridge.query.text._ROWS", 6)
    monkeypatch.setattr("pyjuice_bridge.query.text_hmm._ENTRIES", 4)
    parts = MODEL.token_distribution(x, 2), MODEL.phrase_probability(x, constraint)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_infilled_tokens_have_the_right_frequencies() -> None:
    x = np.array([[1, -1, 2, -1], [-1, 0, -1, 3]])
    drawn = MODEL.infill(x, 20_000, seed=0)
    assert drawn.shape == (2, 20_000, 4)
    for row, samples in zip(x, drawn, strict=True):
        assert (samples[:, row >= 0] == row[row >= 0]).all()
        gaps = np.flatnonzero(row < 0)
        pairs = samples[:, gaps[0]] * 4 + samples[:, gaps[1]]
        joint = []
        for values in product(range(4), repeat=2):
            text = row.copy()
            text[gaps] = values
            joint.append(text_probability(HMM, tuple(text)))
        expected = np.array(joint) / sum(joint)
        frequency = np.bincount(pairs, minlength=16) / 20_000
        np.testing.assert_allclose(frequency, expected, atol=5 * np.sqrt(0.25 / 20_000))
    np.testing.assert_array_equal(drawn, MODEL.infill(x, 20_000, seed=0))


def test_viterbi_is_the_best_of_all() -> None:
    x = np.array([[1, -1, 2, -1], [-1, 0, -1, 3]])
    found, log_p = MODEL.viterbi(x)
    for row, text, value in zip(x, found, log_p, strict=True):
        best = (-np.inf, ())
        for full in product(*(range(4) if v < 0 else [v] for v in row)):
            for z in product(range(3), repeat=4):
                p = HMM.initial[z[0]] * HMM.emission[z[0], full[0]]
                for t in range(1, 4):
                    p *= HMM.transition[z[t - 1], z[t]] * HMM.emission[z[t], full[t]]
                best = max(best, (float(np.log(p)), full))
        assert value == pytest.approx(best[0], abs=1e-9)
        assert tuple(text) == best[1]


def test_perplexity_is_per_observed_token() -> None:
    x = np.array([[1, 2, -1], [0, -1, -1]])
    total = np.log(text_probability(HMM, (1, 2))) + np.log(text_probability(HMM, (0,)))
    assert MODEL.perplexity(x) == pytest.approx(np.exp(-total / 3))
    uniform = Hmm(np.ones(1), np.eye(1), np.full((1, 50), 1 / 50))
    assert exact_model(uniform).perplexity(np.array([[3, 4, 5]])) == pytest.approx(50)
    with pytest.raises(UserError, match="at least one token"):
        MODEL.perplexity(np.full((2, 3), -1))


def test_vocabulary_and_files(tmp_path: Path) -> None:
    Model(HMM.circuit(6), TorchEngine()).save(tmp_path / "model.h5")
    model = Model.load(tmp_path / "model.h5", engine="torch", device="cpu")
    text = TextModel.of(model, ["a", "b", "c", "d"])
    assert text.ids(["c", "a"]) == [2, 0]
    assert text.phrases(["c a", "d"]) == [[2, 0], [3]]
    for wrong in ("z", "c z", "", "a [MASK]"):
        with pytest.raises(UserError, match="phrases: "):
            text.phrases([wrong])
    assert repr(text) == "TextModel(3 states, 4 tokens, torch on cpu)"
    with pytest.raises(UserError, match="no token 'z'"):
        text.ids(["a", "z"])
    with pytest.raises(UserError, match="has no vocabulary"):
        TextModel.of(model).ids(["a"])
    with pytest.raises(UserError, match="has 1 strings, but the HMM has 4 tokens"):
        TextModel.of(model, ["a"])
    with pytest.raises(UserError, match="not a homogeneous HMM"):
        TextModel.of(Model(hclt([-1, 0, 1], 2, 4, seed=0), TorchEngine()))


def test_what_cannot_be_asked() -> None:
    with pytest.raises(UserError, match=r"expected texts of shape \[N, T\], got \[3\]"):
        MODEL.infill(np.array([1, 2, 3]))
    with pytest.raises(UserError, match="row 0, variable 1 is 4"):
        MODEL.viterbi(np.array([[1, 4]]))
    for positions in (3, -1, 0.5, np.array([0, 9])):
        with pytest.raises(UserError, match="whole numbers from 0 to 2"):
            MODEL.token_distribution(np.zeros((2, 2), int), positions)
    never = exact_model(Hmm(np.array([1.0]), np.eye(1), np.array([[1.0, 0.0]])))
    with pytest.raises(UserError, match="row 1 has probability zero"):
        never.token_distribution(np.array([[0, 0], [0, 1]]), 0)
    np.testing.assert_array_equal(never.token_distribution(np.array([[0, 1]]), 1), [[1, 0]])


def test_texts_of_different_lengths_are_refused() -> None:
    model = TextModel(random_hmm(2, 3, 0), TorchEngine())
    for ask in (model.perplexity, model.log_likelihood, model.infill):
        with pytest.raises(UserError, match="fill the shorter up with -1"):
            ask([[0, 1], [2]])  # type: ignore[arg-type]
