"""The probability that phrases occur in a text to come: an HMM times the phrases' automaton.

Dynamic programming over (tokens left, automaton state, hidden state), as in Ctrl-G (Zhang et al.,
arXiv 2406.13892); nothing is summed over the positions where a phrase may occur.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from annotated_types import Interval

from pyjuice_bridge.errors import UserError, shown
from pyjuice_bridge.numbers import whole
from pyjuice_bridge.query.text_automaton import Groups, Phrase, phrase_automaton
from pyjuice_bridge.query.text_hmm import HmmTensors, scaled, times, times_transposed

_MOST_TOKENS = 10**6
"""Every token that is looked ahead has a table over the states, and more ids there are not."""


@dataclass(frozen=True)
class Constraint:
    """What the next tokens of a text must fulfil.

    The text ends before its first end-of-sequence token, or continues beyond the ``tokens`` tokens;
    whatever would follow an end-of-sequence token is none of the text's business.  A phrase occurs
    if its tokens are consecutive among the new tokens, before the end; phrases may
    overlap.  Build one with ``any_of`` or ``all_of``.

    Attributes:
        groups: one phrase (a tuple of token ids) of every group must occur.
        tokens: how many tokens are looked ahead.
        eos: the end-of-sequence token, None where texts do not end.
        min_length: least number of new tokens before the end.
        max_length: most new tokens before the end, None for no bound.  A bound below ``tokens``
            makes the text end within them.
    """

    groups: Groups
    tokens: int
    eos: int | None = None
    min_length: int = 0
    max_length: int | None = None

    def __post_init__(self) -> None:
        for name, low in (("tokens", 1), ("eos", 0), ("min_length", 0), ("max_length", 0)):
            value = getattr(self, name)
            if value is not None or name in ("tokens", "min_length"):
                bounds = Interval(ge=low, le=_MOST_TOKENS)
                object.__setattr__(self, name, whole(name, value, bounds))
        if any(not group or not all(group) for group in self.groups):
            raise UserError("phrases: every phrase needs at least one token.")
        if any(self.eos in phrase for group in self.groups for phrase in group):
            raise UserError(f"phrases: the end-of-sequence token {self.eos} cannot be part of one.")
        if self.eos is None and (self.min_length or self.max_length is not None):
            raise UserError("min_length and max_length need eos, the end-of-sequence token.")
        if self.max_length is not None and self.max_length < self.min_length:
            raise UserError("Lengths must fulfil min_length ≤ max_length.")

    @classmethod
    def any_of(
        cls,
        phrases: Sequence[Sequence[int]],
        tokens: int,
        *,
        eos: int | None = None,
        min_length: int = 0,
        max_length: int | None = None,
    ) -> Constraint:
        """Demand that at least one of the phrases occurs."""
        return cls((_group(_listed(phrases)),), tokens, eos, min_length, max_length)

    @classmethod
    def all_of(
        cls,
        phrases: Sequence[Sequence[int] | Sequence[Sequence[int]]],
        tokens: int,
        *,
        eos: int | None = None,
        min_length: int = 0,
        max_length: int | None = None,
    ) -> Constraint:
        """Demand every phrase, in any order, or one of several where an item is a list of them.

        An empty list leaves the lengths as the only constraint.
        """
        groups = tuple(_group(item) for item in _listed(phrases))
        return cls(groups, tokens, eos, min_length, max_length)

    def may_end(self, step: int) -> bool:
        """Tell whether the text may be over after ``step`` new tokens."""
        bounded = self.max_length is None or step <= self.max_length
        return self.eos is not None and step >= self.min_length and bounded

    def may_go_on(self, step: int) -> bool:
        """Tell whether the text may have more than ``step`` new tokens."""
        return self.max_length is None or step < self.max_length


def _listed(phrases: Any) -> list[Any]:
    if isinstance(phrases, str) or not isinstance(phrases, Iterable):
        raise UserError(f"phrases is {shown(phrases)}, must be a list of phrases.")
    return list(phrases)


def _group(item: Sequence[Any]) -> tuple[Phrase, ...]:
    """Return one phrase, or several of them, as a group."""
    try:
        single = len(item) > 0 and isinstance(item[0], int | np.integer)
        phrases = [item] if single else item
        return tuple(tuple(map(operator.index, phrase)) for phrase in phrases)
    except TypeError:
        raise UserError(
            f"phrases: a phrase is a list of token ids, found {item!r}; a language model's "
            "tokenizer gives the ids of strings, and so does TextModel.phrases."
        ) from None


class Values(NamedTuple):
    """Probabilities [Q, H] as ``exp(scale) · value``, the maximum of each row of ``value`` one.

    Scales are float64; a row of zeros has the scale -inf.
    """

    value: torch.Tensor
    scale: torch.Tensor


class Lookahead:
    """P(the constraint is fulfilled | automaton state, hidden state, number of new tokens).

    Args:
        hmm: the model.
        constraint: what the next tokens must fulfil.

    Attributes:
        over: the automaton state of a text that has ended; the others are those of the phrases'
            automaton, 0 at the start.
    """

    def __init__(self, hmm: HmmTensors, constraint: Constraint) -> None:
        vocabulary, eos = len(hmm.emission), constraint.eos
        used = {token for group in constraint.groups for phrase in group for token in phrase}
        used |= set() if eos is None else {eos}
        if used and not (min(used) >= 0 and max(used) < vocabulary):
            raise UserError(f"phrases: tokens must be 0 … {vocabulary - 1}, got {sorted(used)}.")
        self.hmm, self.constraint = hmm, constraint
        automaton = phrase_automaton(constraint.groups)
        self.over = automaton.states
        self._special, self._table, self._found = (
            torch.as_tensor(array, device=hmm.device)
            for array in (automaton.special, automaton.table, automaton.found)
        )
        others = hmm.initial.new_ones(1, vocabulary)
        others[0, sorted(used)] = 0.0
        named = hmm.emission[self._special].to(others.dtype)
        self._mass = torch.cat([named, times(others, hmm.emission)])
        """p(a token of the column | hidden state): [S + 1, H]."""

    @cached_property
    def values(self) -> list[Values]:
        """Given the state of the last of all, all but one, …, one new tokens."""
        return list(self._backward())

    def log_probability(self, state: torch.Tensor) -> torch.Tensor:
        """Compute log P(the constraint is fulfilled), float64 [N].

        Args:
            state: [N, H], the distribution of the hidden state of the first new token.
        """
        kept = "values" in self.__dict__
        last = self.values[-1] if kept else deque(self._backward(), maxlen=1)[0]
        value, scale = self._before(0, last)
        weights, shift = scaled(state)
        return (weights @ value[0]).double().log() + scale[0] + shift

    def follow(self, state: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return the automaton state [N] after one more token; both int64 [N]."""
        column = torch.zeros_like(tokens)
        if len(self._special):
            place = torch.searchsorted(self._special, tokens.contiguous()).clamp(
                max=len(self._special) - 1
            )
            column = torch.where(self._special[place] == tokens, place, len(self._special))
        after = self._table[state.clamp(max=self.over - 1), column]
        ended = state == self.over
        if self.constraint.eos is not None:
            ended = ended | (tokens == self.constraint.eos)
        return torch.where(ended, self.over, after)

    def log_fulfilled(self, hidden: torch.Tensor, state: torch.Tensor, step: int) -> torch.Tensor:
        """Compute log P(the constraint is fulfilled | the tokens so far and the next one), [N, V].

        Args:
            hidden: [N, H], the distribution of the hidden state of the next token.
            state: int64 [N], the automaton's states; a row whose text is over is ignored.
            step: how many new tokens there are so far, below ``constraint.tokens``.

        Returns:
            Float64; -inf where the next token rules the constraint out, or is impossible.
        """
        hmm, eos = self.hmm, self.constraint.eos
        after = self.values[self.constraint.tokens - step - 1]
        row = state.clamp(max=self.over - 1)
        plain = times_transposed(hidden, hmm.emission).double()
        if self.constraint.may_go_on(step):
            other = self._table[row, -1]
            weights, shift = scaled(hidden * after.value[other])
            fulfilled = times_transposed(weights, hmm.emission).double()
            out = fulfilled.log_() + (shift + after.scale[other])[:, None]
            for column, token in enumerate(self._special.tolist()):
                target = self._table[row, column]
                weights, shift = scaled(hidden * after.value[target])
                mass = (weights * self._mass[column]).sum(1)
                out[:, token] = mass.double().log() + shift + after.scale[target]
            out = torch.where(plain > 0, out - plain.log(), -torch.inf)
        else:
            out = torch.full_like(plain, -torch.inf)
        if eos is not None:
            can_end = self._found[row] & self.constraint.may_end(step)
            out[:, eos] = torch.where(can_end & (plain[:, eos] > 0), 0.0, -torch.inf)
        return out

    def _backward(self) -> Iterator[Values]:
        """Yield ``values``, of which only those that are kept stay in memory."""
        start = self._found[:, None].expand(-1, len(self.hmm.initial)).to(self.hmm.initial.dtype)
        values = Values(start, start[:, 0].double().log())
        yield values
        for step in reversed(range(1, self.constraint.tokens)):
            before = self._before(step, values)
            moved, scale = scaled(times_transposed(before.value, self.hmm.transition))
            values = Values(moved, before.scale + scale)
            yield values

    def _before(self, step: int, after: Values) -> Values:
        """Compute values given the hidden state of the token that follows ``step`` new tokens.

        ``after`` holds the values once that token is known, by the same hidden state.
        """
        eos = self.constraint.eos
        targets = self._table if self.constraint.may_go_on(step) else self._table[:, :0]
        scales = after.scale[targets]
        ends = torch.full_like(after.scale, -torch.inf)
        if self.constraint.may_end(step):
            ends[self._found] = 0.0
        top = torch.cat([scales, ends[:, None]], 1).amax(1)
        shift = torch.where(top.isneginf(), 0.0, top)
        factors = (scales - shift[:, None]).exp().to(after.value.dtype)
        total = torch.zeros_like(after.value)
        for column in range(targets.shape[1]):
            reached = after.value[targets[:, column]]
            total.addcmul_(reached * factors[:, column, None], self._mass[column])
        if eos is not None:
            ending = self.hmm.emission[eos].to(total.dtype)
            total.addcmul_((ends - shift).exp().to(total.dtype)[:, None], ending)
        value, scale = scaled(total)
        return Values(value, scale + shift)
