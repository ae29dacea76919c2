"""The Julia engine: circuits on JuiceBridge.jl, in a worker process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.size import size_of
from pyjuice_bridge.circuit.types import MISSING, Circuit, layer_params
from pyjuice_bridge.engines.base import (
    USUAL,
    Counts,
    Epoch,
    FitOptions,
    FitResult,
    Latents,
    check_options,
)
from pyjuice_bridge.engines.evidence import (
    check_draws,
    check_latents,
    check_root,
    check_rows,
    check_valid,
    check_weights,
    checkpoint_path,
    warn_of_unseen,
)
from pyjuice_bridge.engines.julia.exchange import Answer, Facts, Request, exchange_folder
from pyjuice_bridge.engines.julia.process import OnMessage, shared_worker
from pyjuice_bridge.engines.resume import row_order, training_key
from pyjuice_bridge.engines.steps import m_step

Arrays = Mapping[str, NDArray[Any] | None]
_TILE_BYTES, _LEAST_ROWS = 1 << 24, 8
"""On a CPU, JuiceBridge cuts a batch so that the widest layer's values take that much memory."""


def _ignore(_: dict[str, Any]) -> None:
    """For questions whose progress nobody follows."""


class JuliaEngine:
    """Runs circuits with JuiceBridge.jl (see ``engines.base.Engine`` for the methods).

    Julia starts with the first question, in a process that all engines of this one share.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: of activations and parameters.
    """

    name = "julia"
    m_step = staticmethod(m_step)

    def __init__(
        self, device: str = "cpu", precision: Literal["float32", "float64"] = "float32"
    ) -> None:
        self.device = device
        self._precision = precision

    def __repr__(self) -> str:
        return f"JuliaEngine({self.device}, {self._precision})"

    @property
    def pid(self) -> int:
        return shared_worker().pid

    def facts(self) -> dict[str, str | int]:
        worker = shared_worker()
        return {"threads": worker.threads, "julia": worker.julia}

    def log_likelihood(
        self, circuit: Circuit, x: NDArray[Any], latents: Latents | None = None
    ) -> NDArray[np.float64]:
        x = check_rows(circuit, x)
        answer = self._ask("log_likelihood", circuit, {"x": x}, latents)
        return answer.arrays["log_likelihood"]

    def expected_counts(
        self,
        circuit: Circuit,
        x: NDArray[Any],
        weights: NDArray[Any] | None = None,
        latents: Latents | None = None,
    ) -> Counts:
        x = check_rows(circuit, x)
        weights = check_weights(circuit, weights, len(x))
        answer = self._ask("expected_counts", circuit, {"x": x, "weights": weights}, latents)
        layers = [answer.arrays.get(f"counts/{i}") for i in range(len(circuit.layers))]
        return Counts(tuple(layers), float(answer.facts["log_likelihood"]))

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
        arrays = {
            "x": x,
            "valid": valid,
            "weights": check_weights(circuit, weights, len(x)),
            "order": _orders(options, len(x)),
            "frozen": np.asarray(options.frozen, np.int32),
        }
        facts = _facts(options)
        if place is not None:
            facts["checkpoint"] = str(place.absolute())
            facts["key"] = training_key(
                self.name,
                self._precision,
                circuit,
                x,
                options,
                weights=weights,
                latents=latents,
                valid=valid,
            )
        history: list[Epoch] = []

        def listen(message: Mapping[str, Any]) -> None:
            if "epoch" in message:
                history.append(Epoch(*message["epoch"]))
                if on_epoch is not None:
                    on_epoch(history[-1])
            elif "batch" in message and on_batch is not None:
                on_batch(*message["batch"])

        answer = self._ask("fit", circuit, arrays, latents, facts, listen)
        assert answer.circuit is not None
        params = [layer_params(layer) for layer in answer.circuit.layers]
        return FitResult(circuit.with_layer_params(params), tuple(history))

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
        if evidence is None and given:
            rows = len(next(iter(given.values())))
            evidence = np.full((rows, circuit.num_vars), MISSING, np.int8)
        if evidence is not None:
            evidence = check_rows(circuit, evidence, "evidence")
        facts: Facts = {"n": n, "seed": seed, "root": root}
        answer = self._ask("sample", circuit, {"evidence": evidence}, given, facts)
        return answer.arrays["samples"]

    def mpe(
        self, circuit: Circuit, evidence: NDArray[Any], *, root: int = 0
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        evidence, root = check_rows(circuit, evidence, "evidence"), check_root(circuit, root)
        answer = self._ask("mpe", circuit, {"evidence": evidence}, None, {"root": root})
        return answer.arrays["x"], answer.arrays["value"]

    def posteriors(
        self, circuit: Circuit, x: NDArray[Any], name: str, *, root: int = 0
    ) -> NDArray[np.float32]:
        x, root = check_rows(circuit, x), check_root(circuit, root)
        facts: Facts = {"name": name, "root": root}
        return self._ask("posteriors", circuit, {"x": x}, None, facts).arrays["posteriors"]

    def training_bytes(self, circuit: Circuit, options: FitOptions, rows: int, valid: int) -> int:
        """See ``Engine.training_bytes``: parameters in three copies, and every value of a batch."""
        size, itemsize = size_of(circuit), 8 if self._precision == "float64" else 4
        copies = 5 if options.optimizer == "anemone" else 3
        together = rows if options.optimizer == "full_em" else min(options.batch_size, rows)
        if self.device == "cpu":
            at_once = _TILE_BYTES // (size.widest * itemsize)
            together = min(together, max(_LEAST_ROWS, at_once))
        activations = together * (size.activations * itemsize + 8 * size.blocks)
        return copies * size.parameters * itemsize + activations

    def _ask(
        self,
        do: str,
        circuit: Circuit,
        arrays: Arrays,
        latents: Latents | None,
        facts: Facts | None = None,
        on_message: OnMessage = _ignore,
    ) -> Answer:
        """Hand the question to the worker and read what it leaves."""
        rows = next((len(a) for a in arrays.values() if a is not None), 0)
        checked = check_latents(circuit, latents, rows)
        named = {f"latents/{name}": values for name, values in checked.items()}
        request = Request(
            do,
            {"device": self.device, "precision": self._precision, **(facts or {})},
            {**arrays, **named},
            subject=circuit,
        )
        return ask(request, on_message)


def ask(request: Request, on_message: OnMessage = _ignore) -> Answer:
    """Return the worker's answer; its files are gone afterwards.

    Raises:
        UserError: the request was refused, or the worker died.
        JuliaError: it failed inside Julia.
    """
    worker = shared_worker()
    with exchange_folder(request.bytes) as folder:
        request.write(folder)
        worker.ask(request, folder, on_message)
        return Answer.read(folder)


def _facts(options: FitOptions) -> dict[str, str | int | float | None]:
    schedule = options.step_size
    return {
        "optimizer": options.optimizer,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "schedule": schedule.kind,
        "step_size_start": schedule.start,
        "step_size_end": schedule.end,
        "step_size_switch": schedule.switch,
        "pseudocount": options.pseudocount,
        "momentum": options.momentum,
        "patience": options.patience,
        "seed": options.seed,
    }


def _orders(options: FitOptions, rows: int) -> NDArray[np.int32] | None:
    """int32 [epochs, rows], the order of rows in every epoch; full-batch EM needs none."""
    if options.optimizer == "full_em":
        return None
    orders = np.empty((options.epochs, rows), np.int32)
    for epoch in range(options.epochs):
        orders[epoch] = row_order(options.seed, epoch, rows)
    return orders
