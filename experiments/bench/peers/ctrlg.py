"""Ctrl-G's HMM code (arXiv 2406.13892): its own upward and downward passes.

``CTRLG`` or ``--ctrlg`` names a folder that holds its package; without it ``ctrlg`` must be
installed.  The M-step, which Ctrl-G keeps in a training script, is ours.
"""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import torch
from numpy.typing import NDArray

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows
from experiments.bench.peers.paths import ctrlg_file
from pyjuice_bridge.circuit.hmm import Hmm


def _module() -> ModuleType:
    path = ctrlg_file()
    if path is None:
        raise ImportError("ctrlg is not installed, and CTRLG names no folder that holds it")
    spec = importlib.util.spec_from_file_location("ctrlg_hmm", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Peer(peers.Peer):
    """``ctrlg.hmm.HMM`` with counts collected as its training script does."""

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        super().__init__(problem, device, options)
        torch.set_flush_denormal(True)
        hmm = Hmm.of(problem.circuit)
        self.start = [torch.tensor(a) for a in (hmm.initial, hmm.transition, hmm.emission)]
        shape = hmm.states, hmm.vocabulary_size
        self.model = _module().HMM(*shape, 0).to(device)
        self.reset()

    def reset(self) -> None:
        initial, transition, emission = (t.to(self.device) for t in self.start)
        self.model.update_params(transition.clone(), emission.log(), initial.log())

    @torch.no_grad()
    def log_likelihood(self, x: Rows) -> NDArray[Any]:
        rows = torch.as_tensor(x.astype("int64"), device=self.device)
        found: NDArray[Any] = self.model.forward(rows)[-1].double().cpu().numpy()
        return found

    @torch.no_grad()
    def step(self, x: Rows, step_size: float, pseudocount: float) -> None:
        model = self.model
        rows = torch.as_tensor(x.astype("int64"), device=self.device)
        transition = torch.zeros_like(model.alpha_exp)
        emission = model.beta.new_zeros(model.vocab_size + 1, model.hidden_states)
        initial = torch.zeros_like(model.gamma)
        model.backward(rows, model.forward(rows), transition, emission, initial)
        transition.mul_(model.alpha_exp)
        counts = transition, emission[:-1].t().contiguous(), initial
        old = (
            (model.alpha_exp, model.beta, model.gamma)
            if step_size == 1
            else (model.alpha_exp, model.beta.exp(), model.gamma.exp())
        )
        new = [_m_step(*pair, step_size, pseudocount) for pair in zip(old, counts, strict=True)]
        model.update_params(new[0], new[1].log_(), new[2].log_())


def _m_step(
    theta: torch.Tensor, count: torch.Tensor, eta: float, pseudocount: float
) -> torch.Tensor:
    count += pseudocount / count.shape[-1]
    count.div_(count.sum(-1, keepdim=True))
    return count if eta == 1 else torch.lerp(theta, count, eta)
