"""What teachers compute, kept on disk block by block, so that an interrupted run continues.

``<name>.json`` in a folder says what is stored, and ``<name>-00000.npy``, ``<name>-00001.npy``, …
hold blocks of consecutive rows.  A block is written once and appears whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge import processes
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import write_array, write_text
from pyjuice_bridge.teachers.base import (
    FloatArray,
    Progress,
    Rows,
    Teacher,
    embed,
    key_hash,
)

_BLOCK_FLOATS = 1 << 22
"""Numbers of a block of embeddings, at most."""
_BLOCKS = 16
"""Blocks of embeddings at least, for processes to share and interruptions to cost little."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of one stored array.

    Attributes:
        folder: where the files are.
        name: what their names begin with.
        bounds: the first row of every block, then the number of rows.
        shape: of a block, -1 in place of its rows.
        dtype: of the numbers.
        facts: plain values that are stored with the array.
    """

    folder: Path
    name: str
    bounds: Sequence[int]
    shape: tuple[int, ...]
    dtype: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path | str, name: str) -> Blocks:
        """Open what is stored in ``folder``, finished or not.

        Raises:
            UserError: there is nothing of this name.
        """
        folder = Path(folder)
        note = _read_note(folder / f"{name}.json")
        if note is None:
            raise UserError(f"{folder}: holds no {name}")
        layout = tuple(note["shape"]), str(note["dtype"]), note["facts"]
        return cls(folder, name, note["bounds"], *layout)

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def path(self, index: int) -> Path:
        """Return the file of a block."""
        return self.folder / f"{self.name}-{index:05}.npy"

    def arrays(self) -> list[NDArray[Any]]:
        """Map all blocks into memory.

        Raises:
            UserError: one is missing or damaged.
        """
        blocks = []
        for index in range(len(self)):
            block = self._block(index)
            if block is None:
                raise UserError(f"{self.path(index)}: is missing or damaged; run again to store it")
            blocks.append(block)
        return blocks

    def fill(self, key: Mapping[str, Any], make: Callable[[int], NDArray[Any]]) -> Iterator[int]:
        """Compute and write the blocks that are not there.

        Of several processes, which all see the folder, each computes some of the blocks.

        Args:
            key: plain values that the numbers depend on; blocks of another key are removed.
            make: called with a block's index, returns the block.

        Yields:
            The rows done, after each block.

        Raises:
            UserError: the files cannot be written, or a number is not finite in the block's type.
        """
        try:
            if processes.rank() == 0:
                self._begin(key)
            processes.meet()
            for index, end in enumerate(self.bounds[1:]):
                if processes.mine(index) and self._block(index) is None:
                    block = self._converted(make(index))
                    write_array(self.path(index), block)
                yield int(end)
            processes.meet()
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written ({error.strerror})") from None

    def _begin(self, key: Mapping[str, Any]) -> None:
        """Make sure that the folder holds blocks of this key, or none."""
        layout: dict[str, Any] = {
            "bounds": [int(each) for each in self.bounds],
            "shape": list(self.shape),
            "dtype": self.dtype,
        }
        digest = key_hash({**layout, "key": dict(key)})
        self.folder.mkdir(parents=True, exist_ok=True)
        note = self.folder / f"{self.name}.json"
        old = _read_note(note)
        if old is not None and old["hash"] == digest:
            return
        for path in [note, *self.folder.glob(f"{self.name}-*.npy")]:
            path.unlink(missing_ok=True)
        told = {**layout, "facts": dict(self.facts), "hash": digest, "key": dict(key)}
        write_text(note, json.dumps(told))

    def _converted(self, block: NDArray[Any]) -> NDArray[Any]:
        """Convert a computed block to the type that is stored."""
        with np.errstate(over="ignore"):
            stored = np.ascontiguousarray(block, self.dtype)
        if stored.dtype.kind == "f" and not np.isfinite(stored).all():
            raise UserError(
                f"the teacher's numbers are not finite, or too large for {self.dtype}; "
                f"scale them down"
            )
        return stored

    def _block(self, index: int) -> NDArray[Any] | None:
        """Map a block into memory; None unless its file is there and whole."""
        rows = self.bounds[index + 1] - self.bounds[index]
        shape = tuple(rows if n == -1 else n for n in self.shape)
        with suppress(Exception):  # numpy raises anything on a damaged header
            block = np.load(self.path(index), mmap_mode="r", allow_pickle=False)
            if isinstance(block, np.ndarray) and block.shape == shape and block.dtype == self.dtype:
                return block
        return None


class StoredEmbeddings:
    """Embeddings in blocks [positions, rows, dim]: all rows of a position are few stretches.

    Args:
        blocks: see `store_embeddings`.
        lengths: int [N], see `Embeddings`.
    """

    def __init__(self, blocks: Blocks, *, lengths: NDArray[np.integer[Any]] | None = None) -> None:
        self._arrays, self._bounds = blocks.arrays(), np.asarray(blocks.bounds)
        self.lengths = lengths

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, D)."""
        positions, _, dim = self._arrays[0].shape
        return int(self._bounds[-1]), positions, dim

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        """Return the vectors float32 [rows, positions, D] of the chosen rows and positions."""
        count, width, dim = self.shape
        index = np.arange(count)[rows]
        out = np.empty((len(range(width)[positions]), len(index), dim), np.float32)
        owner = np.searchsorted(self._bounds, index, side="right") - 1
        for block in np.unique(owner):
            mine = np.flatnonzero(owner == block)
            out[:, mine] = self._arrays[block][positions][:, index[mine] - self._bounds[block]]
        return out.transpose(1, 0, 2)


def store_embeddings(
    teacher: Teacher,
    samples: NDArray[Any],
    folder: Path | str,
    name: str,
    key: Mapping[str, Any],
    *,
    vocabulary: Sequence[str] | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Store the teacher's vectors of ``samples`` as float16, as far as they are not there.

    Memory beyond the samples is that of one block.

    Args:
        teacher: any teacher.
        samples: images uint8 [N, H, W, C], or token ids int32 [N, T].
        folder: made when missing; of several processes, the first one's counts.
        name: of the files; see `open_embeddings`.
        key: plain values that the vectors depend on: fingerprint of the data, split, and what
            `describe` returns.
        vocabulary: the string of every token id.
        on_progress: called with rows done and all rows.

    Raises:
        UserError: the teacher returns something else than [N, positions, dim] finite numbers,
            or the files cannot be written.
    """
    if not len(samples):
        raise UserError("there are no samples to embed")
    folder, shape = Path(processes.share(str(folder))), [0, 0]
    if processes.rank() == 0:
        known = _known_shape(folder, name, key)
        shape = list(known or embed(teacher, samples[:1], vocabulary).shape[1:])
    positions, dim = processes.share(shape)
    most = max(1, _BLOCK_FLOATS // max(1, positions * dim))
    step = min(most, -(-len(samples) // _BLOCKS))
    bounds = [*range(0, len(samples), step), len(samples)]

    def make(index: int) -> NDArray[Any]:
        part = embed(teacher, samples[bounds[index] : bounds[index + 1]], vocabulary)
        if part.shape[1:] != (positions, dim):
            raise UserError(
                f"the teacher returned vectors of shape {part.shape[1:]} after {(positions, dim)}"
            )
        return part.transpose(1, 0, 2)

    blocks = Blocks(folder, name, bounds, (positions, -1, dim), "float16")
    for done in blocks.fill(key, make):
        if on_progress:
            on_progress(done, len(samples))


def open_embeddings(
    folder: Path | str, name: str, *, lengths: NDArray[np.integer[Any]] | None = None
) -> StoredEmbeddings:
    """Open what `store_embeddings` stored.

    Raises:
        UserError: it is missing, unfinished or damaged.
    """
    return StoredEmbeddings(Blocks.open(folder, name), lengths=lengths)


def _known_shape(folder: Path, name: str, key: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return (positions, dim) of embeddings of this key that are stored already, even in part."""
    note = _read_note(folder / f"{name}.json")
    if note is None or len(note["shape"]) != 3 or key_hash(note["key"]) != key_hash(key):
        return None
    return note["shape"][0], note["shape"][2]


def _read_note(path: Path) -> dict[str, Any] | None:
    """Read a note; None if it is missing or not one."""
    with suppress(OSError, ValueError, RecursionError):
        note = json.loads(path.read_text())
        if isinstance(note, dict) and _is_note(note):
            return note
    return None


def _is_note(note: Mapping[str, Any]) -> bool:
    bounds, shape = note.get("bounds"), note.get("shape")
    if not all(_integers(each) for each in (bounds, shape)):
        return False
    assert isinstance(bounds, list) and isinstance(shape, list)
    rises = len(bounds) > 1 and bounds[0] == 0 and all(a < b for a, b in pairwise(bounds))
    named = all(isinstance(note.get(name), str) for name in ("dtype", "hash"))
    return rises and named and all(isinstance(note.get(name), dict) for name in ("facts", "key"))


def _integers(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int for each in value)
