"""Large sets as one file in the cache, written once and then mapped.

ImageNet32 as uint8 is 3.9 GB and ImageNet64 15.7 GB, in ten files or 1.3 million: they are
read in batches, appended to one ``.npy`` file, and used through a copy-on-write map.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pyjuice_bridge.data.dataset import Images, as_images
from pyjuice_bridge.data.files import cache_dir, file_digest, writing_cache
from pyjuice_bridge.data.formats import map_npy
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import atomic_file, write_text

_LAYOUT = 2


def stacked(name: str, files: Sequence[Path], batches: Callable[[], Iterable[Images]]) -> Images:
    """Return all ``batches`` as one array uint8 [N, H, W, C], mapped from the cache.

    The cached file is named by the contents of ``files``, and its checksum stands beside it: where
    the two fit, ``batches`` is not called.

    Raises:
        UserError: the cache cannot be written.
    """
    folder = cache_dir() / "stacked"
    path = folder / f"{name}-{_key(files)}.npy"
    checksum = path.with_suffix(".sha256")
    if not _whole(path, checksum):
        with writing_cache(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as stream:
                _append(stream, iter(batches()))
            write_text(checksum, file_digest(path))
    return as_images(map_npy(path), str(path))


def _whole(path: Path, checksum: Path) -> bool:
    try:
        return checksum.read_bytes() == file_digest(path).encode()
    except (OSError, UserError):  # one of them is missing
        return False


def _key(files: Sequence[Path]) -> str:
    digest = hashlib.sha256(str(_LAYOUT).encode())
    for file in files:
        digest.update(f"\n{file_digest(file)}".encode())
    return digest.hexdigest()[:16]


def _append(stream: IO[bytes], batches: Iterator[Images]) -> None:
    total = 0
    first = next(batches)
    start = _header(stream, 0, first)
    batch: Images | None = first
    while batch is not None:
        stream.write(np.ascontiguousarray(batch).data)
        total += len(batch)
        batch = next(batches, None)
    stream.seek(0)
    if _header(stream, total, first) != start:
        raise AssertionError("the header of a .npy file changed its length")


def _header(stream: IO[bytes], total: int, like: Images) -> int:
    fields = {"descr": "|u1", "fortran_order": False, "shape": (total, *like.shape[1:])}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.tell()
