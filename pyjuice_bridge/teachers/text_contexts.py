"""Cutting a token stream into contexts that a language model reads, and these into batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Contexts:
    """Stretches of documents that are read together, in the order of the stream.

    Attributes:
        read: int64 [contexts, 2], first token that is read and the one after the last.
        keep: int64 [contexts, 2], the same for tokens whose states are kept; together these
            cover the stream once.
    """

    read: IntArray
    keep: IntArray

    def __len__(self) -> int:
        return len(self.keep)

    def __getitem__(self, index: slice | IntArray) -> Contexts:
        return Contexts(self.read[index], self.keep[index])


def cut(
    documents: IntArray,
    context: int,
    *,
    pieces: IntArray | None = None,
    before: int = 0,
    after: int = 0,
) -> Contexts:
    """Cut documents into the fewest contexts of about equal size; none crosses an end.

    Args:
        documents: int64 [documents + 1] offsets in tokens.
        context: pieces that the model reads at once, special tokens not counted.
        pieces: int64 [tokens + 1], the first piece of every token, where tokens are words; else
            every token is one piece.
        before: pieces that are read before those whose states are kept, at most.
        after: likewise after them.
    """
    widest = 1 if pieces is None else int(np.diff(pieces).max(initial=1))
    room = context - before - after - (widest - 1)
    if room < 1:
        raise UserError(
            f"contexts of {context} pieces leave no room beside {before + after} pieces of overlap "
            f"and words of up to {widest} pieces; use longer contexts"
        )

    def piece(token: IntArray) -> IntArray:
        return token if pieces is None else pieces[token]

    def token(at: IntArray) -> IntArray:
        """Return the first token that starts at or after a piece."""
        return at if pieces is None else np.searchsorted(pieces, at).astype(np.int64)

    first, last = piece(documents[:-1]), piece(documents[1:])
    counts = -(-(last - first) // room)
    document = np.repeat(np.arange(len(counts)), counts)
    rank = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    size = (last - first)[document]
    low = token(first[document] + rank * size // counts[document])
    high = token(first[document] + (rank + 1) * size // counts[document])
    low, high, document = (each[high > low] for each in (low, high, document))
    start = np.maximum(token(piece(low) - before), documents[document])
    wanted = np.minimum(piece(high) + after, last[document])
    stop = token(wanted) - (piece(token(wanted)) > wanted)
    return Contexts(np.stack([start, stop], 1), np.stack([low, high], 1))


def shard_bounds(contexts: Contexts, tokens: int) -> tuple[IntArray, IntArray]:
    """Group whole contexts into shards of about ``tokens`` tokens.

    Returns:
        The first context of every shard, then their number; and the first token, then theirs.
    """
    number = contexts.keep[:, 0] // tokens
    edges = np.flatnonzero(np.diff(number, prepend=-1))
    return np.append(edges, len(contexts)), np.append(contexts.keep[edges, 0], contexts.keep[-1, 1])


def batches(sizes: IntArray, budget: int) -> Iterator[IntArray]:
    """Yield indices of rows of similar size, longest first, at most ``budget`` places per batch.

    A batch of rows padded to its longest has at most ``budget`` places, or is one row.
    """
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, budget // max(1, int(sizes[order[start]])))
        yield order[start : start + count]
        start += count
