"""Cluster ids of every row and position: the values of the latent variables."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.cluster.kmeans import assign
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import Embeddings, Progress

FORMAT = "juice-bridge-assignments"
VERSION = 1
BLOCK = 1 << 24
"""Floats read from embeddings at a time."""

Attribute = str | int | float | bool


@dataclass(frozen=True, eq=False)
class Assignments:
    """Latent values made by clustering, and what is needed to assign new data.

    Attributes:
        z: per split int32 [N, positions], the cluster of every row and position.
        clusters: K; every id is in 0..K-1.
        centroids: float32 [P, K, D], P = 1 when positions share their clusters; None for ids
            that came from elsewhere.
        attributes: plain facts about the teacher and the clustering.
    """

    z: dict[str, NDArray[np.int32]]
    clusters: int
    centroids: NDArray[np.float32] | None = None
    attributes: dict[str, Attribute] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def positions(self) -> int:
        return int(next(iter(self.z.values())).shape[1])

    @property
    def pooled(self) -> bool:
        """Whether one set of centroids serves every position."""
        return self.centroids is not None and len(self.centroids) == 1

    def assign(
        self, embeddings: Embeddings, *, device: str = "cpu", on_progress: Progress | None = None
    ) -> NDArray[np.int32]:
        """The nearest centroids of new data, int32 [N, positions]."""
        if self.centroids is None:
            raise UserError(
                "these assignments hold no centroids, so new data cannot be assigned; "
                "cluster embeddings, or give the ids of the new data as well"
            )
        rows, positions, _ = embeddings.shape
        if positions != self.positions:
            raise UserError(
                f"the embeddings have {positions} positions, the assignments {self.positions}; "
                f"use the teacher they were made with"
            )
        return assign_all(embeddings, self.centroids, device=device, on_progress=on_progress)

    def save(self, path: Path | str) -> None:
        """Write HDF5: ``/z/<split>``, ``/centroids`` and attributes; appears whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        path = Path(path)
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
            os.close(handle)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None
        part = Path(name)
        try:
            with h5py.File(part, "w") as file:
                file.attrs.update(format=FORMAT, version=VERSION, clusters=self.clusters)
                for split, z in self.z.items():
                    file.create_dataset(f"z/{split}", data=z.astype("<i4"))
                if self.centroids is not None:
                    file.create_dataset("centroids", data=self.centroids.astype("<f4"))
                teacher = file.create_group("attributes")
                for key, value in self.attributes.items():
                    teacher.attrs[key] = value
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path | str) -> Assignments:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, damaged, or not an assignments file.
        """
        try:
            with h5py.File(path, "r") as file:
                return _read(file, str(path))
        except FileNotFoundError:
            raise UserError(f"{path}: there is no such file") from None
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: is not a readable assignments file ({error})") from None


def assign_all(
    embeddings: Embeddings,
    centroids: NDArray[np.float32],
    *,
    device: str = "cpu",
    on_progress: Progress | None = None,
) -> NDArray[np.int32]:
    """The nearest of ``centroids`` [P or 1, K, D] for all rows and positions, int32 [N, P]."""
    rows, positions, dim = embeddings.shape
    z = np.empty((rows, positions), np.int32)
    width = max(1, min(positions, BLOCK // max(1, rows * dim)))
    height = max(1, min(rows, BLOCK // (width * dim)))
    for start in range(0, positions, width):
        part = slice(start, min(start + width, positions))
        centres = centroids if len(centroids) == 1 else centroids[part]
        for first in range(0, rows, height):
            block = slice(first, min(first + height, rows))
            x = embeddings.read(part, block).transpose(1, 0, 2)
            z[block, part] = assign(x, centres, device=device).T
        if on_progress:
            on_progress(part.stop, positions)
    return z


def _check(found: Assignments, where: str = "assignments") -> None:
    if not found.z:
        raise UserError(f"{where}: there is no split under /z")
    if found.clusters < 1:
        raise UserError(f"{where}: clusters must be at least 1, found {found.clusters}")
    widths = set()
    for split, z in found.z.items():
        if z.ndim != 2 or z.dtype.kind not in "iu":
            raise UserError(f"{where}: /z/{split} must hold integers [rows, positions]")
        if z.size and (z.min() < 0 or z.max() >= found.clusters):
            raise UserError(
                f"{where}: /z/{split} holds ids outside 0..{found.clusters - 1} "
                f"(from {z.min()} to {z.max()})"
            )
        widths.add(z.shape[1])
    if len(widths) > 1:
        raise UserError(f"{where}: the splits under /z differ in their number of positions")
    centroids = found.centroids
    if centroids is None:
        return
    positions = widths.pop()
    if centroids.ndim != 3 or centroids.shape[0] not in (1, positions):
        raise UserError(
            f"{where}: /centroids must have the shape [{positions} or 1, {found.clusters}, dim], "
            f"found {list(centroids.shape)}"
        )
    if centroids.shape[1] != found.clusters or not np.isfinite(centroids).all():
        raise UserError(f"{where}: /centroids must hold {found.clusters} finite vectors each")


def _read(file: h5py.File, where: str) -> Assignments:
    if file.attrs.get("format") != FORMAT:
        raise UserError(f"{where}: is not an assignments file (its format attribute differs)")
    if int(file.attrs.get("version", 0)) != VERSION:
        raise UserError(f"{where}: has a version other than {VERSION}; this release cannot read it")
    _refuse_links(file, where)
    group = file["z"]
    z = {str(split): _integers(group[split], f"{where}: /z/{split}") for split in group}
    centroids = None
    if "centroids" in file:
        centroids = np.asarray(file["centroids"][()], np.float32)
    stored: Mapping[str, Any] = file["attributes"].attrs if "attributes" in file else {}
    attributes = {str(key): _plain(value) for key, value in stored.items()}
    found = object.__new__(Assignments)
    for name, value in (
        ("z", z),
        ("clusters", int(file.attrs["clusters"])),
        ("centroids", centroids),
        ("attributes", attributes),
    ):
        object.__setattr__(found, name, value)
    _check(found, where)
    return found


def _integers(dataset: Any, where: str) -> NDArray[np.int32]:
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iu":
        raise UserError(f"{where} must hold integers [rows, positions]")
    if math.prod(dataset.shape) > 0 and dataset.external:
        raise UserError(f"{where} stores its data outside the file; that is refused")
    values: NDArray[np.int32] = dataset[()].astype(np.int32)
    return values


def _refuse_links(group: h5py.Group, where: str) -> None:
    """Only hard links are followed: others can point outside the file."""
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise UserError(f"{where}: {group.name.rstrip('/')}/{name} is a link; that is refused")
        item = group[name]
        if isinstance(item, h5py.Group):
            _refuse_links(item, where)


def _plain(value: Any) -> Attribute:
    plain: Attribute = value.item() if isinstance(value, np.generic) else value
    return plain
