"""cirkit (``libcirkit``): a symbolic circuit of ours, compiled, folded and optimised.

It learns by gradients.  EM from them: θ times the gradient of the log-likelihood in θ is the
expected count.  Its HMMs keep parameters for every position; to stay homogeneous, counts are added
up over the positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cirkit.pipeline import PipelineContext
from cirkit.symbolic import layers as cirkit_layers
from cirkit.symbolic.circuit import Circuit as Symbolic
from cirkit.symbolic.initializers import ConstantTensorInitializer
from cirkit.symbolic.layers import CategoricalLayer, HadamardLayer, KroneckerLayer, Layer
from cirkit.symbolic.parameters import Parameter, TensorParameter
from cirkit.utils.scope import Scope
from numpy.typing import NDArray

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows, nodes, parameters
from experiments.bench.peers.blocks import assemble
from pyjuice_bridge.circuit.types import Circuit, InputLayer, SumLayer

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
        copies = problem.circuit.num_vars if problem.family == "hmm" else 1
        return 16 * copies * parameters(problem.circuit) + _COPIES * values

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
            # Where θ = 0 the product is 0 · ∞.
            counts = [g.mul_(p).nan_to_num_(0.0) for g, p in zip(grads, self.params, strict=True)]
            if self.problem.family == "hmm":
                counts = _over_positions(counts)
            for theta, count in zip(self.params, counts, strict=True):
                total = count.sum(-1, keepdim=True)
                share = (count + pseudocount / theta.shape[-1]) / (total + pseudocount)
                new = share if step_size == 1 else torch.lerp(theta, share, step_size)
                theta.copy_(torch.where(total > 0, new, theta))


def _over_positions(counts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Folded counts [folds, width, columns]: the sum over all of one width and columns."""
    sums: dict[torch.Size, torch.Tensor] = {}
    for count in counts:
        shape = count.shape[1:]
        sums[shape] = sums.get(shape, 0) + count.sum(0)
    return [sums[count.shape[1:]].expand_as(count) for count in counts]


def symbolic(circuit: Circuit) -> Symbolic:
    """The same circuit; blocks that share parameters have a copy each."""
    below: dict[Layer, list[Layer]] = {}

    def leaf(layer: InputLayer, variable: int, group: int) -> Layer:
        probs = _parameter(layer.params[group])
        scope = Scope([variable])
        return CategoricalLayer(scope, layer.width, num_categories=layer.categories, probs=probs)

    def product(kind: str, parts: list[Layer]) -> Layer:
        made = HadamardLayer if kind == "hadamard" else KroneckerLayer
        block: Layer = made(parts[0].num_output_units, len(parts))
        below[block] = parts
        return block

    def mix(layer: SumLayer, groups: list[int], parts: list[Layer]) -> Layer:
        weight = _parameter(np.concatenate([layer.weights[g] for g in groups], 1))
        width = parts[0].num_output_units
        block = cirkit_layers.SumLayer(width, layer.width, len(parts), weight=weight)
        below[block] = parts
        return block

    made = assemble(circuit, leaf, product, mix)
    return Symbolic(list(dict.fromkeys(made)), below, [made[r] for r in circuit.roots.tolist()])


def _parameter(values: NDArray[Any]) -> Parameter:
    start = ConstantTensorInitializer(values)
    return Parameter.from_input(TensorParameter(*values.shape, initializer=start))
