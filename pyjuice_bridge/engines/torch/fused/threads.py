"""Compiled kernels on PyTorch's own threads.

A kernel is compiled by numba for the processor at hand, once, and kept (see ``kept``).  It is
given a *frame*, a structured array of addresses and sizes, and takes tasks by number from a
counter in it until none is left.  So any number of threads can work on a frame, one too.

Two pools of threads that each wait by spinning get into each other's way: on two cores every
other operation then takes a time slice.  Therefore kernels run in PyTorch's OpenMP pool, which
``GOMP_parallel`` enters: all OpenMP libraries of Linux offer it.  Where it is not found, a
kernel runs on the calling thread.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, config, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from pyjuice_bridge.files import user_cache

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


class Job:
    """A kernel with a frame: what one call does.

    Args:
        kernel: from :func:`kernel`.
        layout: of its frame, from :func:`frame_type`.
        tasks: how many there are.
        keep: what the addresses among the fields point to.
        fields: the frame's.
    """

    def __init__(
        self,
        kernel: Any,
        layout: np.dtype[np.void],
        tasks: int,
        keep: tuple[object, ...] = (),
        **fields: float,
    ) -> None:
        frame = np.zeros(1, layout)
        frame["tasks"] = tasks
        for name, value in fields.items():
            frame[name] = value
        self._fields = {name: frame[name] for name in layout.names or ()}
        self._call, self._entry = kernel.ctypes, kernel.address
        self._tasks, self._keep = tasks, keep
        self._address = frame.ctypes.data
        self._next = self._fields["next"]

    def __setitem__(self, field: str, value: float) -> None:
        self._fields[field][0] = value

    def __getitem__(self, field: str) -> int:
        return int(self._fields[field][0])

    def run(self) -> None:
        """All tasks, on as many threads as PyTorch uses."""
        self._next[0] = 0
        threads = min(torch.get_num_threads(), self._tasks)
        if _POOL is None or threads == 1:
            self._call(self._address)
        else:
            _POOL(self._entry, self._address, threads, 0)


def address(array: torch.Tensor | NDArray[Any] | None) -> int:
    """Where the numbers of an array are; 0 for none."""
    if array is None:
        return 0
    return array.data_ptr() if isinstance(array, torch.Tensor) else int(array.ctypes.data)


@cache
def _store() -> Path:
    """Where machine code is kept: by the contents of this package, so that it is never stale."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return user_cache() / "kernels" / digest.hexdigest()[:16]


def kept(compile_: Callable[[bool], Any]) -> Any:
    """Have numba keep what it compiles in our store; where nothing can be written it does not.

    numba's own place, beside a function's file, notices changes of that file only, and a kernel
    consists of functions of several.
    """
    before = config.CACHE_DIR
    try:
        config.CACHE_DIR = str(_store())
        return compile_(True)
    except (OSError, RuntimeError):
        return compile_(False)
    finally:
        config.CACHE_DIR = before


def kernel(function: Callable[[int], None]) -> Any:
    """Compile ``function(address of a frame)`` to machine code that any thread may enter."""

    def compile_(keep: bool) -> Any:
        signature = types.void(types.intp)
        return cfunc(signature, cache=keep, error_model="numpy", fastmath=FAST)(function)

    return kept(compile_)


def called(function: Callable[..., Any]) -> Any:
    """A function that kernels call, where ``inline`` would make them long."""

    def compile_(keep: bool) -> Any:
        return njit(cache=keep, error_model="numpy", fastmath=FAST)(function)

    return kept(compile_)


@intrinsic  # type: ignore[untyped-decorator]
def _fetch_add(typing_context: Any, place: Any, amount: Any) -> Any:
    """Add to the int64 at an address, atomically; what stood there before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", number, args[1], "monotonic")

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def pointer(typing_context: Any, place: Any) -> Any:
    """An address as what ``carray`` takes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


inline: Any = njit(inline="always", error_model="numpy")


@inline
def next_task(frame):  # type: ignore[no-untyped-def]
    """The number of a task that no other thread has taken."""
    return _fetch_add(frame, 1)


@inline
def floats(place, count):  # type: ignore[no-untyped-def]
    """The float32 numbers at an address."""
    return carray(pointer(place), (count,), np.float32)


@inline
def doubles(place, count):  # type: ignore[no-untyped-def]
    """The float64 numbers at an address."""
    return carray(pointer(place), (count,), np.float64)


@inline
def ints(place, count):  # type: ignore[no-untyped-def]
    """The int32 numbers at an address."""
    return carray(pointer(place), (count,), np.int32)


@inline
def longs(place, count):  # type: ignore[no-untyped-def]
    """The int64 numbers at an address."""
    return carray(pointer(place), (count,), np.int64)
