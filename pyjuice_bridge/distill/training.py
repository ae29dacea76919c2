"""The one training loop: every stage of every arm is EM on rows, latents observed or not."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.config.train import Phase
from pyjuice_bridge.distill.base import CIRCUIT
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.engines.base import Engine, Epoch, FitOptions, Latents
from pyjuice_bridge.stages.store import Artifact

_CHECKPOINT = "checkpoint.h5"


def phase_options(context: Context, phase: Phase) -> FitOptions:
    """Return the options of a training before fine-tuning."""
    return FitOptions(
        epochs=phase.epochs,
        batch_size=phase.batch_size,
        step_size=phase.step_size.schedule,
        pseudocount=context.config.train.pseudocount,
        seed=context.config.seed,
    )


def load_circuit(artifact: Artifact) -> Circuit:
    """Read the circuit of an artifact."""
    return hdf5.load(artifact.path / CIRCUIT)


def train_stage(
    context: Context,
    stage: str,
    title: str,
    begin: Callable[[], Circuit],
    rows: Callable[[], tuple[NDArray[Any], NDArray[Any] | None]],
    options: FitOptions,
    *,
    key: Mapping[str, Any],
    parents: Sequence[Artifact],
    passes_before: int = 0,
    latents: Callable[[], Latents] | None = None,
    valid: NDArray[Any] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    finish: Callable[[Circuit], Circuit] = lambda circuit: circuit,
    measure: Callable[[Circuit], Mapping[str, Any]] | None = None,
) -> Artifact:
    """Train a circuit, or reuse the trained one; an interrupted training continues.

    Args:
        context: the run.
        stage: names the artifact.
        title: names the training to the user.
        begin: makes the circuit that training begins with.
        rows: makes the rows, int [N, variables], and their weights, as in ``Engine.fit``.
        options: of the training.
        key: what else the result depends on.
        parents: the artifacts that ``begin`` and ``rows`` come from.
        passes_before: passes over the data before this training, for messages.
        latents: makes those that are observed, as in ``Engine.fit``.
        valid: as in ``Engine.fit``.
        on_epoch: as in ``Engine.fit``.
        finish: what is done to the trained circuit before it is kept.
        measure: gives what is to be recorded about the trained circuit.

    Returns:
        An artifact that holds ``circuit.h5``, with ``history``, ``parameters`` and
        ``peak_memory_bytes`` in its info.
    """
    engine = context.engine
    inputs = {**key, "options": options.key, "engine": context.engine_key}

    def build(folder: Path) -> Mapping[str, Any]:
        x, weights = rows()
        memory = PeakMemory(engine)
        passes = range(passes_before, passes_before + options.epochs)
        with context.reporter.task(title, passes) as tick:
            fitted = engine.fit(
                begin(),
                x,
                options,
                weights=weights,
                latents=latents() if latents is not None else None,
                valid=valid,
                checkpoint=folder / _CHECKPOINT,
                on_epoch=on_epoch,
                on_batch=tick,
            )
        circuit = finish(fitted.circuit)
        hdf5.save(circuit, folder / CIRCUIT)
        measured = measure(circuit) if measure is not None else {}
        (folder / _CHECKPOINT).unlink(missing_ok=True)
        return {
            "seconds": sum(epoch.seconds for epoch in fitted.history),
            "history": [asdict(epoch) for epoch in fitted.history],
            "parameters": circuit.num_parameters,
            "made_by": engine.name,
            "peak_memory_bytes": memory.read(),
            **measured,
        }

    return context.store.stage(stage, 2, inputs, build, parents=parents, together=True)


class PeakMemory:
    """The most memory this process and the engine's have held since this was made, in bytes.

    Linux can forget the former peak; on macOS it is the peak of this whole process, and Windows
    is not asked.
    """

    def __init__(self, engine: Engine) -> None:
        self._processes = {os.getpid(), engine.pid}
        for process in self._processes:
            with suppress(OSError):
                Path(f"/proc/{process}/clear_refs").write_text("5")

    def read(self) -> int | None:
        """Return bytes of resident memory at the highest point; None where they are unknown."""
        with suppress(OSError, StopIteration, ValueError, IndexError):
            return sum(map(_peak, self._processes))
        if sys.platform == "win32":
            return None
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
