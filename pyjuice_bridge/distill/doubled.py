"""Growing between the trainings of an arm (``train.grow``), as a stage of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.config.train import Grow
from pyjuice_bridge.distill.base import CIRCUIT
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.distill.training import load_circuit
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.stages.store import Artifact


def grown_stage(context: Context, trained: Artifact, grow: Grow, title: str) -> Artifact:
    """Prune and double the circuit of a training, or reuse what was made of it before."""
    engine, seed = context.engine, context.config.seed
    builders = builders_of(engine)

    def build(folder: Path) -> Mapping[str, Any]:
        circuit = load_circuit(trained)
        with context.reporter.task(title):
            if grow.prune:
                counts = engine.expected_counts(circuit, context.data.rows["train"])
                circuit = builders.narrow(circuit, counts.layers, grow.prune)
            circuit = builders.double(circuit, noise=grow.noise, seed=seed)
        hdf5.save(circuit, folder / CIRCUIT)
        return {"parameters": circuit.num_parameters, "made_by": engine.name}

    inputs = {
        "grow": grow.model_dump(exclude={"rounds"}),
        "data": context.data.key,
        "seed": seed,
        "engine": context.engine_key,
    }
    return context.store.stage("double", 1, inputs, build, parents=(trained,))
