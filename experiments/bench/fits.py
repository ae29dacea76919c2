"""Whether the time of an EM step is linear in samples, in variables and in K²."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from experiments.bench.cases import Case, hclt_problem
from experiments.bench.contest import PeerError, Process, Settings
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
    samples = tuple(_case(side, latents, n) for n in batches)
    variables = tuple(_case(n, latents, batch) for n in sides)
    states = tuple(_case(side, n, batch) for n in widths)
    return [
        Series("samples", batches, samples),
        Series("variables", tuple(n * n for n in sides), variables),
        Series("K²", tuple(n * n for n in widths), states),
    ]


def _case(side: int, latents: int, batch: int) -> Case:
    build = partial(hclt_problem, side, latents, batch, categories=32, batches=1)
    return Case(f"hclt-{side * side}-k{latents}-b{batch}", build, ("em",))


def fit_all(
    wanted: Sequence[Series], entries: Sequence[Entry], settings: Settings
) -> tuple[list[Fit], list[str]]:
    """A line for every series and peer, and why some have none."""
    found, failed = [], []
    with ExitStack() as stack:
        folders = {}
        for case in (case for line in wanted for case in line.cases):
            folders[case.name] = stack.enter_context(tempfile.TemporaryDirectory())
            case.build().save(Path(folders[case.name]))
        for entry in entries:
            try:
                process = Process(entry, Path(next(iter(folders.values()))), settings)
                stack.callback(process.close)
                for line in wanted:
                    times = _times([folders[c.name] for c in line.cases], process, settings)
                    found.append(fit(entry.name, line, times))
            except PeerError as error:
                failed.append(f"{entry.name} against sizes: {error}")
    return found, failed


def _times(folders: Sequence[str], process: Process, settings: Settings) -> list[float]:
    """Milliseconds of an EM step on every problem, in turns; medians."""
    times: list[list[float]] = [[] for _ in folders]
    for _ in range(min(2, settings.rounds)):
        for folder, found in zip(folders, times, strict=True):
            process.ask("load", folder=folder)
            found += process.ask("em", seconds=settings.seconds)
    return [1000 * median(found) for found in times]


def fit(peer: str, line: Series, milliseconds: Sequence[float]) -> Fit:
    """The line through the times of a series."""
    x, y = np.array(line.sizes, float), np.array(milliseconds)
    per_unit, fixed = np.polyfit(x, y, 1)
    rest = y - fixed - per_unit * x
    spread = ((y - y.mean()) ** 2).sum()
    r2 = 1 - (rest**2).sum() / spread if spread else 1.0
    return Fit(peer, line.unit, line.sizes, tuple(y), float(fixed), float(per_unit), float(r2))
