"""Most probable explanation: the best joint state of the missing variables and all latents.

An upward pass in the log domain (float64) in which sums and missing variables are maximised, a
bounded number of terms at a time, then a top-down pass (``descent``) that takes the best choice;
ties go to the first.  On a hidden Markov model this is the Viterbi algorithm.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.torch.descent import (
    STATES,
    InputIndex,
    LayerIndex,
    ProductIndex,
    SumIndex,
    descend,
    layer_indices,
)
from pyjuice_bridge.engines.torch.program import Params, ProductPlan, Program

_TERMS = 1 << 23
"""Most terms of a maximum held at once."""


def mpe_rows(
    circuit: Circuit, program: Program, params: Params, x: torch.Tensor, *, root: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Find the best completion of every row of ``x`` (int [N, num_vars], -1 where missing).

    Returns:
        int32 [N, num_vars] (variables outside the root's scope stay as in ``x``), and the log-value
        of the best joint state, float64 [N] in nats: -inf where the evidence is impossible, and the
        completion then means nothing.
    """
    indices = layer_indices(circuit, program.device)
    block = int(circuit.roots[root])
    nodes = sum(n * w for n, w in zip(program.sizes, program.widths, strict=True))
    widest = max((i.width * i.width_in for i in indices if isinstance(i, SumIndex)), default=1)
    step = max(1, min(STATES // nodes, _TERMS // widest))
    if not len(x):
        return np.empty((0, circuit.num_vars), np.int32), np.empty(0)
    completions, values = [], []
    for part in x.split(step):
        best = _Best(program, params, indices, part)
        rows = torch.arange(len(part), device=x.device)
        values.append(best.read(torch.tensor([block], device=x.device))[0, :, 0].cpu().numpy())
        found = descend(indices, circuit.num_blocks, block, part, rows, best)
        completions.append(found.cpu().numpy())
    return np.concatenate(completions), np.concatenate(values)


class _Best:
    """Max-product values of one batch, and the choices that attain them."""

    def __init__(
        self, program: Program, params: Params, indices: list[LayerIndex], x: torch.Tensor
    ) -> None:
        self.program, self.params, self.indices = program, params, indices
        self.starts = torch.tensor([i.first for i in indices], device=x.device)
        sizes = torch.tensor(program.sizes, device=x.device)
        self.layer_of = torch.arange(len(sizes), device=x.device).repeat_interleave(sizes)
        self.tiles: list[torch.Tensor] = []
        for layer, index in enumerate(indices):
            if isinstance(index, InputIndex):
                self.tiles.append(self._input(layer, index, x))
            elif isinstance(index, SumIndex):
                self.tiles.append(self._sum(layer, index))
            else:
                self.tiles.append(self._product(layer, index))

    def read(self, blocks: torch.Tensor) -> torch.Tensor:
        """Log values [n, batch, width] of blocks of equal width, given by global id."""
        layer = self.layer_of[blocks]
        used = layer.unique().tolist()
        batch, width = self.tiles[used[0]].shape[1:]
        out = self.tiles[0].new_empty(len(blocks), batch, width)
        for source in used:
            here = layer == source
            out[here] = self.tiles[source][blocks[here] - self.starts[source]]
        return out

    def _input(self, layer: int, index: InputIndex, x: torch.Tensor) -> torch.Tensor:
        params = self.params[layer]
        assert params is not None
        table = params.double().log()
        table[:, 0] = table[:, 1:].amax(1)
        value = x.t()[index.variables].long() + 1
        return table[index.groups[:, None], value]

    def _product(self, layer: int, index: ProductIndex) -> torch.Tensor:
        plan = self.program.layers[layer]
        assert isinstance(plan, ProductPlan)
        batch = self.tiles[0].shape[1]
        if plan.kind == "hadamard":
            out = self.tiles[0].new_zeros(plan.num_blocks, batch, plan.width)
            return out.index_add_(0, index.parents, self.read(index.children))
        slots = index.children.view(plan.num_blocks, -1).unbind(1)
        parts = [self.read(children) for children in slots]
        if plan.kind == "concat":
            return torch.cat(parts, 2)
        first, second = parts
        return (first[..., None] + second[..., None, :]).flatten(2)

    def _sum(self, layer: int, index: SumIndex) -> torch.Tensor:
        weights = self.params[self.program.owners[layer]]
        assert weights is not None
        logs = weights.double().log()
        batch = self.tiles[0].shape[1]
        out = logs.new_full((len(index.children), batch, index.width), -torch.inf)
        step = max(1, _TERMS // (batch * index.width * index.width_in))
        for start in range(0, len(out), step):
            part = slice(start, start + step)
            for slot in range(index.children.shape[1]):
                values = self.read(index.children[part, slot])
                theta = logs[index.groups[part, slot]]
                best = (values[:, :, None] + theta[:, None]).amax(-1)
                best[index.edges[part, slot] < 0] = -torch.inf
                torch.maximum(out[part], best, out=out[part])
        return out

    def edge(
        self,
        layer: int,
        index: SumIndex,
        block: torch.Tensor,
        state: torch.Tensor,
        row: torch.Tensor,
    ) -> torch.Tensor:
        weights = self.params[self.program.owners[layer]]
        assert weights is not None
        scores = []
        for slot in range(index.children.shape[1]):
            theta = weights[index.groups[block, slot], state].double().log()
            score = theta + self._nodes(index.children[block, slot], row)
            score[index.edges[block, slot] < 0] = -torch.inf
            scores.append(score)
        return torch.cat(scores, 1).argmax(1)

    def _nodes(self, blocks: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """Log values [M, width] of single (block, row) pairs."""
        layer = self.layer_of[blocks]
        used = layer.unique().tolist()
        width = self.tiles[used[0]].shape[2]
        out = self.tiles[0].new_empty(len(blocks), width)
        for source in used:
            here = layer == source
            out[here] = self.tiles[source][blocks[here] - self.starts[source], row[here]]
        return out

    def leaf(
        self, layer: int, index: InputIndex, block: torch.Tensor, state: torch.Tensor
    ) -> torch.Tensor:
        params = self.params[layer]
        assert params is not None
        return params[:, 1:].argmax(1)[index.groups[block], state]
