"""Features of a hidden Markov model's latent variables, read from stored token states.

A row is a window of a token stream: T positions from its first token on.  The feature of
position t is, for models that read both ways, the mean of the states of the window's tokens
t..T-1 (what z_t knows about the rest of the window; Liu et al., ICLR 2023, section 4.2), and
for causal models the state that token t was generated from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import Embeddings, FloatArray, Rows
from pyjuice_bridge.teachers.text_states import TokenStates

Feature = Literal["suffix", "prefix", "token"]

_CHUNK_FLOATS = 1 << 22
"""Numbers of gathered states held at a time."""


@dataclass(frozen=True, eq=False)
class Cut:
    """Windows of a stream.

    Attributes:
        starts: int64 [N], the first token of every window.
        length: T, positions of a window.
        lengths: int [N], tokens that a window really has, from 1 to T; None if all have T.
        documents: int64 [documents + 1], the first token of every document, then their number.
    """

    starts: NDArray[np.integer[Any]]
    length: int
    lengths: NDArray[np.integer[Any]] | None
    documents: NDArray[np.int64]


def window_features(feature: Feature, states: TokenStates, cut: Cut) -> Embeddings:
    """View token states as the vectors of windows."""
    if feature == "prefix":
        return PrefixFeatures(states, cut.starts, cut.length, cut.lengths, documents=cut.documents)
    kind = SuffixFeatures if feature == "suffix" else TokenFeatures
    return kind(states, cut.starts, cut.length, cut.lengths)


class _Windows:
    """Windows over stored states; subclasses say what the vector of a position is.

    Args:
        states: of the stream.
        starts: int64 [N], the first token of every window.
        length: T, positions of a window.
        lengths: int [N], tokens that a window really has (from 1 to T) where some are shorter,
            such as the last of a document.  The vectors of positions beyond are those of the
            window's last token and mean nothing: clustering does not fit them.
    """

    by_rows = True

    def __init__(
        self,
        states: TokenStates,
        starts: NDArray[np.integer[Any]],
        length: int,
        lengths: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        self._states, self._length = states, length
        self._starts = np.asarray(starts, np.int64)
        full = np.full(len(self._starts), length) if lengths is None else np.asarray(lengths)
        if full.shape != self._starts.shape or np.any(full < 1) or np.any(full > length):
            raise UserError(f"every window must have 1 to {length} tokens and one start")
        tokens = states.shape[0]
        if len(full) and (self._starts.min() < 0 or np.any(self._starts + full > tokens)):
            raise UserError(f"a window lies outside the {tokens} tokens whose states are stored")
        self.lengths = full.astype(np.int32)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N windows, T positions, D)."""
        return len(self._starts), self._length, self._states.shape[1]

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        """Return the vectors float32 [rows, positions, D] of the chosen windows and positions."""
        chosen = np.arange(self._length)[positions]
        starts, lengths = self._starts[rows], self.lengths[rows].astype(np.int64)
        out = np.empty((len(chosen), len(starts), self.shape[2]), np.float32)
        if not out.size:
            return out.transpose(1, 0, 2)
        step = max(1, _CHUNK_FLOATS // (self._span(chosen) * self.shape[2]))
        for first in range(0, len(starts), step):
            part = slice(first, first + step)
            self._fill(out[:, part], chosen, starts[part], lengths[part])
        return out.transpose(1, 0, 2)

    def _span(self, chosen: NDArray[np.int64]) -> int:
        """Return how many states of a window the vectors of ``chosen`` positions need."""
        return len(chosen)

    def _fill(
        self,
        out: FloatArray,
        chosen: NDArray[np.int64],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        """Write the vectors of ``chosen`` positions into ``out`` [positions, rows, D]."""
        raise NotImplementedError


class SuffixFeatures(_Windows):
    """The mean state of the tokens from position t to the window's end, for every t.

    Sums run from the end in float64, where adding float16 numbers is exact, so a mean does not
    depend on which positions are read with it.
    """

    def _span(self, chosen: NDArray[np.int64]) -> int:
        return self._length - int(chosen.min())

    def _fill(
        self,
        out: FloatArray,
        chosen: NDArray[np.int64],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        low = int(chosen.min())
        rank = {int(position): i for i, position in enumerate(chosen)}
        last = lengths - 1
        columns = np.minimum(np.arange(low, self._length), last[:, None])
        states = self._states.gather(starts[:, None] + columns)
        total = np.zeros((len(starts), out.shape[2]))
        for t in range(self._length - 1, low - 1, -1):
            inside = t <= last
            if inside.all():
                total += states[:, t - low]
            else:
                total[inside] += states[inside, t - low]
            if t in rank:
                count = np.maximum(lengths - t, 1)[:, None]
                beyond = ~inside
                out[rank[t]] = total / count
                out[rank[t], beyond] = states[beyond, t - low]


class TokenFeatures(_Windows):
    """The state of the token at position t itself: a control that knows no more of the rest."""

    def _fill(
        self,
        out: FloatArray,
        chosen: NDArray[np.int64],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        columns = np.minimum(chosen[:, None], lengths - 1)
        out[:] = self._states.gather(starts + columns)


class PrefixFeatures(_Windows):
    """The state that token t was generated from: that of the token before it.

    At a window's first position that token lies before the window.  The first token of a
    document was generated from the state before it (`TokenStates.start`).

    Args:
        states: of a causal model.
        starts: as in `SuffixFeatures`.
        length: likewise.
        lengths: likewise.
        documents: int64 [documents + 1], the first token of every document, then the number of
            tokens; one document without it.

    Raises:
        UserError: the states have no state before the first token.
    """

    def __init__(
        self,
        states: TokenStates,
        starts: NDArray[np.integer[Any]],
        length: int,
        lengths: NDArray[np.integer[Any]] | None = None,
        *,
        documents: NDArray[np.integer[Any]] | None = None,
    ) -> None:
        super().__init__(states, starts, length, lengths)
        if states.start is None:
            raise UserError("prefix features need the states of a causal model; use suffix ones")
        self._first = np.zeros(states.shape[0] + 1, bool)
        self._first[0 if documents is None else np.asarray(documents, np.int64)] = True

    def _fill(
        self,
        out: FloatArray,
        chosen: NDArray[np.int64],
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        tokens = starts + np.minimum(chosen[:, None], lengths - 1)
        first = self._first[tokens]
        out[:] = self._states.gather(np.where(first, tokens, tokens - 1))
        out[first] = self._states.start
