"""Texts of small hidden Markov models by enumeration: what the text queries are checked against."""

from __future__ import annotations

from itertools import product

import numpy as np

from pyjuice_bridge.circuit.hmm import Hmm, random_hmm
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.query.text import TextModel
from pyjuice_bridge.query.text_phrases import Constraint

Text = tuple[int, ...]


def small_hmm(states: int, vocabulary: int, seed: int) -> Hmm:
    """Dirichlet(1) rows in float64."""
    single = random_hmm(states, vocabulary, seed)
    arrays = (a.astype(np.float64) for a in (single.initial, single.transition, single.emission))
    return Hmm(*(a / a.sum(-1, keepdims=True) for a in arrays))


def exact_model(hmm: Hmm) -> TextModel:
    """A model that computes in float64."""
    return TextModel(hmm, TorchEngine(precision="float64"), precision="float64")


def text_probability(hmm: Hmm, text: Text) -> float:
    """p(text) by the forward recursion over single numbers; -1 is missing."""
    weights = hmm.initial
    for token in text:
        seen = weights * hmm.emission[:, token] if token >= 0 else weights
        weights = seen @ hmm.transition
    return float(weights.sum())


def continuations(hmm: Hmm, prefix: Text, count: int) -> dict[Text, float]:
    """p(new tokens | prefix) of every possible continuation."""
    given = text_probability(hmm, prefix)
    news = product(range(hmm.vocabulary_size), repeat=count)
    return {new: text_probability(hmm, prefix + new) / given for new in news}


def contains(text: Text, phrase: Text) -> bool:
    return any(text[i : i + len(phrase)] == phrase for i in range(len(text) - len(phrase) + 1))


def fulfils(new: Text, constraint: Constraint) -> bool:
    """The constraint, straight from its definition."""
    ends = constraint.eos in new
    text = new[: new.index(constraint.eos)] if ends else new
    if ends and len(text) < constraint.min_length:
        return False
    if constraint.max_length is not None and len(text) > constraint.max_length:
        return False
    return all(any(contains(text, phrase) for phrase in group) for group in constraint.groups)


def phrase_probability(hmm: Hmm, prefix: Text, constraint: Constraint) -> float:
    """P(constraint | prefix) as a sum over all continuations."""
    news = continuations(hmm, prefix, constraint.tokens)
    return sum(p for new, p in news.items() if fulfils(new, constraint))
