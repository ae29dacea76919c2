"""Large sets as one file in the cache, written once and then mapped.

ImageNet32 as uint8 is 3.9 GB and ImageNet64 15.7 GB, in ten files or 1.3 million: they are
read in batches, appended to one ``.npy`` file, and used through a copy-on-write map.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from pyjuice_bridge.data.dataset import Images
from pyjuice_bridge.data.files import cache_dir
from pyjuice_bridge.data.formats import read_npy
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import atomic_file

_LAYOUT = 1


def stacked(
    name: str, files: Sequence[Path], batches: Callable[[], Iterable[Images]], cache: Path | None
) -> Images:
    """All ``batches`` as one array uint8 [N, H, W, C], mapped from the cache.

    The cached file is named by the paths, sizes and times of ``files``: where it exists,
    ``batches`` is not called.

    Raises:
        UserError: the disk is full.
    """
    folder = (cache or cache_dir()) / "stacked"
    path = folder / f"{name}-{_key(files)}.npy"
    if not path.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as stream:
                _append(stream, iter(batches()))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise UserError(
                f"There is no room in {folder} for {name} as one file:"
                " free some, or point XDG_CACHE_HOME at a larger disk."
            ) from error
    return read_npy(path)


def _key(files: Sequence[Path]) -> str:
    digest = hashlib.sha256(str(_LAYOUT).encode())
    for file in files:
        stat = file.stat()
        digest.update(f"\n{file.resolve()}\t{stat.st_size}\t{stat.st_mtime_ns}".encode())
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
