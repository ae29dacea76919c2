"""Cluster ids of every row and position: the values of the latent variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge import processes
from pyjuice_bridge.circuit.h5_files import (
    atomic_h5,
    members,
    open_checked,
    read_array,
    read_attribute,
    read_attributes,
    write_array,
    write_attribute,
)
from pyjuice_bridge.cluster.kmeans import assign
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import Embeddings, Progress

FILE = "assignments.h5"
"""Its name in a run's folder."""
FORMAT = "juice-bridge-assignments"
VERSION = 1
BLOCK = 1 << 24
"""Floats read from embeddings at a time."""

Attribute = str | int | float


@dataclass(frozen=True, eq=False)
class Assignments:
    """Latent values made by clustering, and what is needed to assign new data.

    Attributes:
        z: per split int32 [N, positions], the cluster of every row and position.
        clusters: K; every id is in 0..K-1.
        centroids: float32 [P, K, D], P = 1 when positions share their clusters; None for ids
            that came from elsewhere.
        attributes: plain values that describe the teacher and the clustering.
    """

    z: dict[str, NDArray[np.int32]]
    clusters: int
    centroids: NDArray[np.float32] | None = None
    attributes: dict[str, Attribute] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_assignments(self.z, self.clusters, self.centroids, "assignments")

    @property
    def positions(self) -> int:
        """The number of latent variables of a row."""
        return int(next(iter(self.z.values())).shape[1])

    @property
    def pooled(self) -> bool:
        """Whether one set of centroids serves every position."""
        return self.centroids is not None and len(self.centroids) == 1

    def assign(
        self, embeddings: Embeddings, *, device: str = "cpu", on_progress: Progress | None = None
    ) -> NDArray[np.int32]:
        """Assign new data to the nearest centroids, int32 [N, positions]."""
        if self.centroids is None:
            raise UserError(
                "these assignments hold no centroids, so new data cannot be assigned; "
                "cluster embeddings, or give the ids of the new data as well"
            )
        positions = embeddings.shape[1]
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
        with atomic_h5(path) as file:
            write_attribute(file, "format", FORMAT)
            write_attribute(file, "version", VERSION)
            write_attribute(file, "clusters", self.clusters)
            for split, z in self.z.items():
                write_array(file, f"z/{split}", z.astype(np.int32, copy=False))
            if self.centroids is not None:
                write_array(file, "centroids", self.centroids.astype(np.float32, copy=False))
            stored = file.create_group("attributes")
            for key, value in self.attributes.items():
                write_attribute(stored, key, value)

    @classmethod
    def load(cls, path: Path | str) -> Assignments:
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, damaged, or not an assignments file.
        """
        with open_checked(path, FORMAT, VERSION) as file:
            z = {split: read_array(file, f"z/{split}", "int32", 2) for split in members(file, "z")}
            centroids = None
            if "centroids" in file:
                centroids = read_array(file, "centroids", "float", 3).astype(np.float32)
            clusters = read_attribute(file, "clusters", int)
            attributes = read_attributes(file, "attributes")
        check_assignments(z, clusters, centroids, str(path))
        return cls(z, clusters, centroids, attributes)


def assign_all(
    embeddings: Embeddings,
    centroids: NDArray[np.float32],
    *,
    device: str = "cpu",
    on_progress: Progress | None = None,
) -> NDArray[np.int32]:
    """Find the nearest of ``centroids`` [P or 1, K, D] for all rows and positions, int32 [N, P].

    Of several processes each looks at some of the blocks that are read.
    """
    rows, positions, dim = embeddings.shape
    z = np.zeros((rows, positions), np.int32)
    width = positions
    if not getattr(embeddings, "by_rows", False):
        width = max(1, min(positions, BLOCK // max(1, rows * dim)))
    height = max(1, min(rows, BLOCK // (width * dim)))
    corners = product(range(0, positions, width), range(0, rows, height))
    for piece, (start, first) in enumerate(corners):
        part = slice(start, min(start + width, positions))
        block = slice(first, min(first + height, rows))
        if processes.mine(piece):
            x = embeddings.read(part, block).transpose(1, 0, 2)
            if len(centroids) == 1:
                ids = assign(x.reshape(-1, dim), centroids[0], device=device).reshape(x.shape[:2])
            else:
                ids = assign(x, centroids[part], device=device)
            z[block, part] = ids.T
        if on_progress:
            on_progress(start + (part.stop - start) * block.stop // rows, positions)
    processes.add(torch.from_numpy(z))
    return z


def check_assignments(
    z: Mapping[str, NDArray[np.int32]],
    clusters: int,
    centroids: NDArray[np.float32] | None,
    where: str,
) -> None:
    """Refuse ids, shapes and centroids that do not belong together; ``where`` starts the message.

    Raises:
        UserError: with the dataset at fault.
    """
    if not z:
        raise UserError(f"{where}: /z: there is no split.")
    if clusters < 1:
        raise UserError(f"{where}: clusters must be at least 1, found {clusters}.")
    for split, ids in z.items():
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise UserError(f"{where}: /z/{split}: must hold integers [rows, positions].")
        if ids.size and (ids.min() < 0 or ids.max() >= clusters):
            raise UserError(
                f"{where}: /z/{split}: holds ids from {ids.min()} to {ids.max()}, "
                f"must lie in 0..{clusters - 1}."
            )
    widths = {ids.shape[1] for ids in z.values()}
    if len(widths) > 1:
        raise UserError(f"{where}: /z: the splits differ in their number of positions.")
    if centroids is None:
        return
    sets = sorted({1, *widths})
    if centroids.ndim != 3 or len(centroids) not in sets or centroids.shape[1] != clusters:
        raise UserError(
            f"{where}: /centroids: has shape {list(centroids.shape)}, "
            f"must have [{' or '.join(map(str, sets))}, {clusters}, dim]."
        )
    if not np.isfinite(centroids).all():
        raise UserError(f"{where}: /centroids: holds NaN or infinite values.")
