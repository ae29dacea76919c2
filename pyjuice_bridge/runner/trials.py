"""Short trials of what a run would take most of its time with: EM steps, teacher, clustering."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.initialise import initialise
from pyjuice_bridge.circuit.size import balanced_parents, size_of
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.cluster.kmeans import assign, kmeans
from pyjuice_bridge.config.settings import Cluster, Settings
from pyjuice_bridge.distill.base import Kind
from pyjuice_bridge.domains.base import Shape
from pyjuice_bridge.engines.base import CANDIDATE_PASSES, Engine, Epoch, FitOptions
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.sections import KindSection
from pyjuice_bridge.teachers.base import TeacherInputs, TeacherSection
from pyjuice_bridge.teachers.text import TextTeacher

_VALUES = 1 << 14
"""Values of the circuit that time is measured on, at least."""
_ENTRIES = 1 << 17
"""Entries of the sum matrices of an HCLT that time is measured on."""
_FEW, _MOST = 16, 1 << 14
"""Rows of the shortest steps that are tried, and of the longest."""
_TIMES = 3
"""So many times as long as the shortest step takes one that tells what a row costs."""
_EPOCHS = 3
_SAMPLES = 64
"""Samples that a teacher is tried on."""
_CONTEXTS = 8
"""Contexts of text that a language model is tried on."""
_CENTROIDS, _FLOATS = 256, 1 << 22
"""Clusters, and numbers of the vectors, of the clustering that is tried."""


@dataclass(frozen=True)
class StepCost:
    """What EM takes on a sort of circuits.

    Attributes:
        value: seconds for a row and a value of the circuit.
        parameter: seconds for a step and a parameter, whatever the rows.
    """

    value: float
    parameter: float

    def seconds(self, circuit: Circuit, rows: int, batch: int) -> float:
        """Return the seconds of a pass over ``rows`` rows, ``batch`` in a step."""
        size, steps = size_of(circuit), -(-rows // min(batch, rows))
        return rows * size.activations * self.value + steps * size.parameters * self.parameter


def step_cost(engine: Engine, circuit: Circuit, candidates: int | None) -> StepCost:
    """Time steps of a small circuit on a few rows and on many more."""
    size, rows = size_of(circuit), _FEW
    least = longest = step_seconds(engine, circuit, rows, candidates)
    while longest < _TIMES * least and rows < _MOST:
        rows *= 4
        longest = step_seconds(engine, circuit, rows, candidates)
    per_row = max(longest - least, 0.0) / (rows - _FEW)
    per_step = max(least - _FEW * per_row, 0.0)
    return StepCost(per_row / size.activations, per_step / size.parameters)


def small_circuit(
    kind: Kind, section: KindSection, arm: str, shape: Shape, whole: Circuit
) -> Circuit:
    """Build the structure of the smallest data of this kind that keep the engine busy.

    ``whole`` is the structure of all data.
    """
    if whole.meta["structure"] == "hclt":
        # Of equal size to another arm's, so its width belongs to the whole data.
        width = int(whole.meta["latent_states"])
        count = int(np.clip(_ENTRIES // width**2, 2, min(64, whole.num_vars)))
        return hclt(balanced_parents(count), width, shape.categories[:count], seed=0)
    section = kind.trial(section)
    for smaller in _smaller(shape):
        try:
            circuit = kind.structure(section, arm, smaller)
        except UserError:
            continue
        if size_of(circuit).activations >= _VALUES:
            return initialise(circuit, 0)
    return initialise(kind.structure(section, arm, shape), 0)


def _smaller(shape: Shape) -> Iterator[Shape]:
    """Yield the shapes of smaller data of the same kind, smallest first."""
    if shape.sides is None:
        for count in range(2, len(shape.categories)):
            yield replace(shape, categories=shape.categories[:count])
        return
    height, width, channels = shape.sides
    for side in range(2, min(height, width)):
        sizes = shape.categories[: side * side * channels]
        yield replace(shape, categories=sizes, sides=(side, side, channels))


def step_seconds(engine: Engine, circuit: Circuit, rows: int, candidates: int | None) -> float:
    """Time a step on rows of noise, the fastest of a few.

    With ``candidates`` it is the mean over a pass with all values and those with few.

    A busy machine makes steps take longer than they would; where the engine works in this process,
    its processor time, shared by its threads, is a bound on that.
    """
    rng = np.random.default_rng(0)
    x = rng.integers(0, circuit.categories, (rows, circuit.num_vars)).astype(np.int32)
    clock, spent = [time.process_time()], []

    def mark(epoch: Epoch) -> None:
        clock.append(time.process_time())
        threads = int(engine.facts()["threads"])
        busy = (clock[-1] - clock[-2]) / threads
        spent.append(min(epoch.seconds, busy) if engine.name == "torch" else epoch.seconds)

    turns = 1 if candidates is None else CANDIDATE_PASSES
    options = FitOptions(epochs=_EPOCHS * turns, batch_size=rows, candidates=candidates)
    engine.fit(circuit, x, options, on_epoch=mark)
    return mean(min(spent[turn::turns]) for turn in range(turns))


def latent_seconds(config: Settings, kind: Kind, shape: Shape, device: str) -> float:
    """Estimate what it takes to fill the latents: the teacher's time and that of clustering.

    Raises:
        UserError: the teacher is not on this machine.
    """
    section, given = config.teacher, getattr(config.teacher, "assignments", None)
    if kind.scopes is None or given is not None:
        return 0.0
    assert isinstance(section, TeacherSection)
    positions = len(kind.scopes(config.circuit, shape))
    rows = shape.train + shape.valid
    if section.kind in ("file", "object", "writer"):
        return 0.0
    with _offline():
        seconds, dim = _teacher_seconds(section, config, shape, positions, rows, device)
    pooled = config.cluster.scope != "position"
    clusters = int(np.max([getattr(config.circuit, name, 0) for name in _CLUSTERS]))
    return seconds + _cluster_seconds(
        config.cluster, clusters, dim, (shape.train, rows), positions, pooled, device
    )


_CLUSTERS = ("latents", "clusters", "states")
"""The fields of kinds that say how many values a latent has."""


def _teacher_seconds(
    section: TeacherSection,
    config: Settings,
    shape: Shape,
    positions: int,
    rows: int,
    device: str,
) -> tuple[float, int]:
    """Return the seconds of training the teacher and of embedding all rows; numbers per vector."""
    samples = _noise(shape)
    patch = int(getattr(config.circuit, "patch", 1))
    categories = None if shape.sides is not None else shape.categories
    inputs = TeacherInputs(
        samples,
        valid=samples,
        patch=patch,
        white=int(shape.categories.max()) - 1,
        categories=categories,
        device=device,
    )
    training, epochs = 0.0, getattr(section, "epochs", 0)
    marks: list[float] = []
    if section.title is not None:
        update = {"epochs": 2, "batch": min(section.batch, _SAMPLES)}  # type: ignore[attr-defined]
        section = section.model_copy(update=update)
        inputs = replace(inputs, on_epoch=lambda *_: marks.append(time.process_time()))
    teacher = section.make(inputs)
    if marks:
        training = (marks[-1] - marks[-2]) / torch.get_num_threads()
        training *= epochs * shape.train / len(samples)
    if isinstance(teacher, TextTeacher):
        tokens = shape.tokens or rows * positions
        return tokens * _token_seconds(teacher), teacher.dim
    spent, vectors = _timed(lambda: teacher.embed(samples))
    times = 2 if hasattr(teacher, "lazy") else 1
    return training + times * spent * rows / len(samples), int(vectors.shape[2])


def _noise(shape: Shape) -> NDArray[Any]:
    """Draw samples as a teacher sees them, uint8 [N, H, W, C] or int32 [N, T]."""
    rng, count = np.random.default_rng(0), min(_SAMPLES, max(2, shape.train))
    x = rng.integers(0, shape.categories, (count, len(shape.categories)))
    if shape.sides is None:
        return x.astype(np.int32)
    return x.reshape(count, *shape.sides).astype(np.uint8)


def _token_seconds(teacher: TextTeacher) -> float:
    """Time a token of noise, read in contexts as long as the teacher's."""
    count = _CONTEXTS * min(teacher.context, 512)
    tokens = np.random.default_rng(0).integers(0, teacher.vocabulary, count)

    def read() -> float:
        with tempfile.TemporaryDirectory() as folder:
            return _timed(lambda: teacher.store(tokens, folder))[0]

    return min(read(), read()) / count


def _cluster_seconds(
    settings: Cluster,
    clusters: int,
    dim: int,
    rows: tuple[int, int],
    positions: int,
    pooled: bool,
    device: str,
) -> float:
    """Scale up a small clustering: its work is points × clusters, assignment comes on top.

    Args:
        settings: of the run.
        clusters: of the run.
        dim: numbers of a vector.
        rows: to fit to, and to assign.
        positions: of a row.
        pooled: whether all positions share the clusters.
        device: "cpu" or "cuda".
    """
    train, every = rows
    problems, points = (1, train * positions) if pooled else (positions, train)
    points = min(points, clusters * settings.points_per_centroid)
    tried = min(clusters, _CENTROIDS)
    some = min(points, tried * settings.points_per_centroid, max(tried, _FLOATS // dim))
    x = np.random.default_rng(0).standard_normal((some, dim)).astype(np.float32)
    fit, found = _timed(
        lambda: kmeans(
            x, tried, iterations=settings.iterations, restarts=settings.restarts, device=device
        )
    )
    assigning, _ = _timed(lambda: assign(x, found.centroids, device=device))
    share = clusters / (some * tried)
    return problems * points * share * fit + every * positions * share * assigning


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that something takes on an idle machine, and what it returns."""
    wall, busy = time.perf_counter(), time.process_time()
    result = work()
    busy = (time.process_time() - busy) / torch.get_num_threads()
    return min(busy, time.perf_counter() - wall), result


@contextmanager
def _offline() -> Iterator[None]:
    """Forbid downloads of models: a plan measures what is there."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
