"""Log-likelihoods and EM steps in float64 and the log domain, block by block, with autograd.

Written from the definitions; it shares nothing with the engines.
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows
from experiments.bench.peers.blocks import assemble, groups_of
from pyjuice_bridge.circuit.types import InputLayer, SumLayer, layer_params


class Peer(peers.Peer):
    """Slow and plain."""

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        super().__init__(problem, device, options)
        self.reset()

    def reset(self) -> None:
        self.params: list[Tensor | None] = []
        for layer in self.problem.circuit.layers:
            array = layer_params(layer)
            if isinstance(layer, SumLayer) and layer.tied_to is not None:
                array = None
            tensor = None if array is None else torch.tensor(array, dtype=torch.float64)
            self.params.append(tensor)

    @torch.no_grad()
    def log_likelihood(self, x: Rows) -> NDArray[Any]:
        found: NDArray[Any] = self._roots(x).numpy()
        return found

    def step(self, x: Rows, step_size: float, pseudocount: float) -> None:
        for p in self.params:
            if p is not None:
                p.requires_grad_(True).grad = None
        self._roots(x).sum().backward()
        with torch.no_grad():
            for i, p in enumerate(self.params):
                if p is not None:
                    assert p.grad is not None
                    self.params[i] = self._m_step(i, p, p * p.grad, step_size, pseudocount)

    def _m_step(self, i: int, theta: Tensor, count: Tensor, eta: float, c: float) -> Tensor:
        layer = self.problem.circuit.layers[i]
        families = [[g] for g in range(len(theta))]
        if isinstance(layer, SumLayer):
            families = [list(family) for family in {tuple(groups) for groups in groups_of(layer)}]
        new = theta.detach().clone()
        for family in families:
            total = count[family].sum((0, 2))[None, :, None]
            siblings = len(family) * theta.shape[2]
            share = (count[family] + c / siblings) / (total + c)
            new[family] = torch.where(total > 0, (1 - eta) * new[family] + eta * share, new[family])
        return new

    def _roots(self, x: Rows) -> Tensor:
        """float64 [n, roots]."""
        rows = torch.as_tensor(x.astype("int64"))
        circuit = self.problem.circuit
        pairs = zip(circuit.layers, self.params, strict=True)
        theta = {id(layer): p.unbind() for layer, p in pairs if p is not None}

        def leaf(layer: InputLayer, variable: int, group: int) -> Tensor:
            return _log(theta[id(layer)][group].t()[rows[:, variable]])

        def mix(layer: SumLayer, groups: list[int], parts: list[Tensor]) -> Tensor:
            owner = layer if layer.tied_to is None else circuit.layers[layer.tied_to]
            weights = torch.cat([theta[id(owner)][g] for g in groups], 1)
            below = torch.cat(parts, 1)
            top = below.detach().amax(1, keepdim=True)
            top = torch.where(top.isfinite(), top, 0.0)
            return _log((below - top).exp() @ weights.t()) + top

        values = assemble(circuit, leaf, _product, mix)
        return torch.cat([values[root] for root in circuit.roots.tolist()], 1)


def _log(p: Tensor) -> Tensor:
    """The logarithm, of which no gradient comes back where p is zero."""
    positive = p > 0
    return torch.where(positive, torch.where(positive, p, 1.0).log(), -torch.inf)


def _product(kind: str, parts: list[Tensor]) -> Tensor:
    if kind == "concat":
        return torch.cat(parts, 1)
    if kind == "kronecker":
        left, right = parts
        return (left[:, :, None] + right[:, None]).flatten(1)
    return torch.stack(parts).sum(0)
