"""Embeddings on disk: computed once per data set, weights and settings, resumable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge import processes
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import atomic_file
from pyjuice_bridge.teachers.base import (
    ArrayEmbeddings,
    Embeddings,
    Images,
    Progress,
    Teacher,
    key_hash,
)

_CHUNK_FLOATS = 1 << 24
"""Numbers that are computed, then written, at a time."""


def open_embeddings(
    teacher: Teacher,
    images: Images,
    path: Path | str,
    key: Mapping[str, Any],
    *,
    dtype: Literal["float16", "float32"] = "float16",
    on_progress: Progress | None = None,
) -> Embeddings:
    """Embeddings of ``images``: cut on demand if the teacher can, else from the cache on disk.

    Args:
        teacher: any teacher.
        images: uint8 [N, H, W, C].
        path: of the cache, without suffix; see `cached_embeddings`.
        key: what the embeddings depend on.
        dtype: numbers on disk.
        on_progress: called with rows done and all rows.
    """
    lazy = getattr(teacher, "lazy", None)
    if lazy is not None:
        made: Embeddings = lazy(images)
        return made
    return cached_embeddings(teacher, images, path, key, dtype=dtype, on_progress=on_progress)


def cached_embeddings(
    teacher: Teacher,
    images: Images,
    path: Path | str,
    key: Mapping[str, Any],
    *,
    dtype: Literal["float16", "float32"] = "float16",
    on_progress: Progress | None = None,
) -> ArrayEmbeddings:
    """Embeddings of ``images`` from ``path``.npy, which is filled first where it is not.

    The array is [positions, N, dim], so that reading a few positions of all rows is one stretch
    of the file.  ``path``.json says what it holds.  An interrupted run goes on after the last
    chunk that was written whole; a cache with another key is replaced.  Several processes share
    the work, and the first one writes at its ``path``, which all of them see.

    Args:
        teacher: any teacher.
        images: uint8 [N, H, W, C].
        path: of the cache, without suffix; the folder must exist.
        key: plain values the embeddings depend on: data fingerprint, split, and what
            `teachers.base.describe` returns.
        dtype: numbers on disk.
        on_progress: called with rows done and all rows.

    Raises:
        UserError: the teacher returns something else than [N, positions, dim] finite numbers,
            or the cache cannot be written.
    """
    if not len(images):
        raise UserError("there are no images to embed")
    data, note = _files(Path(processes.share(str(path))))
    state: dict[str, Any] = {}
    stored = None
    if processes.rank() == 0:
        wanted = {"rows": len(images), "dtype": dtype, "hash": key_hash(key), "key": dict(key)}
        state, stored = _begun(teacher, images, data, note, wanted)
    _fill(teacher, images, stored, processes.share(state), note, on_progress)
    processes.meet()
    return ArrayEmbeddings(np.load(data, mmap_mode="r", allow_pickle=False), position_major=True)


def _begun(
    teacher: Teacher, images: Images, data: Path, note: Path, wanted: Mapping[str, Any]
) -> tuple[dict[str, Any], np.memmap[Any, Any]]:
    """What there is of the embeddings, with the note on it; made anew if that is another thing."""
    state = _read_note(note)
    if state is None or any(state.get(name) != value for name, value in wanted.items()):
        state = None
    stored = _open(data, state)
    if state is None or stored is None:
        first = _checked(teacher, images[:1])
        shape = (first.shape[1], len(images), first.shape[2])
        state = {**wanted, "shape": list(shape), "done": 0}
        stored = _create(data, note, shape, wanted["dtype"], state)
    return state, stored


def _fill(
    teacher: Teacher,
    images: Images,
    stored: np.memmap[Any, Any] | None,
    state: dict[str, Any],
    note: Path,
    on_progress: Progress | None,
) -> None:
    """Embed what is not done yet, a chunk at a time; the process that has ``stored`` keeps it."""
    positions, rows, dim = state["shape"]
    step = max(1, _CHUNK_FLOATS // (positions * dim))
    for start in range(int(state["done"]), rows, step):
        stop = min(start + step, rows)
        part = _embedded(teacher, images[start:stop], (positions, dim))
        if stored is not None:
            with np.errstate(over="ignore"):
                stored[:, start:stop] = part.transpose(1, 0, 2)
            if not np.isfinite(stored[:, start:stop]).all():
                raise UserError("the teacher's numbers are too large for float16; store float32")
            stored.flush()
            state["done"] = stop
            _write_note(note, state)
        if on_progress:
            on_progress(stop, rows)


def _embedded(teacher: Teacher, images: Images, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Vectors of ``images``; each process embeds its part of them."""
    own = images[processes.part(len(images))]
    part = _checked(teacher, own) if len(own) else np.empty((0, *shape), np.float32)
    if part.shape[1:] != shape:
        raise UserError(f"the teacher returned vectors of shape {part.shape[1:]} after {shape}")
    if processes.size() == 1:
        return part
    return processes.gather(torch.from_numpy(part), len(images)).numpy()


def _checked(teacher: Teacher, images: Images) -> NDArray[np.float32]:
    part = np.asarray(teacher.embed(images))
    if part.ndim != 3 or len(part) != len(images) or part.dtype.kind != "f":
        raise UserError(
            f"the teacher must return floats [N, positions, dim]; for {len(images)} images it "
            f"returned {part.dtype} {list(part.shape)}"
        )
    if not np.isfinite(part).all():
        raise UserError("the teacher returned NaN or infinite numbers")
    return part.astype(np.float32, copy=False)


def _files(path: Path) -> tuple[Path, Path]:
    return path.with_name(path.name + ".npy"), path.with_name(path.name + ".json")


def _read_note(note: Path) -> dict[str, Any] | None:
    try:
        state = json.loads(note.read_text())
    except (OSError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _write_note(note: Path, state: Mapping[str, Any]) -> None:
    try:
        with atomic_file(note) as file:
            file.write(json.dumps(state).encode())
    except OSError as error:
        raise UserError(f"{note}: cannot be written ({error.strerror})") from None


def _open(data: Path, state: Mapping[str, Any] | None) -> np.memmap[Any, Any] | None:
    """The array that ``state`` describes, or None if there is no such thing on disk."""
    if state is None:
        return None
    try:
        stored = np.load(data, mmap_mode="r+", allow_pickle=False)
    except (OSError, ValueError):
        return None
    fits = list(stored.shape) == state.get("shape") and stored.dtype == state["dtype"]
    return stored if fits and isinstance(stored, np.memmap) else None


def _create(
    data: Path, note: Path, shape: tuple[int, ...], dtype: str, state: Mapping[str, Any]
) -> np.memmap[Any, Any]:
    note.unlink(missing_ok=True)
    try:
        stored = np.lib.format.open_memmap(data, "w+", dtype=np.dtype(dtype), shape=shape)
    except OSError as error:
        raise UserError(f"{data}: cannot be written ({error.strerror})") from None
    _write_note(note, state)
    return stored
