"""How kernels see memory: as arrays at addresses, with numbers of the kernel's precision.

A kernel's argument is the address of its frame as a pointer to float32 or float64: that type is
the precision.  Functions here that take ``frame`` are compiled for it
(from what stands beneath their ``overload``); only kernels can call them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic, overload

LN2 = math.log(2.0)
_KINDS: dict[Any, Any] = {types.float32: np.float32, types.float64: np.float64}
_BITS: dict[Any, tuple[Any, int, int]] = {
    types.float32: (np.int32, 23, 127),
    types.float64: (np.int64, 52, 1023),
}
"""The integer of a number's size, its bits after the point, and what its exponent is raised by."""

FAST = {"nnan", "nsz", "contract", "reassoc"}
"""Liberties that compiled arithmetic may take: no NaN comes up, sums may be reordered."""

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": FAST, "forceinline": True}
inline: Any = njit(**_OPTIONS)


@intrinsic  # type: ignore[untyped-decorator]
def pointer(typing_context: Any, place: Any) -> Any:
    """Return an address as what ``carray`` takes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def address_of(typing_context: Any, frame: Any) -> Any:
    """Return the address in a pointer."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(frame), generate


@inline
def fields(frame, layout):  # type: ignore[no-untyped-def]
    """Return what stands in a frame."""
    return carray(pointer(address_of(frame)), (1,), layout)[0]


@inline
def doubles(place, count):  # type: ignore[no-untyped-def]
    """Return the float64 numbers at an address."""
    return carray(pointer(place), (count,), np.float64)


@inline
def floats(place, count):  # type: ignore[no-untyped-def]
    """Return the float32 numbers at an address."""
    return carray(pointer(place), (count,), np.float32)


@inline
def ints(place, count):  # type: ignore[no-untyped-def]
    """Return the int32 numbers at an address."""
    return carray(pointer(place), (count,), np.int32)


@inline
def longs(place, count):  # type: ignore[no-untyped-def]
    """Return the int64 numbers at an address."""
    return carray(pointer(place), (count,), np.int64)


def numbers(frame: Any, place: int, count: int) -> Any:
    """Return the numbers of the kernel's precision at an address."""
    raise NotImplementedError


@overload(numbers, jit_options=_OPTIONS)
def _numbers(frame, place, count):  # type: ignore[no-untyped-def]
    kind = _KINDS[frame.dtype]
    return lambda frame, place, count: carray(pointer(place), (count,), kind)


def scratch(frame: Any, count: int) -> Any:
    """Numbers of the kernel's precision, uninitialised, that end with the call."""
    raise NotImplementedError


@overload(scratch, jit_options=_OPTIONS)
def _scratch(frame, count):  # type: ignore[no-untyped-def]
    kind = _KINDS[frame.dtype]
    return lambda frame, count: np.empty(count, kind)


def real(frame: Any, value: float) -> Any:
    """Return a number in the kernel's precision."""
    raise NotImplementedError


@overload(real, jit_options=_OPTIONS)
def _real(frame, value):  # type: ignore[no-untyped-def]
    kind = _KINDS[frame.dtype]
    return lambda frame, value: kind(value)


def size_of(frame: Any) -> Any:
    """Bytes of one number."""
    raise NotImplementedError


@overload(size_of, jit_options=_OPTIONS)
def _size_of(frame):  # type: ignore[no-untyped-def]
    size = np.dtype(_KINDS[frame.dtype]).itemsize
    return lambda frame: size


def tiny(frame: Any) -> Any:
    """Return the smallest normal number."""
    raise NotImplementedError


def weak(frame: Any) -> Any:
    """Products whose maximum is below it are taken again in float64."""
    raise NotImplementedError


def _tiny_to_the(power: float) -> Any:
    def limit_of(frame):  # type: ignore[no-untyped-def]
        kind = _KINDS[frame.dtype]
        limit = kind(np.finfo(kind).tiny ** power)
        return lambda frame: limit

    return limit_of


overload(tiny, jit_options=_OPTIONS)(_tiny_to_the(1))
overload(weak, jit_options=_OPTIONS)(_tiny_to_the(1 / 3))


def extremes(frame: Any, place: int, count: int) -> Any:
    """Return the least and the largest of some numbers >= 0; the order of their bits is theirs."""
    raise NotImplementedError


@overload(extremes, jit_options=_OPTIONS)
def _extremes(frame, place, count):  # type: ignore[no-untyped-def]
    kind, whole = _KINDS[frame.dtype], _BITS[frame.dtype][0]

    def found(frame, place, count):  # type: ignore[no-untyped-def]
        bits = carray(pointer(place), (count,), whole)
        low, top = bits[0], bits[0]
        for k in range(count):
            low = min(low, bits[k])
            top = max(top, bits[k])
        return whole(low).view(kind), whole(top).view(kind)

    return found


def exponent_of(frame: Any, value: float) -> Any:
    """Return the e at which 2^-e brings a normal number between a half and one."""
    raise NotImplementedError


@overload(exponent_of, jit_options=_OPTIONS)
def _exponent_of(frame, value):  # type: ignore[no-untyped-def]
    kind = _KINDS[frame.dtype]
    whole, digits, bias = _BITS[frame.dtype]
    return lambda frame, value: np.int64((kind(value).view(whole) >> digits) - (bias - 1))


def power_of_two(frame: Any, exponent: int) -> Any:
    """2^exponent."""
    raise NotImplementedError


@overload(power_of_two, jit_options=_OPTIONS)
def _power_of_two(frame, exponent):  # type: ignore[no-untyped-def]
    kind = _KINDS[frame.dtype]
    whole, digits, bias = _BITS[frame.dtype]
    return lambda frame, exponent: whole((exponent + bias) << digits).view(kind)
