"""Write HDF5 files atomically, and read them with checks.

Files are written to a temporary name and renamed, so a reader never sees half a file; a damaged or
foreign file ends in one sentence instead of wrong numbers.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError, shown
from pyjuice_bridge.files import replacing

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_T = TypeVar("_T", str, int)

_DAMAGE = (
    *(OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError),
    *(AttributeError, MemoryError, SystemError),
)
"""What h5py raises where a file is damaged."""

_PLAIN_TYPES = (
    *(h5py.h5t.TypeStringID, h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID),
    h5py.h5t.TypeEnumID,  # booleans
)

_DEFLATE_RATIO = 1100
"""No deflate stream unpacks to more than 1,032 times its size."""

_PATIENCE_SECONDS = 20
_READ_ATTRIBUTES = """
import sys, h5py
with h5py.File(sys.argv[1]) as file:
    dict(file.attrs)
    file.visititems(lambda name, item: dict(item.attrs) and None)
"""


class _Output(io.FileIO):
    """Where HDF5 writes; a failure is kept in ``failure`` and hidden from HDF5.

    The library crashes when it closes a file that it could not write.  What is written after a
    failure is dropped; a reader finds zeros there.
    """

    failure: BaseException | None = None

    def write(self, data: ReadableBuffer) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left and self.failure is None:
                left = left[super().write(left) :]
        except BaseException as error:
            self.failure = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except BaseException as error:
            self.failure = self.failure or error
            return size or 0

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        count = super().readinto(view)
        view[count:] = bytes(len(view) - count)
        return len(view)


@contextmanager
def atomic_h5(path: Path | str) -> Iterator[h5py.File]:
    """Write an HDF5 file that appears under ``path`` only when it is complete.

    The file is readable by HDF5 1.10 and later, and its structure carries checksums, without which
    the HDF5 library can crash on a damaged file.  If the body raises, ``path`` stays as it was.

    Raises:
        UserError: the folder is missing, or the file cannot be written (no space, no permission).
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist; create it first.")
    try:
        with replacing(path) as temporary, _Output(temporary, "x+") as output:
            try:
                with h5py.File(output, "w", libver=("v110", "v110")) as file:
                    yield file
            finally:
                if output.failure is not None:
                    raise output.failure
            os.fsync(output.fileno())
    except OSError as error:
        reason = error.strerror or _reason(error)
        raise UserError(f"{path}: cannot be written ({reason}).") from error


@contextmanager
def open_checked(path: Path | str, kind: str, version: int) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading after looking at its header and at every link in it.

    What the HDF5 library raises inside the block is damage of the file.

    Args:
        path: the file.
        kind: what its root attribute ``format`` must be.
        version: what its root attribute ``version`` must be.

    Raises:
        UserError: no such file, not HDF5, truncated, another format or version, or a link that
            leads out of the file or hides where the data is (soft, external, user-defined).
    """
    with _opened(path) as file:
        actual = read_attribute(file, "format", str)
        if actual != kind:
            raise UserError(f"{path}: format is {shown(actual)}, but {kind!r} is needed here.")
        number = read_attribute(file, "version", int)
        if number != version:
            raise UserError(
                f"{path}: version {number} of {kind}, but this program reads version {version}."
            )
        _refuse_links(file)
        try:
            yield file
        except _DAMAGE as error:
            raise UserError(f"{path}: damaged ({_reason(error)}).") from error


def format_of(path: Path | str) -> str:
    """Read the root attribute ``format``.

    Raises:
        UserError: no such file, not HDF5, truncated, or without the attribute.
    """
    with _opened(path) as file:
        return read_attribute(file, "format", str)


@contextmanager
def _opened(path: Path | str) -> Iterator[h5py.File]:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        readable = h5py.is_hdf5(path)
        file = h5py.File(path, "r") if readable else None
    except _DAMAGE as error:
        raise UserError(f"{path}: truncated or damaged ({_reason(error)}).") from error
    if file is None:
        raise UserError(f"{path}: not an HDF5 file, or its beginning is damaged.")
    with file:
        try:
            trusted = not _has_variable_text(file) or _text_is_readable(path)
        except _DAMAGE as error:
            raise UserError(f"{path}: damaged ({_reason(error)}).") from error
        if not trusted:
            raise UserError(f"{path}: damaged (its text of variable length cannot be read).")
        yield file


def _has_variable_text(file: h5py.File) -> bool:
    """Return True if an attribute is text of variable length, which no checksum covers."""

    def variable(_: str, item: h5py.HLObject) -> bool | None:
        kinds = (item.attrs.get_id(name).get_type() for name in item.attrs)
        text = (kind for kind in kinds if isinstance(kind, h5py.h5t.TypeStringID))
        return True if any(kind.is_variable_str() for kind in text) else None

    return bool(variable("", file) or file.visititems(variable))


def _text_is_readable(path: Path) -> bool:
    """Read all attributes in a process of its own.

    The HDF5 library crashes or never returns where text of variable length is damaged.
    """
    command = [sys.executable, "-c", _READ_ATTRIBUTES, str(path)]
    try:
        ended = subprocess.run(command, timeout=_PATIENCE_SECONDS, capture_output=True, check=False)
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode in (0, 1)


def read_array(
    group: h5py.Group, name: str, kind: Literal["int32", "float"], ndim: int
) -> NDArray[Any]:
    """Read the dataset ``name`` of ``group``, in native byte order.

    Shape, type and stored size are checked before anything is allocated.

    Args:
        group: an open file or a group of it.
        name: path of the dataset relative to ``group``.
        kind: ``int32``, or ``float`` for float32 or float64.
        ndim: number of dimensions.

    Raises:
        UserError: absent, of another type or rank, stored outside the file, or larger than the
            bytes that the file holds for it.
    """
    where = place(group, name)
    try:
        dataset = group.get(name)
        if not isinstance(dataset, h5py.Dataset):
            raise UserError(f"{where}: the dataset is missing.")
        allowed = ("<i4",) if kind == "int32" else ("<f4", "<f8")
        if dataset.dtype not in [np.dtype(code) for code in allowed]:
            names = "int32" if kind == "int32" else "float32 or float64"
            raise UserError(f"{where}: has type {dataset.dtype}, must be little-endian {names}.")
        if dataset.shape is None or dataset.ndim != ndim:
            raise UserError(f"{where}: has shape {dataset.shape}, must have {ndim} dimension(s).")
        if dataset.is_virtual or dataset.external:
            raise UserError(f"{where}: its data lies in another file; store it in this one.")
        ratio = _DEFLATE_RATIO if dataset.compression else 1
        stored = min(dataset.id.get_storage_size(), group.file.id.get_filesize())
        if dataset.nbytes > ratio * stored:
            raise UserError(
                f"{where}: shape {dataset.shape} needs more bytes than the file holds for it."
            )
        return np.asarray(dataset[()])
    except _DAMAGE as error:
        raise UserError(f"{where}: damaged ({_reason(error)}).") from error


def read_attribute(item: h5py.Group, name: str, kind: type[_T]) -> _T:
    """Read the scalar attribute ``name`` of a file, group or dataset, as a ``str`` or ``int``.

    Raises:
        UserError: absent or of another type.
    """
    value = _scalar(item, name)
    if not isinstance(value, kind):
        expected = "text" if kind is str else "a whole number"
        problem = "is missing" if value is None else f"is {shown(value)}"
        raise UserError(f"{place(item)}: attribute {name!r} {problem}, must be {expected}.")
    return value


def read_attributes(file: h5py.File, name: str) -> dict[str, str | int | float]:
    """Read all attributes of the group ``name``, which may be absent.

    Raises:
        UserError: one is damaged, or neither a text nor a number.
    """
    if name not in file:
        return {}
    members(file, name)
    values = {key: _scalar(file[name], key) for key in file[name].attrs}
    return {key: value for key, value in values.items() if value is not None}


def write_attribute(item: h5py.Group, name: str, value: str | int | float) -> None:
    """Set a scalar attribute; text becomes fixed-length UTF-8, which the checksums cover."""
    if isinstance(value, str):
        text = value.encode()
        dtype = h5py.string_dtype("utf-8", max(1, len(text)))
        item.attrs.create(name, text, dtype=dtype)
    else:
        item.attrs[name] = value


def write_array(group: h5py.Group, name: str, array: NDArray[Any]) -> None:
    """Add a dataset, little-endian whatever the machine."""
    little = array.dtype.newbyteorder("<")
    group.create_dataset(name, data=np.ascontiguousarray(array, dtype=little))


def members(file: h5py.File, name: str) -> list[str]:
    """Return the names in the group ``name``.

    Raises:
        UserError: there is no such group, or it is damaged.
    """
    try:
        group = file.get(name)
        if isinstance(group, h5py.Group):
            return list(group)
    except _DAMAGE as error:
        raise UserError(f"{place(file, name)}: damaged ({_reason(error)}).") from error
    raise UserError(f"{place(file, name)}: the group is missing.")


def place(item: h5py.Group, name: str = "") -> str:
    """Name an item in a message: ``file: /path/of/the/item``."""
    path = f"{item.name.rstrip('/')}/{name}".rstrip("/")
    return f"{item.file.filename}: {path}" if path else str(item.file.filename)


def _scalar(item: h5py.Group, name: str) -> str | int | float | None:
    """Read an attribute that is one text or number; return None if there is none."""
    try:
        if name not in item.attrs:
            return None
        stored = item.attrs.get_id(name)
        if stored.shape == () and isinstance(stored.get_type(), _PLAIN_TYPES):
            value = item.attrs[name]
            value = value.decode() if isinstance(value, bytes) else value
            value = value.item() if isinstance(value, np.generic) else value
            if isinstance(value, str | int | float):
                return value
    except _DAMAGE as error:
        raise UserError(
            f"{place(item)}: attribute {name!r} is damaged ({_reason(error)})."
        ) from error
    raise UserError(f"{place(item)}: attribute {name!r} must be one text or number.")


def _refuse_links(file: h5py.File) -> None:
    """Walk every group once and accept hard links only."""
    waiting: list[h5py.Group] = [file]
    seen = set()
    try:
        while waiting:
            group = waiting.pop()
            for name in group:
                link = group.get(name, getlink=True)
                if not isinstance(link, h5py.HardLink):
                    kind = "an external" if isinstance(link, h5py.ExternalLink) else "a soft"
                    raise UserError(
                        f"{place(group, name)}: is {kind} link; store the data itself there."
                    )
                item = group[name]
                address = h5py.h5o.get_info(item.id).addr
                if isinstance(item, h5py.Group) and address not in seen:
                    seen.add(address)
                    waiting.append(item)
    except _DAMAGE as error:
        raise UserError(f"{place(group)}: damaged ({_reason(error)}).") from error


def _reason(error: BaseException) -> str:
    lines = str(error).strip().rstrip(".").splitlines()
    return lines[0] if lines else type(error).__name__
