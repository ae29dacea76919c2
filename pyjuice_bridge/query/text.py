"""What a hidden Markov model of text is for: infilling, next tokens, phrases, steering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.circuit.types import MISSING, Circuit
from pyjuice_bridge.engines import Precision
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.engines.evidence import check_rows
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.query.text_hmm import HmmTensors, possible, predict, token_distribution
from pyjuice_bridge.query.text_phrases import Constraint, Lookahead
from pyjuice_bridge.query.text_processor import PhraseProcessor

_ROWS = 1 << 24
"""Most entries of a block of texts by hidden states."""

Texts = NDArray[Any] | Sequence[Sequence[int]]


@dataclass(frozen=True, eq=False, repr=False)
class TextModel:
    """A hidden Markov model, the engine that runs its circuits, and its vocabulary.

    Texts are int [N, T] of token ids, -1 where a token is missing, of any length T; wherever a
    model continues texts they may also be given as a list of lists of different lengths.

    Attributes:
        hmm: the model.
        engine: runs the circuit of the length that a question needs.
        vocabulary: the string of every id, or None.
        precision: of the arithmetic outside the engine.
    """

    hmm: Hmm
    engine: Engine
    vocabulary: Sequence[str] | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.vocabulary is not None and len(self.vocabulary) != self.hmm.vocabulary_size:
            raise UserError(
                f"vocabulary: has {len(self.vocabulary)} strings, but the HMM has "
                f"{self.hmm.vocabulary_size} tokens."
            )

    @classmethod
    def of(cls, model: Model, vocabulary: Sequence[str] | None = None) -> TextModel:
        """The text model of a loaded circuit; ``UserError`` where it is no HMM."""
        return cls(Hmm.of(model.circuit), model.engine, vocabulary)

    def ids(self, tokens: Sequence[str]) -> list[int]:
        """The ids of vocabulary strings; ``UserError`` names one that is not there."""
        unknown = next((token for token in tokens if token not in self._places), None)
        if unknown is not None:
            raise UserError(f"The vocabulary has no token {unknown!r}.")
        return [self._places[token] for token in tokens]

    def log_likelihood(self, x: NDArray[Any]) -> NDArray[np.float64]:
        """log p of the observed tokens of every text, in nats: float64 [N]."""
        circuit, x = self._rows(x)
        return self.engine.log_likelihood(circuit, x)[:, 0]

    def perplexity(self, x: NDArray[Any]) -> float:
        """exp(-Σ log p / number of observed tokens) over all texts, each read on its own."""
        observed = int((_array(x) != MISSING).sum())
        if not observed:
            raise UserError("x: perplexity needs at least one token.")
        return float(np.exp(-self.log_likelihood(x).sum() / observed))

    def infill(self, x: NDArray[Any], n: int = 1, *, seed: int = 0) -> NDArray[np.int32]:
        """Draw the missing tokens exactly from p(missing | observed): int32 [N, n, T].

        Raises:
            UserError: a text has probability zero.
        """
        circuit, x = self._rows(x)
        return self.engine.sample(circuit, n, x, seed=seed)

    def viterbi(self, x: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The most probable missing tokens and hidden states together.

        Returns:
            The completed texts, int32 [N, T], and log p(text, states) of the best, float64 [N].
        """
        circuit, x = self._rows(x)
        return self.engine.mpe(circuit, x)

    @torch.no_grad()
    def token_distribution(
        self, x: NDArray[Any], positions: int | NDArray[Any]
    ) -> NDArray[np.float32]:
        """p(x_t = v | all other observed tokens, before and after t): [N, V].

        Args:
            x: texts; what stands at the position itself is ignored.
            positions: t, one for all texts or int [N]: 0 … T, where T is the token after the text.

        Raises:
            UserError: a text has probability zero, or a position is outside of it.
        """
        _, x = self._rows(x)
        places = np.broadcast_to(np.asarray(positions), (len(x),))
        if places.dtype.kind not in "iu" or ((places < 0) | (places > x.shape[1])).any():
            raise UserError(f"positions: must be whole numbers from 0 to {x.shape[1]}.")
        found = torch.empty(0, self.hmm.vocabulary_size)
        parts = [
            token_distribution(self._tensors, self._tensor(x[rows]), self._tensor(places[rows]))
            for rows in self._chunks(len(x))
        ]
        return (torch.cat(parts) if parts else found).float().cpu().numpy()

    @torch.no_grad()
    def phrase_probability(self, prefixes: Texts, constraint: Constraint) -> NDArray[np.float64]:
        """P(the next tokens fulfil the constraint | prefix), float64 [N].

        The tokens of a prefix are what is known; a phrase must stand in the new tokens entirely.

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
        self, constraint: Constraint, *, prompt_length: int, skip: int | Sequence[int] = 0
    ) -> PhraseProcessor:
        """A logits processor that makes a causal model fulfil the constraint."""
        return PhraseProcessor(self._tensors, constraint, prompt_length=prompt_length, skip=skip)

    @cached_property
    def _places(self) -> dict[str, int]:
        if self.vocabulary is None:
            raise UserError("This text model has no vocabulary; give one to look up strings.")
        return {token: i for i, token in enumerate(self.vocabulary)}

    @cached_property
    def _tensors(self) -> HmmTensors:
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        return HmmTensors.of(self.hmm, self.engine.device, dtype)

    def _chunks(self, count: int) -> list[slice]:
        step = max(1, _ROWS // self.hmm.states)
        return [slice(i, i + step) for i in range(0, count, step)]

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(values.astype(np.int64), device=self._tensors.device)

    def _rows(self, x: NDArray[Any]) -> tuple[Circuit, NDArray[Any]]:
        """The circuit of the texts' length, and the texts once they fit it."""
        x = _array(x)
        if x.ndim != 2 or not x.shape[1]:
            raise UserError(f"x: expected texts of shape [N, T], got {list(x.shape)}.")
        circuit = self.hmm.circuit(x.shape[1])
        return circuit, check_rows(circuit, x)

    def _aligned(self, texts: Texts) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Texts of any lengths, shifted to end together, and how far each was shifted."""
        if isinstance(texts, np.ndarray) and texts.ndim == 2:
            if texts.size:
                check_rows(self.hmm.circuit(texts.shape[1]), texts, "prefixes")
            return texts, np.zeros(len(texts), np.int64)
        rows = [np.asarray(text) for text in texts]
        if any(row.ndim != 1 or (row.size and row.dtype.kind not in "iu") for row in rows):
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


def _array(x: Any) -> NDArray[Any]:
    try:
        return np.asarray(x)
    except ValueError:
        raise UserError("x: the texts differ in length; fill the shorter up with -1.") from None
