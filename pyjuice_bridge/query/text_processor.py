"""Steering a causal language model so that given phrases appear in what it writes.

p(next | text, constraint) ∝ p_LM(next | text) · p_HMM(constraint fulfilled | text, next), the
constraint being judged by a hidden Markov model distilled from the language model (GeLaTo: Zhang et
al., ICML 2023; Ctrl-G: arXiv 2406.13892).  Tokens after which the constraint cannot be fulfilled
any more get probability zero, so it holds in every text of the full number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from annotated_types import Interval
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import MISSING
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.numbers import real, whole
from pyjuice_bridge.query.text_hmm import HmmTensors, advance, possible, predict
from pyjuice_bridge.query.text_phrases import Constraint, Lookahead

_NORMALISED = 1e-3
"""Log of the sum of probabilities, at most."""
_MOST_ALPHA = 1e3


class _Texts(NamedTuple):
    """Texts so far: [N, T] ids, [N] tokens skipped, [N, H] hidden and [N] automaton states."""

    ids: torch.Tensor
    skip: torch.Tensor
    hidden: torch.Tensor
    state: torch.Tensor


class PhraseProcessor:
    """A logits processor for ``transformers``: pass ``[processor]`` to ``generate``.

    Use ``max_new_tokens`` equal to ``constraint.tokens``, and ``constraint.eos`` where the model
    ends texts.  Sampling and beam search keep what is known of the texts from one call to the next.
    The tables take ``constraint.tokens`` × automaton states × H numbers; a call multiplies 2 N
    distributions over the hidden states by the emissions, whatever the phrases.

    Args:
        hmm: over the same token ids; ids of the language model beyond its vocabulary are never
            chosen, and are missing for the HMM if a prompt has them.
        constraint: about the generated tokens.
        prompt_length: how many tokens of the input, padding included, are not generated.
        skip: how many leading tokens of a prompt the HMM does not see (padding on the left, a token
            of the beginning, an instruction): one number, or one for every prompt, so that prompts
            of different lengths can share a batch.
        alpha: exponent of the HMM's probability. Above 0 the constraint holds in any case; smaller
            values trust the HMM's timing less, and 0 leaves the language model alone.

    Raises:
        UserError: the constraint cannot be fulfilled.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        hmm: HmmTensors,
        constraint: Constraint,
        *,
        prompt_length: int,
        skip: int | Sequence[int] | NDArray[np.integer] = 0,
        alpha: float = 1.0,
    ) -> None:
        self.alpha = real("alpha", alpha, Interval(ge=0, le=_MOST_ALPHA))
        self.lookahead = Lookahead(hmm, constraint)
        if self.alpha:
            _ = self.lookahead.values  # every call will need them
        if bool(self.lookahead.log_probability(hmm.initial[None]).isneginf()):
            raise UserError(
                f"phrases: they cannot occur within {constraint.tokens} tokens of these lengths."
            )
        self.hmm, self.constraint = hmm, constraint
        self.prompt_length = length = whole("prompt_length", prompt_length, Interval(ge=0))
        given = [skip] if np.ndim(skip) == 0 else list(cast(Sequence[int], skip))
        # From 0 to the length of the prompt.
        skips = [whole("skip", number, Interval(ge=0, le=length)) for number in given]
        if not skips:
            raise UserError("skip is empty; give one number, or one for every prompt.")
        self._skip = torch.tensor(skips, device=hmm.device)
        self._known: _Texts | None = None

    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of the next token, steered.

        Args:
            input_ids: int64 [N, T], the prompts and what has been generated.
            scores: float [N, V], the language model's logits or log-probabilities.

        Returns:
            Normalised log-probabilities of the type and on the device of ``scores``, all on the
            end-of-sequence token where the text is over, all -inf where it cannot be fulfilled any
            more (a beam that another one outlives); ``scores`` themselves once
            ``constraint.tokens`` tokens have been generated, and where ``alpha`` is 0.

        Raises:
            UserError: no token that the language model allows leads to fulfilment.
        """
        step = input_ids.shape[1] - self.prompt_length
        vocabulary = len(self.hmm.emission)
        if scores.shape[1] < vocabulary:
            raise UserError(
                f"The language model has {scores.shape[1]} tokens, fewer than the HMM's "
                f"{vocabulary}; they must share one vocabulary."
            )
        if step < 0:
            raise UserError(
                f"prompt_length is {self.prompt_length}, but the texts have only "
                f"{input_ids.shape[1]} tokens."
            )
        if step >= self.constraint.tokens or not self.alpha:
            return scores
        texts = self._known = self._read(input_ids.to(self.hmm.device), step)
        fulfilled = self.lookahead.log_fulfilled(texts.hidden, texts.state, step)
        exact = torch.promote_types(scores.dtype, torch.float32)
        steered = torch.full_like(scores, -torch.inf, dtype=exact)
        steered[:, :vocabulary] = scores.to(exact).log_softmax(1)[:, :vocabulary]
        steered[:, :vocabulary] += self.alpha * fulfilled.to(scores.device, exact)
        if self.constraint.eos is not None:
            over = (texts.state == self.lookahead.over).to(scores.device)
            steered[over] = -torch.inf
            steered[over, self.constraint.eos] = 0.0
        lost = steered.isneginf().all(1)
        if bool(lost.all()) or bool((lost & ~self._may_end_alone(scores, fulfilled)).any()):
            raise UserError(
                f"Text {int(lost.nonzero()[0])}: after {step} new tokens the phrases cannot appear "
                "any more with the tokens that the language model allows."
            )
        steered = torch.where(lost[:, None], -torch.inf, torch.log_softmax(steered, 1))
        return steered.to(scores.dtype)

    def _may_end_alone(self, scores: torch.Tensor, fulfilled: torch.Tensor) -> torch.Tensor:
        """Tell which texts, bool [N], are beams that may end while others continue.

        Beam sampling also draws forbidden tokens where there are too few others, and only it
        does; and beam search passes log-probabilities where sampling passes logits.
        """
        forbidden = fulfilled.isneginf().all(1).to(scores.device)
        return forbidden | (scores.float().logsumexp(1) < _NORMALISED)

    def _read(self, ids: torch.Tensor, step: int) -> _Texts:
        """Return the texts, one step on from the last call where they continue it."""
        if len(ids) % len(self._skip):
            raise UserError(f"skip: {len(self._skip)} numbers do not fit {len(ids)} texts.")
        skip = self._skip.repeat_interleave(len(ids) // len(self._skip))
        old = self._known
        if step and old is not None and old.ids.shape[1] == ids.shape[1] - 1:
            same = (ids[:, None, :-1] == old.ids).all(2) & (skip[:, None] == old.skip)
            if bool(same.any(1).all()):
                source = same.int().argmax(1)
                return self._extend(ids, skip, old.hidden[source], old.state[source], 1)
        prompt = self._visible(ids[:, : self.prompt_length])
        hidden, log_p = predict(self.hmm, prompt, skip)
        possible(log_p, "prompts")
        start = torch.zeros(len(ids), dtype=torch.int64, device=ids.device)
        return self._extend(ids, skip, hidden, start, step)

    def _extend(
        self,
        ids: torch.Tensor,
        skip: torch.Tensor,
        hidden: torch.Tensor,
        state: torch.Tensor,
        count: int,
    ) -> _Texts:
        """Return the texts after their last ``count`` tokens.

        Where one of these is impossible for the HMM, no hidden state is left: a forbidden token.
        """
        for tokens in ids[:, ids.shape[1] - count :].unbind(1):
            over = state == self.lookahead.over
            seen = self._visible(tokens).masked_fill(over, MISSING)
            state = self.lookahead.follow(state, tokens)
            hidden, _ = advance(self.hmm, hidden, seen)
        return _Texts(ids, skip, hidden, state)

    def _visible(self, ids: torch.Tensor) -> torch.Tensor:
        return ids.masked_fill(ids >= len(self.hmm.emission), MISSING)
