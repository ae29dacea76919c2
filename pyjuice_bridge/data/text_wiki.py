"""WikiText: articles out of lines, from ``.tokens`` and ``.raw`` files or parquet."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pyjuice_bridge.data.files import check_unpacked, reading
from pyjuice_bridge.errors import UserError

_STRINGS = ("string", "large_string", "string_view")


def lines_of(path: Path) -> Iterator[str]:
    """Read the lines of a UTF-8 file, each with its line end.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield from stream
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): convert it first.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from error


def is_title(line: str) -> bool:
    """Tell whether a line is written as an article's heading, `` = Title = ``.

    A section's has more signs: `` = = Section = = ``.
    """
    text = line.removesuffix("\n")
    signs = text.startswith(" = ") and text.endswith(" = ") and len(text) > 6
    return signs and not text.startswith(" = = ") and not text.endswith(" = = ")


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Join WikiText's lines to articles, every line kept: their concatenation is the text.

    An article begins at a heading between blank lines (or at the text's ends), as published: a
    line like `` = a + b = `` elsewhere is text.  What precedes the first heading belongs to it.
    """
    article: list[str] = []
    in_article = False
    before = ""
    for line, after in _with_next(lines):
        if is_title(line) and not before.strip() and not after.strip():
            if in_article:
                yield "".join(article)
                article = []
            in_article = True
        article.append(line)
        before = line
    if article:
        yield "".join(article)


def parquet_documents(files: Sequence[Path]) -> Iterator[str]:
    """Read the documents in the column ``text`` of parquet files, which are taken as one table.

    Where the first row that is not blank is an article's heading, rows are WikiText's lines;
    otherwise every row is a document.

    Raises:
        UserError: pyarrow is missing, or a file is damaged or has no such column of strings.
    """
    rows = chain.from_iterable(_rows(path) for path in files)
    head: list[str] = []
    for row in rows:
        head.append(row)
        if row.strip():
            break
    everything = chain(head, rows)
    if head and is_title(head[-1]):
        yield from articles(row if row.endswith("\n") else f"{row}\n" for row in everything)
    else:
        yield from everything


def _with_next(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    iterator = iter(lines)
    line = next(iterator, None)
    while line is not None:
        following = next(iterator, None)
        yield line, following or ""
        line = following


def _rows(path: Path) -> Iterator[str]:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(f"{path} needs pyarrow to be read: pip install -e '.[text]'.") from None
    packed, unpacked = path.stat().st_size, 0
    with reading(path, "parquet"):
        schema = parquet.read_schema(path)
        if "text" not in schema.names:
            raise UserError(f"{path} has no column text: give a table that has one.")
        kind: Any = schema.field("text").type
        if str(getattr(kind, "value_type", kind)) not in _STRINGS:
            raise UserError(f"{path} has a column text of {kind}: it must hold strings.")
    # As dictionaries, so that a text which repeats is in memory once.
    with reading(path, "parquet"), parquet.ParquetFile(path, read_dictionary=["text"]) as table:
        for batch in table.iter_batches(batch_size=1024, columns=["text"]):
            for value in batch.column(0):
                text = value.as_py() or ""
                unpacked += len(text)
                check_unpacked(path, packed, unpacked)
                yield text
