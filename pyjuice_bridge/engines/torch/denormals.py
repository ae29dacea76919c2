"""Flush denormal numbers to zero, on all threads that compute.

They are 10–100 times slower and mean nothing to circuits.  The setting belongs to each thread, and
PyTorch changes that of the calling one.  ``fesetenv`` copies it to the threads of PyTorch's OpenMP
pool, which ``GOMP_parallel`` enters (see ``fused.threads``); where either is not found, those
threads stay as they are, and are slow where denormals occur.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch

_ENVIRONMENT_BYTES = 64
"""At least the size of C's ``fenv_t``: 32 bytes on x86-64, 8 on AArch64."""


def flushing() -> bool:
    """Return True if the calling thread flushes denormals."""
    return sys.float_info.min / 2 == 0.0


def flush(on: bool) -> None:
    """Have the calling thread, and the pool that works for it, flush denormals or keep them."""
    torch.set_flush_denormal(on)
    threads = torch.get_num_threads()
    if _C is None or threads == 1:
        return
    enter, read, write = _C
    environment = ctypes.create_string_buffer(_ENVIRONMENT_BYTES)
    read(environment)
    enter(ctypes.cast(write, ctypes.c_void_p), ctypes.addressof(environment), threads, 0)


def _c_functions() -> tuple[Any, Any, Any] | None:
    """Return the entry to the pool, and what reads and sets a thread's floating-point settings."""
    try:
        library = ctypes.CDLL(None)
        enter, read, write = library.GOMP_parallel, library.fegetenv, library.fesetenv
    except (AttributeError, OSError, TypeError):
        return None
    enter.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    enter.restype = None
    return enter, read, write


_C = _c_functions()
