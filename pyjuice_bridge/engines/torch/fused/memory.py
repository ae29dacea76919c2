"""How kernels see memory: as arrays of float32 and of other numbers at addresses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

LN2 = math.log(2.0)
SIZE = 4
"""Bytes of a float32."""
TINY: Any = np.float32(2.0**-126)
"""The smallest normal number."""
WEAK: Any = np.float32(2.0**-42)
"""Products whose maximum is below it are taken again in float64."""

FAST = {"nnan", "nsz", "contract", "reassoc"}
"""Liberties that compiled arithmetic may take: no NaN comes up, sums may be reordered."""

inline: Any = njit(error_model="numpy", fastmath=FAST, forceinline=True)


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


@inline
def extremes(place, count):  # type: ignore[no-untyped-def]
    """Return the least and the largest of some numbers >= 0; the order of their bits is theirs."""
    bits = ints(place, count)
    low, top = bits[0], bits[0]
    for k in range(count):
        low = min(low, bits[k])
        top = max(top, bits[k])
    return np.int32(low).view(np.float32), np.int32(top).view(np.float32)


@inline
def exponent_of(value):  # type: ignore[no-untyped-def]
    """Return the e at which 2^-e brings a normal number between a half and one."""
    return np.int64((np.float32(value).view(np.int32) >> 23) - 126)


@inline
def power_of_two(exponent):  # type: ignore[no-untyped-def]
    """2^exponent."""
    return np.int32((exponent + 127) << 23).view(np.float32)
