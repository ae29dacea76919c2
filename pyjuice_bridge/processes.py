"""Several processes on one run, started by torchrun and joined by ``torch.distributed``.

Every process goes through the same steps on the same data and takes its part of the heavy ones;
only the first one writes files and reports.  Outside ``joined`` a process works by itself, and
every function here does what it does for one process: a slice of everything, a sum of one term.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from pyjuice_bridge.errors import UserError

if TYPE_CHECKING:
    import torch

_STEP = timedelta(minutes=30)
"""How long processes wait for each other during shared work."""
_STAGE = timedelta(days=30)
"""How long they wait for work that only the first one does."""
_GRACE_SECONDS = 10.0
"""How long a process that received SIGTERM has to end; torchrun kills it after 30."""

T = TypeVar("T")


class LostError(UserError):
    """The other processes of the run cannot be reached."""


@dataclass(frozen=True)
class _Group:
    rank: int
    size: int
    store: Any
    waiting: Any
    """The process group for waits of any length."""


_joined: _Group | None = None
_apart = False
_failed_first: bool | None = None
_times_joined = 0


def started() -> int:
    """Return the number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def started_here() -> int:
    """Return how many of the started processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", started()))


def leads() -> bool:
    """Return True in the first or only process; also before processes are joined."""
    return started() == 1 or int(os.environ.get("RANK", 0)) == 0


def speaks() -> bool:
    """Return True if this process reports to the user: the first one, or the first to fail."""
    return leads() if _failed_first is None else _failed_first


def rank() -> int:
    """Return the number of this process, from 0, among those that work together here."""
    group = _group()
    return 0 if group is None else group.rank


def size() -> int:
    """Return how many processes work together here."""
    group = _group()
    return 1 if group is None else group.size


def part(rows: int) -> slice:
    """Return this process's share of ``rows`` rows."""
    return slice(rank() * rows // size(), (rank() + 1) * rows // size())


def mine(piece: int) -> bool:
    """Return True if the piece of work with this number is this process's."""
    return piece % size() == rank()


def add(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over all processes, in place."""
    group = _group()
    if group is not None:
        import torch.distributed as dist

        with _meeting(group.size):
            dist.all_reduce(tensor)
    return tensor


def gather(rows: torch.Tensor, count: int, dim: int = 0) -> torch.Tensor:
    """Collect all ``count`` rows along ``dim``, of which every process has its ``part``."""
    if size() == 1:
        return rows
    shape, span = list(rows.shape), part(count)
    shape[dim] = count
    whole = rows.new_zeros(shape)
    whole.narrow(dim, span.start, span.stop - span.start).copy_(rows)
    return add(whole)


def share(value: T) -> T:
    """Return the first process's plain JSON value; the others wait for it."""
    group = _group()
    if group is None:
        return value
    import torch
    import torch.distributed as dist

    data = bytearray(json.dumps(value).encode() if group.rank == 0 else b"")
    length = torch.tensor([len(data)])
    with _meeting(group.size):
        dist.broadcast(length, 0, group=group.waiting)
        data = data or bytearray(int(length))
        dist.broadcast(torch.frombuffer(data, dtype=torch.uint8), 0, group=group.waiting)
    shared: T = json.loads(data)
    return shared


def meet() -> None:
    """Wait until every process is here."""
    group = _group()
    if group is not None:
        import torch.distributed as dist

        with _meeting(group.size):
            dist.barrier(group=group.waiting)


@contextmanager
def alone() -> Iterator[None]:
    """Work by itself inside the block, on something that is not shared."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Work together inside the block with the other processes that torchrun started.

    Args:
        device: ``cpu``, or ``cuda`` for the GPU of the process's number on its machine.

    Raises:
        LostError: a process is lost, or torchrun sends SIGTERM, as it does when one is lost.
        UserError: there are fewer GPUs than processes.
    """
    global _joined, _failed_first
    if started() == 1:
        yield
        return
    import torch.distributed as dist

    backend = _backend(device)
    _failed_first = None
    listener = _Listener(started())
    try:
        _joined = _join(backend)
        yield
        dist.destroy_process_group()
    except BaseException:
        listener.ignore()
        _failed_first = _fails_first()
        raise
    finally:
        _joined = None
    listener.stop()


def _group() -> _Group | None:
    return None if _apart else _joined


def _backend(device: str) -> str:
    """Return the communication backend; a process takes the GPU of its number."""
    if device == "cpu":
        return "gloo"
    import torch

    here, there = started_here(), torch.cuda.device_count()
    if here > there:
        raise UserError(
            f"device: {here} processes need a GPU each, but there are {there}; start fewer"
        )
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    return "cpu:gloo,cuda:nccl"


def _join(backend: str) -> _Group:
    global _times_joined
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    if dist.is_initialized():
        raise UserError("torch.distributed is set up already; leave that to the run")
    with _meeting(started()):
        found, number, count = next(rendezvous("env://", timeout=_STEP))
        _times_joined += 1
        store = PrefixStore(f"pyjuice_bridge/{_times_joined}", found)
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=_STEP)
        waiting = dist.new_group(backend="gloo", timeout=_STAGE)
    return _Group(number, count, store, waiting)


def _fails_first() -> bool:
    """Return True if no other process failed before this one; to be called once."""
    if _joined is None:
        return leads()
    try:
        return int(_joined.store.add("failed", 1)) == 1
    except RuntimeError:
        return True


@contextmanager
def _meeting(count: int) -> Iterator[None]:
    """Turn errors of communication into one sentence."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        lost = _lost(count)
        lost.add_note(str(error))
        raise lost from error


def _lost(count: int) -> LostError:
    return LostError(
        f"one of the {count} processes was lost, or the run was told to end; the same command "
        "continues where it stopped, in any number of processes"
    )


class _Listener:
    """Raises an error on SIGTERM.

    A process that waits on a GPU for a lost one never gets to raise it: a thread then prints the
    sentence and ends the process.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._heard, self._wake = os.pipe()
            os.set_blocking(self._wake, False)
            signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, daemon=True).start()
            self._before = signal.signal(signal.SIGTERM, self._end)

    def ignore(self) -> None:
        """Let the process end as it is about to."""
        if self._active:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)

    def stop(self) -> None:
        """Restore the signal handlers."""
        if self._active:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
            os.close(self._wake)

    def _end(self, *_: object) -> None:
        self.ignore()
        raise _lost(self._count)

    def _watch(self) -> None:
        while heard := os.read(self._heard, 1):
            if heard[0] == signal.SIGTERM:
                time.sleep(_GRACE_SECONDS)
                if _failed_first is not None:
                    break
                if _fails_first():
                    sys.stderr.write(f"error: {_lost(self._count)}\n")
                    sys.stderr.flush()
                os._exit(1)
        os.close(self._heard)
