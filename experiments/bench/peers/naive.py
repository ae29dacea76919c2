"""An HCLT as a newcomer would write it: level by level, log + max + product.

It is the baseline of the table: no scaled arithmetic, a ``logsumexp``'s worth of exponentials per
level, a new tensor for every intermediate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows
from pyjuice_bridge.circuit.types import InputLayer, ProductLayer, SumLayer


class Level:
    """The hidden variables of one depth of the tree, deepest depth first.

    Attributes:
        nodes: int64 [n], variables.
        up: int64 [n], place of each one's parent in the next level.
        weights: float [n, width of the parent, width].
    """

    def __init__(self, nodes: Tensor, up: Tensor, weights: Tensor) -> None:
        self.nodes, self.up, self.weights = nodes, up, weights


class Peer(peers.Peer):
    """Mini-batch EM of an HCLT with hand-written flows."""

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        super().__init__(problem, device, options)
        torch.set_flush_denormal(options.get("denormals") != "kept")
        self.reset()

    def reset(self) -> None:
        circuit, device = self.problem.circuit, self.device
        (leaf,) = (a for a in circuit.layers if isinstance(a, InputLayer))
        table = torch.empty(leaf.params.shape)
        table[leaf.variables.astype(np.int64)] = torch.tensor(leaf.params)[leaf.groups]
        self.leaf = table.to(device)
        products = [a for a in circuit.layers if isinstance(a, ProductLayer)]
        sums = [a for a in circuit.layers if isinstance(a, SumLayer)]
        nodes = [leaf.variables[p.children[p.offsets[:-1]]] for p in products]
        self.levels = []
        for i, layer in enumerate(sums):
            up = np.zeros(len(nodes[i]), np.int64)
            if i + 1 < len(products):
                counts = np.diff(products[i + 1].offsets) - 1
                up = np.repeat(np.arange(len(counts)), counts)
            at = torch.tensor(nodes[i].astype(np.int64))
            weights = torch.tensor(layer.weights[layer.groups])
            self.levels.append(Level(*(t.to(device) for t in (at, torch.tensor(up), weights))))

    @torch.no_grad()
    def log_likelihood(self, x: Rows) -> NDArray[Any]:
        root, _ = self._up(torch.as_tensor(x, device=self.device).long())
        found: NDArray[Any] = root[0].double().cpu().numpy()
        return found

    def _up(self, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Log values [1, n, 1] of the root, and (product, sum) [nodes, n, width] per level."""
        kept, below = [], None
        log_leaf = self.leaf.log()
        for i, level in enumerate(self.levels):
            columns = x[:, level.nodes].t()
            value = log_leaf[level.nodes[:, None], :, columns]
            if below is not None:
                value = value.index_add(0, self.levels[i - 1].up, below)
            top = value.amax(2, keepdim=True)
            mixed = torch.bmm((value - top).exp(), level.weights.transpose(1, 2))
            below = mixed.log() + top
            kept.append((value, below))
        assert below is not None
        return below, kept

    @torch.no_grad()
    def step(self, x: Rows, step_size: float, pseudocount: float) -> None:
        rows = torch.as_tensor(x, device=self.device).long()
        _, kept = self._up(rows)
        leaf_counts = torch.zeros_like(self.leaf).transpose(1, 2).contiguous()
        flow = torch.ones(1, len(rows), 1, device=self.device)
        counts = []
        for i in reversed(range(len(self.levels))):
            level, (value, above) = self.levels[i], kept[i]
            top = value.amax(2, keepdim=True)
            inner = (value - top).exp()
            ratio = flow * (top - above).exp()
            counts.append(torch.bmm(ratio.transpose(1, 2), inner) * level.weights)
            flow = torch.bmm(ratio, level.weights) * inner
            place = level.nodes[:, None] * self.leaf.shape[2] + rows[:, level.nodes].t()
            flat = leaf_counts.view(-1, self.leaf.shape[1])
            flat.index_add_(0, place.reshape(-1), flow.reshape(-1, flow.shape[2]))
            if i:
                flow = flow[self.levels[i - 1].up]
        for level, count in zip(self.levels, reversed(counts), strict=True):
            level.weights = _m_step(level.weights, count, step_size, pseudocount)
        self.leaf = _m_step(self.leaf, leaf_counts.transpose(1, 2), step_size, pseudocount)


def _m_step(theta: Tensor, count: Tensor, eta: float, pseudocount: float) -> Tensor:
    total = count.sum(2, keepdim=True)
    share = (count + pseudocount / count.shape[2]) / (total + pseudocount)
    return torch.where(total > 0, (1 - eta) * theta + eta * share, theta)
