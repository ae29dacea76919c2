"""What is run: circuits, rows, and how many dense flops they take."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.chow_liu import maximum_spanning_tree
from pyjuice_bridge.circuit.growing import choose_roots
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hdf5 import load, save
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.initialise import initialise
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.rat_spn import rat_spn
from pyjuice_bridge.circuit.region_graph import random_region_graph
from pyjuice_bridge.circuit.size import balanced_parents
from pyjuice_bridge.circuit.types import Circuit, IntArray, SumLayer, layer_params
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.distill.counting import count_parameters
from pyjuice_bridge.distill.patch_parts import patch_variables
from pyjuice_bridge.errors import UserError

Rows = NDArray[np.integer]
Floats = NDArray[np.float32]
CHECK_ROWS = 64


@dataclass(frozen=True)
class Problem:
    """A circuit with the rows it is timed on.

    Attributes:
        family: ``hmm``, ``hclt``, ``patches``, ``glued`` or ``rat_spn``: who knows it takes part.
        rows: integer [n, num_vars]; the first ``batch`` of them are one batch, all are an epoch.
        facts: what a reader of the results should know.
        pseudocount: of the M-steps of an epoch.
        sharp: whether the parameters rule out so much that float32 rounds flows to nothing; a
            step of EM then depends on what was rounded.
    """

    family: str
    circuit: Circuit
    rows: Rows
    batch: int
    facts: Mapping[str, str | int] = field(default_factory=dict)
    pseudocount: float = 0.1
    sharp: bool = False

    def to_compare(self) -> Problem:
        """The problem on which steps of EM are compared: parameters half way to uniform ones.

        It is this problem unless the parameters are sharp.
        """
        if not self.sharp:
            return self
        params = [layer_params(layer) for layer in self.circuit.layers]
        mild = [None if p is None else (p + p.mean(-1, keepdims=True)) / 2 for p in params]
        return replace(
            self, circuit=self.circuit.with_layer_params(mild), pseudocount=0.1, sharp=False
        )

    def save(self, folder: Path) -> None:
        save(self.circuit, folder / "circuit.h5")
        np.save(folder / "rows.npy", self.rows, allow_pickle=False)
        facts = {
            "family": self.family,
            "batch": self.batch,
            "facts": dict(self.facts),
            "pseudocount": self.pseudocount,
            "sharp": self.sharp,
        }
        (folder / "problem.json").write_text(json.dumps(facts), encoding="utf-8")

    @staticmethod
    def load(folder: Path) -> Problem:
        facts = json.loads((folder / "problem.json").read_text(encoding="utf-8"))
        rows = np.load(folder / "rows.npy", allow_pickle=False)
        return Problem(circuit=load(folder / "circuit.h5"), rows=rows, **facts)


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


def glued_problem(
    clusters: int,
    heads: int,
    sides: tuple[int, int, int],
    patch: int,
    width: int,
    batch: int,
    *,
    categories: int,
    batches: int,
) -> Problem:
    """Patch circuits of one or several heads under a hidden tree over the positions."""
    places = patch_variables(sides, patch)
    positions, size = places.shape
    bundle = patch_bundle(balanced_parents(size), clusters, width, categories)
    bundle = choose_roots(bundle, np.repeat(np.arange(clusters), heads))
    above = hclt(balanced_parents(positions), clusters, len(bundle.roots))
    circuit = initialise(glue(above, bundle, places), 0)
    rng = np.random.default_rng(2)
    rows = rng.integers(0, categories, (batch * batches, circuit.num_vars))
    return Problem("glued", circuit, rows.astype(np.uint8), batch)


def rat_spn_problem(
    side: int, depth: int, replicas: int, width: int, batch: int, *, categories: int, batches: int
) -> Problem:
    graph = random_region_graph(side * side, depth, replicas, seed=0)
    circuit = rat_spn(graph, width, width, categories, seed=0)
    return Problem("rat_spn", circuit, strokes(batch * batches, side, categories), batch)


def mnist_problem(latents: int, batch: int, *, rows: int, side: int = 28) -> Problem:
    """Rows of MNIST's shape: the digits where ``data get mnist`` has brought them, else drawn.

    Parameters are sharp, as after many passes without pseudocounts: that is where denormals
    appear.  They are counts, each hidden state being the ink at a pixel and beside it.
    """
    images, source = strokes(rows, side, 256), "drawn strokes"
    if side == 28:
        with contextlib.suppress(UserError):
            found = load_dataset("mnist", valid=1)
            images = np.concatenate([found.train, found.valid]).reshape(-1, 784)[:rows]
            source = "MNIST"
    ink = np.pad(images.reshape(-1, side, side) > 127, ((0, 0), (1, 1), (1, 1)))
    shifts = ((1, 1), (0, 1), (1, 0), (1, 2), (2, 1))
    seen = [ink[:, i : i + side, j : j + side] for i, j in shifts]
    states = sum(bit * 2**i for i, bit in enumerate(seen)).reshape(images.shape) % latents
    circuit = hclt(pixel_tree(side), latents, 256, seed=0)
    circuit = count_parameters(circuit, images, states, pseudocount=1e-12)
    facts = {"images": source}
    return Problem("hclt", circuit, images, batch, facts, 0.0, sharp=True)


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
