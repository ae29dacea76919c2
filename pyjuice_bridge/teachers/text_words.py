"""Word-level vocabularies: the pieces in which a language model reads a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError

_PLAIN = {"@-@": "-", "@,@": ",", "@.@": "."}
"""How WikiText's .tokens files mark a sign inside a word or number."""

_UNKNOWN, _END = {"<unk>", "[UNK]", "UNK"}, {"<eos>", "</s>"}


@dataclass(frozen=True, eq=False)
class WordPieces:
    """The pieces of every word of a vocabulary.

    Attributes:
        offsets: int64 [words + 1]; word w has ``ids[offsets[w] : offsets[w + 1]]``, one or more.
        ids: int32, ids of the model's own vocabulary.
    """

    offsets: NDArray[np.int64]
    ids: NDArray[np.int32]

    def starts(self, tokens: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the first piece of every token, int64 [n + 1], counted from the first token's."""
        width = np.diff(self.offsets)[tokens]
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(width)])

    def expand(self, tokens: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """Return the pieces of all tokens, one after the other."""
        starts = self.starts(tokens)
        step = np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))
        pieces: NDArray[np.int32] = self.ids[
            np.repeat(self.offsets[tokens], np.diff(starts)) + step
        ]
        return pieces


def word_pieces(tokenizer: Any, words: Sequence[str], *, lead: str, most: int) -> WordPieces:
    """Cut ``words`` into pieces, as they occur inside a text.

    Unknown words (``<unk>``) are the model's unknown token, ends of lines (``<eos>``) its
    separator; a word without any piece counts as unknown.

    Args:
        tokenizer: of the model.
        words: the vocabulary.
        lead: the characters before a word, " " where a tokenizer tells words inside a text from
            those at its start.
        most: pieces of a word that are read; the rest of it is left out.

    Raises:
        UserError: a word has no piece and the tokenizer no unknown token.
    """
    texts = [lead + _PLAIN.get(word, word) for word in words]
    pieces: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    unknown = _first(tokenizer, "unk_token_id", "eos_token_id")
    end = _first(tokenizer, "sep_token_id", "eos_token_id", "unk_token_id")
    for i, word in enumerate(words):
        special = unknown if word in _UNKNOWN or not pieces[i] else end if word in _END else None
        if special is not None:
            pieces[i] = [special]
        elif not pieces[i]:
            raise UserError(f'the tokenizer has no piece for the word "{word}"; leave it out')
    counts = np.array([min(len(each), most) for each in pieces], np.int64)
    ids = np.concatenate([np.array(each[:most], np.int32) for each in pieces])
    return WordPieces(np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]), ids)


def _first(tokenizer: Any, *names: str) -> int | None:
    """Return the first of the tokenizer's special ids that exists."""
    ids = (getattr(tokenizer, name, None) for name in names)
    return next((int(each) for each in ids if each is not None), None)
