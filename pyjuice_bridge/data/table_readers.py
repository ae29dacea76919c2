"""Readers of tables: CSV, ``.data``, ``.npy``, ``.npz`` and parquet files, and folders of them."""

from __future__ import annotations

import csv
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyjuice_bridge.data.catalogue import DataSet
from pyjuice_bridge.data.files import check_unpacked, reading
from pyjuice_bridge.data.formats import map_npy, read_npz_array
from pyjuice_bridge.data.readers import npz_splits
from pyjuice_bridge.data.splits import SPLITS, Found, files_by_split, in_words, refuse_without_train
from pyjuice_bridge.data.table_codes import MOST_CELLS, Column, RawTable, is_value
from pyjuice_bridge.data.text_wiki import lines_of
from pyjuice_bridge.errors import UserError

Header = tuple[str, ...] | None


def own(path: Path) -> Found[RawTable]:
    """Read a user's table: a file, or a folder with a file or folder for each split.

    Raises:
        UserError: nothing readable is there, several kinds of files are, or no split is train.
    """
    meta = {"source": [str(path)]}
    if path.suffix.lower() == ".npz":
        keys = npz_splits(path)
        parts = {
            split: from_array(read_npz_array(path, key), f"{path}: {key}")
            for split, key in keys.items()
        }
        return Found(parts, keys, meta)
    if path.is_file():
        return Found({"train": _read([path])}, {"train": path.name}, meta)
    groups = files_by_split(path, _READERS)
    if "" in groups and len(groups[""]) == 1:
        groups = {"train": groups[""]}
    refuse_without_train(
        [split for split in groups if split], f"{path}, of {len(groups.get('', []))} tables,"
    )
    train = _read(groups["train"])
    parts = {s: train if s == "train" else _read(files, train.names) for s, files in groups.items()}
    sources = {s: in_words(files, path) for s, files in groups.items()}
    return Found(parts, sources, meta)


def read_data_files(entry: DataSet, folder: Path) -> Found[RawTable]:
    """Read a set of which every split is one file, ``nltcs.train.data``."""
    files = {split: folder / f"{entry.name}.{split}.data" for split in SPLITS}
    for file in files.values():
        if not file.is_file():
            how = entry.how_to_get(folder)
            raise UserError(f"{entry.name} is incomplete in {folder} (no {file.name}): {how}.")
    least = int(entry.options["categories"])
    parts = {split: replace(_read([file]), at_least=least) for split, file in files.items()}
    return Found(parts, {s: file.name for s, file in files.items()}, {"source": [str(folder)]})


def is_frame(data: object) -> bool:
    """Tell whether data is a data frame, whose columns have names."""
    return hasattr(data, "columns") and hasattr(data, "dtypes")


def from_frame(frame: Any) -> RawTable:
    """Take the cells of a data frame, None where one is missing."""
    columns = []
    for name in frame.columns:
        cells = np.asarray(frame[name], object)
        cells[np.asarray(frame[name].isna())] = None
        columns.append(cells.tolist())
    return RawTable(tuple(map(str, frame.columns)), columns)


def from_array(array: Any, where: str) -> RawTable:
    """Take an array [N, D] of integers, booleans, whole floats or strings.

    Raises:
        UserError: something else.
    """
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "biufU":
        shape = getattr(array, "shape", "?")
        kind = getattr(array, "dtype", type(array).__name__)
        raise UserError(
            f"{where} is {kind} of shape {shape}: a table is an array [N, D] of integers, booleans,"
            " whole floats or strings."
        )
    columns: Sequence[Column] = array.T.tolist() if array.dtype.kind == "U" else list(array.T)
    return RawTable(None, columns)


def _read(files: Sequence[Path], header: Header = None) -> RawTable:
    """Read the files of a split one after the other; later ones may repeat the names."""
    endings = {file.suffix.lower() for file in files}
    if len(endings) > 1 or not endings.issubset(_READERS):
        raise UserError(
            f"{files[0]}: a table is one kind of file, {', '.join(sorted(_READERS))} or .npz."
        )
    tables: list[RawTable] = []
    for file in files:
        tables.append(_READERS[file.suffix.lower()](file, header))
        header = tables[0].names if header is None else header
    first = tables[0]
    for file, table in zip(files, tables, strict=True):
        if len(table.columns) != len(first.columns) or table.names not in (None, first.names):
            raise UserError(f"{file} has other columns than {files[0]}: bring them to one form.")
    if len(tables) == 1:
        return first
    parts = zip(*(table.columns for table in tables), strict=True)
    return RawTable(first.names, [_joined(columns) for columns in parts])


def _joined(columns: Sequence[Column]) -> Column:
    if all(isinstance(column, np.ndarray) for column in columns):
        return np.concatenate(columns)
    return [cell for column in columns for cell in column]


def _read_csv(path: Path, header: Header) -> RawTable:
    """Read comma-separated lines; a first line of words is names if no column repeats its word."""
    lines = [line for line in lines_of(path) if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty: a table has at least one row.")
    with reading(path, "a table", "write it as comma-separated UTF-8 text"):
        first = tuple(cell.strip() for cell in next(csv.reader(lines[:1])))
        if len(first) > 2 and first == tuple(map(str, range(len(first)))):
            raise UserError(
                f"{path}: the first line numbers the columns from 0, as pandas does: give them"
                " names, or leave the line out (header=False)."
            )
        words = not any(map(is_value, first)) and len(set(first)) == len(first)
        skipped = first == header or words
        numbers = _numbers(lines[skipped:])
        if numbers is not None:
            return RawTable(first if skipped else None, list(numbers.T))
        rows = list(csv.reader(lines))
        for number, row in enumerate(rows, 1):
            if len(row) != len(first):
                raise UserError(
                    f"{path}: row {number} has {len(row)} cells and the first has {len(first)}:"
                    " a table has the same columns in every row."
                )
        columns = list(zip(*rows, strict=True))
        named = words and header is None and not any(c[0] in c[1:] for c in columns)
        if first == header or named:
            return RawTable(first, [column[1:] for column in columns])
        for head, *others in columns:
            if others and not is_value(head) and all(map(is_value, set(others))):
                raise UserError(
                    f"{path}: the first line has {head!r} over a column of numbers, and is no line"
                    " of names: name every column once, as in train, or leave the line out."
                )
        return RawTable(None, columns)


def _numbers(lines: Sequence[str]) -> Any:
    """Return integers [N, D] if every cell is one, otherwise None."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return np.loadtxt(lines, np.int64, comments=None, delimiter=",", ndmin=2)
    except (ValueError, OverflowError):
        return None


def _read_npy(path: Path, _: Header) -> RawTable:
    return from_array(map_npy(path), str(path))


def _read_parquet(path: Path, _: Header) -> RawTable:
    try:
        pyarrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(f"{path} needs pyarrow to be read: pip install -e '.[text]'.") from None
    with reading(path, "parquet"):
        facts = parquet.read_metadata(path)
        if facts.num_rows * facts.num_columns > MOST_CELLS:
            raise UserError(f"{path} has more than {MOST_CELLS:,} cells: take part of it.")
        groups = [facts.row_group(i).total_byte_size for i in range(facts.num_row_groups)]
        cells = 4 * facts.num_rows * facts.num_columns
        check_unpacked(path, path.stat().st_size, max(sum(groups), cells))
        names = facts.schema.to_arrow_schema().names
        table = parquet.read_table(path, partitioning=None, read_dictionary=names)
        columns = [_column(column, pyarrow.types) for column in table.columns]
        return RawTable(tuple(table.column_names), columns)


def _column(column: Any, types: Any) -> Column:
    if types.is_integer(column.type) or types.is_floating(column.type):
        return column.to_numpy()  # type: ignore[no-any-return]
    if not types.is_dictionary(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    cells: list[Any] = []
    for chunk in column.chunks:
        values = [*chunk.dictionary.to_pylist(), None]
        cells += [values[i] for i in chunk.indices.fill_null(len(values) - 1).to_pylist()]
    return cells


_READERS: Mapping[str, Callable[[Path, Header], RawTable]] = {
    ".csv": _read_csv,
    ".data": _read_csv,
    ".npy": _read_npy,
    ".parquet": _read_parquet,
}
