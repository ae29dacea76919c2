"""The start of an arm whose circuit is counted in one pass over the rows and their latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.distill.base import CIRCUIT, Initialisation, Stage
from pyjuice_bridge.distill.bound import bound_and_marginal
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.distill.training import load_circuit
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.stages.store import Artifact


def counted_start(
    context: Context,
    title: str,
    make: Callable[[], Circuit],
    *,
    key: Mapping[str, Any],
    parents: tuple[Artifact, ...],
    valid: NDArray[np.int32],
) -> Initialisation:
    """Begin the distilled arm with a counted circuit, or reuse the one counted before.

    Args:
        context: the run.
        title: names the counting to the user.
        make: counts the circuit.
        key: what the circuit depends on besides the data, the engine and ``parents``.
        parents: the artifacts that it is made from.
        valid: int32 [N, positions], the latents of validation rows, for the bound.
    """
    inputs = {"data": context.data.key, "engine": context.engine_key, **key}

    def build(folder: Path) -> Mapping[str, Any]:
        with context.reporter.task(title):
            circuit = make()
            hdf5.save(circuit, folder / CIRCUIT)
            bound, marginal = bound_and_marginal(
                context.engine, circuit, context.data.rows["valid"], valid
            )
        language = builders_of(context.engine).name
        return {"bound": bound, "marginal": marginal, "made_by": language}

    counted = context.store.stage("counting", 2, inputs, build, parents=parents)
    stage = Stage("counting", 1, (counted,), counted.info["bound"], counted.info["marginal"])
    return Initialisation("lvd", {}, lambda: load_circuit(counted), (counted,), (stage,), valid)
