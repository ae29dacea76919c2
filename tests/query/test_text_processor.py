"""Steering: an HMM as its own language model against enumeration, and a tiny GPT-2."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from text_brute import (
    contains,
    continuations,
    exact_model,
    fulfils,
    small_hmm,
    text_probability,
)

from pyjuice_bridge.circuit.hmm import Hmm, random_hmm
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query import text_hmm
from pyjuice_bridge.query.text import TextModel
from pyjuice_bridge.query.text_hmm import HmmTensors
from pyjuice_bridge.query.text_phrases import Constraint
from pyjuice_bridge.query.text_processor import PhraseProcessor

EOS = 3
HMM = small_hmm(3, 4, 1)
MODEL = exact_model(HMM)

CONSTRAINTS = [
    Constraint.any_of([[0, 1]], 3),
    Constraint.any_of([[0, 0, 1], [2, 2]], 4),
    Constraint.all_of([[0, 1], [1, 2]], 4),
    Constraint.any_of([[0, 1]], 4, eos=EOS),
    Constraint.all_of([[0], [[1], [2, 2]]], 4, eos=EOS, min_length=2, max_length=3),
    Constraint.all_of([], 4, eos=EOS, min_length=1, max_length=2),
]


def own_scores(ids: list[tuple[int, ...]]) -> torch.Tensor:
    """log p(next | text) of the HMM itself, float64 [N, V]."""
    rows = [
        [text_probability(HMM, (*text, v)) / text_probability(HMM, text) for v in range(4)]
        for text in ids
    ]
    return torch.tensor(rows, dtype=torch.float64).log()


def cut(new: tuple[int, ...], eos: int | None) -> tuple[int, ...]:
    """The text with everything after its end replaced by the end."""
    if eos not in new:
        return new
    length = new.index(eos)
    return new[:length] + (eos,) * (len(new) - length)


def brute_next(prefix: tuple[int, ...], begun: tuple[int, ...], c: Constraint) -> np.ndarray:
    """p(next token | prefix, new tokens so far, constraint) as a ratio of sums of texts."""
    weights = np.zeros(4)
    for new, p in continuations(HMM, prefix, c.tokens).items():
        text = cut(new, c.eos)
        if text[: len(begun)] == begun and fulfils(new, c):
            weights[text[len(begun)]] += p
    return weights / weights.sum()


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
def test_an_hmm_steers_itself_exactly(constraint: Constraint) -> None:
    """At every step of every text that can be reached, in one batch per step."""
    prefix = (2, 1)
    processor = MODEL.processor(constraint, prompt_length=2)
    texts: list[tuple[int, ...]] = [()]
    for _ in range(constraint.tokens):
        ids = [prefix + text for text in texts]
        found = processor(torch.tensor(ids), own_scores(ids)).exp().numpy()
        expected = np.array([brute_next(prefix, text, constraint) for text in texts])
        np.testing.assert_allclose(found, expected, atol=1e-9)
        rows, nexts = np.nonzero(expected)
        texts = [(*texts[row], int(token)) for row, token in zip(rows, nexts, strict=True)]
    assert all(fulfils(text, constraint) for text in texts)
    done = torch.tensor([prefix + text for text in texts])
    scores = torch.zeros(len(texts), 4)
    assert processor(done, scores) is scores


def test_what_is_remembered_makes_no_difference() -> None:
    """Reordered beams, other texts and calls out of order get what a new processor gives."""
    constraint = CONSTRAINTS[2]
    used = MODEL.processor(constraint, prompt_length=1)
    scores = torch.zeros(2, 4, dtype=torch.float64)
    for ids in (
        [[0], [2]],
        [[2, 0], [2, 1]],
        [[2, 1, 2], [2, 0, 1]],
        [[1, 1, 0], [2, 2, 0]],
        [[0], [1]],
    ):
        fresh = MODEL.processor(constraint, prompt_length=1)
        batch = torch.tensor(ids)
        np.testing.assert_array_equal(used(batch, scores).numpy(), fresh(batch, scores).numpy())


def test_skipped_tokens_are_not_seen() -> None:
    """Padding on the left and a token of the beginning, different in every row."""
    constraint = CONSTRAINTS[1]
    scores = torch.zeros(4, 6, dtype=torch.float64)
    batch = torch.tensor([[5, 5, 2], [5, 5, 2], [5, 0, 1], [5, 0, 1]])
    padded = MODEL.processor(constraint, prompt_length=3, skip=[2, 1])(batch, scores)
    short = MODEL.processor(constraint, prompt_length=1)(torch.tensor([[2]]), scores[:1])
    longer = MODEL.processor(constraint, prompt_length=2)(torch.tensor([[0, 1]]), scores[:1])
    np.testing.assert_allclose(padded[1].numpy(), short[0].numpy(), atol=1e-12)
    np.testing.assert_allclose(padded[2].numpy(), longer[0].numpy(), atol=1e-12)
    # Token 5 is unknown to the HMM: never chosen, and missing where it is seen.
    assert padded[:, 4:].isneginf().all()
    seen = MODEL.processor(constraint, prompt_length=2)(torch.tensor([[5, 2]]), scores[:1])
    hidden = HMM.initial @ HMM.transition
    later = exact_model(Hmm(hidden, HMM.transition, HMM.emission))
    same = later.processor(constraint, prompt_length=1)(torch.tensor([[2]]), scores[:1])
    np.testing.assert_allclose(seen.numpy(), same.numpy(), atol=1e-12)


def test_equal_texts_of_which_different_parts_are_seen() -> None:
    scores = torch.zeros(2, 4, dtype=torch.float64)
    processor = MODEL.processor(CONSTRAINTS[1], prompt_length=2, skip=[0, 1])
    for ids in ([[2, 1], [2, 1]], [[2, 1, 0], [2, 1, 0]]):
        both = processor(torch.tensor(ids), scores)
        for row, skip in enumerate((0, 1)):
            alone = MODEL.processor(CONSTRAINTS[1], prompt_length=2, skip=skip)
            expected = alone(torch.tensor(ids[:1]), scores[:1])[0]
            np.testing.assert_allclose(both[row].numpy(), expected.numpy(), atol=1e-12)


def test_padding_after_the_end_says_nothing() -> None:
    """Even where it is impossible for the HMM, and the language model forbids what must come."""
    ends = Hmm(
        np.array([1.0, 0.0]),
        np.array([[0.5, 0.5], [0.0, 1.0]]),
        np.array([[0.4, 0.4, 0.2, 0.0], [0.0, 0.0, 0.0, 1.0]]),
    )
    constraint = Constraint.any_of([[0]], 5, eos=EOS)
    processor = exact_model(ends).processor(constraint, prompt_length=1)
    scores = torch.zeros(2, 4)
    scores[0, EOS] = -torch.inf
    for ids in ([[1, 0], [1, 0]], [[1, 0, 3], [1, 0, 2]], [[1, 0, 3, 0], [1, 0, 2, 2]]):
        found = processor(torch.tensor(ids), scores).exp()
    assert found[0].tolist() == [0, 0, 0, 1]
    assert (found[1] > 0).all()


def test_what_cannot_be_steered() -> None:
    with pytest.raises(UserError, match="cannot occur within 1 tokens"):
        MODEL.processor(Constraint.any_of([[0, 1]], 1), prompt_length=0)
    with pytest.raises(UserError, match="skip is 2, must be a whole number from 0 to 1"):
        MODEL.processor(CONSTRAINTS[0], prompt_length=1, skip=2)
    processor = MODEL.processor(CONSTRAINTS[0], prompt_length=1, skip=[0, 1])
    with pytest.raises(UserError, match="2 numbers do not fit 3 texts"):
        processor(torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 4))
    processor = MODEL.processor(CONSTRAINTS[0], prompt_length=1)
    with pytest.raises(UserError, match="fewer than the HMM's 4"):
        processor(torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 3))
    with pytest.raises(UserError, match="have only 0 tokens"):
        processor(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 4))
    with pytest.raises(UserError, match="Text 1: after 1 new tokens the phrases cannot appear"):
        forbidden = torch.tensor([[0.0] * 4, [-np.inf, 0.0, 0.0, 0.0]])
        processor(torch.tensor([[0, 0], [0, 2]]), forbidden)


# A causal model of transformers.

VOCABULARY = 40


def tiny_gpt2(seed: int = 0) -> Any:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY + 2,
        n_positions=32,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=VOCABULARY + 1,
        eos_token_id=39,
        initializer_range=0.5,
    )
    return transformers.GPT2LMHeadModel(config).eval()


def generate(processor: PhraseProcessor, prompt: list[list[int]], **options: Any) -> Any:
    torch.manual_seed(1)
    ids = torch.tensor(prompt)
    return tiny_gpt2().generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=[processor],
        pad_token_id=VOCABULARY,
        **options,
    )


def new_tokens(ids: Any, prompt_length: int) -> list[tuple[int, ...]]:
    rows = [row[prompt_length:].tolist() for row in ids]
    return [tuple(row[: row.index(39)] if 39 in row else row) for row in rows]


HMM_OF_GPT = TextModel(random_hmm(8, VOCABULARY, 0), TorchEngine())


def test_the_phrase_is_in_every_sample() -> None:
    constraint = Constraint.all_of(
        [[7, 8, 9], [[20], [21, 22]]], 10, eos=39, min_length=6, max_length=8
    )
    processor = HMM_OF_GPT.processor(constraint, prompt_length=3, skip=1)
    prompts = [[VOCABULARY + 1, 4, 5], [VOCABULARY + 1, 6, 6]]
    drawn = generate(processor, prompts, do_sample=True, max_new_tokens=10, num_return_sequences=30)
    texts = new_tokens(drawn, 3)
    assert len(set(texts)) > 30
    assert {len(text) for text in texts} == {6, 7, 8}
    for text in texts:
        assert contains(text, (7, 8, 9))
        assert contains(text, (20,)) or contains(text, (21, 22))


def test_greedy_and_beams_contain_the_phrase() -> None:
    constraint = Constraint.any_of([[7, 8, 9], [11, 12, 13]], 6, eos=39, max_length=5)
    for beams in (1, 4):
        processor = HMM_OF_GPT.processor(constraint, prompt_length=2)
        found = generate(processor, [[1, 2]], do_sample=False, num_beams=beams, max_new_tokens=6)
        (text,) = new_tokens(found, 2)
        assert contains(text, (7, 8, 9)) or contains(text, (11, 12, 13))
        assert len(text) <= 5


def test_without_a_constraint_the_model_is_left_alone() -> None:
    processor = HMM_OF_GPT.processor(Constraint.all_of([], 4, eos=39), prompt_length=2)
    scores = torch.randn(2, VOCABULARY, generator=torch.Generator().manual_seed(0))
    steered = processor(torch.tensor([[1, 2], [3, 4]]), scores)
    np.testing.assert_allclose(steered.numpy(), scores.log_softmax(1).numpy(), atol=1e-5)
    half = processor(torch.tensor([[1, 2], [3, 4]]), scores.half())
    assert half.dtype == torch.float16
    np.testing.assert_allclose(half.float().numpy(), steered.numpy(), atol=1e-2)


@pytest.mark.parametrize("seed", range(20))
def test_a_dead_beam_ends_only_itself(seed: int) -> None:
    """A constraint as long as the window leaves one continuation, and two beams are drawn."""
    phrase = [5, 6, 7, 8]
    processor = HMM_OF_GPT.processor(Constraint.any_of([phrase], 4), prompt_length=2)
    ids = torch.tensor([[1, 2], [3, 4]])
    found = tiny_gpt2(seed).generate(
        ids,
        attention_mask=torch.ones_like(ids),
        logits_processor=[processor],
        pad_token_id=VOCABULARY,
        do_sample=True,
        num_beams=2,
        max_new_tokens=4,
    )
    assert [row[2:].tolist() for row in found] == [phrase, phrase]


def test_rows_without_a_way_out_are_impossible_and_leave_the_others_alone() -> None:
    """Text 1 has taken a forbidden token; the last beam of all is missed with a sentence."""
    constraint = Constraint.any_of([[0, 1]], 2)
    processor = MODEL.processor(constraint, prompt_length=1)
    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).double()
    alone = MODEL.processor(constraint, prompt_length=1)(torch.tensor([[2, 0]]), scores[:1])
    both = processor(torch.tensor([[2, 0], [2, 3]]), scores)
    np.testing.assert_array_equal(both[0].numpy(), alone[0].numpy())
    assert both[1].isneginf().all()
    with pytest.raises(UserError, match="Text 0: after 1 new tokens the phrases cannot appear"):
        processor(torch.tensor([[2, 3], [2, 3]]), scores)


def test_a_beam_without_tokens_of_the_language_model_ends_only_itself() -> None:
    """Beam search passes log-probabilities; here all tokens that lead on are forbidden."""
    processor = MODEL.processor(CONSTRAINTS[0], prompt_length=1)
    scores = torch.tensor([[0.0] * 4, [-np.inf, 0.0, 0.0, 0.0]]).log_softmax(1)
    found = processor(torch.tensor([[0, 0], [0, 2]]), scores)
    assert found[1].isneginf().all() and found[0].exp().sum() == pytest.approx(1)


def test_a_generated_token_that_is_impossible_ends_its_text() -> None:
    never = Hmm(HMM.initial, HMM.transition, np.array([[0.5, 0.5, 0, 0]] * 3))
    processor = exact_model(never).processor(Constraint.any_of([[0]], 3), prompt_length=1)
    found = processor(torch.tensor([[1, 1], [1, 2]]), torch.zeros(2, 4))
    assert found[1].isneginf().all() and found[0].exp().sum() == pytest.approx(1)


def test_alpha_is_the_exponent_of_the_hmm() -> None:
    """Against both parts on their own: p_LM(next) · p(fulfilled | next) ** alpha, normalised."""
    constraint = CONSTRAINTS[0]
    ids = torch.tensor([[2, 1], [0, 3]])
    scores = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).double()
    alone = scores.log_softmax(1).numpy()
    full = MODEL.processor(constraint, prompt_length=2)(ids, scores).numpy()
    for alpha in (0.25, 1.0, 3.0):
        steered = MODEL.processor(constraint, prompt_length=2, alpha=alpha)(ids, scores)
        expected = alone + alpha * (full - alone)
        expected -= np.log(np.exp(expected).sum(1, keepdims=True))
        np.testing.assert_allclose(steered.numpy(), expected, atol=1e-9)
    off = MODEL.processor(constraint, prompt_length=2, alpha=0)
    assert off(ids, scores) is scores
    for wrong in (-1, np.nan, "much"):
        with pytest.raises(UserError, match="alpha is"):
            MODEL.processor(constraint, prompt_length=2, alpha=wrong)  # type: ignore[arg-type]


def test_a_small_alpha_keeps_the_phrase_and_none_leaves_it_out() -> None:
    constraint = Constraint.any_of([[7, 8, 9]], 8)
    held = []
    for alpha in (0.0, 0.1, 1.0):
        processor = HMM_OF_GPT.processor(constraint, prompt_length=2, alpha=alpha)
        drawn = generate(
            processor, [[1, 2]], do_sample=True, max_new_tokens=8, num_return_sequences=10
        )
        held.append(sum(contains(text, (7, 8, 9)) for text in new_tokens(drawn, 2)))
    assert held == [0, 10, 10]


def test_prompts_of_different_lengths_in_one_batch() -> None:
    """2, 7 and 15 tokens, padded on the left: every row as if it were alone."""
    lengths, width = [2, 7, 15], 15
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 38, length).tolist() for length in lengths]
    padded = [[VOCABULARY] * (width - len(p)) + p for p in prompts]
    skip = [width - length for length in lengths]
    constraint = Constraint.all_of([[7, 8, 9], [20]], 10, eos=39, min_length=6)
    ids = torch.tensor(padded)
    processor = HMM_OF_GPT.processor(constraint, prompt_length=width, skip=skip)
    scores = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(0)).double()
    both = processor(ids, scores)
    for row, prompt in enumerate(prompts):
        alone = HMM_OF_GPT.processor(constraint, prompt_length=len(prompt))
        expected = alone(torch.tensor([prompt]), scores[row : row + 1])[0]
        np.testing.assert_allclose(both[row].numpy(), expected.numpy(), atol=1e-5)
    torch.manual_seed(0)
    drawn = tiny_gpt2().generate(
        ids,
        attention_mask=(ids != VOCABULARY).long(),
        logits_processor=[HMM_OF_GPT.processor(constraint, prompt_length=width, skip=skip)],
        pad_token_id=VOCABULARY,
        do_sample=True,
        max_new_tokens=10,
        num_return_sequences=4,
    )
    for text in new_tokens(drawn, width):
        assert contains(text, (7, 8, 9)) and contains(text, (20,)) and len(text) >= 6


def held_tensors() -> tuple[int, int]:
    """Return how many tensors there are, and their entries."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    return len(tensors), sum(each.numel() for each in tensors)


def test_what_is_remembered_does_not_grow() -> None:
    """200 steps: what stays from call to call is the texts, a hidden and an automaton state."""
    processor = HMM_OF_GPT.processor(Constraint.any_of([[7, 8]], 210), prompt_length=1)
    ids, scores, counts = torch.tensor([[1], [2]]), torch.zeros(2, VOCABULARY), []
    for step in range(200):
        ids = torch.cat([ids, processor(ids, scores).argmax(1, keepdim=True)], 1)
        if step in (20, 199):
            counts.append(held_tensors())
    (few, before), (many, after) = counts
    assert many <= few
    # The texts themselves: two copies of 2 rows, 179 tokens longer.
    assert after - before <= 2 * 2 * 179


def test_tables_in_bf16_take_half_the_memory_and_steer_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the same rounded tables in float32, read in blocks of a few rows."""
    hmm = random_hmm(24, VOCABULARY, 0)
    whole = TextModel(hmm, TorchEngine())
    monkeypatch.setattr(text_hmm, "_BLOCK", 100)
    half = replace(whole, precision="bf16")
    tables = half._tensors
    assert tables.transition.dtype == tables.emission.dtype == torch.bfloat16
    assert tables.initial.dtype == torch.float32
    for table, array in ((tables.transition, hmm.transition), (tables.emission.T, hmm.emission)):
        assert torch.equal(table, torch.tensor(array).bfloat16())
    same = replace(whole)
    same.__dict__["_tensors"] = HmmTensors(
        tables.initial, tables.transition.float(), tables.emission.float()
    )
    constraint = Constraint.all_of([[7, 8, 9], [20]], 12, eos=39)
    prompts = [[1, 2], [3]]
    chances = [m.phrase_probability(prompts, constraint) for m in (whole, same, half)]
    np.testing.assert_allclose(chances[2], chances[1], rtol=1e-5)
    np.testing.assert_allclose(chances[2], chances[0], rtol=0.02)
    ids, scores = torch.tensor([[1, 2], [3, 4]]), torch.randn(2, VOCABULARY)
    steered = [m.processor(constraint, prompt_length=2)(ids, scores).numpy() for m in (same, half)]
    np.testing.assert_allclose(steered[1], steered[0], atol=1e-5)
    x = np.array([[1, -1, 5, 39]])
    np.testing.assert_allclose(
        half.token_distribution(x, 1), same.token_distribution(x, 1), atol=1e-6
    )
