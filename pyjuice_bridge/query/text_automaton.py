"""Deterministic automata that watch a text for phrases (Aho & Corasick, CACM 1975).

A state is what matters of the tokens so far: the longest beginning of a wanted phrase that the text
ends with, and which groups of phrases have been found.  Tokens that are in no phrase all do the
same, so the table has one column for all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError

MAX_STATES = 4096
"""Most states of an automaton.  Looking for all of k phrases takes up to 2^k times their tokens."""

Phrase = tuple[int, ...]
Groups = tuple[tuple[Phrase, ...], ...]


@dataclass(frozen=True, eq=False)
class Automaton:
    """Finds one phrase of every group; phrases may overlap.  State 0 is the start.

    Attributes:
        special: int64 [S], the tokens of all phrases, ascending.
        table: int64 [Q, S + 1], the state after each special token, and after any other one.
        found: bool [Q], whether all groups have been found; such a state is never left.
    """

    special: NDArray[np.int64]
    table: NDArray[np.int64]
    found: NDArray[np.bool_]

    @property
    def states(self) -> int:
        """Q."""
        return len(self.table)


def phrase_automaton(groups: Groups) -> Automaton:
    """Build the automaton that has found everything once a phrase of every group has occurred.

    Raises:
        UserError: it would have more than ``MAX_STATES`` states.
    """
    trie = _Trie(groups)
    special = sorted(set(trie.tokens))
    everything = (1 << len(groups)) - 1
    names: dict[tuple[int, int], int] = {(0, 0): 0}
    waiting = deque(names)
    table: list[list[int]] = []
    while waiting:
        node, found = waiting.popleft()
        row = []
        for token in [*special, None]:
            after = (0, everything)
            if found != everything:
                following = 0 if token is None else trie.follow(node, token)
                now = found | trie.complete[following]
                after = (trie.useful(following, now), now)
            if after not in names:
                names[after] = len(names)
                waiting.append(after)
                if len(names) > MAX_STATES:
                    raise UserError(
                        f"phrases: an automaton for them has more than {MAX_STATES:,} states; ask "
                        "for fewer phrases at once."
                    )
            row.append(names[after])
        table.append(row)
    return Automaton(
        np.array(special, np.int64),
        np.array(table, np.int64),
        np.array([found == everything for _, found in names]),
    )


class _Trie:
    """All phrases in one tree.  Node 0 is the root; sets of groups are bit masks.

    Attributes:
        tokens: the token that leads to each node but the root.
        complete: by node, the groups of which a phrase ends here (or at a suffix).
        pending: by node, the groups of which a longer phrase begins with this node.
    """

    def __init__(self, groups: Groups) -> None:
        self.tokens: list[int] = []
        self.complete, self.pending, self._fail = [0], [0], [0]
        self._children: list[dict[int, int]] = [{}]
        for group, phrases in enumerate(groups):
            for phrase in phrases:
                self._add(phrase, 1 << group)
        self._link()

    def _add(self, phrase: Sequence[int], group: int) -> None:
        node = 0
        for token in phrase:
            self.pending[node] |= group
            if token not in self._children[node]:
                self._children[node][token] = len(self._children)
                self._children.append({})
                self.tokens.append(token)
                for masks in (self.complete, self.pending, self._fail):
                    masks.append(0)
            node = self._children[node][token]
        self.complete[node] |= group

    def _link(self) -> None:
        """Set failure links, breadth first: the longest proper suffix that is a node too."""
        waiting = deque(self._children[0].values())
        while waiting:
            node = waiting.popleft()
            self.complete[node] |= self.complete[self._fail[node]]
            for token, child in self._children[node].items():
                self._fail[child] = self.follow(self._fail[node], token)
                waiting.append(child)

    def follow(self, node: int, token: int) -> int:
        """Return the longest node that ends the text of ``node`` and ``token``."""
        while node and token not in self._children[node]:
            node = self._fail[node]
        return self._children[node].get(token, 0)

    def useful(self, node: int, found: int) -> int:
        """Return the longest suffix of ``node`` that begins a phrase of a group not found yet."""
        while node and not self.pending[node] & ~found:
            node = self._fail[node]
        return node
