"""From the cells of a table, of any type, to categories counted from 0."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data import bins as binned
from pyjuice_bridge.data.bins import Edges
from pyjuice_bridge.data.text_tokenizers import check_text
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.numbers import whole

Column = NDArray[Any] | Sequence[Any]

MOST_CATEGORIES = 1 << 16
"""A column with more is an identifier or a measurement, not a category."""
MOST_CELLS = 1 << 31
_MISSING = ("", "na", "nan", "-1")
_MOST_CODES = 1 << 8
"""A column with larger numbers is measured, where columns may be."""
_BOOLS = {"true": 1, "false": 0}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class RawTable:
    """Cells as they were read, column by column.

    Attributes:
        names: None where a source has none.
        at_least: how many categories every column has at least, by what is known of the set.
    """

    names: tuple[str, ...] | None
    columns: Sequence[Column]
    at_least: int = 1

    def __len__(self) -> int:
        return len(self.columns[0]) if len(self.columns) else 0


@dataclass(frozen=True, eq=False)
class Coding:
    """The values of each column, learnt from the training split.

    Attributes:
        columns: names of the columns.
        categories: int32 [D].
        values: of columns of text, the text of each value.
        edges: of measured columns, by number, the edges of their bins.
    """

    columns: tuple[str, ...]
    categories: NDArray[np.int32]
    values: Mapping[str, tuple[str, ...]]
    edges: Mapping[int, Edges] = field(default_factory=dict)

    @classmethod
    def of(cls, train: RawTable, where: str, bins: int | None = None) -> Coding:
        """Learn the coding of a table from its training split.

        Args:
            train: its cells.
            where: for messages.
            bins: of measured columns; None takes no column as measured.

        Raises:
            UserError: no cells or too many, names that are not distinct, a column without any
                value, or one that does not hold categories.
        """
        bins = None if bins is None else whole("bins", bins, binned.BINS)
        width = len(train.columns)
        if not len(train) or len(train) * width > MOST_CELLS:
            raise UserError(
                f"{where} has {len(train):,} rows of {width:,} columns: a table has at least one"
                f" cell and at most {MOST_CELLS:,}."
            )
        names = train.names or tuple(f"x{i}" for i in range(width))
        if len(set(names)) < width:
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise UserError(f"{where} has two columns called {twice}: rename one.")
        values: dict[str, tuple[str, ...]] = {}
        edges: dict[int, Edges] = {}
        sizes = []
        for i, (name, column) in enumerate(zip(names, train.columns, strict=True)):
            at = f"{where}: column {name}"
            texts = tuple(check_text(text, at) for text in _texts(column, at))
            if not texts and bins is not None and _is_measured(numbers := _numbers(column, at)):
                edges[i] = binned.cut(numbers[~np.isnan(numbers)], bins)
                sizes.append(len(edges[i]) - 1)
                continue
            size = len(texts) if texts else int(_integers(column, at).max(initial=-1)) + 1
            size = size and max(size, train.at_least, 2 * _is_boolean(column))
            if not 1 <= size <= MOST_CATEGORIES:
                raise UserError(
                    f"{at} has {size:,} categories in train: leave it out, or bin its values"
                    f" (1 to {MOST_CATEGORIES:,} categories)."
                )
            sizes.append(size)
            values |= {name: texts} if texts else {}
        return cls(names, np.array(sizes, np.int32), values, edges)

    def encode(self, table: RawTable, where: str) -> NDArray[np.int32]:
        """Return a split's cells as int32 [N, D], -1 where one is missing.

        Raises:
            UserError: other columns than train, no rows, or a value that train lacks.
        """
        names = table.names or self.columns
        if names != self.columns or len(table.columns) != len(self.columns) or not len(table):
            raise UserError(
                f"{where} has {len(table):,} rows of {len(table.columns):,} columns"
                f" ({', '.join(names[:5])}, ...): it needs rows, and the columns of train"
                f" ({', '.join(self.columns[:5])}, ...)."
            )
        cells = np.empty((len(table), len(self.columns)), np.int32)
        for i, (name, column) in enumerate(zip(self.columns, table.columns, strict=True)):
            at = f"{where}: column {name}"
            codes = self._coded(i, column, at)
            if codes.max(initial=-1) >= self.categories[i]:
                raise UserError(
                    f"{at} holds {codes.max()}, more than any value of train"
                    f" ({self.categories[i] - 1}): give train every value, or remove such rows."
                )
            cells[:, i] = codes
        return cells

    def _coded(self, number: int, column: Column, where: str) -> NDArray[np.integer]:
        name = self.columns[number]
        if number in self.edges:
            return binned.codes(_numbers(column, where), self.edges[number], where)
        if name not in self.values:
            return _integers(column, where)
        code = {text: i for i, text in enumerate(self.values[name])}
        codes = {cell: code.get(str(cell).strip(), -2) for cell in set(column)}
        codes |= {cell: -1 for cell in codes if _is_missing(cell)}
        unseen = [cell for cell, value in codes.items() if value == -2]
        if unseen:
            raise UserError(
                f"{where} holds {unseen[0]!r}, which train lacks: give train every value, or remove"
                " such rows."
            )
        return np.array([codes[cell] for cell in column], np.int64)


def _is_boolean(column: Column) -> bool:
    if isinstance(column, np.ndarray):
        return column.dtype.kind == "b"
    return all(_is_missing(cell) or str(cell).strip().lower() in _BOOLS for cell in set(column))


def is_value(text: str) -> bool:
    """Tell whether a cell of a text file is a number, true, false or missing, not a word."""
    text = text.strip().lower()
    return text in _MISSING or text in _BOOLS or bool(_NUMBER.fullmatch(text))


def _is_missing(cell: object) -> bool:
    if isinstance(cell, str):
        return cell.strip().lower() in _MISSING
    return cell is None or cell is np.ma.masked or cell != cell


def _texts(column: Column, where: str) -> tuple[str, ...]:
    """Return the distinct texts of a column with words in it, sorted; none where all are values."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
        return ()
    for kind in {type(cell) for cell in column}:
        if not issubclass(kind, str | bool | int | float | np.generic | None):
            raise UserError(
                f"{where} holds a {kind.__name__}: give integers, true and false, or text."
            )
    cells = {cell for cell in set(column) if not _is_missing(cell)}
    if all(not isinstance(cell, str) or is_value(cell) for cell in cells):
        return ()
    return tuple(sorted({str(cell).strip() for cell in cells}))


def _integers(column: Column, where: str) -> NDArray[np.int64]:
    """Return a column without words as int64, -1 where a cell is missing."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
        return _whole(column, where)
    return _whole(_numbers(column, where), where)


def _numbers(column: Column, where: str) -> NDArray[np.float64]:
    """Return a column without words as float64, NaN where a cell is missing."""
    if isinstance(column, np.ndarray) and column.dtype.kind in "biuf":
        masked = np.ma.getmaskarray(column)
        return np.where(masked, np.nan, np.ma.getdata(column).astype(np.float64))
    numbers = {}
    for cell in set(column):
        text = str(cell).strip().lower()
        if text in _BOOLS:
            numbers[cell] = float(_BOOLS[text])
        elif _NUMBER.fullmatch(text):
            numbers[cell] = float(text)
        elif _is_missing(cell):
            numbers[cell] = np.nan
        else:
            raise UserError(f"{where} holds {cell!r}, but only numbers in train: remove such rows.")
    return np.array([numbers[cell] for cell in column])


def _is_measured(numbers: NDArray[np.float64]) -> bool:
    """Tell whether a column has numbers that are no codes of categories."""
    there = numbers[~np.isnan(numbers)]
    codes = (there == np.floor(there)) & (there >= -1) & (there < _MOST_CODES)
    return bool(np.isfinite(there).all() and not codes.all())


def _whole(column: NDArray[Any], where: str) -> NDArray[np.int64]:
    masked = np.ma.getmaskarray(column)
    numbers = np.ma.getdata(column)
    if numbers.dtype.kind == "f":
        masked = masked | np.isnan(numbers)
        numbers = np.where(masked, -1, numbers)
        broken = np.flatnonzero(numbers != np.floor(numbers))
        if len(broken):
            raise UserError(
                f"{where} holds {numbers[broken[0]]:g}, not a whole number: set 'bins' for"
                " measurements, or bin its values first."
            )
    elif masked.any():
        numbers = np.where(masked, -1, numbers.astype(np.int64))
    if len(numbers) and not -1 <= numbers.min() <= numbers.max() < MOST_CATEGORIES:
        raise UserError(
            f"{where} holds {numbers.min()} to {numbers.max()}: values are 0 to"
            f" {MOST_CATEGORIES - 1:,}, and -1 where one is missing; shift them, or set 'bins'."
        )
    return numbers.astype(np.int64)
