"""Predicted sizes against circuits that are really built."""

import numpy as np
import pytest
import tiny_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from pyjuice_bridge.pipeline.patch_arms import patch_variables
from pyjuice_bridge.pipeline.sizes import (
    Work,
    equal_latents,
    glued_parameters,
    glued_work,
    hclt_parameters,
    hclt_work,
)

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.types import InputLayer
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.run.config import make_config
from pyjuice_bridge.run.plan import SHAPES, make_plan, seconds_per_row


def chain(count: int) -> np.ndarray:
    return np.arange(-1, count - 1, dtype=np.int32)


@settings(max_examples=20, deadline=None)
@given(categories=st.lists(st.integers(2, 5), min_size=1, max_size=6), latents=st.integers(1, 5))
def test_hclt_sizes(categories: list[int], latents: int) -> None:
    sizes = np.array(categories, np.int32)
    circuit = hclt(chain(len(sizes)), latents, sizes, seed=0)
    assert hclt_parameters(sizes, latents) == circuit.num_parameters
    inner = [layer for layer in circuit.layers if not isinstance(layer, InputLayer)]
    assert hclt_work(sizes, latents).blocks == sum(layer.num_blocks for layer in inner)


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
    shape = (grid[0] * patch, grid[1] * patch, channels)
    section = PatchCircuit(kind="patches", latents=clusters, patch=patch, patch_latents=latents)
    sizes = np.tile(np.array([3, 5, 5][:channels], np.int32), shape[0] * shape[1])
    places = patch_variables(shape, patch)
    latent = hclt(chain(len(places)), clusters, clusters, seed=0)
    size = places.shape[1]
    bundle = patch_bundle(chain(size), clusters, latents, sizes[places[0]], seed=0)
    circuit = glue(latent, bundle, places)
    assert glued_parameters(shape, sizes, section) == circuit.num_parameters
    inner = [layer for layer in circuit.layers if not isinstance(layer, InputLayer)]
    assert glued_work(shape, section).blocks == sum(layer.num_blocks for layer in inner)


def test_patch_variables_are_the_pixels_of_the_patch() -> None:
    image = np.arange(4 * 6 * 3).reshape(4, 6, 3)
    places = patch_variables((4, 6, 3), 2)
    np.testing.assert_array_equal(image.ravel()[places[4]], image[2:4, 2:4].ravel())
    np.testing.assert_array_equal(np.sort(places, axis=None), np.arange(72))


@given(parameters=st.integers(1000, 10**7), count=st.integers(2, 300))
def test_equal_size_is_the_nearest(parameters: int, count: int) -> None:
    sizes = np.full(count, 7, np.int32)
    best = equal_latents(parameters, sizes)
    gap = abs(hclt_parameters(sizes, best) - parameters)
    assert best == 2 or gap <= abs(hclt_parameters(sizes, best - 1) - parameters)
    assert gap <= abs(hclt_parameters(sizes, best + 1) - parameters)


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


def test_time_of_a_circuit_measured_on_itself() -> None:
    sizes = np.full(6, 3, np.int32)
    small, work = hclt(chain(6), 4, sizes, seed=0), hclt_work(sizes, 4)
    engine = get_engine("torch", "cpu")
    double = Work(2 * work.flops, 2 * work.activations, 2 * work.blocks)
    once, twice = (seconds_per_row(engine, small, w, 8) for w in (work, double))
    assert once > 0 and twice > 0


def test_plan_of_a_colour_transform_on_grey_images_is_refused() -> None:
    values = tiny_runs.hclt_config(data={"name": "mnist", "colour": "ycocg_r"})
    with pytest.raises(Exception, match="grey"):
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
