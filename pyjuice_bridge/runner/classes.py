"""Circuits with a class: one circuit for every label, and their mixture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.combine import mixture
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.distill.base import CIRCUIT
from pyjuice_bridge.distill.training import load_circuit
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.domains.images import ImageData
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.stages.store import Artifact

CLASS = "class"
"""The latent whose value is the class."""
FIELD = "data.class"
"""What the lines of a class's training name it by."""


def class_contexts(context: Context) -> list[tuple[str, Context]]:
    """Return the name of every class, and the run on its images alone."""
    data = context.data
    assert isinstance(data, ImageData)
    parts = data.by_class()
    names = data.dataset.classes
    return [
        (name, replace(context, data=part, shared={}))
        for name, part in zip(names, parts, strict=True)
    ]


def mixed_classes(context: Context, arm: str, trained: Sequence[Artifact]) -> Artifact:
    """Mix the circuits of all classes, weighted by the frequencies of these in training."""
    data = context.data
    assert isinstance(data, ImageData)
    names, labels = data.dataset.classes, data.dataset.labels
    digest = hashlib.sha256(b"".join(labels[split].tobytes() for split in labels)).hexdigest()

    def build(folder: Path) -> Mapping[str, Any]:
        counts = np.bincount(labels["train"], minlength=len(names))
        circuits = [load_circuit(each) for each in trained]
        circuit = mixture(circuits, counts / counts.sum(), latent=CLASS)
        meta = {**context.meta(circuit, arm), "classes": json.dumps(names)}
        hdf5.save(replace(circuit, meta=meta), folder / CIRCUIT)
        peaks = [each.info["peak_memory_bytes"] for each in trained]
        return {
            "history": [],
            "bound": None,
            "parameters": circuit.num_parameters,
            "peak_memory_bytes": None if None in peaks else max(peaks),
        }

    inputs = {"labels": digest, "names": list(names), "arm": arm}
    return context.store.stage("classes", 1, inputs, build, parents=trained)


def accuracies(context: Context, engine: Engine, circuit: Circuit) -> dict[str, float]:
    """Return the share of images of every split whose most probable class is theirs."""
    data = context.data
    if CLASS not in circuit.latents or not isinstance(data, ImageData):
        return {}
    found = {}
    for split, labels in data.dataset.labels.items():
        with context.reporter.task(f"classes of {split}"):
            posterior = engine.posteriors(circuit, data.rows[split], CLASS)[:, 0]
        found[split] = float((posterior.argmax(axis=1) == labels).mean())
    return found
