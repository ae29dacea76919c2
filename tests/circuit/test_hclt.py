"""HCLTs: a probability distribution with the layout the engines rely on."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import assignments, enumerate_log_likelihood, log_likelihood, scopes

from pyjuice_bridge.circuit.hclt import bfs_levels, hclt
from pyjuice_bridge.circuit.rows import dirichlet_rows
from pyjuice_bridge.circuit.types import InputLayer, ProductLayer, SumLayer
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.errors import UserError

TREE = [3, 3, 0, -1, 0, 2, 1]
SIZES = np.array([2, 3, 2, 2, 3, 2, 2])


def random_tree(n, seed):
    rng = np.random.default_rng(seed)
    label = rng.permutation(n)
    parents = np.full(n, -1)
    for i in range(1, n):
        parents[label[i]] = label[rng.integers(0, i)]
    return parents


def test_levels_are_by_depth_with_siblings_together():
    assert [level.tolist() for level in bfs_levels(TREE)] == [[3], [0, 1], [2, 4, 6], [5]]


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 10_000))
def test_levels_hold_every_node_below_its_parent(n, seed):
    parents = random_tree(n, seed)
    levels = bfs_levels(parents)
    assert sorted(np.concatenate(levels).tolist()) == list(range(n))
    for above, level in pairwise(levels):
        rank = {int(node): i for i, node in enumerate(above)}
        ranks = [rank[int(parents[node])] for node in level]
        assert ranks == sorted(ranks)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(0, 1000))
def test_probabilities_sum_to_one(n, seed):
    circuit = hclt(random_tree(n, seed), 3, 2, seed=seed)
    check(circuit)
    assert enumerate_log_likelihood(circuit) == pytest.approx(0.0, abs=1e-6)


def test_value_equals_the_definition():
    """Σ_h Π p(h_child | h_parent) p(x | h), written out for a chain 1 → 0 → 2."""
    circuit = hclt([1, -1, 0], 2, np.array([2, 3, 2]), seed=5)
    two, three = (layer for layer in circuit.layers if isinstance(layer, InputLayer))
    sums = [layer for layer in circuit.layers if isinstance(layer, SumLayer)]
    assert (two.variables.tolist(), three.variables.tolist()) == ([2, 0], [1])
    for row in assignments(circuit):
        x0, x1, x2 = row
        below = sums[0].weights[0] @ two.params[0][:, x2]
        below = sums[1].weights[0] @ (two.params[1][:, x0] * below)
        expected = (sums[2].weights[0] @ (three.params[0][:, x1] * below))[0]
        assert np.exp(log_likelihood(circuit, row)[0]) == pytest.approx(expected, rel=1e-5)


def test_observed_latents_select_the_hidden_values():
    circuit = hclt(TREE, 2, SIZES, seed=1)
    total = 0.0
    x = np.zeros(7, int)
    for code in range(2**7):
        z = [(code >> i) & 1 for i in range(7)]
        total += np.exp(log_likelihood(circuit, x, {"z": z})[0])
    assert total == pytest.approx(np.exp(log_likelihood(circuit, x)[0]), rel=1e-6)


def test_latent_blocks_have_the_scope_of_the_subtree():
    circuit = hclt(TREE, 2, SIZES, seed=1)
    below = [{0, 2, 4, 5}, {1, 6}, {2, 5}, set(range(7)), {4}, {5}, {6}]
    assert [set(scopes(circuit)[b]) for b in circuit.latents["z"]] == below


@pytest.mark.parametrize("sizes", [2, SIZES])
def test_layout(sizes):
    """One product and one sum layer per depth, each reading contiguous ranges in order."""
    circuit = hclt(TREE, 2, sizes, seed=0)
    inputs = [layer for layer in circuit.layers if isinstance(layer, InputLayer)]
    products = [layer for layer in circuit.layers if isinstance(layer, ProductLayer)]
    sums = [layer for layer in circuit.layers if isinstance(layer, SumLayer)]
    assert [layer.num_blocks for layer in products] == [1, 3, 2, 1]
    assert [layer.categories for layer in inputs] == sorted({*np.atleast_1d(sizes).tolist()})
    order = [5, 2, 4, 6, 0, 1, 3]
    wide = np.broadcast_to(sizes, 7)
    for layer in inputs:
        assert layer.variables.tolist() == [v for v in order if wide[v] == layer.categories]
    leaf_of = {int(v): b for b, v in enumerate(np.concatenate([i.variables for i in inputs]))}
    first = [leaf_of[v] for v in order]
    read = [int(p.children[o]) for p in products for o in p.offsets[:-1]]
    assert read == first
    starts = circuit.starts[len(inputs) :]
    for level, (product, mix) in enumerate(zip(products, sums, strict=True)):
        rest = np.delete(product.children, product.offsets[:-1])
        below = np.arange(starts[2 * level - 1], starts[2 * level]) if level else np.array([])
        np.testing.assert_array_equal(rest, below)
        np.testing.assert_array_equal(
            mix.children, np.arange(starts[2 * level], starts[2 * level + 1])
        )
        np.testing.assert_array_equal(mix.groups, np.arange(mix.num_blocks))
    assert circuit.roots.tolist() == [circuit.num_blocks - 1]
    assert circuit.widths[-1] == 1


def test_same_seed_same_parameters():
    first, again, other = (hclt(TREE, 2, 4, seed=s) for s in (3, 3, 4))
    np.testing.assert_array_equal(first.layers[0].params, again.layers[0].params)
    assert not np.array_equal(first.layers[0].params, other.layers[0].params)


def test_rows_are_uniform_on_the_simplex(monkeypatch):
    monkeypatch.setattr("pyjuice_bridge.circuit.rows._CHUNK", 1000)
    rows = dirichlet_rows(np.random.default_rng(0), (40, 50, 4)).reshape(-1, 4)
    np.testing.assert_allclose(rows.sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(rows.mean(axis=0), 0.25, atol=0.02)
    np.testing.assert_allclose(rows.var(axis=0), 3 / 80, atol=0.005)
    assert rows.dtype == np.float32 and len(np.unique(rows[:, 0])) > 1990


@pytest.mark.parametrize(
    ("parents", "latents", "sizes", "words"),
    [
        ([-1, -1], 2, 2, "exactly once"),
        ([-1, 5], 2, 2, "node indices below 2"),
        ([-1, 2, 1], 2, 2, "cycle"),
        ([], 2, 2, "non-empty"),
        ([-1, 0], 0, 2, "at least 1"),
        ([-1, 0], 2, [2, 2, 2], "array of 2"),
        ([-1, 0], 2, 0, "positive"),
    ],
)
def test_bad_arguments_are_refused(parents, latents, sizes, words):
    with pytest.raises(UserError, match=words):
        hclt(parents, latents, sizes, seed=0)
