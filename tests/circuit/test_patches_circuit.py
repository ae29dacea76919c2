"""Patch bundles and gluing against the sum over latent values they stand for."""

from itertools import product as cartesian

import numpy as np
import pytest
from oracle import assignments, enumerate_log_likelihood, log_likelihood, scopes

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.types import InputLayer, ProductLayer, SumLayer
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.errors import UserError

PATCH_TREE = [1, -1, 1]
PLACES = np.array([[2, 0, 4], [5, 1, 3], [6, 8, 7]])


def parts(sizes=2, clusters=3):
    latent = hclt([-1, 0, 1], 2, clusters, seed=1)
    return latent, patch_bundle(PATCH_TREE, clusters, 2, sizes, seed=2)


def test_every_patch_circuit_is_a_distribution_over_its_own_copy():
    bundle = patch_bundle(PATCH_TREE, 3, 2, np.array([2, 3, 3]), seed=0)
    check(bundle)
    assert bundle.num_vars == 9 and len(bundle.roots) == 3
    assert bundle.categories.tolist() == [2, 3, 3] * 3
    for j, root in enumerate(bundle.roots):
        assert scopes(bundle)[root] == {3 * j, 3 * j + 1, 3 * j + 2}
        assert enumerate_log_likelihood(bundle, root=j) == pytest.approx(0.0, abs=1e-6)


def test_bundle_of_one_is_an_hclt():
    one = patch_bundle(PATCH_TREE, 1, 2, 4, seed=7)
    tree = hclt(PATCH_TREE, 2, 4, seed=7)
    for row in assignments(tree):
        assert log_likelihood(one, row) == log_likelihood(tree, row)


def test_clusters_share_layers_with_nodes_then_clusters():
    bundle = patch_bundle(PATCH_TREE, 3, 2, 2, seed=0)
    assert len(bundle.layers) == 5
    leaf, low, mix, high, top = bundle.layers
    assert leaf.variables.tolist() == [0, 3, 6, 2, 5, 8, 1, 4, 7]
    assert low.children.tolist() == [0, 1, 2, 3, 4, 5]
    assert high.children.tolist() == [6, 15, 18, 7, 16, 19, 8, 17, 20]
    assert (mix.num_blocks, top.num_blocks) == (6, 3)
    assert bundle.roots.tolist() == [24, 25, 26]


@pytest.mark.parametrize("sizes", [2, np.array([2, 1, 3])])
def test_glued_probability_is_the_sum_over_latent_values(sizes):
    latent, bundle = parts(sizes)
    glued = glue(latent, bundle, PLACES)
    rng = np.random.default_rng(0)
    for _ in range(4):
        row = rng.integers(0, glued.categories)
        heads = [log_likelihood(bundle, np.tile(row[place], 3)) for place in PLACES]
        total = 0.0
        for z in cartesian(range(3), repeat=3):
            term = log_likelihood(latent, z)[0] + sum(h[j] for h, j in zip(heads, z, strict=True))
            total += np.exp(term)
            assert log_likelihood(glued, row, {"z": z})[0] == pytest.approx(term, abs=1e-9)
        assert log_likelihood(glued, row)[0] == pytest.approx(np.log(total), abs=1e-9)


def test_glued_circuit_sums_to_one():
    latent, bundle = parts()
    glued = glue(latent, bundle, PLACES)
    check(glued)
    assert enumerate_log_likelihood(glued) == pytest.approx(0.0, abs=1e-5)


def test_glued_layout_shares_parameters_over_positions():
    latent, bundle = parts(np.array([2, 3, 3]))
    glued = glue(latent, bundle, PLACES)
    assert glued.num_parameters == latent.num_parameters + bundle.num_parameters
    np.testing.assert_array_equal(
        glued.categories[PLACES], np.broadcast_to([2, 3, 3], PLACES.shape)
    )
    concat = next(
        layer
        for layer in glued.layers
        if isinstance(layer, ProductLayer) and layer.kind == "concat"
    )
    for layer in glued.layers[: glued.layers.index(concat)]:
        if isinstance(layer, ProductLayer):
            continue
        groups = layer.groups
        assert groups.tolist() == np.repeat(np.arange(groups.max() + 1), 3).tolist()
        if isinstance(layer, SumLayer):
            children = layer.children
            assert children.tolist() == list(range(children[0], children[0] + len(children)))
    for position, block in enumerate(glued.latents["z"]):
        assert scopes(glued)[block] == set(PLACES[position].tolist())
        assert glued.widths[glued.layer_of(block)] == 3
    mixed = glued.layers[glued.layers.index(concat) + 1]
    assert mixed.children.tolist() == sorted(glued.latents["z"].tolist())


def test_latent_order_and_position_order_may_differ():
    latent, _ = parts()
    assert isinstance(latent.layers[0], InputLayer)
    assert latent.layers[0].variables.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("latent_clusters", "places", "words"),
    [
        (3, PLACES[1:], "exactly once"),
        (3, np.arange(6).reshape(3, 2), "2 variables per patch"),
        (3, np.arange(6).reshape(2, 3), "2 positions"),
        (4, PLACES, "4 values per position"),
        (3, PLACES.ravel(), "shape"),
    ],
)
def test_parts_that_do_not_fit_are_refused(latent_clusters, places, words):
    latent = hclt([-1, 0, 1], 2, latent_clusters, seed=1)
    bundle = patch_bundle(PATCH_TREE, 3, 2, 2, seed=2)
    with pytest.raises(UserError, match=words):
        glue(latent, bundle, places)
