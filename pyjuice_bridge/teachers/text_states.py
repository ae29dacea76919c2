"""Hidden states of every token of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.store import Blocks

NAME = "states"
START = "start"

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
        """Map the finished states in ``folder`` into memory.

        Raises:
            UserError: they are missing, unfinished or damaged.
        """
        blocks = Blocks.open(folder, NAME)
        shards, start = blocks.arrays(), blocks.facts.get(START)
        if start is not None and np.shape(start) != shards[0].shape[1:]:
            raise UserError(f"{folder}: holds no {NAME} that fit together; run again to store them")
        return cls(shards, start)

    @property
    def shape(self) -> tuple[int, int]:
        """(tokens, dim)."""
        return int(self._bounds[-1]), int(self._shards[0].shape[1])

    def gather(self, index: NDArray[np.integer[Any]]) -> HalfArray:
        """Return the states float16 [..., dim] of tokens ``index``, an array of any shape."""
        flat = index.reshape(-1)
        if flat.size and (flat.min() < 0 or flat.max() >= self._bounds[-1]):
            raise UserError(
                f"token {flat.min()} or {flat.max()} lies outside the {self._bounds[-1]} tokens "
                f"whose states are stored"
            )
        dim = self.shape[1]
        out = np.empty((len(flat), dim), np.float16)
        owner = np.searchsorted(self._bounds, flat, side="right") - 1
        for shard in np.unique(owner):
            mine = np.flatnonzero(owner == shard)
            out[mine] = self._shards[shard][flat[mine] - self._bounds[shard]]
        return out.reshape(*index.shape, dim)
