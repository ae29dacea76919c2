"""Where text comes from: files, folders, strings; as one part or as train, valid and test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from pyjuice_bridge.data.files import file_digest
from pyjuice_bridge.data.readers import mapping_splits
from pyjuice_bridge.data.splits import Found, files_by_split, in_words
from pyjuice_bridge.data.text_cache import Part
from pyjuice_bridge.data.text_wiki import articles, lines_of, parquet_documents
from pyjuice_bridge.errors import UserError

WIKI_ENDINGS = (".tokens", ".raw")
ENDINGS = (".txt", *WIKI_ENDINGS, ".parquet")
_READERS = 2

FoundText = Found[Part]
"""Parts ``all``, or ``train`` and, where the source has them, ``valid`` and ``test``."""


def strings(source: Sequence[str] | Mapping[str, Sequence[str]]) -> FoundText:
    """Take documents given as strings, one list or one list per split.

    Raises:
        UserError: something else than strings, or no list ``train``.
    """
    lists = source if isinstance(source, Mapping) else {"all": source}
    names = mapping_splits(source, "text: lists") if isinstance(source, Mapping) else {"all": "all"}
    parts = {}
    for split, name in names.items():
        documents = lists[name]
        if isinstance(documents, str) or not all(isinstance(text, str) for text in documents):
            which = "it" if name == "all" else name
            raise UserError(f"text: {which} must be a list of strings, one for each document.")
        parts[split] = _part(list(documents))
    origins = {
        split: "the documents given" if n == "all" else f"list {n}" for split, n in names.items()
    }
    return FoundText(parts, origins, {"source": "strings"})


def own(path: Path) -> FoundText:
    """Read a user's text file, parquet file or folder.

    A folder either has, for each split, files (``train.txt``, ``wiki.train.tokens``,
    ``train-00000-of-00001.parquet``) or a folder of that name; or it has no splits.  The meta
    ``document`` says what one document is: where a split has several text files, each file is.

    Raises:
        UserError: nothing readable is there, several kinds of files are, or files look like
            splits and are none.
    """
    groups = {"": [path]} if path.is_file() else files_by_split(path, ENDINGS)
    files = [file for group in groups.values() for file in group]
    endings = sorted({file.suffix.lower() for file in files})
    if len(endings) > 1:
        raise UserError(f"{path} holds {' and '.join(endings)} files: keep one kind.")
    kind = "file" if max(map(len, groups.values())) > 1 else "paragraph"
    kind = {".parquet": "row", **dict.fromkeys(WIKI_ENDINGS, "article")}.get(endings[0], kind)
    each = ", each one document" if kind == "file" else ""
    return FoundText(
        {split or "all": _files(group, kind) for split, group in groups.items()},
        {split or "all": in_words(group, path, each) for split, group in groups.items()},
        {"source": str(path), "document": kind, "files": len(files)},
    )


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Cut lines into documents at blank lines."""
    document: list[str] = []
    for line in lines:
        if line.strip():
            document.append(line)
        elif document:
            yield "".join(document)
            document = []
    if document:
        yield "".join(document)


def file_part(files: Sequence[Path], how: str, read: Callable[[], Iterable[str]]) -> Part:
    """Make a part that is read from ``files``; ``how`` names the reader and its version."""

    def content() -> str:
        digest = hashlib.sha256(f"{_READERS} {how}".encode())
        for file in files:
            digest.update(file_digest(file).encode())
        return digest.hexdigest()

    return Part(read, content)


def _files(files: Sequence[Path], kind: str) -> Part:
    """Make a part whose documents are rows, articles, paragraphs or whole files."""
    if kind == "row":
        return file_part(files, kind, partial(parquet_documents, files))
    cut = {"article": articles, "paragraph": paragraphs, "file": _whole}[kind]
    return file_part(files, kind, partial(_each, files, cut))


def _each(files: Sequence[Path], cut: Callable[[Iterable[str]], Iterable[str]]) -> Iterator[str]:
    for file in files:
        yield from cut(lines_of(file))


def _whole(lines: Iterable[str]) -> Iterator[str]:
    yield "".join(lines)


def _part(documents: list[str]) -> Part:
    def content() -> str:
        digest = hashlib.sha256(b"strings")
        for text in documents:
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(f"\n{len(raw)} ".encode() + raw)
        return digest.hexdigest()

    return Part(lambda: documents, content)
