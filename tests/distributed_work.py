"""Work that several processes share: ``shared_work`` gives the same arrays in any number of them.

As a program, in each process that torchrun starts, it does the work and leaves the arrays, and the
rows and images that went through this process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from circuits import CIRCUITS, random_rows

from pyjuice_bridge import processes
from pyjuice_bridge.circuit.types import Circuit, InputLayer, layer_params
from pyjuice_bridge.cluster import cluster_embeddings
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.engines.torch import TorchEngine, fit
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.stages.store import Store
from pyjuice_bridge.teachers import (
    ArrayEmbeddings,
    TokenStates,
    open_embeddings,
    store_embeddings,
)
from pyjuice_bridge.teachers.store import Blocks

ENGINE = TorchEngine()
ROWS, VALID, EPOCHS = 41, 7, 3
SETTINGS: dict[str, dict[str, Any]] = {
    "mini_em": {"batch_size": 10},
    "full_em": {},
    "anemone": {"batch_size": 14, "patience": 1},
}


class Counted:
    """How many rows, and images, this process has worked on."""

    def __init__(self) -> None:
        self.rows = self.images = 0
        collect = fit.collect

        def counting(program: Any, params: Any, counts: Any, x: Any, *rest: Any) -> Any:
            self.rows += len(x)
            return collect(program, params, counts, x, *rest)

        fit.collect = counting  # type: ignore[assignment]

    def embed(self, images: np.ndarray) -> np.ndarray:
        self.images += len(images)
        pixels = images.reshape(len(images), -1, 2).astype(np.float32)
        return np.concatenate([pixels, pixels**2], -1) / 64


def hard(circuit: Circuit) -> Circuit:
    """Leaves so sharp that float32 doubts some rows."""
    params = [layer_params(layer) for layer in circuit.layers]
    for i, layer in enumerate(circuit.layers):
        if isinstance(layer, InputLayer):
            sharp = layer.params.astype(float) ** 40
            params[i] = sharp / sharp.sum(-1, keepdims=True)
    return circuit.with_layer_params(params)


def trainings() -> dict[str, np.ndarray]:
    """Parameters and scores after a few passes: ties, latents, several roots, weights, doubt."""
    made = {name: make() for name, make in CIRCUITS.items()}
    made["hard"] = hard(CIRCUITS["hclt"]())
    found = {}
    for number, (name, circuit) in enumerate(made.items()):
        rng = np.random.default_rng(number)
        x, valid = random_rows(circuit, ROWS, number), random_rows(circuit, VALID, 99)
        latents = {}
        if name in ("hclt", "hmm"):
            width = circuit.widths[circuit.layer_of(int(circuit.latents["z"][0]))]
            latents["z"] = rng.integers(-1, width, (ROWS, len(circuit.latents["z"])))
        weights = rng.random((ROWS, len(circuit.roots))) * 5 * (rng.random((ROWS, 1)) < 0.8)
        for optimizer, settings in SETTINGS.items():
            options = FitOptions(optimizer, epochs=EPOCHS, **settings)  # type: ignore[arg-type]
            trained = ENGINE.fit(circuit, x, options, weights=weights, latents=latents, valid=valid)
            case = f"{name} {optimizer}"
            for i, params in enumerate(map(layer_params, trained.circuit.layers)):
                if params is not None:
                    found[f"{case} {i}"] = params
            found[f"{case} curve"] = np.array([(e.train, e.valid) for e in trained.history])
        found[f"{name} log p"] = ENGINE.log_likelihood(circuit, x, latents)
    return found


def features(folder: Path, counted: Counted) -> dict[str, np.ndarray]:
    """Embeddings, token states, and clusters of either scope."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 17, (301, 4, 3, 1), np.uint8)
    counted.images = 0
    shared = Path(processes.share(str(folder / "stored")))
    store_embeddings(counted, images, shared, "images", {"of": "images"})
    made = open_embeddings(shared, "images")
    found = {"embeddings": made.read(slice(None), slice(None))}
    states = rng.normal(size=(50, 3)).astype(np.float16)
    bounds = [0, 20, 30, 50]

    def shard(number: int) -> np.ndarray:
        return states[bounds[number] : bounds[number + 1]]

    blocks = Blocks(shared, "states", bounds, (-1, 3), "float16")
    assert list(blocks.fill({}, shard)) == bounds[1:]
    found["states"] = TokenStates.open(shared).gather(np.arange(50))
    spread = rng.normal(size=(300, 6, 5)).astype(np.float32)
    parts = {"train": ArrayEmbeddings(spread), "valid": ArrayEmbeddings(spread[:31] + 0.1)}
    for scope in ("position", "pooled"):
        clusters = cluster_embeddings(parts, 8, scope=scope, restarts=2)  # type: ignore[arg-type]
        assert clusters.centroids is not None
        found |= {f"{scope} centroids": clusters.centroids, f"{scope} ids": clusters.z["valid"]}
    return found


def shared_work(folder: Path) -> tuple[dict[str, np.ndarray], Counted]:
    counted = Counted()
    found = trainings()
    return {**found, **features(folder, counted)}, counted


def stages(folder: Path) -> str:
    """Two stages, one done together, then one that the processes do not agree on."""
    store = Store(folder / "artifacts")

    def build(place: Path) -> dict[str, Any]:
        (place / "file").write_text(str(processes.size()))
        return {"together": processes.size()}

    assert store.stage("alone", 1, {}, build).info["together"] == 1
    made = store.stage("both", 1, {}, build, together=True)
    assert made.info["together"] == processes.size() == int((made.path / "file").read_text())
    try:
        store.stage("other", 1, {"rank": processes.rank()}, build)
    except UserError as error:
        return str(error)
    return ""


def main(out: Path) -> None:
    number = int(os.environ["RANK"])
    own = out / str(number)
    own.mkdir()
    with processes.joined("cpu"):
        found, counted = shared_work(own)
    with processes.joined("cpu"):
        said = stages(out)
    np.savez(out / f"{number}.npz", **found)
    lines = [str(counted.rows), str(counted.images), said]
    (out / f"{number}.txt").write_text("\n".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
