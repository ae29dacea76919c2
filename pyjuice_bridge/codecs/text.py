"""The codec of text: token ids, and the vocabulary that gives them their strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import MISSING, Circuit, IntArray
from pyjuice_bridge.codecs.arrays import as_codes
from pyjuice_bridge.data.text import TextDataset, TokenStream, windows
from pyjuice_bridge.data.text_cache import Part, tokenised
from pyjuice_bridge.data.text_tokenizers import WORDS, WordPieces, Words, check_text
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import read_json, write_json
from pyjuice_bridge.measure import PERPLEXITY

FILE = "tokens.json"
GAP = "[MASK]"
"""Stands for one missing token in a string."""


@dataclass(frozen=True, eq=False, repr=False)
class Vocabulary:
    """The strings of all token ids, and the tokenizer that cuts text into them.

    Attributes:
        words: the string of every id.
        tokenizer: ``words``, or the source of word pieces.
        digest: of the tokenizer, to notice another one of the same name.
    """

    words: tuple[str, ...]
    tokenizer: str = WORDS
    digest: str = ""

    def __post_init__(self) -> None:
        for word in self.words:
            check_text(word, "vocabulary")

    @classmethod
    def of(cls, dataset: TextDataset, tokenizer: str) -> Vocabulary:
        """Return the vocabulary of a data set that was cut with ``tokenizer``."""
        return cls(tuple(dataset.vocabulary), tokenizer, str(dataset.tokenizer["sha256"]))

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self):,} tokens, {self.tokenizer})"

    def save(self, path: Path) -> None:
        """Write JSON.

        Raises:
            OSError: the file cannot be written.
        """
        values = {
            "tokenizer": self.tokenizer,
            "sha256": self.digest,
            "vocabulary": list(self.words),
        }
        write_json(path, values)

    def save_beside(self, model: Path) -> None:
        """Write ``tokens.json`` into the folder of a model file.

        Raises:
            UserError: the folder holds other tokens, or the file cannot be written.
        """
        path = model.parent / FILE
        try:
            if path.exists():
                there = Vocabulary.load(path)
                if (there.words, there.digest) == (self.words, self.digest):
                    return
                raise UserError(f"{path} belongs to another model; save to another folder")
            self.save(path)
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror})") from None

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what ``save`` has written.

        Raises:
            FileNotFoundError: there is no such file.
            UserError: it is damaged.
        """
        try:
            values = read_json(path)
            words = tuple(map(str, values["vocabulary"]))
            return cls(words, str(values["tokenizer"]), str(values["sha256"]))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            raise UserError(f"{path} is damaged; run again to rewrite it") from None

    def ids(self, tokens: Sequence[str]) -> list[int]:
        """Return the ids of strings of the vocabulary.

        Raises:
            UserError: names a string that is not one of them.
        """
        unknown = next((token for token in tokens if token not in self._places), None)
        if unknown is not None:
            raise UserError(f"The vocabulary has no token {unknown!r}.")
        return [self._places[token] for token in tokens]

    def encode(self, text: str) -> NDArray[np.int32]:
        """Return the ids of a text without line ends, -1 for every ``[MASK]``: int32 [n]."""
        first, *others = text.split(GAP)
        parts = [self._encode(first)]
        for part in others:
            parts += [np.array([MISSING], np.int32), self._encode(part)]
        return np.concatenate(parts)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Return the text of ids; missing ones (-1) are left out."""
        observed = [int(i) for i in ids if i >= 0]
        if self._pieces is not None:
            return self._pieces.decode(observed)
        return " ".join(self.words[i] for i in observed)

    def stream(self, name: str, part: Part) -> TokenStream:
        """Return the tokens of all documents of a text.

        Raises:
            UserError: the text cannot be read.
        """
        streams, words = tokenised(name, {"all": part}, self._pieces or Words())
        return self.translated(streams["all"], words)

    def translated(self, stream: TokenStream, words: Sequence[str]) -> TokenStream:
        """Return a stream whose ids mean ``words`` in ids of this vocabulary."""
        if tuple(words) == self.words:
            return stream
        ids = np.array([self._places.get(word, 0) for word in words], np.int32)
        return TokenStream(ids[stream.tokens], stream.documents)

    def _encode(self, text: str) -> NDArray[np.int32]:
        """Return the ids of a text; unknown words are token 0, ``<unk>``."""
        if not text.strip():
            return np.empty(0, np.int32)
        if self._pieces is not None:
            return self._pieces.encode([text])[0]
        return np.array([self._places.get(word, 0) for word in text.split()], np.int32)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}

    @cached_property
    def _pieces(self) -> WordPieces | None:
        if self.tokenizer == WORDS:
            return None
        pieces = WordPieces(self.tokenizer)
        if pieces.facts["sha256"] != self.digest:
            raise UserError(
                f"{self.tokenizer} has another tokenizer than when the model was made; its tokens "
                "would mean other things"
            )
        return pieces


@dataclass(frozen=True, eq=False, repr=False)
class TextCodec:
    """Texts as strings or as rows of token ids.

    Attributes:
        size: number of token ids.
        window: tokens of a row.
        stride: between the windows of a text.
        joined: whether a window may hold parts of several documents.
        unit: what a token is, in words.
        tokenizer: as in ``Vocabulary``, for the circuit's meta.
        end: the id that ends a text, None where texts do not end.
        vocabulary: None where the ids have no strings.
        place: where the vocabulary should have been, for messages.
    """

    size: int
    window: int
    stride: int
    joined: bool = True
    unit: str = "tokens"
    tokenizer: str | None = None
    end: int | None = None
    vocabulary: Vocabulary | None = None
    place: Path | None = None

    domain = "text"
    measure = PERPLEXITY

    @classmethod
    def of(cls, circuit: Circuit, path: Path | None = None) -> TextCodec:
        """Return the codec that the circuit's meta describes, with the ``tokens.json`` beside it.

        Raises:
            UserError: the meta or ``tokens.json`` is damaged, or they do not fit the circuit.
        """
        meta, window = circuit.meta, circuit.num_vars
        size = int(circuit.categories.max(initial=0))
        try:
            codec = cls(
                size,
                window,
                int(meta.get("stride", window)),
                bool(int(meta.get("joined", 1))),
                str(meta.get("token", "tokens")),
                str(meta["tokenizer"]) if "tokenizer" in meta else None,
                int(meta["end"]) if "end" in meta else None,
            )
        except ValueError:
            raise UserError("meta: stride, joined and end must be whole numbers.") from None
        if codec.stride < 1 or not (codec.end is None or 0 <= codec.end < size):
            raise UserError("meta: stride or end is out of range.")
        if path is None:
            return codec
        codec = replace(codec, place=path.parent / FILE)
        try:
            vocabulary = Vocabulary.load(path.parent / FILE)
        except FileNotFoundError:
            return codec
        if len(vocabulary) != size:
            raise UserError(
                f"{path.parent / FILE}: has {len(vocabulary)} strings, but the model has {size} "
                "tokens."
            )
        return replace(codec, vocabulary=vocabulary)

    def __repr__(self) -> str:
        return f"TextCodec({self.size:,} {self.unit}, windows of {self.window})"

    @cached_property
    def categories(self) -> IntArray:
        """int32 [window]."""
        return np.full(self.window, self.size, np.int32)

    @property
    def strings(self) -> Vocabulary:
        """The vocabulary.

        Raises:
            UserError: there is none.
        """
        if self.vocabulary is not None:
            return self.vocabulary
        if self.place is None:
            raise UserError("This model of text has no vocabulary; ask with token ids.")
        raise UserError(
            f"{self.place} is missing; it holds the tokens' strings; keep it beside the model"
        )

    def meta(self) -> dict[str, str | int | float]:
        """Return how text was cut; the vocabulary is a file of its own."""
        found: dict[str, str | int | float] = {
            "domain": self.domain,
            "token": self.unit,
            "stride": self.stride,
            "joined": int(self.joined),
        }
        if self.tokenizer is not None:
            found["tokenizer"] = self.tokenizer
        return found if self.end is None else {**found, "end": self.end}

    def facts(self) -> list[tuple[str, str]]:
        """Return the number of tokens and the window."""
        return [("tokens", f"{self.size:,}"), ("window", f"{self.window:,} {self.unit}")]

    def encode(self, data: Any, name: str = "x") -> NDArray[Any]:
        """Return a string, strings, or ids as rows of ids; shorter texts are filled up with -1."""
        texts = text_list(data)
        if texts is None:
            return as_codes(data, name)
        rows = encode_texts(texts, self.strings)
        if rows.shape[1] > self.window:
            raise UserError(
                f"{name}: a text has {rows.shape[1]} {self.unit}, more than the model's window of "
                f"{self.window}; ask model.text, which reads any length."
            )
        wide = np.full((len(rows), self.window), MISSING, np.int32)
        wide[:, : rows.shape[1]] = rows
        return wide

    def decode(self, rows: NDArray[Any], like: Any = None) -> Any:
        """Return rows as strings up to where a text ends, as ids without a vocabulary."""
        if self.vocabulary is None or (like is not None and text_list(like) is None):
            return rows
        if self.end is not None:
            rows = np.where(np.cumsum(rows == self.end, axis=-1) > 0, MISSING, rows)
        if rows.ndim == 1:
            return self.vocabulary.decode(rows)
        texts = [self.decode(row) for row in rows]
        return texts[0] if isinstance(like, str) else texts

    def log_preimage(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return zeros: every row is one text."""
        return np.zeros(len(rows))

    def units(self, rows: NDArray[Any]) -> int:
        """Return the number of observed tokens."""
        return int((rows >= 0).sum())

    def windows(self, stream: TokenStream) -> NDArray[np.int32]:
        """Cut a stream as runs do; one shorter than a window is one shorter row."""
        length = min(self.window, len(stream))
        return windows(stream, length, min(self.stride, length), joined=self.joined).x


def text_list(data: Any) -> list[str] | None:
    """Return a string or strings as a list, None if ``data`` is something else."""
    if isinstance(data, str):
        return [data]
    if isinstance(data, list | tuple) and data and all(isinstance(text, str) for text in data):
        return list(data)
    return None


def encode_texts(texts: Sequence[str], vocabulary: Vocabulary) -> NDArray[np.int32]:
    """Return the ids of texts, int32 [N, longest], filled up with -1."""
    rows = [vocabulary.encode(check_text(text)) for text in texts]
    out = np.full((len(rows), max(map(len, rows), default=0)), MISSING, np.int32)
    for line, row in zip(out, rows, strict=True):
        line[: len(row)] = row
    return out
