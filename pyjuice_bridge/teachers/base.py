"""What a teacher is: something that turns images into one vector per position.

Positions are patches, or every pixel, in row-major order.  Vectors for a whole data set rarely
fit in memory, so what clustering reads is an ``Embeddings``: a shape and a way to read parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError

Images = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
Rows = slice | NDArray[np.integer[Any]]
Progress = Callable[[int, int], None]
"""Called with what is done and the total, in the same unit (rows, positions, epochs)."""


class Teacher(Protocol):
    """Gives every position of an image a vector; any class with this one method will do.

    A teacher may also have ``describe() -> dict`` (plain settings, and a hash of its weights),
    which then names its cached embeddings, and ``lazy(images) -> Embeddings`` if its vectors
    are cheaper to make anew than to store.
    """

    def embed(self, images: Images) -> FloatArray:
        """Vectors float32 [N, positions, dim] of ``images`` uint8 [N, H, W, C]."""
        ...


@runtime_checkable
class Embeddings(Protocol):
    """Vectors of N rows at P positions, read a part at a time.

    Two more attributes are heeded where there are any: ``lengths`` int [N], the positions that a
    row really has (clusters are not fitted to those beyond), and ``by_rows``, True where reading
    all positions of some rows is cheaper than reading some positions of all rows.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, D)."""
        ...

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        """The vectors float32 [rows, positions, D] of the chosen rows and positions."""
        ...


class ArrayEmbeddings:
    """Embeddings over an array, float [N, P, D] or position-major [P, N, D]; may be on disk."""

    def __init__(self, array: NDArray[Any], *, position_major: bool = False) -> None:
        if array.ndim != 3:
            raise UserError(
                f"embeddings must have the shape [rows, positions, dim], found {list(array.shape)}"
            )
        self._array = array if position_major else array.transpose(1, 0, 2)

    @property
    def shape(self) -> tuple[int, int, int]:
        positions, rows, dim = self._array.shape
        return rows, positions, dim

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        part = self._array[positions]
        part = np.stack([block[rows] for block in part]) if len(part) else part[:, rows]
        return np.ascontiguousarray(part, dtype=np.float32).transpose(1, 0, 2)


def patch_grid(images: Images, patch: int) -> tuple[int, int]:
    """Rows and columns of non-overlapping patches; refuses a patch that does not divide."""
    if images.ndim != 4:
        raise UserError(f"images must have the shape [N, H, W, C], found {list(images.shape)}")
    height, width = images.shape[1:3]
    if patch < 1 or height % patch or width % patch:
        raise UserError(
            f"patches of {patch} pixels do not tile images of {height}x{width}; "
            f"use a patch size that divides both"
        )
    return height // patch, width // patch


def default_patch(height: int, width: int) -> int:
    """The papers' patch sizes: 4 for 28x28 and 32x32, 8 for 64x64 (2 for 8x8 digits)."""
    most = max(2, -(-max(height, width) // 7))
    fits = [p for p in range(1, most + 1) if height % p == 0 and width % p == 0]
    return fits[-1]


def neighbours(grid: tuple[int, int]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The 3x3 neighbourhoods of a grid, grouped by size so that each group is rectangular.

    Returns:
        Pairs (positions [G], members [G, n]): the patches within one step of each position,
        the position itself first.
    """
    rows, columns = grid
    groups: dict[int, tuple[list[int], list[list[int]]]] = {}
    for r in range(rows):
        for c in range(columns):
            around = [
                i * columns + j
                for i in range(max(0, r - 1), min(rows, r + 2))
                for j in range(max(0, c - 1), min(columns, c + 2))
                if (i, j) != (r, c)
            ]
            positions, members = groups.setdefault(len(around), ([], []))
            positions.append(r * columns + c)
            members.append([r * columns + c, *around])
    return [(np.array(p, np.int64), np.array(m, np.int64)) for p, m in groups.values()]


def describe(teacher: Teacher, probe: Images) -> dict[str, Any]:
    """What names a teacher's embeddings: its own description, or how it embeds ``probe``.

    Args:
        teacher: any teacher.
        probe: a few images, uint8 [n, H, W, C]; used only if the teacher does not describe
            itself.
    """
    own: Callable[[], dict[str, Any]] | None = getattr(teacher, "describe", None)
    if own is not None:
        return own()
    vectors = np.ascontiguousarray(teacher.embed(probe), dtype=np.float32)
    return {
        "kind": type(teacher).__qualname__,
        "probe": hashlib.sha256(vectors.tobytes()).hexdigest(),
    }


def key_hash(key: Mapping[str, Any]) -> str:
    """sha256 of a mapping of plain values, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
