"""What every call of the engine has around it: its settings, and errors as one sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec

import torch

from pyjuice_bridge.engines.base import Precision
from pyjuice_bridge.engines.torch.denormals import flush, flushing
from pyjuice_bridge.engines.torch.precision import matrix_products
from pyjuice_bridge.errors import UserError

P = ParamSpec("P")

_CPU_MEMORY = re.compile(r"can't allocate memory|not enough memory|std::bad_alloc")
"""How PyTorch says on a CPU that memory ran out."""

_pool_owner: int | None = None
"""The process whose pool of threads PyTorch uses, once the engine has used it."""


@dataclass(frozen=True)
class _Settings:
    """What a thread does outside the engine."""

    denormals_flushed: bool
    gradients: bool
    inference: bool


_caller: ContextVar[_Settings] = ContextVar("_caller")


@contextmanager
def computing(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute inside the block without gradients and denormals, in a precision.

    Afterwards all settings are the caller's again.

    Raises:
        UserError: memory runs out, or the process was forked from one that used the engine.
    """
    _refuse_after_fork()
    flushed = flushing()
    outside = _Settings(flushed, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
    token = _caller.set(outside)
    try:
        flush(True)
        with torch.inference_mode(), matrix_products(precision, device):
            yield
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        sentence = UserError(
            f"The engine ran out of {where}; give fewer rows or samples at a time, a smaller "
            "batch_size or a smaller circuit."
        )
        sentence.add_note(str(error))
        raise sentence from error
    finally:
        flush(flushed)
        _caller.reset(token)


def calling_back(callback: Callable[P, None] | None) -> Callable[P, None] | None:
    """Wrap a callback so that it runs with the settings of the engine's caller.

    Other threads than the calling one still flush denormals: a callback may come with every batch,
    and telling them takes as long as a small batch where cores are busy.
    """
    if callback is None:
        return None

    @wraps(callback)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        outside = _caller.get()
        torch.set_flush_denormal(outside.denormals_flushed)
        try:
            with (
                torch.inference_mode(outside.inference),
                torch.set_grad_enabled(outside.gradients),
            ):
                callback(*args, **kwargs)
        finally:
            torch.set_flush_denormal(True)

    return call


def _refuse_after_fork() -> None:
    """Refuse to wait for threads that a forked process does not have."""
    global _pool_owner
    if torch.get_num_threads() == 1:
        return
    if _pool_owner not in (None, os.getpid()):
        raise UserError(
            "This process was forked from one that had used the engine, and does not have its "
            "threads; start processes by 'spawn', or call torch.set_num_threads(1) in this one."
        )
    _pool_owner = os.getpid()


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or bool(
        _CPU_MEMORY.search(str(error))
    )
