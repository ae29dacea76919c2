"""Arrays of integers from what users pass in: arrays, lists, tensors, masked arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import MISSING
from pyjuice_bridge.errors import UserError


def as_array(x: Any, name: str) -> NDArray[Any]:
    """Return ``x`` as an array; masked entries become -1, or NaN in floats.

    Raises:
        UserError: ``x`` is ragged or no array.
    """
    if isinstance(x, np.ma.MaskedArray):
        return _filled(x, name)
    if hasattr(x, "detach"):  # a tensor, on any device
        try:
            x = x.detach().cpu()
            x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
        except (TypeError, NotImplementedError, RuntimeError):
            raise UserError(
                f"{name}: a tensor of {x.dtype} ({x.layout}, on {x.device}) cannot be read; give "
                "a dense one of integers."
            ) from None
    try:
        return np.asarray(x)
    except (ValueError, TypeError):
        raise UserError(
            f"{name}: expected an array, but its parts differ in length; fill the shorter up "
            "with -1."
        ) from None


def as_codes(x: Any, name: str, *, floats: bool = False) -> NDArray[Any]:
    """Return ``x`` as an array of integers, -1 where missing.

    Args:
        x: anything like an array.
        name: for messages.
        floats: take whole numbers stored as floats, NaN where missing.

    Raises:
        UserError: ``x`` holds something else.
    """
    array = as_array(x, name)
    kind = array.dtype.kind
    if kind == "b":
        return array.view(np.uint8)
    if array.dtype in (np.uint32, np.uint64):
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise UserError(f"{name}: {array.max()} is out of range.")
        return array.astype(np.int64)
    if kind in "iu":
        return array
    if kind == "f" and floats:
        return _whole(array, name)
    if not array.size and array.dtype == np.float64 and array.ndim < 2:
        return array.astype(np.int32)  # an empty list
    raise UserError(
        f"{name}: expected integers, with -1 where a value is missing, got {_of(array)}."
    )


def _filled(x: np.ma.MaskedArray[Any, Any], name: str) -> NDArray[Any]:
    mask = np.ma.getmaskarray(x)
    data = np.asarray(x.data)
    if not mask.any():
        return data
    kind = data.dtype.kind
    if kind == "f":
        return np.where(mask, np.nan, data)
    if kind not in "biu":
        values = data.astype(object)
        values[mask] = None
        return values
    codes = as_codes(np.where(mask, data.dtype.type(0), data), name).astype(np.int64)
    return np.where(mask, np.int64(MISSING), codes)


def _whole(array: NDArray[Any], name: str) -> NDArray[np.int32]:
    missing = np.isnan(array)
    values = np.where(missing, MISSING, array)
    wrong = (values != np.trunc(values)) | (np.abs(values) > np.iinfo(np.int32).max)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise UserError(
            f"{name}: the value at {list(place)} is {array[place]}; values must be whole numbers, "
            "or NaN or -1 where missing."
        )
    return values.astype(np.int32)


def _of(array: NDArray[Any]) -> str:
    return {"U": "strings", "S": "strings", "O": "objects"}.get(array.dtype.kind, str(array.dtype))
