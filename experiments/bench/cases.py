"""What is run: circuits, rows, and how many dense flops they take."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.chow_liu import maximum_spanning_tree
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hdf5 import load, save
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.patches import patch_bundle
from pyjuice_bridge.circuit.rat_spn import rat_spn
from pyjuice_bridge.circuit.region_graph import random_region_graph
from pyjuice_bridge.circuit.types import Circuit, IntArray, SumLayer, layer_params
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import FitOptions, Schedule
from pyjuice_bridge.errors import UserError

Rows = NDArray[np.integer]
Floats = NDArray[np.float32]
CHECK_ROWS = 64


@dataclass(frozen=True)
class Problem:
    """A circuit with the rows it is timed on.

    Attributes:
        family: ``hmm``, ``hclt``, ``patches`` or ``rat_spn``: who knows it takes part.
        rows: integer [n, num_vars]; the first ``batch`` of them are one batch, all are an epoch.
        facts: what a reader of the results should know.
    """

    family: str
    circuit: Circuit
    rows: Rows
    batch: int
    facts: Mapping[str, str | int] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        save(self.circuit, folder / "circuit.h5")
        np.save(folder / "rows.npy", self.rows, allow_pickle=False)
        facts = {"family": self.family, "batch": self.batch, "facts": dict(self.facts)}
        (folder / "problem.json").write_text(json.dumps(facts), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Problem:
        facts = json.loads((folder / "problem.json").read_text(encoding="utf-8"))
        rows = np.load(folder / "rows.npy", allow_pickle=False)
        circuit = load(folder / "circuit.h5")
        return Problem(facts["family"], circuit, rows, facts["batch"], facts["facts"])


@dataclass(frozen=True)
class Case:
    """A problem with a name; what is timed of it."""

    name: str
    build: Callable[[], Problem]
    work: tuple[str, ...] = ("forward", "em", "epoch")


def dense_flops(circuit: Circuit) -> int:
    """Flops per sample of all dense sum blocks: forward, child flow, and parameter counts.

    Six times width_out · width_in for every edge; forward alone is a third of it.
    """
    total = 0
    for layer in circuit.layers:
        if isinstance(layer, SumLayer):
            _, width_out, width_in = layer.weights.shape
            total += 6 * len(layer.children) * width_out * width_in
    return total


def parameters(circuit: Circuit) -> int:
    """Parameters held, each tied layer once."""
    held = {id(p): p.size for p in map(layer_params, circuit.layers) if p is not None}
    return sum(held.values())


def nodes(circuit: Circuit) -> int:
    """Nodes of all blocks."""
    return sum(a.num_blocks * w for a, w in zip(circuit.layers, circuit.widths, strict=True))


def hmm_problem(states: int, batch: int, *, length: int, vocabulary: int, batches: int) -> Problem:
    """A random HMM and tokens drawn without regard to it, common ones more often."""
    circuit = random_hmm(states, vocabulary, seed=0).circuit(length)
    rng = np.random.default_rng(1)
    shares = 1 / np.arange(2, vocabulary + 2)
    rows = rng.choice(vocabulary, (batch * batches, length), p=shares / shares.sum())
    return Problem("hmm", circuit, rows.astype(np.int32), batch)


def hclt_problem(side: int, latents: int, batch: int, *, categories: int, batches: int) -> Problem:
    """A random HCLT over drawn images of side × side pixels."""
    circuit = hclt(pixel_tree(side), latents, categories, seed=0)
    return Problem("hclt", circuit, strokes(batch * batches, side, categories), batch)


def patches_problem(
    clusters: int, side: int, latents: int, batch: int, *, categories: int, batches: int
) -> Problem:
    """Patch circuits for all clusters at once; every row holds one patch per cluster."""
    circuit = patch_bundle(pixel_tree(side), clusters, latents, categories, seed=0)
    rng = np.random.default_rng(2)
    rows = rng.integers(0, categories, (batch * batches, circuit.num_vars))
    return Problem("patches", circuit, rows.astype(np.uint8), batch)


def rat_spn_problem(
    side: int, depth: int, replicas: int, width: int, batch: int, *, categories: int, batches: int
) -> Problem:
    graph = random_region_graph(side * side, depth, replicas, seed=0)
    circuit = rat_spn(graph, width, width, categories, seed=0)
    return Problem("rat_spn", circuit, strokes(batch * batches, side, categories), batch)


def mnist_problem(latents: int, batch: int, *, rows: int, side: int = 28) -> Problem:
    """Rows of MNIST's shape: the digits where ``data get mnist`` has brought them, else drawn.

    The circuit has seen them once: parameters have become sharp, and denormals appear.
    """
    images, source = strokes(rows, side, 256), "drawn strokes"
    if side == 28:
        with contextlib.suppress(UserError):
            found = load_dataset("mnist", valid=1)
            images = np.concatenate([found.train, found.valid]).reshape(-1, 784)[:rows]
            source = "MNIST"
    circuit = hclt(pixel_tree(side), latents, 256, seed=0)
    options = FitOptions(epochs=1, batch_size=batch, step_size=Schedule(0.5, 0.1))
    circuit = get_engine("torch", "cpu").fit(circuit, images, options).circuit
    return Problem("hclt", circuit, images, batch, {"images": source, "rows": len(images)})


def pixel_tree(side: int) -> IntArray:
    """A tree of neighbouring pixels, as deep as a Chow-Liu tree of such images (28: 41 levels).

    Edges are drawn at random, those that lead away from the middle more often.
    """
    rng = np.random.default_rng(0)
    number = np.arange(side * side).reshape(side, side)
    off = np.abs(np.arange(side) - (side - 1) / 2)
    wide = off[None] >= off[:, None]
    weight = np.zeros((side * side, side * side))
    pairs = ((number[:, :-1], number[:, 1:], wide), (number[:-1], number[1:], wide.T))
    for a, b, outward in pairs:
        weight[a, b] = weight[b, a] = 1 + rng.random(a.shape) + 0.5 * outward.ravel()[a]
    return maximum_spanning_tree(weight)


def strokes(count: int, side: int, categories: int) -> Rows:
    """Drawn digits of a kind: uint8 [count, side²], three bright lines on a dark ground."""
    rng = np.random.default_rng(3)
    pixel = np.stack(np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2, indexing="ij"), -1)
    flat = pixel.reshape(-1, 2).astype(np.float32)
    out = np.empty((count, side * side), np.uint8)
    for start in range(0, count, 1024):
        part = out[start : start + 1024]
        ends = rng.uniform(0.2, 0.8, (len(part), 4, 2)).astype(np.float32)
        near = np.full(part.shape, np.inf, np.float32)
        for i in range(3):
            near = np.minimum(near, _distance(flat, ends[:, i], ends[:, i + 1]))
        ink = np.clip(1.5 - near * max(side, 8), 0, 1)
        part[:] = np.minimum(ink * categories, categories - 1).astype(np.uint8)
    return out


def _distance(points: Floats, start: Floats, end: Floats) -> Floats:
    """Of points [m, 2] to n segments: float32 [n, m]."""
    along = end - start
    to = points[None] - start[:, None]
    share = (to * along[:, None]).sum(-1) / np.maximum((along**2).sum(-1), 1e-6)[:, None]
    gap = to - np.clip(share, 0, 1)[..., None] * along[:, None]
    found: Floats = np.sqrt((gap**2).sum(-1))
    return found
