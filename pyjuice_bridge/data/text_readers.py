"""Where text comes from: files, folders, strings; as one part or as train, valid and test."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.data.files import file_digest
from pyjuice_bridge.data.text_cache import Part
from pyjuice_bridge.data.text_wiki import articles, lines_of, parquet_documents
from pyjuice_bridge.errors import UserError

WIKI_ENDINGS = (".tokens", ".raw")
ENDINGS = (".txt", *WIKI_ENDINGS, ".parquet")
_SPLIT_NAMES = {
    "valid": ("valid", "validation", "val", "dev"),
    "train": ("train",),
    "test": ("test",),
}
_READERS = 1


@dataclass(frozen=True)
class FoundText:
    """A source's parts: ``all``, or ``train`` and, where it has them, ``valid`` and ``test``."""

    parts: Mapping[str, Part]
    meta: Mapping[str, Any] = field(default_factory=dict)


def strings(source: Sequence[str] | Mapping[str, Sequence[str]]) -> FoundText:
    """Documents given as strings, one list or one list per split.

    Raises:
        UserError: something else than strings, or no list ``train``.
    """
    named = source if isinstance(source, Mapping) else {"all": source}
    unknown = sorted(set(map(str, named)) - {*SPLITS})
    if isinstance(source, Mapping) and (unknown or "train" not in named):
        raise UserError(
            f"text: lists {', '.join(map(str, named)) or '(none)'} were given;"
            " give train and, where there are some, valid and test."
        )
    for name, documents in named.items():
        if isinstance(documents, str) or not all(isinstance(text, str) for text in documents):
            which = "it" if name == "all" else name
            raise UserError(f"text: {which} must be a list of strings, one for each document.")
    parts = {name: _part(list(documents)) for name, documents in named.items()}
    return FoundText(parts, {"source": "strings"})


def own(path: Path) -> FoundText:
    """A user's text file, parquet file or folder.

    A folder either has, for each split, files (``train.txt``, ``wiki.train.tokens``,
    ``train-00000-of-00001.parquet``) or a folder of that name; or it has no splits.

    Raises:
        UserError: nothing readable is there, or several kinds of files are.
    """
    if path.is_file():
        return FoundText({"all": _files([path])}, {"source": str(path)})
    groups: dict[str, list[Path]] = {}
    for file in text_files(path):
        groups.setdefault(_split_of(file, path), []).append(file)
    if "train" not in groups:
        together = sorted(file for files in groups.values() for file in files)
        return FoundText({"all": _files(together, path)}, {"source": str(path)})
    names = [name for name in SPLITS if name in groups]
    return FoundText({name: _files(groups[name], path) for name in names}, {"source": str(path)})


def text_files(folder: Path) -> list[Path]:
    """The files of known endings below ``folder``, sorted by path.

    Raises:
        UserError: there are none.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise UserError(f"{folder} holds no text files ({', '.join(ENDINGS)}).")
    return files


def paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Documents separated by blank lines."""
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
    """A part read from ``files``; ``how`` names the reader and its version."""

    def content() -> str:
        digest = hashlib.sha256(f"{_READERS} {how}".encode())
        for file in files:
            try:
                digest.update(file_digest(file).encode())
            except OSError as error:
                raise UserError(f"{file} cannot be read ({error.strerror}).") from error
        return digest.hexdigest()

    return Part(read, content)


def _split_of(file: Path, root: Path) -> str:
    """The split that a file's name, or that of its folder, speaks of; ``all`` where none does."""
    inside = file.relative_to(root)
    words = {*re.split(r"[.\-_]", inside.stem.lower()), *(p.lower() for p in inside.parts[:-1])}
    named = [split for split in SPLITS if words.intersection(_SPLIT_NAMES[split])]
    return named[0] if len(named) == 1 else "all"


def _files(files: Sequence[Path], folder: Path | None = None) -> Part:
    endings = sorted({file.suffix.lower() for file in files})
    where = str(folder or files[0])
    if len(endings) > 1:
        raise UserError(f"{where} holds {' and '.join(endings)} files: keep one kind.")
    if endings[0] == ".parquet":
        return file_part(files, "parquet", partial(parquet_documents, files))
    if endings[0] in WIKI_ENDINGS:
        return file_part(files, "wiki", partial(_each, files, articles))
    if len(files) == 1:
        return file_part(files, "paragraphs", partial(_each, files, paragraphs))
    return file_part(files, "files", partial(_each, files, _whole))


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
