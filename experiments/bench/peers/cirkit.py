"""cirkit (``libcirkit``): a symbolic circuit of ours, compiled, folded and optimised.

It learns by gradients.  EM from them: θ times the gradient of the log-likelihood in θ is the
expected count.
"""

from __future__ import annotations

from typing import Any

import torch
from cirkit.pipeline import PipelineContext
from cirkit.symbolic.circuit import Circuit as Symbolic
from cirkit.symbolic.initializers import ConstantTensorInitializer
from cirkit.symbolic.layers import (
    CategoricalLayer,
    HadamardLayer,
    KroneckerLayer,
    Layer,
    SumLayer,
)
from cirkit.symbolic.parameters import Parameter, TensorParameter
from cirkit.utils.scope import Scope
from numpy.typing import NDArray

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows, nodes, parameters
from pyjuice_bridge.circuit.types import Circuit, InputLayer, ProductLayer

_COPIES = 24
"""Bytes per value that autograd keeps: values, exponentials, logarithms, gradients."""


class Peer(peers.Peer):
    """Layers of one block each; its compiler folds those that are alike."""

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        super().__init__(problem, device, options)
        torch.set_flush_denormal(True)
        context = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True)
        self.model = context.compile(symbolic(problem.circuit)).to(device)
        self.params = list(self.model.parameters())
        self.start = [p.detach().clone() for p in self.params]

    @classmethod
    def bytes_needed(cls, problem: Problem) -> int:
        values = problem.batch * nodes(problem.circuit)
        return 16 * parameters(problem.circuit) + _COPIES * values

    @torch.no_grad()
    def reset(self) -> None:
        for param, start in zip(self.params, self.start, strict=True):
            param.copy_(start)

    def _run(self, x: Rows) -> torch.Tensor:
        rows = torch.as_tensor(x.astype("int64"), device=self.device)
        found: torch.Tensor = self.model(rows)
        return found.flatten(1)

    @torch.no_grad()
    def log_likelihood(self, x: Rows) -> NDArray[Any]:
        found: NDArray[Any] = self._run(x).double().cpu().numpy()
        return found

    def step(self, x: Rows, step_size: float, pseudocount: float) -> None:
        grads = torch.autograd.grad(self._run(x).sum(), self.params)
        with torch.no_grad():
            for theta, grad in zip(self.params, grads, strict=True):
                count = grad.mul_(theta).nan_to_num_(0.0)  # 0 · ∞ at θ = 0
                total = count.sum(-1, keepdim=True)
                share = (count + pseudocount / theta.shape[-1]) / (total + pseudocount)
                new = share if step_size == 1 else torch.lerp(theta, share, step_size)
                theta.copy_(torch.where(total > 0, new, theta))


def symbolic(circuit: Circuit) -> Symbolic:
    """The same circuit; blocks that share parameters refer to those of the first of them."""
    made: list[Layer] = []
    below: dict[Layer, list[Layer]] = {}
    shared: dict[tuple[int, tuple[int, ...]], Parameter] = {}

    def parameter(array: NDArray[Any], groups: tuple[int, ...]) -> Parameter:
        key = id(array), groups
        if key in shared:
            return shared[key].ref()
        weights = torch.cat([torch.tensor(array[g]) for g in groups], 1).numpy()
        tensor = TensorParameter(*weights.shape, initializer=ConstantTensorInitializer(weights))
        shared[key] = Parameter.from_input(tensor)
        return shared[key]

    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            for variable, group in zip(layer.variables.tolist(), layer.groups.tolist(), strict=True):
                probs = parameter(layer.params, (group,))
                scope = Scope([variable])
                made.append(
                    CategoricalLayer(
                        scope, layer.width, num_categories=layer.categories, probs=probs
                    )
                )
            continue
        for start, end in zip(layer.offsets[:-1].tolist(), layer.offsets[1:].tolist(), strict=True):
            children = [made[c] for c in layer.children[start:end].tolist()]
            width = children[0].num_output_units
            if isinstance(layer, ProductLayer):
                if len(children) == 1:
                    made.append(children[0])
                    continue
                kind = HadamardLayer if layer.kind == "hadamard" else KroneckerLayer
                block: Layer = kind(width, len(children))
            else:
                weight = parameter(layer.weights, tuple(layer.groups[start:end].tolist()))
                block = SumLayer(width, layer.width, len(children), weight=weight)
            made.append(block)
            below[block] = children
    layers = list(dict.fromkeys(made))
    return Symbolic(layers, below, [made[root] for root in circuit.roots.tolist()])
