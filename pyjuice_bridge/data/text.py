"""Text as token streams: what the loaders return, and the windows that circuits are trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.splits import SPLITS, SplitData
from pyjuice_bridge.errors import UserError

Tokens = NDArray[np.int32]
Unit = Literal["word pieces", "words"]


@dataclass(frozen=True, eq=False)
class TokenStream:
    """The documents of one split, one after the other.

    Attributes:
        tokens: int32 [n], ids in ``0 … vocabulary - 1``; may be mapped from a file.
        documents: int64 [documents + 1]; document d is ``tokens[documents[d] : documents[d + 1]]``.
    """

    tokens: Tokens
    documents: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def document_count(self) -> int:
        """How many documents the stream holds."""
        return len(self.documents) - 1

    def document(self, index: int) -> Tokens:
        """View the tokens of one document."""
        return self.tokens[self.documents[index] : self.documents[index + 1]]


@dataclass(frozen=True, eq=False, repr=False)
class TextDataset(SplitData):
    """Text in three splits, as ids of one vocabulary.

    Attributes:
        name: the set's name, or the last part of the path it came from.
        train: the training documents.
        valid: the source's own validation documents, or some of its training documents by seed.
        test: the source's own test documents, or some of its documents, the same for every seed.
        vocabulary: the string of every id, as its tokenizer writes it (``##ing``, ``Ġthe``).
        unit: what one token is, for tables of perplexities.
        tokenizer: JSON-able facts: ``kind``, ``source``, ``sha256`` and, for word pieces,
            ``special`` (``{"cls_token": 101, …}``: ids that never occur in the streams).
        decode_ids: ids to text, by the tokenizer's own rules; called through :meth:`decode`.
        meta: JSON-able provenance: ``source``, ``sources`` (where each split comes from),
            ``document`` (what one is), ``variant``, ``seed``, ``limit``.
    """

    counted = "documents"

    name: str
    train: TokenStream
    valid: TokenStream
    test: TokenStream
    vocabulary: Sequence[str]
    unit: Unit
    tokenizer: Mapping[str, Any]
    decode_ids: Callable[[list[int]], str]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Write a sequence of ids as text; missing tokens (-1) are left out."""
        return self.decode_ids([int(i) for i in ids if i >= 0])

    @property
    def counts(self) -> dict[str, int]:
        return {split: getattr(self, split).document_count for split in SPLITS}

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 over tokens, documents and vocabulary."""
        digest = hashlib.sha256("\0".join(self.vocabulary).encode())
        for split in SPLITS:
            stream: TokenStream = getattr(self, split)
            digest.update(f"\0{split} {len(stream)} {stream.document_count}\0".encode())
            digest.update(np.ascontiguousarray(stream.documents, "<i8").data)
            for start in range(0, len(stream), 1 << 22):
                part = stream.tokens[start : start + (1 << 22)]
                digest.update(np.ascontiguousarray(part, "<i4").data)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """Return what identifies this text, as JSON-able values."""
        streams: dict[str, TokenStream] = {split: getattr(self, split) for split in SPLITS}
        return {
            "name": self.name,
            "unit": self.unit,
            "vocabulary": len(self.vocabulary),
            "tokens": {split: len(stream) for split, stream in streams.items()},
            "documents": self.counts,
            "tokenizer": dict(self.tokenizer),
            "sha256": self.fingerprint,
            **self.meta,
        }


@dataclass(frozen=True, eq=False)
class Windows:
    """Sequences of one length cut out of a stream.

    Attributes:
        x: int32 [N, length], read-only; -1 after the end of a document's last window.  For joined
            documents a view of the stream, not a copy.
        starts: int64 [N], where each window begins in the stream.
        lengths: int64 [N], how many tokens of each window are there (the others are -1).
    """

    x: Tokens
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)


def windows(stream: TokenStream, length: int, stride: int, *, joined: bool = True) -> Windows:
    """Cut a stream into windows.

    Args:
        stream: one split.
        length: tokens per window.
        stride: tokens from the start of one window to the start of the next.
        joined: documents are taken as one text, and every full window at the stride counts (fewer
            than ``stride`` tokens are left over at the end).  Otherwise no window crosses the end
            of a document: each document has windows until one reaches its end, filled up with -1.

    Raises:
        UserError: a length or stride below 1, or not a single window.
    """
    if length < 1 or stride < 1:
        raise UserError(
            f"windows have length {length} and stride {stride}: both must be 1 or more."
        )
    if joined:
        return _joined(stream, length, stride)
    return _separate(stream, length, stride)


def _joined(stream: TokenStream, length: int, stride: int) -> Windows:
    if len(stream) < length:
        raise UserError(
            f"windows of {length} tokens do not fit into a text of {len(stream)}:"
            " take more text or shorter windows."
        )
    x = np.lib.stride_tricks.sliding_window_view(stream.tokens, length)[::stride]
    starts = np.arange(len(x), dtype=np.int64) * stride
    return Windows(x, starts, np.broadcast_to(np.int64(length), len(x)))


def _separate(stream: TokenStream, length: int, stride: int) -> Windows:
    sizes = np.diff(stream.documents)
    until_end = 1 + -(-np.maximum(sizes - length, 0) // stride)
    counts = np.minimum(until_end, -(-sizes // stride))
    total = int(counts.sum())
    if not total:
        raise UserError("windows cannot be cut from a text without tokens.")
    document = np.repeat(np.arange(len(sizes)), counts)
    rank = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = stream.documents[document] + rank * stride
    lengths = np.minimum(stream.documents[document + 1] - starts, length)
    x = np.full((total, length), -1, np.int32)
    for position in range(length):
        inside = np.flatnonzero(lengths > position)
        x[inside, position] = stream.tokens[starts[inside] + position]
    x.flags.writeable = False
    return Windows(x, starts, lengths)
