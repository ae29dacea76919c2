"""The automaton of phrases against a search in the text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_brute import contains

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.text_automaton import Automaton, phrase_automaton


def run(automaton: Automaton, text: tuple[int, ...]) -> list[bool]:
    """Whether everything was found, after every token."""
    state, found = 0, []
    for token in text:
        named = np.flatnonzero(automaton.special == token)
        state = automaton.table[state, named[0] if len(named) else -1]
        found.append(bool(automaton.found[state]))
    return found


phrase = st.lists(st.integers(0, 2), min_size=1, max_size=4).map(tuple)
group = st.lists(phrase, min_size=1, max_size=3).map(tuple)


@settings(max_examples=200, deadline=None)
@given(
    groups=st.lists(group, max_size=3).map(tuple),
    text=st.lists(st.integers(0, 3), max_size=14).map(tuple),
)
def test_it_finds_what_a_search_finds(groups: tuple, text: tuple[int, ...]) -> None:
    expected = [
        all(any(contains(text[: end + 1], p) for p in group) for group in groups)
        for end in range(len(text))
    ]
    assert run(phrase_automaton(groups), text) == expected


def test_the_smallest_automata() -> None:
    nothing = phrase_automaton(())
    assert nothing.found.tolist() == [True] and nothing.table.tolist() == [[0]]
    single = phrase_automaton((((5, 5, 7),),))
    assert single.special.tolist() == [5, 7]
    assert single.table.tolist() == [[1, 0, 0], [2, 0, 0], [2, 3, 0], [3, 3, 3]]
    # What was found already is not watched any more: 2 sets × (start, one token), and the end.
    assert phrase_automaton((((1, 2),), ((3, 4),))).states == 3 + 2 + 2 + 1


def test_too_many_phrases_at_once() -> None:
    with pytest.raises(UserError, match="more than 4,096 states"):
        phrase_automaton(tuple(((i,),) for i in range(13)))
    assert phrase_automaton(tuple(((i,),) for i in range(12))).states == 4096
