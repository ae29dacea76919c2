"""Work that a GPU repeats: recorded once, then one launch in place of thousands (CUDA graphs).

A pass over a tree is some thousand small operations, and launching one takes as long as a matrix
product of 64 × 64 over a batch.  A recording repeats them on the same memory; it can hold nothing
that looks at numbers on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

Results = tuple[torch.Tensor | None, ...]
Work = Callable[..., Results]
"""From tensors to tensors; all else that it reads and writes stays at the same addresses."""


class Recording:
    """One piece of work for inputs of one shape.

    Args:
        stream: to record on; libraries keep memory for each.
        pool: of memory for what comes and goes on the way, shared with other recordings.
    """

    def __init__(
        self, work: Work, inputs: Sequence[torch.Tensor], stream: torch.cuda.Stream, pool: Any
    ) -> None:
        self._inputs = [given.clone() for given in inputs]
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, NCCL's for one, may ask the GPU for events meanwhile.
        recording = torch.cuda.graph(self._graph, pool, stream, capture_error_mode="thread_local")
        with torch.cuda.device(stream.device), recording:
            self._results = work(*self._inputs)

    def __call__(self, inputs: Sequence[torch.Tensor]) -> Results:
        for kept, given in zip(self._inputs, inputs, strict=True):
            kept.copy_(given)
        self._graph.replay()
        return tuple(None if found is None else found.clone() for found in self._results)


class Recordings:
    """What has been recorded: work that comes a second time, on CUDA."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Recording | None] = {}
        self._place: tuple[torch.cuda.Stream, Any] | None = None

    def run(self, key: Hashable, work: Work, inputs: Sequence[torch.Tensor]) -> Results:
        """``work(*inputs)``; the same ``key`` promises the same work on the same memory.

        The first time, operations run one by one: that loads the libraries they need, which
        cannot be done while recording.
        """
        if inputs[0].device.type != "cuda":
            return work(*inputs)
        key = (key, *((given.shape, given.dtype) for given in inputs))
        if key not in self._made:
            found = work(*inputs)
            self._made[key] = None
            return found
        recording = self._made[key]
        if recording is None:
            if self._place is None:
                self._place = torch.cuda.Stream(inputs[0].device), torch.cuda.graph_pool_handle()
            recording = self._made[key] = Recording(work, inputs, *self._place)
        return recording(inputs)

    def clear(self) -> None:
        """To be called when memory that work uses has moved."""
        self._made.clear()
