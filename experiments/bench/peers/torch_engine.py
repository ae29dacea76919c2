"""Our engine on PyTorch."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.bench import peers
from experiments.bench.cases import Problem, Rows
from experiments.bench.engine import EngineSteps
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines import Precision
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.engines.torch.batches import evaluate, tensor_of
from pyjuice_bridge.engines.torch.values import Workspace


class Peer(EngineSteps, peers.Peer):
    """EM through the engine's ``fit``; forward on a circuit that stays on the device."""

    def __init__(self, problem: Problem, device: str, options: dict[str, str]) -> None:
        super().__init__(problem, device, options)
        precision = cast(Precision, options.get("precision", "float32"))
        self.engine = TorchEngine(device, precision)
        if device == "cuda":
            self.warm_up = 2  # the second one is recorded
        self.reset()

    def hold(self, circuit: Circuit) -> None:
        super().hold(circuit)
        self.loaded: Any = None

    @torch.inference_mode()
    def log_likelihood(self, x: Rows) -> NDArray[np.float64]:
        if self.loaded is None:
            self.loaded = self.engine._load(self.circuit), Workspace()
        (program, params), workspace = self.loaded
        rows = tensor_of(x, self.engine._device)
        return evaluate(program, params, rows, {}, workspace).cpu().numpy()
