"""Plans: the sizes, passes, memory and times that a run would take."""

import ctypes
import gc
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.size import Size, balanced_parents, size_of
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.data.shapes import SHAPES
from pyjuice_bridge.distill.patch_parts import patch_variables
from pyjuice_bridge.distill.patches import PatchCircuit
from pyjuice_bridge.distill.registry import KINDS
from pyjuice_bridge.distill.training import PeakMemory
from pyjuice_bridge.domains.base import Shape
from pyjuice_bridge.engines.base import Epoch, FitOptions
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.runner import plan as plans
from pyjuice_bridge.runner import trials
from pyjuice_bridge.runner.config import make_config
from pyjuice_bridge.runner.plan import make_plan
from pyjuice_bridge.runner.trials import StepCost


def shape_of(sides: tuple[int, int, int], categories: np.ndarray, rows: int = 100) -> Shape:
    return Shape(rows, 10, categories, len(categories), "images", sides)


@settings(max_examples=15, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    patch=st.integers(1, 2),
    channels=st.sampled_from([1, 3]),
    clusters=st.integers(2, 4),
    latents=st.integers(2, 3),
)
def test_glued_sizes(
    grid: tuple[int, int], patch: int, channels: int, clusters: int, latents: int
) -> None:
    sides = (grid[0] * patch, grid[1] * patch, channels)
    section = PatchCircuit(kind="patches", latents=clusters, patch=patch, patch_latents=latents)
    sizes = np.tile(np.array([3, 5, 5][:channels], np.int32), sides[0] * sides[1])
    places = patch_variables(sides, patch)
    positions, size = places.shape

    def built(above: np.ndarray, within: np.ndarray) -> Circuit:
        bundle = patch_bundle(within, clusters, latents, sizes[places[0]], seed=0)
        return glue(hclt(above, clusters, clusters, seed=0), bundle, places)

    chains = built(np.arange(-1, positions - 1), np.arange(-1, size - 1))
    balanced = built(balanced_parents(positions), balanced_parents(size))
    shape = shape_of(sides, sizes)
    planned = size_of(KINDS["patches"].structure(section, "lvd", shape))
    # Leaves and edges inside a patch for each cluster, then those above. Trees decide only how
    # many blocks share a layer.
    inside = latents * int(sizes[:size].sum()) + (size - 1) * latents**2 + latents
    above = (2 * positions - 1) * clusters**2 + clusters
    assert planned.parameters == chains.num_parameters == clusters * inside + above
    assert planned == size_of(balanced)
    assert replace(planned, widest=0) == replace(size_of(chains), widest=0)
    plain = KINDS["patches"].structure(section, "hclt", shape)
    width = plain.meta["latent_states"]
    gaps = {
        k: abs(
            size_of(hclt(np.arange(-1, len(sizes) - 1), k, sizes)).parameters - planned.parameters
        )
        for k in (width - 1, width, width + 1)
        if k >= 2
    }
    assert gaps[width] == min(gaps.values())


def test_patch_variables_are_the_pixels_of_the_patch() -> None:
    image = np.arange(4 * 6 * 3).reshape(4, 6, 3)
    places = patch_variables((4, 6, 3), 2)
    np.testing.assert_array_equal(image.ravel()[places[4]], image[2:4, 2:4].ravel())
    np.testing.assert_array_equal(np.sort(places, axis=None), np.arange(72))


def test_plan_grows_with_data_and_passes() -> None:
    values = tiny_runs.patch_config(data={"name": "mnist", "limit": 1000})
    values["circuit"] = {"kind": "patches", "patch": 4, "latents": 64, "patch_latents": 16}
    plan = make_plan(make_config(values))
    assert [arm.arm for arm in plan.arms] == ["lvd", "random", "hclt"]
    sizes = [arm.parameters for arm in plan.arms]
    assert sizes[0] == sizes[1] and abs(sizes[2] - sizes[0]) < 0.2 * sizes[0]
    more = make_plan(make_config({**values, "data": {"name": "mnist"}}))
    for small, large in zip(plan.arms, more.arms, strict=True):
        assert large.memory_bytes - small.memory_bytes == 54_000 * 784
        assert large.parameters == small.parameters


def test_plan_needs_no_memory_for_circuits_that_would_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """784 matrices of 8192² are 210 GB."""
    monkeypatch.setattr(plans, "small_circuit", lambda *_: None)
    monkeypatch.setattr(plans, "step_cost", lambda *_: StepCost(0.0, 1e-9))
    monkeypatch.setattr(plans, "latent_seconds", lambda *_: 5.0)
    values = tiny_runs.hclt_config(data={"name": "mnist"}, circuit={"latents": 8192})
    arm = make_plan(make_config(values)).arms[0]
    assert arm.parameters == 8192 * 256 * 784 + 783 * 8192**2 + 8192
    assert arm.memory_bytes > 4 * 4 * arm.parameters
    # 55,000 images in batches of 32, one nanosecond a parameter and step.
    assert arm.passes == 4 and arm.latent_seconds == 5
    assert arm.seconds == pytest.approx(4 * 1719 * 1e-9 * arm.parameters)


class Clock:
    """The processor time of a process that stands still, or runs as one says."""

    def __init__(self) -> None:
        self.now = 0.0

    def process_time(self) -> float:
        return self.now


class Fake:
    """An engine whose step takes so long per row and so long besides, the first one longer."""

    def __init__(self, name: str, threads: int, clock: Clock, row: float, step: float) -> None:
        self.name, self._threads, self._clock = name, threads, clock
        self._row, self._step = row, step
        self.asked: list[tuple[Any, int]] = []

    def facts(self) -> dict[str, Any]:
        return {"threads": self._threads}

    def fit(self, circuit: Any, x: np.ndarray, options: Any, *, on_epoch: Any) -> Any:
        assert options.batch_size == len(x) and (x >= 0).all() and (x < circuit.categories).all()
        self.asked.append((circuit, len(x)))
        for epoch in range(options.epochs):
            busy = self._step + len(x) * self._row + (0 if epoch else 9.0)
            self._clock.now += busy * self._threads
            # Others on the machine hold it up.
            on_epoch(Epoch(epoch, 0.1, 0.0, None, busy + 100.0))
        return SimpleNamespace(history=[])


def test_seconds_of_a_step_are_the_processors_where_it_is_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(trials.time, "process_time", clock.process_time)
    circuit = hclt([-1, 0, 0], 2, 3, seed=0)
    engine = Fake("torch", 4, clock, 1e-3, 2.0)
    assert trials.step_seconds(engine, circuit, 5, None) == pytest.approx(2.0 + 5e-3)  # type: ignore[arg-type]
    engine = Fake("julia", 4, clock, 1e-3, 2.0)
    assert trials.step_seconds(engine, circuit, 5, None) == pytest.approx(102.0 + 5e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("batch", "rows"), [(256, 1000), (4, 10), (10**6, 50)])
def test_seconds_of_a_pass_are_those_of_its_steps(
    monkeypatch: pytest.MonkeyPatch, batch: int, rows: int
) -> None:
    """1 ms per row and 2 s per step besides, on a circuit as large as those that were tried."""
    clock = Clock()
    monkeypatch.setattr(trials.time, "process_time", clock.process_time)
    values = tiny_runs.hclt_config(train={"epochs": 4, "batch_size": batch})
    config, sizes = make_config(values), np.full(36, 16, np.int32)
    shape = shape_of((6, 6, 1), sizes, rows)
    circuit = KINDS["hclt"].structure(config.circuit, "lvd", shape)
    engine = Fake("torch", 2, clock, 1e-3, 2.0)
    step = min(batch, rows)
    small = trials.small_circuit(KINDS["hclt"], config.circuit, "lvd", shape, circuit)
    cost = trials.step_cost(engine, small, None)  # type: ignore[arg-type]
    seconds = cost.seconds(circuit, rows, step)
    tried, whole = size_of(engine.asked[0][0]), size_of(circuit)
    per_step = 2.0 * whole.parameters / tried.parameters
    per_row = 1e-3 * whole.activations / tried.activations
    steps = -(-rows // min(batch, rows))
    assert seconds == pytest.approx(rows * per_row + steps * per_step)


def test_steps_are_tried_on_a_small_circuit_of_the_same_sort() -> None:
    values = tiny_runs.patch_config(data={"name": "mnist"})
    values["circuit"] = {"kind": "patches", "patch": 4, "latents": 64, "patch_latents": 16}
    config = make_config(values)
    shape = shape_of((28, 28, 1), np.full(784, 256, np.int32))
    for arm in ("lvd", "hclt"):
        whole = KINDS["patches"].structure(config.circuit, arm, shape)
        small = trials.small_circuit(KINDS["patches"], config.circuit, arm, shape, whole)
        assert small.meta["structure"] == whole.meta["structure"]
        assert small.meta["latent_states"] == whole.meta["latent_states"]
        found, full = size_of(small), size_of(whole)
        assert isinstance(found, Size)
        assert found.activations < 0.6 * full.activations and found.flops < 0.6 * full.flops


def test_passes_of_patches_alone_cost_what_they_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch training sees each patch in one cluster, fine-tuning in all four."""
    monkeypatch.setattr(plans, "step_cost", lambda *_: StepCost(1.0, 0.0))
    monkeypatch.setattr(plans, "latent_seconds", lambda *_: 0.0)
    lvd, random, _ = make_plan(
        make_config(
            tiny_runs.patch_config(
                data={"name": "mnist5k"},
                train={
                    "epochs": 4,
                    "patch_training": {"epochs": 1},
                    "latent_training": {"epochs": 1},
                },
                circuit={"kind": "patches", "latents": 4, "patch": 4, "patch_latents": 2},
            )
        )
    ).arms
    rows, positions, size, clusters = 4000, 49, 16, 4
    patches = positions * rows * (2 * size * 2 - 1)
    hidden = rows * (2 * positions * clusters - (clusters - 1))
    # Glued, a position's ids are a concat, and the leaves of the hidden tree sums over it.
    whole = clusters * patches + hidden + 2 * rows * positions * clusters
    assert random.seconds == 4 * whole
    assert lvd.seconds == 2 * whole + patches + hidden


def test_seconds_of_teacher_and_clustering_are_scaled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is tried takes a second: 64 images, a clustering of 768 vectors."""
    monkeypatch.setattr(trials, "_timed", lambda work: (1.0, work()))
    monkeypatch.setattr(trials.time, "process_time", Clock().process_time)
    config = make_config(tiny_runs.hclt_config())
    shape = shape_of((6, 6, 1), np.full(36, 16, np.int32), 1000)
    seconds = trials.latent_seconds(config, KINDS["hclt"], shape, "cpu")
    windows = 2 * 1010 / 64  # cut for fitting, and for assigning
    assert seconds == pytest.approx(windows + 36 + 1010 * 36 / 768)
    values = tiny_runs.patch_config(teacher={"kind": "mae", "epochs": 5, "batch": 64})
    pooled = trials.latent_seconds(make_config(values), KINDS["patches"], shape, "cpu")
    # 4 positions of 1,010 images, 1,024 of their vectors clustered; training's clock stood still.
    assert pooled == pytest.approx(1010 / 64 + 1 + 4 * 1010 / 1024)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
@pytest.mark.parametrize("kind", ["hclt", "patches", "hmm"])
def test_memory_is_what_training_takes(kind: str) -> None:
    places = patch_variables((16, 16, 1), 4)
    sizes, tree = np.full(16, 256, np.int32), balanced_parents(16)
    circuit = {
        "hclt": lambda: hclt(balanced_parents(128), 80, 256, seed=0),
        "patches": lambda: glue(
            hclt(tree, 64, 64, seed=0), patch_bundle(tree, 64, 8, sizes, seed=0), places
        ),
        "hmm": lambda: random_hmm(512, 4000, 0).circuit(32),
    }[kind]()
    engine, options = TorchEngine(), FitOptions(epochs=1, batch_size=256)
    x = np.random.default_rng(0).integers(0, circuit.categories, (600, circuit.num_vars))
    x = x.astype(np.uint8)
    engine.fit(circuit, x[:2], options)  # code is loaded
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before, peak = PeakMemory(engine), PeakMemory(engine)
    here = before.read()
    engine.fit(circuit, x, options, valid=x[:300])
    most = peak.read()
    assert here is not None and most is not None
    taken = most - here + 4 * circuit.num_parameters
    assert 0.67 < engine.training_bytes(circuit, options, 600, 300) / taken < 1.5


def test_plan_of_a_colour_transform_on_grey_images_is_refused() -> None:
    values = tiny_runs.hclt_config(data={"name": "mnist", "colour": "ycocg_r"})
    with pytest.raises(UserError, match="grey"):
        make_plan(make_config(values))


def test_plan_counts_the_training_images_of_the_run() -> None:
    values = tiny_runs.hclt_config(data={"name": "digits", "valid": 400})
    dataset = load_dataset("digits", valid=400)
    assert f"{len(dataset.train):,} training images" in make_plan(make_config(values)).note
    for name in ("digits", "mnist5k"):
        known, found = SHAPES[name], load_dataset(name)
        assert (known.train, known.valid) == (len(found.train), len(found.valid))
        assert (known.shape, known.categories) == (found.shape, found.categories)
    values["data"] = {"name": "mnist", "valid": 60_000}
    with pytest.raises(UserError, match="no image to train on"):
        make_plan(make_config(values))


def test_plan_refuses_patches_that_do_not_tile() -> None:
    values = tiny_runs.patch_config(data={"name": "mnist"})
    values["circuit"] = {"kind": "patches", "patch": 3, "latents": 4, "patch_latents": 2}
    with pytest.raises(UserError, match="do not tile"):
        make_plan(make_config(values))
