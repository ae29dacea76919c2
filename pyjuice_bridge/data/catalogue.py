"""The catalogue: the data sets known by name, from ``sets.yaml``, and the photographs' list.

A new set is one entry of ``sets.yaml`` and, where none of the readers fits its files, one reader.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from pyjuice_bridge.data.packages import Package
from pyjuice_bridge.errors import UserError

Domain = Literal["images", "text", "table"]


@dataclass(frozen=True)
class PublishedFile:
    """One file: its name in the cache, the sha256 of its unpacked bytes, and where it is.

    Attributes:
        member: its path in the package that carries it.
        url: its public address, where it has one of its own; the file there may be gzip.
    """

    name: str
    sha256: str
    member: str = ""
    url: str | None = None


@dataclass(frozen=True)
class Archive:
    """A public tar or zip archive, its sha256, and a file name pattern of what is wanted."""

    url: str
    sha256: str
    pattern: str


@dataclass(frozen=True)
class DataSet:
    """A data set known by name.

    Attributes:
        about: what it is, in a few words.
        published: what is known of a set that is not on this machine: sizes of its splits, and
            ``shape`` and ``categories`` of images, ``vocabulary`` of text, ``columns`` of tables.
        reader: which reader of its domain reads the files, with ``options``.
        small: fetched when it is first used.
        package: the package that carries ``files``; ``module`` holds them once it is installed.
        labels: files of labels, in the order of ``files``; images alone are read without them.
        folders: names of folders that its files come in.
        by_hand: what to put where, for a set that no registry or address carries.
        family: the collection that the set belongs to, and shares a folder with.
    """

    name: str
    domain: Domain
    about: str
    reader: str
    options: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    small: bool = False
    package: Package | None = None
    module: str | None = None
    files: tuple[PublishedFile, ...] = ()
    labels: tuple[PublishedFile, ...] = ()
    archives: tuple[Archive, ...] = ()
    folders: tuple[str, ...] = ()
    by_hand: str = ""
    family: str = ""

    @property
    def folder(self) -> str:
        """The folder's name in the cache."""
        return self.family or self.name

    def how_to_get(self, folder: Path) -> str:
        """Say how to get its files into a folder."""
        if self.by_hand:
            what = self.by_hand.format(name=self.name, folder=folder)
            return f"{what}, or set root to a folder that holds them"
        return (
            f"run `python -m pyjuice_bridge data get {self.name}`,"
            " or set root to a folder that holds its files"
        )


@dataclass(frozen=True)
class Photo:
    """One photograph: the package that carries it, its path there, its sha256."""

    package: Package
    member: str
    sha256: str


def names_of(domain: Domain) -> tuple[str, ...]:
    """Return the names of a domain's sets."""
    return tuple(name for name, entry in SETS.items() if entry.domain == domain)


def known_set(source: object, domain: Domain | None = None) -> DataSet | None:
    """Return the set that ``source`` names (``nltcs`` or ``debd/nltcs``), None if it names none."""
    family, _, name = str(source).rpartition("/")
    entry = SETS.get(name)
    if entry is None or domain not in (None, entry.domain) or family not in ("", entry.family):
        return None
    return entry


def unknown_set(name: str, domain: Domain | None = None) -> UserError:
    """Return the error for an unknown name or path."""
    if domain and name in SETS:
        kind = SETS[name].domain
        return UserError(f"{name} is {kind}, not {domain}: use data.kind {kind}.")
    names = names_of(domain) if domain else tuple(SETS)
    near = difflib.get_close_matches(name, SETS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    what = {"text": "text", "table": "table"}.get(str(domain), "data set")
    return UserError(f"There is no {what} or path {name[:80]} (known: {', '.join(names)}){hint}")


def photographs() -> tuple[Photo, ...]:
    """Read the list of the photographs of ``natural_patches``.

    Chosen by eye: photographs in colour; drawings, renderings and grey pictures of the same
    packages are left out, and so is the second view of the same scene where there are two.
    """
    rows = csv.DictReader(_resource("photos.csv").splitlines())
    return tuple(
        Photo(_package({row["registry"]: row["package"]}), row["member"], row["sha256"])
        for row in rows
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _package(value: Mapping[str, str]) -> Package:
    ((registry, name),) = value.items()
    return Package(registry, name)  # type: ignore[arg-type]


def _entries(name: str, row: dict[str, Any]) -> Iterator[DataSet]:
    for kind in ("files", "labels"):
        row[kind] = tuple(PublishedFile(**file) for file in row.get(kind, ()))
    row["archives"] = tuple(Archive(**archive) for archive in row.get("archives", ()))
    row["folders"] = tuple(row.get("folders", ()))
    row["package"] = _package(row["package"]) if "package" in row else None
    members: Mapping[str, Mapping[str, int]] = row.pop("members", {})
    for member, published in members.items():
        yield DataSet(member, **row, published=published, family=name)
    if not members:
        yield DataSet(name, **row)


def _read_sets() -> dict[str, DataSet]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    rows: Mapping[str, dict[str, Any]] = yaml.load(_resource("sets.yaml"), Loader=loader)
    entries: Sequence[DataSet] = [e for name, row in rows.items() for e in _entries(name, row)]
    return {entry.name: entry for entry in entries}


SETS: dict[str, DataSet] = _read_sets()
