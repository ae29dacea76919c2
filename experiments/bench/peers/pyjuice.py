"""PyJuice, on CUDA: its nodes made of our blocks, its forward, backward and ``mini_batch_em``.

By default its sums round to bfloat16 on the way; ``float32=forced`` asks it not to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyjuice as juice
import torch
from numpy.typing import NDArray
from pyjuice.nodes.distributions import Categorical

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows
from experiments.bench.peers.blocks import assemble
from pyjuice_bridge.circuit.types import Circuit, InputLayer, SumLayer

_LARGEST_BLOCK = 1024


class Peer(peers.Peer):
    """A ``TensorCircuit`` and its flows."""

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        super().__init__(problem, device, options)
        self.exact = {"force_use_fp32": options.get("float32") == "forced"}
        self.model = juice.compile(nodes(problem.circuit), verbose=False).to(torch.device(device))
        self.tensors = [self.model.params, *(a.params for a in self.model.input_layer_group)]
        self.start = [t.detach().clone() for t in self.tensors]

    @torch.no_grad()
    def reset(self) -> None:
        for tensor, start in zip(self.tensors, self.start, strict=True):
            tensor.copy_(start)

    def _rows(self, x: Rows) -> torch.Tensor:
        return torch.as_tensor(x.astype("int64"), device=self.device)

    @torch.no_grad()
    def log_likelihood(self, x: Rows) -> NDArray[Any]:
        found = self.model(self._rows(x), **self.exact)
        return found.reshape(-1).double().cpu().numpy()  # type: ignore[no-any-return]

    @torch.no_grad()
    def step(self, x: Rows, step_size: float, pseudocount: float) -> None:
        rows = self._rows(x)
        self.model.init_param_flows(flows_memory=0.0)
        self.model(rows, **self.exact)
        self.model.backward(rows, flows_memory=1.0, **self.exact)
        self.model.mini_batch_em(step_size=step_size, pseudocount=pseudocount)


def nodes(circuit: Circuit) -> Any:
    """An HMM or HCLT; blocks that share parameters are tied duplicates of the first."""
    first: dict[tuple[int, ...], Any] = {}

    def leaf(layer: InputLayer, variable: int, group: int) -> Any:
        key = id(layer.params), group
        if key in first:
            return first[key].duplicate(variable, tie_params=True)
        size = _block_size(layer.width)
        dist = Categorical(num_cats=layer.categories)
        block = juice.inputs(variable, layer.width // size, dist, block_size=size)
        block.set_params(torch.tensor(layer.params[group], dtype=torch.float32))
        return first.setdefault(key, block)

    def mix(layer: SumLayer, groups: list[int], parts: list[Any]) -> Any:
        key = id(layer.weights), *groups
        if key in first:
            return first[key].duplicate(*parts, tie_params=True)
        size = _block_size(layer.width)
        block = juice.summate(*parts, num_node_blocks=layer.width // size, block_size=size)
        weights = np.concatenate([layer.weights[g] for g in groups], 1)
        block.set_params(torch.tensor(weights, dtype=torch.float32))
        return first.setdefault(key, block)

    made = assemble(circuit, leaf, lambda _, parts: juice.multiply(*parts), mix)
    return made[int(circuit.roots[0])]


def _block_size(width: int) -> int:
    """The largest power of two that divides the width."""
    return min(width & -width, _LARGEST_BLOCK)
