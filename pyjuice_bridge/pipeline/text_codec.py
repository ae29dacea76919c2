"""Between text and the token ids of a model, wherever the model is opened again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.text import TextDataset, TokenStream
from pyjuice_bridge.data.text_cache import Part, tokenised
from pyjuice_bridge.data.text_tokenizers import WORDS, WordPieces, Words
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import read_json, write_json

FILE = "tokens.json"


@dataclass(frozen=True, eq=False)
class TextCodec:
    """The tokenizer and vocabulary of a run.

    Attributes:
        tokenizer: ``words``, or what word pieces are cut with.
        vocabulary: the string of every id.
        digest: of the tokenizer, to notice another one of the same name.
    """

    tokenizer: str
    vocabulary: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, dataset: TextDataset, tokenizer: str) -> TextCodec:
        """That of a data set which was cut with ``tokenizer``."""
        return cls(tokenizer, tuple(dataset.vocabulary), str(dataset.tokenizer["sha256"]))

    def save(self, path: Path) -> None:
        """Write JSON."""
        values = {"tokenizer": self.tokenizer, "sha256": self.digest}
        write_json(path, {**values, "vocabulary": list(self.vocabulary)})

    @classmethod
    def load(cls, model: Path) -> TextCodec:
        """That of a run's folder, or of the folder that a model file lies in.

        Raises:
            UserError: it is missing or damaged.
        """
        path = (model if model.is_dir() else model.parent) / FILE
        try:
            values = read_json(path)
            words = tuple(map(str, values["vocabulary"]))
            return cls(str(values["tokenizer"]), words, str(values["sha256"]))
        except FileNotFoundError:
            raise UserError(
                f"{path} is missing, which says what the tokens of a model of text are; keep it "
                "beside the model"
            ) from None
        except (OSError, ValueError, LookupError, TypeError):
            raise UserError(f"{path} is damaged; run again to rewrite it") from None

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """The text of ids; missing ones (-1) are left out."""
        known = [int(i) for i in ids if i >= 0]
        if self._pieces is not None:
            return self._pieces.decode(known)
        return " ".join(self.vocabulary[i] for i in known)

    def stream(self, name: str, part: Part) -> TokenStream:
        """The tokens of all documents of a text; words that the model does not know are ``<unk>``.

        Raises:
            UserError: the text cannot be read.
        """
        found, words = tokenised(name, {"all": part}, self._pieces or Words())
        return self.translated(found["all"], words)

    def translated(self, stream: TokenStream, words: Sequence[str]) -> TokenStream:
        """A stream whose ids mean ``words``, in the model's own ids."""
        if tuple(words) == self.vocabulary:
            return stream
        ids = np.array([self._places.get(word, 0) for word in words], np.int32)
        return TokenStream(ids[stream.tokens], stream.documents)

    def encode(self, text: str) -> NDArray[np.int32]:
        """The ids of a text without line ends, int32 [n]."""
        if not text.strip():
            return np.empty(0, np.int32)
        if self._pieces is not None:
            return self._pieces.encode([text])[0]
        return np.array([self._places.get(word, 0) for word in text.split()], np.int32)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.vocabulary)}

    @cached_property
    def _pieces(self) -> WordPieces | None:
        if self.tokenizer == WORDS:
            return None
        found = WordPieces(self.tokenizer)
        if found.facts["sha256"] != self.digest:
            raise UserError(
                f"{self.tokenizer} has another tokenizer than when the model was made; its tokens "
                "would mean other things"
            )
        return found
