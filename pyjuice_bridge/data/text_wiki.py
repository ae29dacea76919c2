"""WikiText: articles out of lines, from ``.tokens`` and ``.raw`` files or parquet."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pyjuice_bridge.errors import UserError


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, each with its line end.

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
    """Whether a line is an article's heading, `` = Title = ``, not a section's, `` = = … = = ``."""
    text = line.strip()
    return (
        len(text) > 4
        and text.startswith("= ")
        and text.endswith(" =")
        and not text.startswith("= =")
        and not text.endswith("= =")
    )


def articles(lines: Iterable[str]) -> Iterator[str]:
    """WikiText's lines as articles, every line kept: their concatenation is the text.

    An article begins at a heading between blank lines (or at the text's ends); what precedes the
    first one belongs to it.
    """
    article: list[str] = []
    begun = False
    before = ""
    for line, after in _with_next(lines):
        if is_title(line) and not before.strip() and not after.strip():
            if begun:
                yield "".join(article)
                article = []
            begun = True
        article.append(line)
        before = line
    if article:
        yield "".join(article)


def parquet_documents(files: Sequence[Path]) -> Iterator[str]:
    """The documents in the column ``text`` of parquet files, which are taken as one table.

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
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(f"{path} needs pyarrow to be read: pip install -e '.[text]'.") from None
    try:
        with parquet.ParquetFile(path) as table:
            kind: Any = table.schema_arrow.field("text").type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise UserError(f"{path} has a column text of {kind}: it must hold strings.")
            for batch in table.iter_batches(batch_size=1024, columns=["text"]):
                yield from (value or "" for value in batch.column(0).to_pylist())
    except KeyError:
        raise UserError(f"{path} has no column text: give a table that has one.") from None
    except (pyarrow.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read as parquet ({first}).") from error
