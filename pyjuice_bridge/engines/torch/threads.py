"""Compiled kernels on PyTorch's own threads.

A kernel is compiled by numba for the processor at hand, once, and kept in numba's cache.  It is
given a *frame*, a structured array of addresses and sizes, and takes tasks by number from a
counter in it until none is left.  So any number of threads can work on a frame, one too.

Two pools of threads that each wait by spinning get into each other's way: on two cores every
other operation then takes a time slice.  Therefore kernels run in PyTorch's OpenMP pool, which
``GOMP_parallel`` enters: all OpenMP libraries of Linux offer it.  Where it is not found, a
kernel runs on the calling thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Frame = NDArray[np.void]
FAST = {"nnan", "nsz", "contract", "reassoc"}
"""Liberties that compiled arithmetic may take: no NaN comes up, sums may be reordered."""


def _pool() -> Any:
    """The entry to the OpenMP library that PyTorch has loaded."""
    try:
        enter = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    enter.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    enter.restype = None
    return enter


_POOL = _pool()


def frame_type(*integers: str, reals: tuple[str, ...] = ()) -> np.dtype[np.void]:
    """Named int64 and float64 fields, after ``next`` and ``tasks``: the next task, how many."""
    fields = [(name, np.int64) for name in ("next", "tasks", *integers)]
    return np.dtype([*fields, *((name, np.float64) for name in reals)])


def kernel(function: Callable[[int], None]) -> Any:
    """Compile ``function(address of a frame)`` to machine code that any thread may enter."""
    compile_ = cfunc(
        types.void(types.intp),
        cache=True,
        error_model="numpy",
        fastmath=FAST,
    )
    return compile_(function)


def run(kernel_: Any, frame: Frame) -> None:
    """All tasks of ``frame``, on as many threads as PyTorch uses."""
    frame["next"] = 0
    threads = min(torch.get_num_threads(), int(frame["tasks"][0]))
    if _POOL is None or threads == 1:
        kernel_.ctypes(frame.ctypes.data)
    else:
        _POOL(kernel_.address, frame.ctypes.data, threads, 0)


@intrinsic  # type: ignore[untyped-decorator]
def _fetch_add(typing_context: Any, address: Any, amount: Any) -> Any:
    """Add to the int64 at an address, atomically; what stood there before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "monotonic")

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def pointer(typing_context: Any, address: Any) -> Any:
    """An address as what ``carray`` takes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@njit(inline="always")  # type: ignore[untyped-decorator]
def next_task(frame_address: int) -> int:
    """The number of a task that no other thread has taken."""
    return _fetch_add(frame_address, 1)


@njit(inline="always")  # type: ignore[untyped-decorator]
def floats(address: int, count: int) -> NDArray[np.float32]:
    """The float32 numbers at an address."""
    return carray(pointer(address), (count,), np.float32)


@njit(inline="always")  # type: ignore[untyped-decorator]
def doubles(address: int, count: int) -> NDArray[np.float64]:
    """The float64 numbers at an address."""
    return carray(pointer(address), (count,), np.float64)


@njit(inline="always")  # type: ignore[untyped-decorator]
def ints(address: int, count: int) -> NDArray[np.int32]:
    """The int32 numbers at an address."""
    return carray(pointer(address), (count,), np.int32)


@njit(inline="always")  # type: ignore[untyped-decorator]
def longs(address: int, count: int) -> NDArray[np.int64]:
    """The int64 numbers at an address."""
    return carray(pointer(address), (count,), np.int64)
