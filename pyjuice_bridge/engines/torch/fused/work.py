"""What a job is made of: buffers, who makes matrix products, and how work is cut."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import torch

from pyjuice_bridge.engines.torch.fused.buffers import Buffers
from pyjuice_bridge.engines.torch.fused.memory import SIZE, TINY
from pyjuice_bridge.engines.torch.program import SumPlan

_CHUNK_BYTES = 2**16
"""Bytes of a block's rows that are one task, unless these are very few rows or very many."""
_FEWEST, _MOST = 128, 512
_TASKS_PER_THREAD = 2
"""From as many on, threads that are not equally fast hardly wait for one another."""


class Cut(NamedTuple):
    """How many tasks there are of how many samples of a block."""

    tasks: int
    samples: int


class Work:
    """One program with its buffers, on a number of threads.

    Attributes:
        gemm: the address of the BLAS routine; 0 where PyTorch makes the matrix products.
        edge_values: by sum layer, what each edge gives: [edges, batch, width].
        limit: below it, values may lack what underflow took (see ``forward``).
    """

    def __init__(self, buffers: Buffers, gemm: int, threads: int) -> None:
        self.buffers, self.gemm, self.threads = buffers, gemm, threads
        self.program, self.batch = buffers.program, buffers.batch
        self.layout = buffers.layout
        self.edge_values = {i: self._edge_values(i) for i in self.layout.sums}
        self.limit = float(TINY) ** 0.75

    @property
    def enough(self) -> int:
        """Tasks that keep all threads busy."""
        return _TASKS_PER_THREAD * self.threads

    def cut(self, layer: int) -> Cut:
        """Of a layer's tile."""
        program = self.program
        rows = _CHUNK_BYTES // (program.widths[layer] * SIZE)
        samples = min(self.batch, max(_FEWEST, min(_MOST, rows)))
        return Cut(program.sizes[layer] * -(-self.batch // samples), samples)

    def sets(self, layer: int) -> int:
        """Return sets of blocks of a product layer that count into tables of their own."""
        return len(self.layout.sets[layer].offsets) - 1

    def floor(self, plan: SumPlan) -> float:
        """Return what the terms of one sum may lose together."""
        return float(TINY) * plan.terms

    @cached_property
    def joined_up(self) -> frozenset[int]:
        """Product layers whose kernel also makes the matrix products of the sums above.

        There are rows for all threads then.  What several edges give is kept for one sum layer at
        a time.
        """
        joined = set()
        for layer, above in self.layout.above.items() if self.gemm else ():
            if layer not in self.layout.variables:
                continue
            plan = self.program.layers[above]
            assert isinstance(plan, SumPlan)
            in_time = plan.direct or above == layer + 1
            if in_time and self.cut(layer).tasks >= self.enough:
                joined.add(layer)
        return frozenset(joined)

    @cached_property
    def joined_down(self) -> frozenset[int]:
        """Product layers whose kernel does so downward, too."""
        known = self.layout.independent & self.joined_up
        return frozenset(i for i in known if self.sets(i) >= self.enough)

    def _edge_values(self, layer: int) -> torch.Tensor:
        plan, buffers = self.program.layers[layer], self.buffers
        assert isinstance(plan, SumPlan)
        if plan.direct:
            return buffers.tiles[layer]
        shape = (plan.sources[0].count, self.batch, plan.width)
        return buffers.workspace.buffer("edge_values", shape, self.program)
