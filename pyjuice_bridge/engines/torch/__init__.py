"""The embedded engine: circuits on PyTorch, CPU or CUDA."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge import processes
from pyjuice_bridge.circuit.types import MISSING, Circuit
from pyjuice_bridge.engines.base import (
    USUAL,
    Counts,
    Epoch,
    FitOptions,
    FitResult,
    Latents,
    Precision,
    check_options,
)
from pyjuice_bridge.engines.evidence import (
    check_circuit,
    check_draws,
    check_latents,
    check_root,
    check_rows,
    check_valid,
    check_weights,
    checkpoint_path,
    warn_of_unseen,
)
from pyjuice_bridge.engines.resume import training_key
from pyjuice_bridge.engines.steps import m_step
from pyjuice_bridge.engines.torch.backward import finish_counts, new_counts
from pyjuice_bridge.engines.torch.batches import (
    collect,
    evaluate,
    evidence_of,
    tensor_of,
)
from pyjuice_bridge.engines.torch.calls import calling_back, computing
from pyjuice_bridge.engines.torch.compile import compile_circuit
from pyjuice_bridge.engines.torch.fit import Rows, Trainer, train
from pyjuice_bridge.engines.torch.mpe import mpe_rows
from pyjuice_bridge.engines.torch.precision import (
    check_precision,
    dtype_of,
    factors_of,
)
from pyjuice_bridge.engines.torch.program import to_device, to_numpy
from pyjuice_bridge.engines.torch.sample import posteriors, sample_rows
from pyjuice_bridge.engines.torch.sizes import training_bytes
from pyjuice_bridge.engines.torch.values import Workspace

_MOST_PSEUDOCOUNT = 1e25
"""Weights far below one raise pseudocounts; from here on rows are uniform in float64 too."""

P = ParamSpec("P")
R = TypeVar("R")


def _arithmetic(method: Callable[Concatenate[TorchEngine, P], R]) -> Callable[..., R]:
    """Run a method in the engine's precision and settings (see ``calls.computing``)."""

    @wraps(method)
    def run(self: TorchEngine, *args: P.args, **kwargs: P.kwargs) -> R:
        with computing(self.precision, self._device):
            return method(self, *args, **kwargs)

    return run


class TorchEngine:
    """Runs circuits with PyTorch (see ``engines.base.Engine`` for the methods).

    Args:
        device: ``cpu`` or ``cuda`` (``cuda:1`` …).
        precision: ``float32``; ``float64``, for checks; ``tf32`` and ``bf16``: float32 whose matrix
            products round their factors (see ``precision``).

    Raises:
        UserError: the device has no units for the precision.
    """

    name = "torch"
    m_step = staticmethod(m_step)

    def __init__(self, device: str = "cpu", precision: Precision = "float32") -> None:
        self.device, self.precision = device, precision
        self._device = torch.device(device)
        self._dtype = dtype_of(precision)
        check_precision(precision, self._device)

    def __repr__(self) -> str:
        return f"TorchEngine({self.device}, {self.precision})"

    @property
    def pid(self) -> int:
        return os.getpid()

    def facts(self) -> dict[str, str | int]:
        return {"threads": torch.get_num_threads()}

    def _load(self, circuit: Circuit, *, trees: bool = True) -> tuple[Any, Any]:
        program = compile_circuit(circuit, self._device, self._dtype, trees=trees)
        program = replace(program, factors=factors_of(self.precision, self._device))
        return program, to_device(circuit, self._device, self._dtype)

    @_arithmetic
    def log_likelihood(
        self, circuit: Circuit, x: NDArray[Any], latents: Latents | None = None
    ) -> NDArray[np.float64]:
        x = check_rows(circuit, x)
        program, params = self._load(circuit)
        own = processes.part(len(x))
        given = {k: v[own] for k, v in check_latents(circuit, latents, len(x)).items()}
        rows, evidence = tensor_of(x[own], self._device), evidence_of(given, program)
        scores = evaluate(program, params, rows, evidence, Workspace())
        return processes.gather(scores, len(x)).cpu().numpy()

    @_arithmetic
    def expected_counts(
        self,
        circuit: Circuit,
        x: NDArray[Any],
        weights: NDArray[Any] | None = None,
        latents: Latents | None = None,
    ) -> Counts:
        check_circuit(circuit)
        program, params = self._load(circuit)
        rows, scale = self._rows(circuit, program, x, weights, latents)
        counts = new_counts(program, params)
        total = collect(program, params, counts, rows.x, rows.weights, rows.evidence, Workspace())
        finish_counts(program, params, counts)
        arrays = to_numpy(program, [None if c is None else c.mul_(scale) for c in counts])
        return Counts(tuple(arrays), float(total) * scale)

    @_arithmetic
    def fit(
        self,
        circuit: Circuit,
        x: NDArray[Any],
        options: FitOptions = USUAL,
        *,
        weights: NDArray[Any] | None = None,
        latents: Latents | None = None,
        valid: NDArray[Any] | None = None,
        checkpoint: Path | str | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> FitResult:
        x, valid = check_rows(circuit, x), check_valid(circuit, valid)
        check_options(circuit, options)
        place = checkpoint_path(checkpoint)
        warn_of_unseen(options, x, valid)
        program, params = self._load(circuit)
        rows, scale = self._rows(circuit, program, x, weights, latents)
        held_out = None if valid is None else tensor_of(valid, self._device)
        pseudocount = min(options.pseudocount / scale, _MOST_PSEUDOCOUNT)
        trainer = Trainer(program, params, rows, held_out, options, pseudocount)
        key = ""
        if place is not None:
            key = training_key(
                self.name,
                self.precision,
                circuit,
                x,
                options,
                weights=weights,
                latents=latents,
                valid=valid,
            )
        return train(
            trainer,
            circuit,
            checkpoint=place,
            key=key,
            on_epoch=calling_back(on_epoch),
            on_batch=calling_back(on_batch),
        )

    @_arithmetic
    def sample(
        self,
        circuit: Circuit,
        n: int,
        evidence: NDArray[Any] | None = None,
        latents: Latents | None = None,
        *,
        seed: int,
        root: int = 0,
    ) -> NDArray[np.int32]:
        (n, seed), root = check_draws(n, seed), check_root(circuit, root)
        given = dict(latents or {})
        alone = evidence is None and not given
        if evidence is None:
            rows = 1 if alone else len(next(iter(given.values())))
            evidence = np.full((rows, circuit.num_vars), MISSING, np.int8)
        evidence = check_rows(circuit, evidence, "evidence")
        program, params = self._load(circuit, trees=False)
        observed = evidence_of(check_latents(circuit, given, len(evidence)), program)
        x = tensor_of(evidence, self._device)
        drawn = sample_rows(circuit, program, params, x, observed, n, seed=seed, root=root)
        return drawn[0] if alone else drawn

    @_arithmetic
    def mpe(
        self, circuit: Circuit, evidence: NDArray[Any], *, root: int = 0
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        evidence, root = check_rows(circuit, evidence, "evidence"), check_root(circuit, root)
        program, params = self._load(circuit, trees=False)
        return mpe_rows(circuit, program, params, tensor_of(evidence, self._device), root=root)

    @_arithmetic
    def posteriors(
        self, circuit: Circuit, x: NDArray[Any], name: str, *, root: int = 0
    ) -> NDArray[np.float32]:
        x, root = check_rows(circuit, x), check_root(circuit, root)
        program, params = self._load(circuit)
        return posteriors(circuit, program, params, tensor_of(x, self._device), name, root=root)

    @_arithmetic
    def training_bytes(self, circuit: Circuit, options: FitOptions, rows: int, valid: int) -> int:
        return training_bytes(circuit, options, rows, valid, self._device, self._dtype)

    def _rows(
        self,
        circuit: Circuit,
        program: Any,
        x: NDArray[Any],
        weights: NDArray[Any] | None,
        latents: Latents | None,
    ) -> tuple[Rows, float]:
        """Return checked rows on the device, and the maximum that their weights are divided by.

        With weights at most one no intermediate of the downward pass overflows.
        """
        x = check_rows(circuit, x)
        given = check_weights(circuit, weights, len(x))
        scale = float(given.max())
        device_weights = torch.as_tensor(given / scale, device=self._device, dtype=self._dtype)
        evidence = evidence_of(check_latents(circuit, latents, len(x)), program)
        return Rows(tensor_of(x, self._device), device_weights, evidence), scale
