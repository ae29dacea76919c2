"""Probabilities of phrases against sums over all continuations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_brute import exact_model, phrase_probability, small_hmm

from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.text import TextModel
from pyjuice_bridge.query.text_phrases import Constraint

EOS = 3
HMM = small_hmm(3, 4, 0)
MODEL = exact_model(HMM)
PREFIXES = [(), (0,), (2, 1), (1, -1, 0)]

CONSTRAINTS = [
    Constraint.any_of([[1]], 1),
    Constraint.any_of([[0, 1]], 5),
    Constraint.any_of([[0, 0, 1], [2, 2], [0, 2, 0]], 5),
    Constraint.all_of([[0, 1], [1, 2]], 5),
    Constraint.all_of([[0], [[1, 1], [2]]], 4),
    Constraint.any_of([[0, 1]], 5, eos=EOS),
    Constraint.any_of([[0, 1]], 5, eos=EOS, min_length=3),
    Constraint.any_of([[0, 1]], 5, eos=EOS, max_length=3),
    Constraint.all_of([[0], [1]], 5, eos=EOS, min_length=2, max_length=4),
    Constraint.all_of([], 4, eos=EOS, min_length=1, max_length=2),
    Constraint.all_of([], 3),
    Constraint.any_of([[0, 1]], 4, eos=EOS, max_length=4),
    Constraint.any_of([[0, 1, 2]], 2),
    Constraint.any_of([[0, 1]], 4, eos=EOS, max_length=1),
]


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_against_all_continuations(constraint: Constraint) -> None:
    expected = [phrase_probability(HMM, prefix, constraint) for prefix in PREFIXES]
    found = MODEL.phrase_probability([list(prefix) for prefix in PREFIXES], constraint)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-14)
    single = TextModel(HMM, TorchEngine())
    prefixes = np.array([[0, 1], [2, 2]])
    np.testing.assert_allclose(
        single.phrase_probability(prefixes, constraint),
        MODEL.phrase_probability(prefixes, constraint),
        rtol=2e-5,
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    phrases=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=3),
    every=st.booleans(),
    tokens=st.integers(1, 4),
    lengths=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_any_constraint_and_model(
    seed: int,
    phrases: list[list[int]],
    every: bool,
    tokens: int,
    lengths: tuple[int, int] | None,
) -> None:
    hmm = small_hmm(2, 4, seed)
    kind = Constraint.all_of if every else Constraint.any_of
    bounds = {} if lengths is None else {"min_length": min(lengths), "max_length": max(lengths)}
    constraint = kind(phrases, tokens, eos=None if lengths is None else EOS, **bounds)
    found = exact_model(hmm).phrase_probability([[1, 0]], constraint)
    assert found[0] == pytest.approx(phrase_probability(hmm, (1, 0), constraint), abs=1e-12)


@pytest.mark.parametrize("eos", [None, EOS])
def test_more_tokens_make_a_phrase_more_probable(eos: int | None) -> None:
    phrases = [[0, 1, 0], [2, 2]]
    for kind in (Constraint.any_of, Constraint.all_of):
        by_count = [
            MODEL.phrase_probability([[1]], kind(phrases, n, eos=eos))[0] for n in range(1, 40)
        ]
        assert (np.diff(by_count) >= -1e-12).all()
        assert by_count[0] == 0
        assert by_count[-1] > by_count[10] > 0
    any_of = MODEL.phrase_probability([[1]], Constraint.any_of(phrases, 9, eos=eos))
    all_of = MODEL.phrase_probability([[1]], Constraint.all_of(phrases, 9, eos=eos))
    each = [MODEL.phrase_probability([[1]], Constraint.any_of([p], 9, eos=eos)) for p in phrases]
    # P(A or B) + P(A and B) = P(A) + P(B)
    assert any_of + all_of == pytest.approx(sum(each), abs=1e-12)


def test_lengths_alone_share_out_all_texts() -> None:
    """The text ends after 0, 1, 2 … tokens, or not within the horizon."""
    shares = [
        MODEL.phrase_probability(
            [[0]], Constraint.all_of([], 5, eos=EOS, min_length=n, max_length=n)
        )[0]
        for n in range(5)
    ]
    open_end = MODEL.phrase_probability([[0]], Constraint.all_of([], 5, eos=EOS, min_length=5))[0]
    assert sum(shares) + open_end == pytest.approx(1, abs=1e-12)


def test_tiny_probabilities_do_not_vanish() -> None:
    """Two hundred tokens of probability about 1e-8 each, in single precision."""
    rare = np.array([[1 - 1e-8, 1e-8], [1 - 3e-8, 3e-8]])
    hmm = Hmm(np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.2, 0.8]]), rare)
    logs = []
    for precision in ("float32", "float64"):
        model = TextModel(hmm, TorchEngine(), precision=precision)
        processor = model.processor(Constraint.any_of([[1] * 200], 220), prompt_length=0)
        logs.append(float(processor.lookahead.log_probability(model._tensors.initial[None])))
    assert -4000 < logs[1] < -3000
    assert logs[0] == pytest.approx(logs[1], rel=1e-6)


def test_what_cannot_be_asked() -> None:
    def refuses(message: str, make: object, *values: object, **named: object) -> None:
        with pytest.raises(UserError, match=message):
            make(*values, **named)  # type: ignore[operator]

    refuses("tokens is 0, must be a whole number from 1 to", Constraint.any_of, [[1]], 0)
    refuses("every phrase needs at least one token", Constraint.any_of, [[]], 3)
    refuses("every phrase needs at least one token", Constraint.any_of, [], 3)
    refuses("every phrase needs at least one token", Constraint.all_of, [[1], []], 3)
    refuses("end-of-sequence token 3 cannot be part", Constraint.any_of, [[1, 3]], 4, eos=3)
    refuses("need eos", Constraint.any_of, [[1]], 4, max_length=3)
    refuses(
        "min_length ≤ max_length", Constraint.any_of, [[1]], 4, eos=3, min_length=3, max_length=2
    )
    refuses("tokens must be 0 … 3", MODEL.phrase_probability, [[0]], Constraint.any_of([[4]], 2))
    refuses(
        "prefixes: row 1, variable 0 is 7", MODEL.phrase_probability, [[0], [7]], CONSTRAINTS[0]
    )
    refuses("a list of lists", MODEL.phrase_probability, [0, 1], CONSTRAINTS[0])
    never = Hmm(np.array([1.0]), np.eye(1), np.array([[1.0, 0.0]]))
    refuses(
        "prefixes: row 0 has probability zero",
        exact_model(never).phrase_probability,
        [[1]],
        Constraint.any_of([[0]], 2),
    )


def test_phrases_are_lists_of_ids() -> None:
    for wrong in ([0, 1], ["cat"], [[0.5]], [["cat"]]):
        with pytest.raises(UserError, match="a phrase is a list of token ids"):
            Constraint.all_of(wrong, 4)  # type: ignore[arg-type]
