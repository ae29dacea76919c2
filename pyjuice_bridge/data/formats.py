"""Readers of the published file formats; each returns uint8 [N, H, W, C]."""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.dataset import Images, as_images
from pyjuice_bridge.data.unpickle import load_arrays
from pyjuice_bridge.errors import UserError

_IDX_UBYTE = 0x08


def read_bytes(path: Path) -> bytes:
    """A file's bytes, unpacked where it is gzip."""
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is a damaged gzip file ({error}): get it again.") from error


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes, raw or gzip, as a writable array of its own shape.

    Format (MNIST): bytes 00 00 08 nd, then nd big-endian int32 sizes, then the values.

    Raises:
        UserError: not such a file, or its length does not fit its header.
    """
    raw = read_bytes(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _IDX_UBYTE:
        raise UserError(f"{path} is not an idx file of unsigned bytes (first bytes 00 00 08).")
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


def read_csv_images(path: Path, side: int, where: str) -> NDArray[np.uint8]:
    """Rows of ``side * side`` pixels and a label (dropped), comma-separated, raw or gzip.

    Returns:
        uint8 [N, side, side, 1].
    """
    text = read_bytes(path).decode("ascii", "replace")
    try:
        table = np.loadtxt(text.splitlines(), delimiter=",", ndmin=2)
    except ValueError as error:
        raise UserError(f"{path} is not the table of numbers of {where} ({error}).") from error
    pixels = table[:, : side * side]
    if table.shape[1] != side * side + 1 or pixels.min() < 0 or pixels.max() > 255:
        raise UserError(f"{path} is not {where}: expected {side * side} pixels 0..255 and a label.")
    return pixels.astype(np.uint8).reshape(-1, side, side, 1)


def planes_to_images(rows: NDArray[Any], side: int, where: str) -> Images:
    """Rows of the planes R, G, B (each row-major) as a view uint8 [N, side, side, 3]."""
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * side * side:
        raise UserError(
            f"{where} has data of type {rows.dtype} and shape {list(rows.shape)}:"
            f" expected uint8 [N, {3 * side * side}] (three {side}x{side} planes)."
        )
    return rows.reshape(-1, 3, side, side).transpose(0, 2, 3, 1)


def read_batch(path: Path, side: int) -> Images:
    """One batch of CIFAR or the newer ImageNet release: a python pickle or an npz with ``data``.

    Pickles are read without running code (see :mod:`pyjuice_bridge.data.unpickle`).
    """
    if path.suffix == ".npz":
        return planes_to_images(read_npz_array(path, "data"), side, str(path))
    batch = load_arrays(path)
    data = batch.get("data")
    if not isinstance(data, np.ndarray):
        raise UserError(f"{path} has no array named data: it is not a batch of images.")
    return planes_to_images(data, side, str(path))


def read_cifar_bin(path: Path, labels: int) -> Images:
    """A CIFAR ``.bin`` file: records of ``labels`` label bytes and 3,072 plane bytes."""
    raw = np.frombuffer(read_bytes(path), np.uint8)
    record = labels + 3072
    if raw.size == 0 or raw.size % record:
        raise UserError(
            f"{path} has {raw.size} bytes, not a multiple of {record}: get it again, or check"
            " whether it is CIFAR-10 or CIFAR-100."
        )
    return planes_to_images(raw.reshape(-1, record)[:, labels:], 32, str(path))


def open_npz(path: Path) -> np.lib.npyio.NpzFile:
    """Open an ``.npz`` file; pickled objects in it are refused."""
    try:
        archive = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable .npz file ({error}).") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"{path} is not an .npz file: rename it to .npy if it holds one array.")
    return archive


def read_npz_array(path: Path, key: str) -> NDArray[Any]:
    """Array ``key`` of an ``.npz`` file."""
    with open_npz(path) as archive:
        if key not in archive:
            names = ", ".join(archive.files) or "nothing"
            raise UserError(f"{path} has no array named {key} (it holds {names}).")
        try:
            array: NDArray[Any] = archive[key]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} has an unreadable array {key} ({error}).") from error
    return array


def read_npy(path: Path) -> Images:
    """A ``.npy`` file of images, mapped copy-on-write: writes stay in memory."""
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is not a readable .npy file ({error}).") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path} is not a .npy file: rename it to .npz if it holds several.")
    return as_images(array, str(path))
