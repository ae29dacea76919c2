"""Questions to a hidden Markov model of text: gaps, next tokens, phrases, steering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.circuit.types import MISSING, Circuit
from pyjuice_bridge.codecs import Codec
from pyjuice_bridge.codecs.arrays import as_codes
from pyjuice_bridge.codecs.text import (
    GAP,
    TextCodec,
    Vocabulary,
    encode_texts,
    text_list,
)
from pyjuice_bridge.data.text_tokenizers import WORDS
from pyjuice_bridge.engines.base import Engine, Precision
from pyjuice_bridge.engines.evidence import check_rows
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.draws import draws_of, seed_of
from pyjuice_bridge.query.text_hmm import HmmTensors, possible, predict, token_distribution
from pyjuice_bridge.query.text_phrases import Constraint, Lookahead
from pyjuice_bridge.query.text_processor import PhraseProcessor

_ROWS = 1 << 24
"""Most entries of a block of texts by hidden states."""

Texts = str | Sequence[str] | NDArray[Any] | Sequence[Sequence[int]]


class Opened(Protocol):
    """What a model is opened as: its circuit, and what goes with it."""

    @property
    def circuit(self) -> Circuit:
        """The model's circuit."""

    @property
    def engine(self) -> Engine:
        """The engine that runs it."""

    @property
    def codec(self) -> Codec | None:
        """The codec between rows and data, if there is one."""


@dataclass(frozen=True, eq=False, repr=False)
class TextModel:
    """A hidden Markov model, the engine that runs its circuits, and its vocabulary.

    Texts are strings, ``[MASK]`` for a missing token, or int [N, T] of token ids, -1 where a token
    is missing; both of any length.  Wherever a model continues texts, ids may also be a list of
    lists of different lengths.  Answers come in the form of the question, a single string as one.

    Attributes:
        hmm: the model.
        engine: runs the circuit of the length that a question needs.
        codec: with the vocabulary, or None.
        precision: of the arithmetic outside the engine; ``bf16`` stores the tables in half the
            memory and computes in float32.
    """

    hmm: Hmm
    engine: Engine
    codec: TextCodec | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.codec is not None and self.codec.size != self.hmm.vocabulary_size:
            raise UserError(
                f"vocabulary: has {self.codec.size} strings, but the HMM has "
                f"{self.hmm.vocabulary_size} tokens."
            )

    @classmethod
    def of(cls, model: Opened, vocabulary: Sequence[str] | None = None) -> TextModel:
        """Return the text model of a circuit.

        Args:
            model: a hidden Markov model.
            vocabulary: the string of every id, where the model does not come with its own.

        Raises:
            UserError: the circuit is no HMM, or the vocabulary does not fit it.
        """
        hmm, codec = Hmm.of(model.circuit), model.codec
        if vocabulary is not None:
            window = model.circuit.num_vars
            words = Vocabulary(tuple(vocabulary))
            codec = TextCodec(len(words), window, window, vocabulary=words)
        return cls(hmm, model.engine, codec if isinstance(codec, TextCodec) else None)

    @property
    def vocabulary(self) -> Vocabulary:
        """The strings of all token ids.

        Raises:
            UserError: there are none.
        """
        if self.codec is None:
            raise UserError("This text model has no vocabulary; give one to look up strings.")
        return self.codec.strings

    def ids(self, tokens: Sequence[str]) -> list[int]:
        """Return the ids of vocabulary strings; ``UserError`` names one that is not there."""
        return self.vocabulary.ids(tokens)

    def phrases(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of phrases written as strings, for ``Constraint``.

        Raises:
            UserError: a phrase is empty, or holds a word that the vocabulary lacks.
        """
        found = []
        for text in texts:
            ids = self.vocabulary.encode(text)
            words = self.vocabulary.tokenizer == WORDS
            spelled = not words or self.vocabulary.decode(ids) == " ".join(text.split())
            if not len(ids) or (ids == MISSING).any() or not spelled:
                raise UserError(
                    f"phrases: {text!r} is empty or holds what the model's vocabulary lacks."
                )
            found.append(ids.tolist())
        return found

    def spellings(self, text: str) -> list[list[int]]:
        """Return the ids of a phrase at the beginning of a text and, if they differ, within one.

        Raises:
            UserError: the phrase is empty, or holds a word that the vocabulary lacks.
        """
        (alone,) = self.phrases([text])
        before, after = (self.vocabulary.encode(word).tolist() for word in ("a", f"a {text}"))
        within = after[len(before) :]
        return [alone] if after != before + within or within == alone else [alone, within]

    def log_likelihood(self, x: Texts) -> NDArray[np.float64]:
        """Compute log p of the observed tokens of every text, in nats: float64 [N]."""
        circuit, rows = self._rows(x)
        return self.engine.log_likelihood(circuit, rows)[:, 0]

    def perplexity(self, x: Texts) -> float:
        """Compute exp(-Σ log p / observed tokens) over all texts, each read on its own."""
        circuit, rows = self._rows(x)
        observed = int((rows != MISSING).sum())
        if not observed:
            raise UserError("x: perplexity needs at least one token.")
        log_p = self.engine.log_likelihood(circuit, rows)[:, 0]
        return float(np.exp(-log_p.sum() / observed))

    def infill(self, x: Texts, n: int = 1, *, seed: int | None = None) -> Any:
        """Draw the missing tokens exactly from p(missing | observed), all at once, n times.

        Returns:
            int32 [N, n, T]; n strings for a string, a list of them for each of several.

        Raises:
            UserError: a text has probability zero, or a string has no gap.
        """
        circuit, rows = self._rows(x)
        self._check_gaps(x)
        count = draws_of(n, rows.size)
        drawn = self.engine.sample(circuit, count, rows, seed=seed_of(seed))
        return self._like(x, drawn)

    def viterbi(self, x: Texts) -> tuple[Any, NDArray[np.float64]]:
        """Find the most probable missing tokens and hidden states together.

        Returns:
            The completed texts, int32 [N, T] or strings, and log p(text, states) of the best,
            float64 [N].
        """
        circuit, rows = self._rows(x)
        self._check_gaps(x)
        best, value = self.engine.mpe(circuit, rows)
        return self._like(x, best), value

    @torch.no_grad()
    def token_distribution(self, x: Texts, positions: int | NDArray[Any]) -> NDArray[np.float32]:
        """Compute p(x_t = v | all other observed tokens, before and after t): [N, V].

        Args:
            x: texts; their tokens at the position itself are ignored.
            positions: t, one for all texts or int [N]: 0 … T, where T is the token after the text.

        Raises:
            UserError: a text has probability zero, or a position is outside of it.
        """
        _, rows = self._rows(x)
        places = np.asarray(positions)
        if places.dtype.kind not in "iu" or ((places < 0) | (places > rows.shape[1])).any():
            raise UserError(f"positions: must be whole numbers from 0 to {rows.shape[1]}.")
        if places.shape not in ((), (1,), (len(rows),)):
            raise UserError(f"positions: expected one number or {len(rows)}, got {places.shape}.")
        places = np.broadcast_to(places, (len(rows),))
        none = torch.empty(0, self.hmm.vocabulary_size)
        parts = [
            token_distribution(self._tensors, self._tensor(rows[part]), self._tensor(places[part]))
            for part in self._chunks(len(rows))
        ]
        return (torch.cat(parts) if parts else none).float().cpu().numpy()

    @torch.no_grad()
    def phrase_probability(self, prefixes: Texts, constraint: Constraint) -> NDArray[np.float64]:
        """Compute P(the next tokens fulfil the constraint | prefix), float64 [N].

        The prefix is given; a phrase must lie in the new tokens entirely.

        Args:
            prefixes: N texts, possibly empty ones.
            constraint: phrases and lengths, see ``Constraint``.

        Raises:
            UserError: a prefix has probability zero, or the constraint names unknown tokens.
        """
        x, skip = self._aligned(prefixes)
        lookahead = Lookahead(self._tensors, constraint)
        out = np.empty(len(x))
        for rows in self._chunks(len(x)):
            state, log_p = predict(self._tensors, self._tensor(x[rows]), self._tensor(skip[rows]))
            possible(log_p, "prefixes")
            out[rows] = lookahead.log_probability(state).exp().cpu().numpy()
        return out

    def processor(
        self,
        constraint: Constraint,
        *,
        prompt_length: int,
        skip: int | Sequence[int] = 0,
        alpha: float = 1.0,
    ) -> PhraseProcessor:
        """Return a logits processor that makes a causal model fulfil the constraint."""
        return PhraseProcessor(
            self._tensors, constraint, prompt_length=prompt_length, skip=skip, alpha=alpha
        )

    @cached_property
    def _tensors(self) -> HmmTensors:
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        stored = torch.bfloat16 if self.precision == "bf16" else None
        return HmmTensors.of(self.hmm, self.engine.device, dtype, stored)

    def _chunks(self, count: int) -> list[slice]:
        step = max(1, _ROWS // self.hmm.states)
        return [slice(i, i + step) for i in range(0, count, step)]

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(values.astype(np.int64), device=self._tensors.device)

    def _rows(self, x: Texts) -> tuple[Circuit, NDArray[Any]]:
        """Return the circuit of the texts' length, and their ids once they fit it."""
        texts = text_list(x)
        rows = as_codes(x, "x") if texts is None else encode_texts(texts, self.vocabulary)
        if texts is not None and not rows.shape[1]:
            raise UserError("x: there is not a single token in the text.")
        if rows.ndim != 2 or not rows.shape[1]:
            raise UserError(f"x: expected texts of shape [N, T], got {list(rows.shape)}.")
        circuit = self.hmm.circuit(rows.shape[1])
        return circuit, check_rows(circuit, rows)

    def _check_gaps(self, x: Texts) -> None:
        if any(GAP not in text for text in text_list(x) or ()):
            raise UserError(f"the text has no gap; write {GAP} for every missing token")

    def _like(self, x: Texts, rows: NDArray[np.int32]) -> Any:
        """Return rows [N, …, T] that complete ``x`` in its form."""
        texts = text_list(x)
        if texts is None:
            return rows
        lengths = [len(self.vocabulary.encode(text)) for text in texts]
        strings = [
            self._strings(part[..., :length]) for part, length in zip(rows, lengths, strict=True)
        ]
        return strings[0] if isinstance(x, str) else strings

    def _strings(self, rows: NDArray[np.int32]) -> Any:
        if rows.ndim == 1:
            return self.vocabulary.decode(rows)
        return [self.vocabulary.decode(row) for row in rows]

    def _aligned(self, texts: Texts) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Shift texts of any lengths to end together; return how far each was shifted, too."""
        if getattr(texts, "ndim", None) == 2:
            ids = as_codes(texts, "prefixes")
            if ids.size:
                check_rows(self.hmm.circuit(ids.shape[1]), ids, "prefixes")
            return ids, np.zeros(len(ids), np.int64)
        strings = text_list(texts)
        given = [self.vocabulary.encode(t) for t in strings] if strings is not None else texts
        rows = [as_codes(row, "prefixes") for row in given]
        if any(row.ndim != 1 for row in rows):
            raise UserError("prefixes: expected int [N, T], or a list of lists of token ids.")
        length = max((len(row) for row in rows), default=0)
        out = np.full((len(rows), length), MISSING, np.int64)
        for aligned, row in zip(out, rows, strict=True):
            aligned[length - len(row) :] = row
        if length:
            check_rows(self.hmm.circuit(length), out, "prefixes")
        return out, np.array([length - len(row) for row in rows], np.int64)

    def __repr__(self) -> str:
        return (
            f"TextModel({self.hmm.states:,} states, {self.hmm.vocabulary_size:,} tokens, "
            f"{self.engine.name} on {self.engine.device})"
        )
