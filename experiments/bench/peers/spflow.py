"""SPFlow 1.x: a module per block, as its own builders of HCLTs and RAT-SPNs make them."""

from __future__ import annotations

import sys
from typing import Any

import torch
from numpy.typing import NDArray
from spflow.learn.expectation_maximization import expectation_maximization
from spflow.meta import Scope
from spflow.modules.leaves import Categorical
from spflow.modules.module import Module
from spflow.modules.products import ElementwiseProduct, OuterProduct
from spflow.modules.sums import Sum

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows
from experiments.bench.peers.blocks import assemble
from pyjuice_bridge.circuit.types import Circuit, InputLayer, SumLayer


class Peer(peers.Peer):
    """Its ``expectation_maximization`` with one step."""

    minibatch = False

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        super().__init__(problem, device, options)
        torch.set_flush_denormal(True)
        sys.setrecursionlimit(100_000)
        self.reset()

    @classmethod
    def bytes_needed(cls, problem: Problem) -> int:
        """Every product of a weight and a value, kept for the backward pass three times."""
        edges = sum(
            len(a.children) * a.weights.shape[1] * a.weights.shape[2]
            for a in problem.circuit.layers
            if isinstance(a, SumLayer)
        )
        return 12 * problem.batch * edges

    def reset(self) -> None:
        self.model = module(self.problem.circuit).to(self.device)

    def _rows(self, x: Rows) -> torch.Tensor:
        return torch.as_tensor(x, dtype=torch.float32, device=self.device)

    @torch.no_grad()
    def log_likelihood(self, x: Rows) -> NDArray[Any]:
        found = self.model.log_likelihood(self._rows(x)).flatten(1).double().cpu().numpy()
        return found  # type: ignore[no-any-return]

    def step(self, x: Rows, step_size: float, pseudocount: float) -> None:
        self.model.zero_grad()
        expectation_maximization(self.model, self._rows(x), max_steps=1)


def module(circuit: Circuit) -> Module:
    """The module of the circuit's first root."""

    def leaf(layer: InputLayer, variable: int, group: int) -> Module:
        probs = torch.tensor(layer.params[group])
        return Categorical(Scope([variable]), probs=probs[None, :, None])

    def product(kind: str, parts: list[Module]) -> Module:
        return ElementwiseProduct(parts) if kind == "hadamard" else OuterProduct(parts)

    def mix(layer: SumLayer, groups: list[int], parts: list[Module]) -> Module:
        weights = torch.cat([torch.tensor(layer.weights[g]).t() for g in groups])
        return Sum(parts, weights=(weights / weights.sum(0))[None, :, :, None])

    return assemble(circuit, leaf, product, mix)[int(circuit.roots[0])]
