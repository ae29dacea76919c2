"""Python pickles of plain arrays, read without running anything they name.

CIFAR and one form of ImageNet32/64 are published as pickles, and unpickling calls whatever a
file asks for.  Here nothing of NumPy or of the standard library can be called: the few names
that a pickled array uses are answered with the stand-ins below, which check what they are
given and copy bytes; any other name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.files import reading
from pyjuice_bridge.errors import UserError

_NUMERIC = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)) | {"f4", "f8", "b1"}


class _Refused(pickle.UnpicklingError):
    """Something in the file that is not part of an array of numbers."""


class _Dtype:
    """A numeric dtype: its code, and the byte order that comes later as its state."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else str(code)
        if text not in _NUMERIC:
            raise _Refused(f"the array type {text!r}")
        self.code = text
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise _Refused(f"the byte order {state[1]!r}")
        self.order = state[1]


class _Array:
    """An array, empty until its state gives shape, dtype and bytes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
            raise _Refused("an array of something other than numbers")
        sizes = [int(size) for size in shape]
        kind = np.dtype(dtype.order + dtype.code)
        if min(sizes, default=0) < 0 or math.prod(sizes) * kind.itemsize != len(data):
            raise _Refused(f"an array of shape {sizes} with {len(data)} bytes")
        self.value = np.frombuffer(data, kind).reshape(sizes, order="F" if order == "F" else "C")
        return self


class _Stand:
    """A callable without attributes, so that a file cannot change it."""

    __slots__ = ("_call",)

    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __setattr__(self, name: str, value: Any) -> None:
        raise _Refused(f"a change of {name!r}")

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused(f"the text encoding {encoding!r}")
    return text.encode("latin1")


_RECONSTRUCT = _Stand(lambda *_: _Array())
_FROM_BUFFER = _Stand(lambda raw, dtype, shape, order: _Array().fill(raw, dtype, shape, order))
_ALLOWED: Mapping[tuple[str, str], _Stand] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy", "ndarray"): _Stand(lambda *_: _Array()),
    ("numpy", "dtype"): _Stand(lambda code, *_: _Dtype(code)),
    ("_codecs", "encode"): _Stand(_latin1),
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def load_arrays(path: Path) -> dict[str, Any]:
    """Read the dictionary in a pickle of numeric arrays, lists, numbers and text, of any protocol.

    Arrays are read-only views of the bytes read.

    Raises:
        UserError: the file is damaged, holds no dictionary, or asks for anything else.
    """
    with reading(path, "a pickle"):
        raw = path.read_bytes()
        try:
            _check_memo(raw)
            loaded = _ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load()
        except _Refused as error:
            raise UserError(
                f"{path} is not a pickle of plain arrays (it asks for {error}), so it was not read:"
                " get the published file."
            ) from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__}, not a dictionary of arrays.")
    return {_text(key): _plain(value) for key, value in loaded.items()}


def _check_memo(raw: bytes) -> None:
    """Refuse a memo far larger than the file: Python makes room for it at once."""
    for opcode, argument, _ in pickletools.genops(raw):
        if opcode.name in ("PUT", "LONG_BINPUT") and not 0 <= int(argument or 0) <= len(raw):
            raise _Refused(f"{argument} memorised objects")


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
