"""The codec of tables: columns of categories or measurements, by name where they have names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import MISSING, Circuit, IntArray
from pyjuice_bridge.codecs.arrays import as_array, as_codes
from pyjuice_bridge.data import bins as binned
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import ROW_BITS

Value = str | int | float | bool


@dataclass(frozen=True, eq=False, repr=False)
class TableCodec:
    """Rows of codes, or tables with named columns: data frames, structured arrays, mappings.

    With measured columns an array of floats is data, NaN where a value is missing, and an array of
    integers is rows of codes.

    Attributes:
        categories: int32 [columns], the number of values of each column.
        columns: their names, empty where they have none.
        values: column → the value behind each code; columns that are not listed hold the codes.
        edges: number of a measured column → the ascending edges of its bins, one more than codes.
    """

    categories: IntArray
    columns: tuple[str, ...] = ()
    values: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    edges: Mapping[int, binned.Edges] = field(default_factory=dict)

    domain = "table"
    measure = ROW_BITS

    def __post_init__(self) -> None:
        sizes = dict(zip(self.columns, self.categories.tolist(), strict=False))
        if self.columns and len(sizes) != len(self.categories):
            raise UserError(
                f"columns: expected {len(self.categories)} different names, got "
                f"{len(self.columns)}, {len(sizes)} of them different."
            )
        for column, values in self.values.items():
            if column not in sizes:
                raise UserError(f"values: there is no column {column!r}.")
            if len(set(values)) != len(values) or len(values) != sizes[column]:
                raise UserError(
                    f"values: column {column!r} needs {sizes[column]} different values, got "
                    f"{len(values)}, {len(set(values))} of them different."
                )
        for number, edges in self.edges.items():
            if not 0 <= number < len(self.categories):
                raise UserError(f"edges: there is no column {number}.")
            count = int(self.categories[number]) + 1
            if len(edges) != count or not (np.diff(edges) > 0).all():
                raise UserError(f"edges: column {number} needs {count} ascending numbers.")

    @classmethod
    def of(cls, circuit: Circuit) -> TableCodec:
        """Return the codec that the circuit's meta describes; without names if it has none.

        Raises:
            UserError: the meta is damaged.
        """
        try:
            columns = json.loads(str(circuit.meta.get("columns", "[]")))
            values = json.loads(str(circuit.meta.get("values", "{}")))
            edges = json.loads(str(circuit.meta.get("edges", "{}")))
            return cls(
                circuit.categories,
                tuple(map(str, columns)),
                {column: tuple(known) for column, known in values.items()},
                {int(column): tuple(map(float, ends)) for column, ends in edges.items()},
            )
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise UserError("meta: columns, values or edges of the table are damaged.") from None

    def __repr__(self) -> str:
        return f"TableCodec({len(self.categories)} columns)"

    def meta(self) -> dict[str, str | int | float]:
        """Return names, values and edges as JSON."""
        meta: dict[str, str | int | float] = {"domain": self.domain}
        if self.columns:
            meta["columns"] = json.dumps(self.columns)
        if self.values:
            meta["values"] = json.dumps({k: list(v) for k, v in self.values.items()})
        if self.edges:
            meta["edges"] = json.dumps({k: list(v) for k, v in self.edges.items()})
        return meta

    def facts(self) -> list[tuple[str, str]]:
        """Return the first names."""
        shown = ", ".join(self.columns[:4]) + (" …" if len(self.columns) > 4 else "")
        return [("columns", shown)] if shown else []

    def encode(self, data: Any, name: str = "x") -> NDArray[Any]:
        """Return a table, or rows, as codes int [N, columns], -1 where missing.

        Floats may hold whole numbers, NaN where missing.
        """
        table = _named(data)
        if table is None:
            return self._rows(data, name)
        if not self.columns:
            raise UserError(f"{name}: the circuit's columns have no names; give rows of codes.")
        self._check_columns(list(table), name)
        parts = [self._codes(i, c, table[c], name) for i, c in enumerate(self.columns)]
        if len({part.shape for part in parts}) > 1 or parts[0].ndim != 1:
            raise UserError(f"{name}: the columns must be one-dimensional and of one length.")
        return np.stack(parts, axis=1)

    def decode(self, rows: NDArray[Any], like: Any = None) -> NDArray[Any]:
        """Return rows as a structured array, or as floats where columns without names are measured.

        A measurement is the middle of its bin, or what ``like`` has there.  Rows stay codes where
        ``like`` holds codes, and where columns have neither names nor measurements.
        """
        table = _named(like)
        if table is not None or (like is None and self.columns):
            columns = {
                column: self._values(i, rows[..., i], None if table is None else table[column])
                for i, column in enumerate(self.columns)
            }
            named = np.empty(rows.shape[:-1], [(c, found.dtype) for c, found in columns.items()])
            for column, found in columns.items():
                named[column] = found
            return named
        array = None if like is None else as_array(like, "evidence")
        if not self.edges or (array is not None and array.dtype.kind != "f"):
            return rows
        values = np.where(rows == MISSING, np.nan, rows)
        for i in self.edges:
            values[..., i] = self._values(i, rows[..., i], None if array is None else array[:, i])
        return values

    def log_preimage(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return the log volume of each row's bins; zeros where no column is measured.

        A row of categories is one row of values.
        """
        return sum(
            (binned.log_widths(rows[:, i], edges) for i, edges in self.edges.items()),
            np.zeros(len(rows)),
        )

    def units(self, rows: NDArray[Any]) -> int:
        """Return the number of rows."""
        return len(rows)

    def _check_columns(self, given: list[Any], name: str) -> None:
        for column in self.columns:
            if column not in given:
                raise UserError(
                    f"{name}: there is no column {column!r}; give it with -1 or NaN where it is "
                    "not known."
                )
        for column in given:
            if column not in self.columns:
                raise UserError(f"{name}: column {column!r} is not in the circuit; drop it.")

    def _rows(self, data: Any, name: str) -> NDArray[Any]:
        """Return an array of data or of codes as codes."""
        array = as_array(data, name)
        if not self.edges or array.dtype.kind != "f":
            return as_codes(array, name, floats=True)
        if array.ndim != 2 or array.shape[1] != len(self.categories):
            raise UserError(
                f"{name}: expected floats [N, {len(self.categories)}], got shape {array.shape}."
            )
        parts = [
            binned.codes(array[:, i], self.edges[i], f"{name}: column {i}")
            if i in self.edges
            else as_codes(array[:, i], f"{name}: column {i}", floats=True)
            for i in range(array.shape[1])
        ]
        return np.stack(parts, axis=1)

    def _codes(self, number: int, column: str, data: Any, name: str) -> NDArray[Any]:
        missing = np.asarray(data.isna()) if hasattr(data, "isna") else None
        place = f"{name}: column {column!r}"
        if missing is not None and column not in self.values:
            data = _floats(np.where(missing, np.nan, np.asarray(data, object)), place)
        if number in self.edges:
            return binned.codes(_floats(as_array(data, place), place), self.edges[number], place)
        if column not in self.values:
            return as_codes(data, place, floats=True).astype(np.int32)
        codes = {value: code for code, value in enumerate(self.values[column])}
        array = as_array(data, name)
        out = np.full(array.shape, MISSING, np.int32)
        for i, value in enumerate(array.tolist()):
            if (missing is not None and missing[i]) or value is None or value != value:
                continue
            if value not in codes and value == MISSING:
                continue
            if value not in codes:
                known = ", ".join(map(repr, self.values[column][:5]))
                raise UserError(
                    f"{name}: column {column!r}, row {i}: {value!r} is not one of its values: "
                    f"{known}"
                    f"{' …' if len(codes) > 5 else ''}."
                )
            out[i] = codes[value]
        return out

    def _values(self, number: int, codes: NDArray[Any], given: Any) -> NDArray[Any]:
        """Return a column's values behind codes, None or NaN where a code is missing.

        Measurements that were ``given`` stay as they are.
        """
        if number in self.edges:
            middles = binned.middles(codes, self.edges[number])
            if given is None:
                return middles
            exact = _floats(as_array(given, "evidence"), "evidence")
            exact = exact.reshape(-1, *[1] * (codes.ndim - 1))
            return np.where(np.isnan(exact), middles, exact)
        column = self.columns[number]
        if column not in self.values:
            return codes
        known, missing = self.values[column], (codes == MISSING).any()
        kinds = {type(value) for value in known}
        values: NDArray[Any] = np.array(known)
        if missing or len(kinds) > 1:
            values = np.array([*known, None], object)
        return np.asarray(values[codes])


def _floats(column: NDArray[Any], name: str) -> NDArray[np.float64]:
    try:
        return column.astype(np.float64)
    except (ValueError, TypeError):
        raise UserError(f"{name}: expected integers, or floats with NaN where missing.") from None


def _named(data: Any) -> Mapping[str, Any] | None:
    """Return a table's columns by name, None if ``data`` is a plain array."""
    if data is None or isinstance(data, Mapping):
        return data
    if isinstance(data, np.ndarray) and data.dtype.names:
        return {column: data[column] for column in data.dtype.names}
    if hasattr(data, "columns"):  # a data frame
        return {column: data[column] for column in data.columns}
    return None
