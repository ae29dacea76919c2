"""Grids over fields of a config, and the names of their points."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Point = Mapping[str, Any]
"""From the fields that a sweep varies, as ``circuit.latents``, to their values."""
Grid = dict[str, list[Any]]
SECTIONS = ("circuit", "train", "cluster", "teacher")
"""Those that a sweep may vary; all its arms share the data."""
MOST_POINTS = 100
_RENAMED = {"states": "circuit.states", "pseudocounts": "train.pseudocount"}
_LONGEST = 40
"""Characters of a value in the name of a file."""


def grids_of(value: Any) -> Any:
    """Return a sweep as a list of grids of dotted fields; what is none is left to be refused."""
    if isinstance(value, Mapping):
        return [dict(_flat(value))]
    if isinstance(value, list):
        return [dict(_flat(grid)) if isinstance(grid, Mapping) else grid for grid in value]
    return value


def _flat(grid: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, values in grid.items():
        if isinstance(values, Mapping):
            yield from _flat(values, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", values


def check_grids(grids: Sequence[Grid]) -> None:
    """Refuse fields that cannot be varied, and points that are listed twice, by ValueError."""
    for grid in grids:
        if not grid:
            raise ValueError("names no field to vary, as in 'circuit.latents: [16, 32]'")
        for name, values in grid.items():
            if name in _RENAMED:
                raise ValueError(f"the field '{name}' is now '{_RENAMED[name]}'")
            section, dot, _ = name.partition(".")
            if not dot or section not in SECTIONS:
                raise ValueError(
                    f"'{name}' is no field of {', '.join(SECTIONS[:-1])} or {SECTIONS[-1]}, which "
                    "are what a sweep varies, as in 'circuit.latents: [16, 32]'"
                )
            if not values:
                raise ValueError(f"'{name}' lists no values")
    points = points_of(grids)
    if len(points) > MOST_POINTS:
        raise ValueError(f"has {len(points):,} points, but may have at most {MOST_POINTS}")
    labels = [label_of(point) for point in points]
    for i, label in enumerate(labels):
        if label in labels[:i]:
            raise ValueError(f"the point '{words_of(points[i])}' is listed twice")
    if len({tuple(point) for point in points}) > 1:
        raise ValueError("all its grids must vary the same fields, in the same order")


def points_of(grids: Sequence[Grid]) -> list[dict[str, Any]]:
    """List all combinations of the values of every grid, the last field fastest."""
    return [
        dict(zip(grid, values, strict=True))
        for grid in grids
        for values in itertools.product(*grid.values())
    ]


def words_of(point: Point) -> str:
    """Describe a point: ``16 latents, pseudocount 0.1``."""
    parts = []
    for name, value in point.items():
        short = short_name(name, point)
        counted = type(value) is int and name.endswith("s")
        parts.append(f"{text(value)} {short}" if counted else f"{short} {text(value)}")
    return ", ".join(parts)


def short_name(name: str, point: Point) -> str:
    """Return a field's name without its section, where it is the only one of that name."""
    short = name.partition(".")[2]
    others = [other.partition(".")[2] for other in point if other != name]
    return name if short in others else short


def text(value: object) -> str:
    """Return a value as a reader writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return " ".join(f"{name} {text(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(text, value))
    return str(value)


def label_of(point: Point) -> str:
    """Name a point in the names of files: ``16-0.1``."""
    values = (re.sub(r"[^A-Za-z0-9.-]+", "_", str(value)).strip("_") for value in point.values())
    return "-".join(value[-_LONGEST:] for value in values)
