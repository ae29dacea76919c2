"""The passes of the torch engine, of one kind against the plain one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.engines.torch.backward import finish_counts, new_counts
from pyjuice_bridge.engines.torch.forward import Upward
from pyjuice_bridge.engines.torch.fused import downward
from pyjuice_bridge.engines.torch.values import Workspace

ENGINE = TorchEngine()


def passes(
    kind: type[Upward],
    circuit: Circuit,
    x: np.ndarray,
    evidence: Mapping[str, torch.Tensor],
    double: bool = False,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Log-likelihoods, and the expected counts of rows with weights that differ."""
    program, params = ENGINE._load(circuit)
    program = program.in_double if double else program
    with torch.inference_mode():
        up = kind(program, params, torch.from_numpy(x.copy()), dict(evidence), Workspace())
        up.run()
        found = up.log_likelihood()
        counts = new_counts(program, params)
        weights = torch.linspace(0.5, 1.0, len(x))[:, None].repeat(1, found.shape[1])
        downward(up, counts).run(weights.masked_fill(found.isneginf(), 0.0))
        finish_counts(program, params, counts)
    return found, [count for count in counts if count is not None]


def check_same(
    kind: type[Upward], circuit: Circuit, x: np.ndarray, evidence: Mapping[str, torch.Tensor]
) -> None:
    plain, plain_counts = passes(Upward, circuit, x, evidence)
    found, found_counts = passes(kind, circuit, x, evidence)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
    for a, b in zip(found_counts, plain_counts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
