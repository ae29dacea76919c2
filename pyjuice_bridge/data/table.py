"""``load_table``: rows of categories, as train, valid and test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.bins import Edges
from pyjuice_bridge.data.catalogue import names_of
from pyjuice_bridge.data.dataset import limited
from pyjuice_bridge.data.obtain import find
from pyjuice_bridge.data.readers import mapping_splits
from pyjuice_bridge.data.splits import (
    SPLITS,
    Division,
    Found,
    Rows,
    SplitData,
    by_shares,
    divided,
    share,
    whole_number,
)
from pyjuice_bridge.data.table_codes import Coding, RawTable
from pyjuice_bridge.data.table_readers import (
    from_array,
    from_frame,
    is_frame,
    own,
    read_data_files,
)
from pyjuice_bridge.errors import UserError

Cells = NDArray[np.int32]


@dataclass(frozen=True, eq=False, repr=False)
class TableDataset(SplitData):
    """A table of categories in three splits.

    Attributes:
        name: the set's name, or the last part of the path it came from.
        columns: the columns' names; ``x0``, ``x1``, … where the source has none.
        categories: int32 [D], number of values of each column, one more than its largest in train.
        train: int32 [N, D], values from 0; -1 where one is missing.
        valid: int32 [N, D], the source's own, or rows of its training split by seed.
        test: int32 [N, D], the source's own, or rows of the source, the same for every seed.
        values: the text behind each code, of columns of text.
        edges: of measured columns, by number, the edges of their bins.
        meta: JSON-able provenance: ``source``, ``sources`` (where each split comes from), ``seed``,
            ``limit``.
    """

    counted = "rows"

    name: str
    columns: tuple[str, ...]
    categories: NDArray[np.int32]
    train: Cells
    valid: Cells
    test: Cells
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    edges: Mapping[int, Edges] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 over columns, categories, values, edges and cells."""
        head = [self.columns, self.categories.tolist(), dict(self.values), self.counts]
        head += [dict(self.edges)] if self.edges else []
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        for split in SPLITS:
            digest.update(np.ascontiguousarray(getattr(self, split), "<i4").data)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """Return what identifies this table, as JSON-able values."""
        return {
            "name": self.name,
            "columns": list(self.columns),
            "categories": self.categories.tolist(),
            "rows": self.counts,
            "sha256": self.fingerprint,
            **self.meta,
        }


def table_names() -> tuple[str, ...]:
    """Return the names of the known tables."""
    return names_of("table")


def load_table(
    source: str | Path | NDArray[Any] | Mapping[str, NDArray[Any]],
    *,
    root: Path | str | None = None,
    valid: float | None = None,
    test: float | None = None,
    seed: int = 0,
    limit: int | None = None,
    bins: int | None = None,
) -> TableDataset:
    """Load a table by name, or a user's own by path or as arrays.

    Integers from 0, booleans and whole floats are values as they are; -1, NaN, empty cells, ``NA``
    and masked ones are missing.  A column with text has one value for each distinct text of train,
    in alphabetical order.  A value of the source's own valid or test split that train lacks is
    refused: no model of train gives it a probability.  With ``bins``, fractions and
    numbers below -1 or above 255 make a column of measurements, cut into bins at train's quantiles;
    there -1 is a number like others.

    Args:
        source: one of :func:`table_names` (``nltcs`` or ``debd/nltcs``); a ``.csv`` or ``.data``
            file (commas, with or without a line of names), a ``.npy``, ``.npz`` or ``.parquet``
            file, or a folder of one kind of these with a file or folder for each split; an array
            [N, D] or a data frame; or a mapping with such ``train`` and, where there are some,
            ``valid`` and ``test``.
        root: for a table known by name: a folder with its files, or with a folder ``debd``.
        valid: share of the rows moved from train to valid by the seed, a tenth by default.  Not
            allowed where the source has a valid split of its own.
        test: the same for test, but independent of the seed.
        seed: chooses the validation rows (and those kept by ``limit``).
        limit: at most this many rows in each split, for trials.
        bins: of columns of measurements; None takes no column as measured.

    Raises:
        UserError: unknown name, missing or damaged files, cells that are no categories, or more
            categories or cells than :mod:`.table_codes` takes.
    """
    seed = whole_number("seed", seed, 0)
    limit = None if limit is None else whole_number("limit", limit)
    asked = {"valid": share("valid", valid), "test": share("test", test)}
    name, found = find(source, root, "table", memory=_memory, read=read_data_files, own=own)
    coding = Coding.of(found.parts["train"], name, bins)
    cells = {split: coding.encode(raw, f"{name}, {split}") for split, raw in found.parts.items()}
    done = divided(name, Found(cells, found.sources), _ROWS, by_shares(**asked), asked, seed)
    return TableDataset(
        name=name,
        columns=coding.columns,
        categories=coding.categories,
        **{split: limited(part, limit, seed) for split, part in done.parts.items()},
        values=coding.values,
        edges=coding.edges,
        meta={**found.meta, "sources": done.sources, "seed": seed, "limit": limit},
    )


def _take(cells: Cells, rows: Rows) -> tuple[Cells, Cells]:
    moved = np.zeros(len(cells), bool)
    moved[rows] = True
    return cells[~moved], cells[moved]


_ROWS: Division[Cells] = Division("rows", len, _take)


def _memory(source: Any) -> tuple[str, Found[RawTable]]:
    memory = {"source": ["memory"]}
    if isinstance(source, np.ndarray) or is_frame(source):
        return "array", Found({"train": _raw(source, "array")}, {"train": "the array"}, memory)
    if isinstance(source, Mapping):
        keys = mapping_splits(source, "table: arrays")
        parts = {split: _raw(source[key], f"array {key}") for split, key in keys.items()}
        return "arrays", Found(parts, {s: f"array {k}" for s, k in keys.items()}, memory)
    raise UserError(
        f"table: a {type(source).__name__} cannot be read; give an array [N, D], a data frame, a"
        " mapping with train, valid, test, a name or a path."
    )


def _raw(table: Any, where: str) -> RawTable:
    return from_frame(table) if is_frame(table) else from_array(table, where)
