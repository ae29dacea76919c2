"""Whether the time of an EM step is linear in samples, in variables and in K²."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from experiments.bench.cases import Case, hclt_problem
from experiments.bench.contest import Settings, run
from experiments.bench.contestants import Entry


@dataclass(frozen=True)
class Series:
    """HCLTs that differ in one size.

    Attributes:
        unit: what the size counts.
        sizes: its values, one for each case.
    """

    unit: str
    sizes: tuple[int, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Fit:
    """Least squares: milliseconds = ``fixed`` + ``per_unit`` · size."""

    peer: str
    unit: str
    sizes: tuple[int, ...]
    milliseconds: tuple[float, ...]
    fixed: float
    per_unit: float
    r2: float


def series(*, quick: bool) -> list[Series]:
    """Three series; the quick ones are far too small to be lines."""
    side, latents, batch = (3, 4, 16) if quick else (12, 64, 256)
    batches = tuple(batch * n for n in (1, 2, 3, 4))
    sides = tuple(side + n * (1 if quick else 4) for n in range(4))
    widths = tuple(latents * n for n in (1, 2, 3, 4))
    return [
        Series("samples", batches, tuple(_case(side, latents, n) for n in batches)),
        Series("variables", tuple(n * n for n in sides), tuple(_case(n, latents, batch) for n in sides)),
        Series("K²", tuple(n * n for n in widths), tuple(_case(side, n, batch) for n in widths)),
    ]  # fmt: skip


def _case(side: int, latents: int, batch: int) -> Case:
    build = partial(hclt_problem, side, latents, batch, categories=32, batches=1)
    return Case(f"hclt-{side * side}-k{latents}-b{batch}", build, ("em",))


def fit_all(wanted: Sequence[Series], entries: Sequence[Entry], settings: Settings) -> list[Fit]:
    """A line for every series and peer; those that a case has no time of are left out."""
    found = []
    settings = replace(settings, rounds=min(2, settings.rounds))
    for line in wanted:
        results = [run(case, entries, settings) for case in line.cases]
        for entry in entries:
            rows = [row for r in results for row in r.peers if row.peer == entry.name]
            times = [row.median("em") for row in rows]
            seconds = [t for t in times if t is not None]
            if len(seconds) == len(line.sizes):
                found.append(fit(entry.name, line, [1000 * s for s in seconds]))
    return found


def fit(peer: str, line: Series, milliseconds: Sequence[float]) -> Fit:
    """The line through the times of a series."""
    x, y = np.array(line.sizes, float), np.array(milliseconds)
    per_unit, fixed = np.polyfit(x, y, 1)
    rest = y - fixed - per_unit * x
    spread = ((y - y.mean()) ** 2).sum()
    r2 = 1 - (rest**2).sum() / spread if spread else 1.0
    return Fit(peer, line.unit, line.sizes, tuple(y), float(fixed), float(per_unit), float(r2))
