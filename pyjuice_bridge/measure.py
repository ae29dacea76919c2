"""The units of log-likelihoods: bits per dimension of images, perplexity of text, bits per row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """How many nats per value become a figure; of every measure, less is better.

    Attributes:
        unit: its short name, beside a figure.
        title: its name in a sentence.
        rows: what one row of the data is.
        digits: decimals in tables.
        leads: whether the unit precedes the figure.
        of: from -log p in nats, per value that is predicted, to the figure.
    """

    unit: str
    title: str
    rows: str
    digits: int
    leads: bool
    of: Callable[[float], float]

    def text(self, value: float | None) -> str:
        """Format a figure with as many decimals as tables show."""
        return "–" if value is None else f"{value:.{self.digits}f}"

    def phrase(self, value: float | None) -> str:
        """Format a figure with its unit: ``1.1892 bits/dim``, ``perplexity 512.30``."""
        pair = (self.unit, self.text(value)) if self.leads else (self.text(value), self.unit)
        return " ".join(pair)

    def impossible(self, count: int, of: int) -> str:
        """Say how many rows a model rules out: ``3 of 50 images have probability 0``."""
        return f"{count} of {of} {self.rows} have probability 0"


def _bits(nats: float) -> float:
    return nats / math.log(2)


def _perplexity(nats: float) -> float:
    # exp of more is no float.
    return math.exp(nats) if nats < 700 else math.inf


BITS = Measure("bits/dim", "bits per dimension", "images", 4, False, _bits)
"""Per pixel and channel of the original 8-bit image."""

PERPLEXITY = Measure("perplexity", "perplexity", "windows", 2, True, _perplexity)
"""exp(-Σ log p / #tokens) over windows of text, none of which sees another."""

ROW_BITS = Measure("bits/row", "bits per row", "rows", 4, False, _bits)
"""Per row of a table, over all columns together; a missing value costs nothing."""

_KNOWN = {measure.unit: measure for measure in (BITS, PERPLEXITY, ROW_BITS)}


def measure_of(unit: str) -> Measure:
    """Return the measure named in results.json; keep an unknown unit verbatim."""
    return _KNOWN.get(unit) or Measure(unit, unit, "rows", 4, False, float)
