"""A model's answers against enumeration, for rows, grey images and colour images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from circuits import random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import patch_bundle
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.data.colour import get_colour
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.query.table import structures

ENGINE = get_engine("torch", "cpu")


def image_model(
    height: int, width: int, channels: int, categories: object, colour: str = "rgb", seed: int = 0
) -> Model:
    size = height * width * channels
    circuit = hclt(np.arange(-1, size - 1), 2, categories, seed=seed)
    meta = {
        "image_height": height,
        "image_width": width,
        "image_channels": channels,
        "colour": colour,
        "structure": "hclt",
        "dataset": "toy",
    }
    return Model(replace(circuit, meta=meta), ENGINE)


@pytest.fixture(scope="module")
def grey() -> Model:
    return image_model(2, 2, 1, 3)


def images_of(model: Model, rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, 2, 2, 1)


def some_images(n: int, sides: tuple[int, ...], top: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, (n, *sides)).astype(np.uint8)


def test_images_and_rows_are_the_same_question(grey: Model) -> None:
    rows = random_rows(grey.circuit, 10, 1, 0.4)
    expected = [oracle.log_likelihood(grey.circuit, row)[0] for row in rows]
    np.testing.assert_allclose(grey.log_likelihood(rows), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        grey.log_likelihood(images_of(grey, rows)), grey.log_likelihood(rows)
    )


def test_tensors_and_lists_are_read_as_arrays(grey: Model) -> None:
    images = some_images(3, (2, 2, 1), 3, 0)
    mask = np.array([[True, False], [True, True]])
    for given_ in (torch.tensor(images), images.tolist()):
        np.testing.assert_array_equal(grey.log_likelihood(given_), grey.log_likelihood(images))
        assert grey.bits_per_dim(given_) == grey.bits_per_dim(images)
        drawn = grey.inpaint(given_, mask.tolist(), seed=1)
        np.testing.assert_array_equal(drawn, grey.inpaint(images, mask, seed=1))


def test_no_images_have_no_likelihoods(grey: Model) -> None:
    assert grey.log_likelihood(np.empty((0, 2, 2, 1), np.uint8)).shape == (0,)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), structure=st.sampled_from(["HCLT", "RAT-SPN", "glued patches"]))
def test_a_conditional_is_the_ratio_of_two_marginals(seed: int, structure: str) -> None:
    """A conditional is a ratio of the marginals, summed by enumeration."""
    circuit = structures()[structure]
    x, given_ = random_rows(circuit, 1, seed, 0.5), random_rows(circuit, 1, seed + 1, 0.5)
    given_ = np.where((x >= 0) & (given_ >= 0), x, given_)
    both = np.where(given_ < 0, x, given_)
    top, bottom = (oracle.enumerate_log_likelihood(circuit, r[0]) for r in (both, given_))
    found = Model(circuit, ENGINE).conditional(x, given_)
    assert found[0] == pytest.approx(top - bottom, abs=1e-5)


def test_conditionals_sum_to_one_and_contradictions_are_impossible(grey: Model) -> None:
    given_ = np.array([[2, -1, -1, 0]])
    x = np.array(list(oracle.assignments(grey.circuit, given_[0])))
    found = grey.conditional(x, np.repeat(given_, len(x), axis=0))
    assert np.exp(found).sum() == pytest.approx(1.0, abs=1e-5)
    assert grey.conditional(np.array([[1, 0, 0, 0]]), given_)[0] == -np.inf


def test_conditioning_on_the_impossible_is_refused(grey: Model) -> None:
    leaves = [layer.params.copy() for layer in grey.circuit.layers[:1]]
    leaves[0][:, :, 2] = 0.0
    leaves[0] /= leaves[0].sum(-1, keepdims=True)
    others = [None] * (len(grey.circuit.layers) - 1)
    model = Model(grey.circuit.with_layer_params([*leaves, *others]), ENGINE)
    with pytest.raises(UserError, match="given: row 1 has probability zero"):
        model.conditional(np.zeros((2, 4), int), np.array([[0, -1, -1, -1], [-1, 2, -1, -1]]))


def test_bits_per_dimension_of_grey_images(grey: Model) -> None:
    images = some_images(6, (2, 2, 1), 3, 2)
    rows = images.reshape(6, 4).astype(int)
    mean = np.mean([oracle.log_likelihood(grey.circuit, row)[0] for row in rows])
    assert grey.bits_per_dim(images) == pytest.approx(-mean / np.log(2) / 4, rel=1e-5)


@pytest.mark.parametrize("colour", ["rgb", "ycocg_r", "ycbcr_lossy", "ycocg_lossy"])
def test_bits_per_dimension_are_those_of_rgb(colour: str) -> None:
    """Uniform codes: every code has probability 1 / |codes|, an image that times its preimage."""
    coding = get_colour(colour)
    sizes = np.tile(coding.categories, 2)
    circuit = hclt(np.arange(-1, 5), 2, sizes, seed=0)
    params = [
        np.full_like(layer.params, 1 / layer.categories) if hasattr(layer, "params") else None
        for layer in circuit.layers
    ]
    circuit = circuit.with_layer_params(params)
    shape = {"image_height": 1, "image_width": 2, "image_channels": 3, "colour": colour}
    model = Model(replace(circuit, meta=shape), ENGINE)
    images = some_images(4, (1, 2, 3), 256, 3)
    uniform = np.log2(np.prod(np.array(coding.categories, float))) / 3
    correction = coding.log_preimage(coding.encode(images)).mean() / np.log(2) / 6
    assert model.bits_per_dim(images) == pytest.approx(uniform + correction, abs=1e-5)
    assert coding.lossless or correction > 0.3


def test_samples_are_images_and_keep_what_was_shown(grey: Model) -> None:
    assert grey.sample(5, seed=1).shape == (5, 2, 2, 1)
    evidence = np.array([[[[2], [-1]], [[-1], [0]]], [[[-1], [-1]], [[1], [-1]]]])
    drawn = grey.sample(7, evidence, seed=2)
    assert drawn.shape == (2, 7, 2, 2, 1) and drawn.dtype == np.uint8
    shown = evidence[:, None] >= 0
    np.testing.assert_array_equal(
        np.where(shown, drawn, 0), np.where(shown, evidence[:, None], 0).repeat(7, axis=1)
    )
    rows = grey.sample(7, evidence.reshape(2, 4), seed=2)
    np.testing.assert_array_equal(rows.reshape(drawn.shape), drawn)


@pytest.mark.parametrize("colour", ["ycocg_r", "ycbcr_lossy"])
def test_colour_images_keep_what_was_shown(colour: str) -> None:
    sizes = np.tile(get_colour(colour).categories, 4)
    model = image_model(2, 2, 3, sizes, colour)
    images = some_images(3, (2, 2, 3), 256, 4)
    mask = np.array([[True, False], [False, True]])
    painted = model.inpaint(images, mask, seed=5)
    assert painted.dtype == np.uint8 and painted.shape == images.shape
    np.testing.assert_array_equal(painted[:, ~mask], images[:, ~mask])
    assert (painted[:, mask] != images[:, mask]).any()
    masks = np.stack([mask, ~mask, mask])
    each = model.inpaint(images, masks, seed=5)
    np.testing.assert_array_equal(each[~masks], images[~masks])
    best, value = model.mpe(np.where(mask[..., None], -1, images.astype(int)))
    np.testing.assert_array_equal(best[:, ~mask], images[:, ~mask])
    assert np.isfinite(value).all()


def test_half_missing_pixels_are_refused_under_a_colour_transform() -> None:
    model = image_model(1, 1, 3, get_colour("ycocg_r").categories, "ycocg_r")
    with pytest.raises(UserError, match="all of its channels or in none"):
        model.log_likelihood(np.array([[[[3, -1, 4]]]]))
    missing = model.log_likelihood(np.full((1, 1, 1, 3), -1))
    assert missing[0] == pytest.approx(0.0, abs=1e-5)


def test_posteriors_by_name(grey: Model) -> None:
    found = grey.posteriors(np.full((2, 4), -1))
    assert list(found) == ["z"] and found["z"].shape == (2, 4, 2)
    np.testing.assert_allclose(found["z"].sum(-1), 1.0, atol=1e-5)


@pytest.mark.parametrize("structure", ["HCLT", "RAT-SPN", "glued patches"])
def test_approximate_map_is_exactly_scored_and_close(structure: str) -> None:
    circuit = structures()[structure]
    model = Model(circuit, ENGINE)
    evidence = random_rows(circuit, 6, 6, 0.8)
    found = model.map_approximate(evidence, samples=8, sweeps=3, seed=7)
    assert found.label.startswith("approximate")
    observed = evidence >= 0
    np.testing.assert_array_equal(found.x[observed], evidence[observed])
    for row, value, known in zip(found.x, found.log_p, evidence, strict=True):
        assert value == pytest.approx(oracle.log_likelihood(circuit, row)[0], rel=1e-5)
        candidates = np.array(list(oracle.assignments(circuit, known)))
        scores = ENGINE.log_likelihood(circuit, candidates)[:, 0]
        neighbours = (candidates != row).sum(axis=1) <= 1
        assert value >= scores[neighbours].max() - 1e-5  # a sweep leaves no better neighbour
        assert value <= scores.max() + 1e-5
    only_mpe = model.map_approximate(evidence, samples=0, sweeps=0)
    best, _ = model.mpe(evidence)
    np.testing.assert_array_equal(only_mpe.x, best)
    assert (found.log_p >= only_mpe.log_p - 1e-6).all()


def test_several_roots_are_chosen_from() -> None:
    bundle = patch_bundle([-1, 0], 3, 2, 2, seed=0)
    model = Model(bundle, ENGINE)
    x = random_rows(bundle, 4, 8, 0.0)
    assert model.log_likelihood(x).shape == (4, 3)
    assert model.conditional(x, np.where(np.arange(6) % 2, x, -1)).shape == (4, 3)
    with pytest.raises(UserError, match=r"select\(root\)"):
        model.sample(2)
    with pytest.raises(UserError, match="root is 3, must be a whole number from 0 to 2"):
        model.select(3)
    one = model.select(1)
    np.testing.assert_allclose(one.log_likelihood(x), model.log_likelihood(x)[:, 1], rtol=1e-6)
    assert (one.sample(3)[:, 2:4] >= 0).all()


def test_saving_and_loading_keep_the_answers(grey: Model, tmp_path: Path) -> None:
    path = tmp_path / "model.h5"
    grey.save(path)
    again = Model.load(path, engine="torch", device="cpu")
    rows = random_rows(grey.circuit, 5, 9)
    np.testing.assert_array_equal(again.log_likelihood(rows), grey.log_likelihood(rows))
    np.testing.assert_array_equal(again.sample(4, seed=1), grey.sample(4, seed=1))
    assert repr(again) == repr(grey)


def test_views(grey: Model) -> None:
    assert repr(grey).startswith("Model(structure hclt, dataset toy, images 2×2×1")
    page = grey._repr_html_()
    assert "data:image/png;base64," in page and "<table>" in page
    plain = Model(patch_bundle([-1, 0], 2, 2, 2, seed=0), ENGINE)
    assert "<img" not in plain._repr_html_() and "roots 2" in repr(plain)


def strange(meta: dict[str, int]) -> Circuit:
    return replace(hclt([-1, 0], 2, 2, seed=0), meta=meta)


def test_what_does_not_fit_is_refused(grey: Model) -> None:
    questions = [
        (lambda: grey.log_likelihood(np.zeros((2, 5), int)), "x: expected shape"),
        (lambda: grey.log_likelihood(np.zeros((2, 4))), "x: expected integers"),
        (lambda: grey.log_likelihood(np.array([[0, 1, 3, 0]])), "variable 2 is 3"),
        (lambda: grey.log_likelihood(np.zeros((1, 3, 2, 1), int)), "images: expected shape"),
        (lambda: grey.log_likelihood(np.full((1, 2, 2, 1), 300)), "images: values must be"),
        (lambda: grey.conditional(np.zeros((2, 4), int), np.zeros((1, 4), int)), "given"),
        (lambda: grey.bits_per_dim(np.full((1, 2, 2, 1), -1)), "complete images"),
        (lambda: grey.bits_per_dim(np.zeros((1, 4), np.uint8)), "images: expected"),
        (lambda: grey.sample(0), "n is 0, must be a whole number from 1"),
        (lambda: grey.inpaint(np.zeros((1, 2, 2, 1), np.uint8), np.zeros((3, 3), bool)), "mask"),
        (lambda: grey.inpaint(np.zeros((1, 2, 2, 1), np.uint8), np.zeros((2, 2), int)), "mask"),
        (lambda: Model(strange({}), ENGINE).bits_per_dim(np.zeros((1, 1, 2, 1))), "not model"),
    ]
    for ask, message in questions:
        with pytest.raises(UserError, match=message):
            ask()
    wrong = strange({"image_height": 3, "image_width": 1, "image_channels": 1})
    with pytest.raises(UserError, match="does not fit the circuit's 2 variables"):
        Model(wrong, ENGINE).sample(1)
