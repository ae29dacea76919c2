"""A table's own columns as features: what a column says together with those it depends on most."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pyjuice_bridge.circuit.chow_liu import mutual_information
from pyjuice_bridge.sections import at_most
from pyjuice_bridge.teachers.base import FloatArray, Rows, TeacherInputs, TeacherSection

_ROWS = 20_000
"""Rows that mutual information is estimated from, at most."""
_WIDE = 8
"""Most values of a column for one-hot vectors; columns with more are numbers."""


class ColumnsSection(TeacherSection):
    """A column's value and those of the ``neighbours`` columns that it depends on most."""

    domains = ("table",)
    kind: Literal["columns"]
    neighbours: Annotated[int, Field(ge=0), at_most(4096, "a vector has as many parts")] = 8

    def make(self, inputs: TeacherInputs) -> ColumnTeacher:
        """Find the neighbours of every column in the training rows."""
        assert inputs.categories is not None
        return ColumnTeacher(inputs.samples, inputs.categories, self.neighbours, inputs.seed)


class ColumnTeacher:
    """Describes a column of a row by its own value and those of the columns nearest to it.

    Nearness is the mutual information in the training rows.  A value is one of several numbers, one
    for each value that the column may take, where these are few, else one number from 0 to 1; both
    are centred on the training rows, and a missing value is the centre.

    Args:
        train: int [N, D], -1 where a value is missing.
        categories: int32 [D].
        neighbours: columns beside the own one, at most.
        seed: of the rows that information is estimated from.
    """

    def __init__(
        self, train: NDArray[Any], categories: NDArray[np.int32], neighbours: int, seed: int
    ) -> None:
        self._categories = categories
        information = mutual_information(train, categories, rows=_ROWS, seed=seed)
        np.fill_diagonal(information, np.inf)
        count = min(neighbours + 1, len(categories))
        self.nearest = np.argsort(-information, axis=1, kind="stable")[:, :count]
        """int [D, columns], the own column first."""
        self._width = max(_parts(int(size)) for size in categories)
        self._centres = np.zeros((len(categories), self._width), np.float32)
        for column in range(len(categories)):
            observed = train[:, column][train[:, column] >= 0]
            if len(observed):
                self._centres[column] = self._coded(column, observed).mean(axis=0)

    def embed(self, samples: NDArray[Any], /) -> FloatArray:
        """Return float32 [N, D, columns * width]."""
        return self.lazy(samples).read(slice(None), slice(None))

    def lazy(self, samples: NDArray[Any]) -> ColumnEmbeddings:
        """Return the vectors of rows, made when read."""
        return ColumnEmbeddings(self, samples)

    def describe(self) -> dict[str, Any]:
        """Return the settings; which columns are near follows from the data."""
        return {"kind": "columns", "neighbours": self.nearest.shape[1] - 1}

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.nearest.shape[1]) * self._width

    def values(self, column: int, x: NDArray[Any]) -> FloatArray:
        """Return the numbers of a column's values int [N], float32 [N, width]."""
        coded: FloatArray = self._coded(column, np.maximum(x, 0)) - self._centres[column]
        coded[x < 0] = 0
        return coded

    def _coded(self, column: int, x: NDArray[Any]) -> FloatArray:
        size = int(self._categories[column])
        out = np.zeros((len(x), self._width), np.float32)
        if _parts(size) == 1:
            out[:, 0] = x / max(1, size - 1)
        else:
            out[np.arange(len(x)), x] = np.sqrt(0.5)
        return out


class ColumnEmbeddings:
    """The vectors of a table's rows, made when read: float32 [N, D, dim]."""

    def __init__(self, teacher: ColumnTeacher, samples: NDArray[Any]) -> None:
        self._teacher, self._samples = teacher, samples

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, D, dim)."""
        rows, columns = self._samples.shape
        return rows, columns, self._teacher.dim

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        """Return the vectors float32 [rows, positions, dim] of the chosen rows and columns."""
        x = self._samples[rows]
        nearest = self._teacher.nearest[positions]
        coded = {int(c): self._teacher.values(int(c), x[:, c]) for c in np.unique(nearest)}
        parts = [np.concatenate([coded[int(c)] for c in row], axis=1) for row in nearest]
        return np.stack(parts, axis=1)


def _parts(size: int) -> int:
    """Return how many numbers describe a value of a column with ``size`` values."""
    return size if 2 < size <= _WIDE else 1
