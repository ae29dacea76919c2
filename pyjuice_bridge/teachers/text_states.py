"""Hidden states of every token of a stream, stored once: shards of float16 on disk.

A folder holds ``states.json``, one ``states-00000.npy`` per shard, and for causal models
``start.npy``, the state before the first token of a document.  A shard appears whole or not at
all, so an interrupted run goes on after the last one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge import processes
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import atomic_file
from pyjuice_bridge.teachers.base import key_hash

NOTE = "states.json"
START = "start.npy"

HalfArray = NDArray[np.float16]


class TokenStates:
    """States of a token stream, float16 [tokens, dim], in one or more arrays that may be on disk.

    Args:
        shards: float16 [n, dim] each; their tokens follow one another.
        start: [dim], the state of a causal model before the first token of a document (after
            the beginning-of-text token or a prompt); None if the model has none.
    """

    def __init__(self, shards: Sequence[HalfArray], start: NDArray[Any] | None = None) -> None:
        if not shards or any(each.ndim != 2 or each.dtype != np.float16 for each in shards):
            raise UserError("token states must be float16 arrays [tokens, dim]")
        self._shards = list(shards)
        self._bounds = np.cumsum([0, *(len(each) for each in shards)])
        self.start = None if start is None else np.asarray(start, np.float16)

    @classmethod
    def open(cls, folder: Path | str) -> TokenStates:
        """The finished states in ``folder``, mapped into memory, not read.

        Raises:
            UserError: they are missing, unfinished or damaged.
        """
        folder = Path(folder)
        note = _read_note(folder)
        if note is None:
            raise UserError(f"{folder}: holds no token states")
        bounds, dim = note["bounds"], note["dim"]
        shards = [_shard(folder, i, bounds, dim) for i in range(len(bounds) - 1)]
        missing = [i for i, each in enumerate(shards) if each is None]
        if missing:
            raise UserError(f"{_name(folder, missing[0])}: is missing or damaged; store it again")
        start = _load(folder / START) if note["start"] else None
        if note["start"] and (start is None or start.shape != (dim,)):
            raise UserError(f"{folder / START}: is missing or damaged; store the states again")
        return cls([each for each in shards if each is not None], start)

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens, dim)."""
        return int(self._bounds[-1]), int(self._shards[0].shape[1])

    def gather(self, index: NDArray[np.integer[Any]]) -> HalfArray:
        """The states float16 [..., dim] of tokens ``index``, an array of any shape."""
        flat = index.reshape(-1)
        if flat.size and (flat.min() < 0 or flat.max() >= self._bounds[-1]):
            raise UserError(
                f"token {flat.min()} or {flat.max()} lies outside the {self._bounds[-1]} tokens "
                f"that there are states of"
            )
        dim = self.shape[1]
        out = np.empty((len(flat), dim), np.float16)
        owner = np.searchsorted(self._bounds, flat, side="right") - 1
        for shard in np.unique(owner):
            mine = np.flatnonzero(owner == shard)
            out[mine] = self._shards[shard][flat[mine] - self._bounds[shard]]
        return out.reshape(*index.shape, dim)


def write_states(
    folder: Path,
    bounds: Sequence[int],
    dim: int,
    key: Mapping[str, Any],
    make: Callable[[int], HalfArray],
    *,
    start: NDArray[Any] | None = None,
) -> Iterator[int]:
    """Fill ``folder`` shard by shard; see the module's top for the files.

    Of several processes, which all see the folder, each makes some of the shards.

    Args:
        folder: made when missing; states of another key in it are removed.
        bounds: first token of every shard, then the number of tokens.
        dim: numbers per state.
        key: plain values the states depend on.
        make: called with a shard's number, returns its states float16 [tokens of it, dim].
        start: see `TokenStates`.

    Yields:
        The tokens done, once for what was there already and after every shard.

    Raises:
        UserError: the files cannot be written, or a state is not finite in float16.
    """
    wanted = {
        "bounds": [int(each) for each in bounds],
        "dim": dim,
        "hash": key_hash(key),
        "start": start is not None,
        "key": dict(key),
    }
    try:
        if processes.rank() == 0:
            _begin(folder, wanted, start)
        processes.meet()
        for shard in range(len(bounds) - 1):
            if processes.mine(shard) and _shard(folder, shard, bounds, dim) is None:
                states = make(shard)
                if not np.isfinite(states).all():
                    raise UserError("the teacher's states are not finite in float16")
                _save(_name(folder, shard), states)
            yield int(bounds[shard + 1])
        processes.meet()
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None


def _begin(folder: Path, wanted: Mapping[str, Any], start: NDArray[Any] | None) -> None:
    """Make sure that the folder holds these states, or none yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if _read_note(folder) == json.loads(json.dumps(wanted)):
        return
    for old in [folder / NOTE, folder / START, *folder.glob("states-*.npy")]:
        old.unlink(missing_ok=True)
    if start is not None:
        _save(folder / START, np.asarray(start, np.float16))
    with atomic_file(folder / NOTE) as file:
        file.write(json.dumps(wanted).encode())


def _name(folder: Path, shard: int) -> Path:
    return folder / f"states-{shard:05}.npy"


def _save(path: Path, array: NDArray[Any]) -> None:
    with atomic_file(path) as file:
        np.save(file, array, allow_pickle=False)


def _load(path: Path) -> NDArray[Any] | None:
    with suppress(OSError, ValueError, EOFError):
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        return found if isinstance(found, np.ndarray) else None
    return None


def _shard(folder: Path, shard: int, bounds: Sequence[int], dim: int) -> HalfArray | None:
    """The shard if it is there and whole."""
    found = _load(_name(folder, shard))
    rows = bounds[shard + 1] - bounds[shard]
    fits = found is not None and found.shape == (rows, dim) and found.dtype == np.float16
    return found if fits else None


def _read_note(folder: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        note = json.loads((folder / NOTE).read_text())
        if isinstance(note, dict) and {"bounds", "dim", "hash", "start"} <= set(note):
            return note if _rises(note["bounds"]) else None
    return None


def _rises(bounds: object) -> bool:
    """Whether these are the bounds of one or more shards."""
    if not isinstance(bounds, list) or not all(isinstance(each, int) for each in bounds):
        return False
    return len(bounds) > 1 and bounds[0] == 0 and all(map(int.__lt__, bounds, bounds[1:]))
