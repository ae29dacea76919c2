"""What a kind of data has to offer: its config section, its rows, and what a report shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import IntArray
from pyjuice_bridge.measure import Measure


@dataclass(frozen=True, eq=False)
class Prepared:
    """Data as circuits read them.

    Attributes:
        rows: per split int [N, variables], -1 where a value is missing.
        categories: int32 [variables], the number of values of each variable.
        measure: in which figures on the data are reported.
        observed: per split the mean number of values of a row that count for the measure.
        correction: per split the mean of what is taken off a row's log p, in nats, before.
        key: names the data in the hashes of artifacts.
    """

    rows: Mapping[str, NDArray[Any]]
    categories: IntArray
    measure: Measure
    observed: Mapping[str, float]
    correction: Mapping[str, float]
    key: str

    def value(self, split: str, log_p: float) -> float:
        """Return the measure's figure for a split's mean log p of rows, in nats."""
        return self.measure.of(-(log_p - self.correction[split]) / self.observed[split])

    def facts(self) -> dict[str, Any]:
        """Return what ``results.json`` records about the data."""
        raise NotImplementedError

    def meta(self) -> dict[str, str | int | float]:
        """Return what a model needs to know about its data."""
        raise NotImplementedError


@dataclass(frozen=True)
class Shape:
    """The shape of a data set that need not be there, for plans.

    Attributes:
        train: training rows.
        valid: validation rows.
        categories: int32 [variables].
        row_bytes: memory of a training row.
        sides: (height, width, channels) of images, else None.
        note: the data in a sentence.
    """

    train: int
    valid: int
    categories: IntArray
    row_bytes: int
    sides: tuple[int, int, int] | None
    note: str
