"""Compiled kernels on PyTorch's own threads.

A kernel is compiled by numba for the processor at hand, and kept (see
``kept``).  It is given a *frame*, a structured array of addresses and sizes, and takes tasks by
number from a counter in it until none is left.  So any number of threads can work on a frame, one
too.  ``run`` has a list of such jobs done one after another by threads that stay together.

Two pools of threads that each wait by spinning get into each other's way: on two cores every
other operation then takes a time slice.  Therefore kernels run in PyTorch's OpenMP pool, which
``GOMP_parallel`` enters: all OpenMP libraries of Linux offer it.  Where it is not found, kernels
run on the calling thread.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from copy import copy
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import cfunc, config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from pyjuice_bridge.engines.torch.fused.gemm import set_blas_threads
from pyjuice_bridge.engines.torch.fused.memory import FAST, address_of, fields, inline, longs
from pyjuice_bridge.files import user_cache

_FRAME = types.CPointer(types.float32)
_PRIVATE = 0o700
"""Permissions of folders with machine code."""
_PATIENCE = 10_000
"""Looks at a counter before a waiting thread lets others have its core."""


def _openmp() -> tuple[Any, int]:
    """Return the entry to PyTorch's pool of threads; the address of what says how many came."""
    library = ctypes.CDLL(None)
    try:
        enter, size = library.GOMP_parallel, library.omp_get_num_threads
    except (AttributeError, OSError, TypeError):
        return None, 0
    enter.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    enter.restype = None
    return enter, ctypes.cast(size, ctypes.c_void_p).value or 0


_POOL, _POOL_SIZE = _openmp()


def frame_type(*integers: str, reals: tuple[str, ...] = ()) -> np.dtype[np.void]:
    """Named int64 and float64 fields, after ``next`` and ``tasks``: the next task, how many."""
    whole = [(name, np.int64) for name in ("next", "tasks", *integers)]
    return np.dtype([*whole, *((name, np.float64) for name in reals)])


_ROUND = frame_type("jobs", "count", "size_of_pool", "set_blas_threads", "arrived", "done")
assert _ROUND.names is not None
_ARRIVED, _DONE = (8 * _ROUND.names.index(name) for name in ("arrived", "done"))


class Kernel:
    """A function of a frame, compiled when it is first asked for."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function

    @cached_property
    def entry(self) -> Any:
        """The machine code: its ``address``, and ``ctypes`` to call it."""

        def compile_(keep: bool) -> Any:
            return cfunc(types.void(_FRAME), cache=keep, error_model="numpy", fastmath=FAST)(
                self._function
            )

        return kept(compile_)


kernel = Kernel


class Job:
    """A kernel with a frame: what one call does.

    Args:
        code: the kernel.
        layout: of its frame, from :func:`frame_type`.
        tasks: how many there are.
        keep: what the addresses among the fields point to.
        given: the frame's fields.
    """

    def __init__(
        self,
        code: Kernel,
        layout: np.dtype[np.void],
        tasks: int,
        keep: tuple[object, ...] = (),
        **given: float,
    ) -> None:
        self._frame = np.zeros(1, layout)
        self._frame["tasks"] = tasks
        for name, value in given.items():
            self._frame[name] = value
        self._keep = keep
        self.call = code.entry.address, self._frame.ctypes.data
        """The address of the code and that of the frame."""

    def but(self, keep: tuple[object, ...], **changed: float) -> Job:
        """Return a job with some fields changed, and what their addresses point to."""
        job = copy(self)
        job._frame, job._keep = self._frame.copy(), (self, *keep)
        for name, value in changed.items():
            job._frame[name] = value
        job.call = self.call[0], job._frame.ctypes.data
        return job

    def __setitem__(self, field: str, value: float) -> None:
        self._frame[field] = value


def run(jobs: Sequence[Job]) -> None:
    """One job after another, each on as many threads as PyTorch uses."""
    if not jobs:
        return
    calls = np.array([job.call for job in jobs], np.int64)
    frame = np.zeros(1, _ROUND)
    frame["jobs"], frame["count"] = calls.ctypes.data, len(jobs)
    frame["set_blas_threads"] = set_blas_threads()
    code, threads = _round.entry, torch.get_num_threads()
    if _POOL is None or threads == 1:
        code.ctypes(ctypes.cast(frame.ctypes.data, ctypes.POINTER(ctypes.c_float)))
        return
    frame["size_of_pool"] = _POOL_SIZE
    _POOL(code.address, frame.ctypes.data, threads, 0)


def address(array: torch.Tensor | NDArray[Any] | None) -> int:
    """Where the numbers of an array are; 0 for none."""
    if array is None:
        return 0
    return array.data_ptr() if isinstance(array, torch.Tensor) else int(array.ctypes.data)


@cache
def _store() -> Path | None:
    """Return where machine code is kept: by the contents of this package, so never stale.

    None where it cannot be written, or where others than this user can: code is run from there.
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    kernels = user_cache() / "kernels"
    store = kernels / digest.hexdigest()[:16]
    try:
        user_cache().mkdir(parents=True, exist_ok=True)
        for folder in (kernels, store):
            folder.mkdir(mode=_PRIVATE, exist_ok=True)
            if not _is_private(folder):
                return None
            folder.chmod(_PRIVATE)
    except OSError:
        return None
    return store


def _is_private(folder: Path) -> bool:
    """Return True for a folder, not a link to one, that only this user can write to."""
    found = folder.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    ours = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return stat.S_ISDIR(found.st_mode) and ours and not found.st_mode & others


def kept(compile_: Callable[[bool], Any]) -> Any:
    """Have numba keep what it compiles in our store; where there is none it does not.

    numba's own place, beside a function's file, notices changes of that file only, and a kernel
    consists of functions of several.  A store that cannot be read is emptied.
    """
    store, before = _store(), config.CACHE_DIR
    if store is None:
        return compile_(False)
    try:
        config.CACHE_DIR = str(store)
        try:
            return compile_(True)
        except Exception:  # Unpickling a damaged file may raise anything.
            for part in store.iterdir():
                shutil.rmtree(part, ignore_errors=True)
            return compile_(True)
    except (OSError, RuntimeError):
        return compile_(False)
    finally:
        config.CACHE_DIR = before


def called(function: Callable[..., Any]) -> Any:
    """Return a function that kernels call, where ``inline`` would make them long."""

    def compile_(keep: bool) -> Any:
        return njit(cache=keep, error_model="numpy", fastmath=FAST)(function)

    return kept(compile_)


@intrinsic  # type: ignore[untyped-decorator]
def _fetch_add(typing_context: Any, place: Any, amount: Any) -> Any:
    """Add to the int64 at an address, atomically; what stood there before."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", number, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _look(typing_context: Any, place: Any) -> Any:
    """Return the int64 at an address, as other threads have left it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(number, "seq_cst", 8)

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _enter(typing_context: Any, entry: Any, frame: Any) -> Any:
    """Call the code at an address with an address."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = ir.FunctionType(ir.VoidType(), [ir.IntType(64)]).as_pointer()
        builder.call(builder.inttoptr(args[0], code), [args[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _ask(typing_context: Any, entry: Any, number: Any) -> Any:
    """Call the code at an address with an int32; it returns one."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        short, long = ir.IntType(32), ir.IntType(64)
        code = ir.FunctionType(short, [short]).as_pointer()
        given = builder.trunc(args[1], short)
        return builder.sext(builder.call(builder.inttoptr(args[0], code), [given]), long)

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _step_aside(typing_context: Any) -> Any:
    """Let another thread have the core."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        code = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, code, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@inline
def next_task(frame):  # type: ignore[no-untyped-def]
    """Return the number of a task that no other thread has taken."""
    return _fetch_add(address_of(frame), 1)


@inline
def wait_for(place, count):  # type: ignore[no-untyped-def]
    """Until the number at an address, which other threads advance, is that large."""
    looks = 0
    while _look(place) < count:
        looks += 1
        if looks > _PATIENCE:
            _step_aside()


@inline
def advance(place):  # type: ignore[no-untyped-def]
    """Add one to the number at an address, for which others may wait; return what it was."""
    return _fetch_add(place, 1)


@kernel
def _round(frame: Any) -> None:
    """All jobs; no thread begins one before all have ended the one before."""
    f = fields(frame, _ROUND)
    at = address_of(frame)
    jobs = longs(f.jobs, 2 * f.count)
    threads = _ask(f.size_of_pool, 0) if f.size_of_pool != 0 else 1
    blas_threads = _ask(f.set_blas_threads, 1) if f.set_blas_threads != 0 else 0
    arrived, done = at + _ARRIVED, at + _DONE
    for job in range(f.count):
        _enter(jobs[2 * job], jobs[2 * job + 1])
        if _fetch_add(arrived, 1) == (job + 1) * threads - 1:
            longs(jobs[2 * job + 1], 1)[0] = 0
            advance(done)
        wait_for(done, job + 1)
    if f.set_blas_threads != 0:
        _ask(f.set_blas_threads, blas_threads)
