"""Readers of file formats: arrays, and the published forms of images."""

from __future__ import annotations

import gzip
import io
import math
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.dataset import Images
from pyjuice_bridge.data.files import check_unpacked, reading
from pyjuice_bridge.data.unpickle import load_arrays
from pyjuice_bridge.errors import UserError


class Labelled(NamedTuple):
    """Images uint8 [N, H, W, C], and their labels [N] where the file has some."""

    images: Images
    labels: NDArray[Any] | None


_IDX_UBYTE = 0x08
_IDX_MOST = 8
_NPY_HEADERS: Mapping[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]]
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_bytes(path: Path) -> bytes:
    """Read a file's bytes, unpacked where it is gzip.

    Raises:
        UserError: it cannot be read, is damaged, or unpacks to far more than data does.
    """
    with reading(path, "a file", "look at its permissions"):
        raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    parts = []
    unpacked = 0
    with reading(path, "a gzip file"), gzip.open(io.BytesIO(raw)) as stream:
        while part := stream.read(1 << 24):
            parts.append(part)
            unpacked += len(part)
            check_unpacked(path, len(raw), unpacked)
    return b"".join(parts)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, raw or gzip, as a writable array of its own shape.

    Format (MNIST): bytes 00 00 08 nd, then nd big-endian int32 sizes, then the values.

    Raises:
        UserError: not such a file, or its length does not fit its header.
    """
    raw = read_bytes(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _IDX_UBYTE or raw[3] > _IDX_MOST:
        raise UserError(
            f"{path} is not an idx file of unsigned bytes (first bytes 00 00 08, then at most"
            f" {_IDX_MOST} dimensions)."
        )
    start = 4 + 4 * raw[3]
    if len(raw) < start:
        raise UserError(f"{path} ends inside its idx header: get it again.")
    shape = struct.unpack(f">{raw[3]}i", raw[4:start])
    if min(shape, default=0) < 0 or len(raw) - start != math.prod(shape):
        raise UserError(
            f"{path} has {len(raw) - start} bytes after its header, which announces"
            f" {' x '.join(map(str, shape))}: get it again."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy()


def read_csv_images(
    path: Path, side: int, where: str
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read rows of ``side * side`` pixels and a label, comma-separated, raw or gzip.

    Returns:
        Images uint8 [N, side, side, 1] and labels [N].
    """
    text = read_bytes(path).decode("ascii", "replace")
    with (
        reading(path, f"the table of numbers of {where}"),
        warnings.catch_warnings(action="ignore"),
    ):
        table = np.loadtxt(text.splitlines(), delimiter=",", ndmin=2)
    pixels = table[:, : side * side]
    if table.shape[1] != side * side + 1 or not ((pixels >= 0) & (pixels <= 255)).all():
        raise UserError(f"{path} is not {where}: expected {side * side} pixels 0..255 and a label.")
    images = pixels.astype(np.uint8).reshape(-1, side, side, 1)
    return images, table[:, -1].astype(np.int64)


def planes_to_images(rows: NDArray[Any], side: int, where: str) -> Images:
    """View rows of the planes R, G, B (each row-major) as uint8 [N, side, side, 3]."""
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * side * side:
        raise UserError(
            f"{where} has data of type {rows.dtype} and shape {list(rows.shape)}:"
            f" expected uint8 [N, {3 * side * side}] (three {side}x{side} planes)."
        )
    return rows.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)


def read_batch(path: Path, side: int) -> Labelled:
    """Read a batch of CIFAR or the newer ImageNet release: a python pickle or an npz with ``data``.

    Pickles are read without running code (see :mod:`pyjuice_bridge.data.unpickle`).
    """
    if path.suffix == ".npz":
        return Labelled(planes_to_images(read_npz_array(path, "data"), side, str(path)), None)
    batch = load_arrays(path)
    data = batch.get("data")
    if not isinstance(data, np.ndarray):
        raise UserError(f"{path} has no array named data: it is not a batch of images.")
    labels = batch.get("fine_labels", batch.get("labels"))
    return Labelled(
        planes_to_images(data, side, str(path)), None if labels is None else np.asarray(labels)
    )


def read_cifar_bin(path: Path, labels: int) -> Labelled:
    """Read a CIFAR ``.bin`` file: records of ``labels`` label bytes and 3,072 plane bytes.

    The last of several labels is the finest.
    """
    raw = np.frombuffer(read_bytes(path), np.uint8)
    record = labels + 3072
    if raw.size == 0 or raw.size % record:
        raise UserError(
            f"{path} has {raw.size} bytes, not a multiple of {record}: get it again, or check"
            " whether it is CIFAR-10 or CIFAR-100."
        )
    records = raw.reshape(-1, record)
    return Labelled(planes_to_images(records[:, labels:], 32, str(path)), records[:, labels - 1])


def npz_names(path: Path) -> list[str]:
    """Return the names of the arrays in an ``.npz`` file."""
    with reading(path, "an .npz file"), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return [name.removesuffix(".npy") for name in names if name.endswith(".npy")]


def read_npz_array(path: Path, key: str) -> NDArray[Any]:
    """Read array ``key`` of an ``.npz`` file; pickled objects in it are refused.

    Raises:
        UserError: no such array, or the file is damaged.
    """
    names = npz_names(path)
    if key not in names:
        raise UserError(
            f"{path} has no array named {key} (it holds {', '.join(names) or 'nothing'})."
        )
    with reading(f"{path}: {key}", "an array"), zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{key}.npy")
        check_unpacked(path, entry.compress_size, entry.file_size)
        raw = bytearray(archive.read(entry))
        stream = io.BytesIO(raw)
        version = np.lib.format.read_magic(stream)
        read_header = _NPY_HEADERS.get(version)
        if read_header is None:
            raise UserError(
                f"{path}: {key} has the .npy version {version}: save it as plain numbers."
            )
        shape, fortran, dtype = read_header(stream)
        array = np.frombuffer(raw, dtype, math.prod(shape), stream.tell())
        return array.reshape(shape, order="F" if fortran else "C")


def map_npy(path: Path) -> NDArray[Any]:
    """Map a ``.npy`` file copy-on-write: writes stay in memory.

    Raises:
        UserError: it is damaged, or no ``.npy`` file.
    """
    advice = "get it again, or rename it if it is an .npz file"
    with reading(path, "a .npy file", advice), warnings.catch_warnings(action="ignore"):
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            raise UserError(f"{path} is not a .npy file: rename it to .npz if it holds several.")
        return array
