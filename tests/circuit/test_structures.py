"""Structures without numbers: sizes against circuits that are really built, and their draws."""

from collections.abc import Callable
from functools import partial

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.initialise import initialise
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.rat_spn import rat_spn
from pyjuice_bridge.circuit.region_graph import RegionGraph, random_region_graph
from pyjuice_bridge.circuit.size import balanced_parents, nearest_width, size_of
from pyjuice_bridge.circuit.types import Circuit, InputLayer, ProductLayer, SumLayer, layer_params
from pyjuice_bridge.circuit.validate import check

SIZES = np.array([3, 2, 3, 2, 2, 4], np.int32)
SHARED = RegionGraph(
    4,
    ((0, 1, 2, 3), (0, 1), (2, 3), (0, 2), (1, 3), (0,), (1,), (2,), (3,)),
    ((0, 1, 2), (0, 3, 4), (1, 5, 6), (2, 7, 8), (3, 5, 7), (4, 6, 8)),
)
"""Two partitions of the top, whose regions share their leaves."""

Build = Callable[[int | None], Circuit]
BUILDERS: dict[str, Build] = {
    "hclt": lambda seed: hclt([3, 3, 0, -1, 0, 2], 3, SIZES, seed=seed),
    "one variable": lambda seed: hclt([-1], 3, 4, seed=seed),
    "bundle": lambda seed: patch_bundle([-1, 0, 0], 4, 2, SIZES[:3], seed=seed),
    "rat-spn": lambda seed: rat_spn(random_region_graph(6, 2, 3, seed=1), 3, 3, SIZES, seed=seed),
    "shared leaves": lambda seed: rat_spn(SHARED, 2, 3, 3, seed=seed),
}


def glued(seed: int | None) -> Circuit:
    above = hclt([1, -1, 1], 4, 4, seed=seed)
    return glue(above, patch_bundle([-1, 0], 4, 2, 3, seed=seed), [[0, 3], [2, 1], [5, 4]])


SIZED: dict[str, Build] = {
    **BUILDERS,
    "hmm": lambda seed: random_hmm(3, 5, seed).circuit(6),
    "glued": glued,
}


def counted(circuit: Circuit) -> tuple[int, float, int, int]:
    """Parameters, flops, activations and blocks, one array, matrix and node at a time."""
    arrays: dict[int, int] = {}
    flops = 0.0
    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            arrays[id(layer.params)] = layer.params.size
        elif isinstance(layer, SumLayer):
            arrays[id(layer.weights)] = layer.weights.size
            for group in layer.groups:
                # Upward, downward and counts; a product and an addition for each entry.
                flops += 3 * 2 * layer.weights[group].size
    leaves = {
        block
        for i, layer in enumerate(circuit.layers)
        if isinstance(layer, InputLayer)
        for block in range(circuit.starts[i], circuit.starts[i + 1])
    }
    values = oracle.node_values(circuit, np.full(circuit.num_vars, -1))
    inner = [value for block, value in enumerate(values) if block not in leaves]
    return sum(arrays.values()), flops, sum(map(len, inner)), len(inner)


@pytest.mark.parametrize("name", SIZED)
def test_size_is_that_of_the_circuit_that_is_built(name: str) -> None:
    parameters, flops, activations, blocks = counted(SIZED[name](0))
    size = size_of(SIZED[name](None))
    assert (size.parameters, size.activations, size.blocks) == (parameters, activations, blocks)
    assert size.flops == flops


def hclt_parameters(categories: np.ndarray, latents: int) -> int:
    """Leaves, one matrix per edge, one row at the root."""
    edges = len(categories) - 1
    return latents * int(categories.sum()) + edges * latents**2 + latents


@settings(max_examples=20, deadline=None)
@given(categories=st.lists(st.integers(2, 5), min_size=1, max_size=6), latents=st.integers(1, 5))
def test_hclt_sizes(categories: list[int], latents: int) -> None:
    sizes = np.array(categories, np.int32)
    circuit = hclt(balanced_parents(len(sizes)), latents, sizes, seed=0)
    size = size_of(hclt(balanced_parents(len(sizes)), latents, sizes))
    assert hclt_parameters(sizes, latents) == circuit.num_parameters == size.parameters
    inner = [layer for layer in circuit.layers if not isinstance(layer, InputLayer)]
    assert size.blocks == sum(layer.num_blocks for layer in inner) == 2 * len(sizes)


@pytest.mark.parametrize(("states", "vocabulary", "length"), [(2, 3, 2), (4, 7, 5)])
def test_hmm_sizes(states: int, vocabulary: int, length: int) -> None:
    circuit = random_hmm(states, vocabulary, 0).circuit(length)
    size = size_of(random_hmm(states, vocabulary, None).circuit(length))
    assert size.parameters == circuit.num_parameters == states * (1 + states + vocabulary)
    inner = [layer for layer in circuit.layers if not isinstance(layer, InputLayer)]
    assert size.blocks == sum(layer.num_blocks for layer in inner) == 2 * length
    assert size.flops == 6 * ((length - 1) * states**2 + states)


@settings(max_examples=40, deadline=None)
@given(parameters=st.integers(1000, 10**7), count=st.integers(2, 300))
def test_nearest_width_is_the_nearest(parameters: int, count: int) -> None:
    sizes = np.full(count, 7, np.int32)
    best = nearest_width(partial(hclt, balanced_parents(count), categories=sizes), parameters)
    gap = abs(hclt_parameters(sizes, best) - parameters)
    assert best == 2 or gap <= abs(hclt_parameters(sizes, best - 1) - parameters)
    assert gap <= abs(hclt_parameters(sizes, best + 1) - parameters)


@given(count=st.integers(1, 200))
def test_balanced_parents_are_a_tree_as_low_as_can_be(count: int) -> None:
    parents = balanced_parents(count)
    depth = np.zeros(count, int)
    for node in range(1, count):
        assert 0 <= parents[node] < node
        depth[node] = depth[parents[node]] + 1
    assert parents[0] == -1 and depth.max() == count.bit_length() - 1
    assert (np.bincount(parents[1:], minlength=1) <= 2).all()


@pytest.mark.parametrize("name", SIZED)
def test_a_structure_without_numbers_is_the_drawn_one_and_takes_no_memory(name: str) -> None:
    structure, drawn = SIZED[name](None), SIZED[name](0)
    check(structure)
    assert structure.roots.tolist() == drawn.roots.tolist()
    assert structure.meta == drawn.meta and structure.latents.keys() == drawn.latents.keys()
    for label, blocks in drawn.latents.items():
        np.testing.assert_array_equal(structure.latents[label], blocks)
    assert oracle.enumerate_log_likelihood(structure) == pytest.approx(0.0, abs=1e-5)
    for ours, theirs in zip(structure.layers, drawn.layers, strict=True):
        assert type(ours) is type(theirs)
        if isinstance(ours, InputLayer):
            fields = ("variables", "groups")
        else:
            fields = ("offsets", "children")
            fields += () if isinstance(ours, ProductLayer) else ("groups",)
        for field in fields:
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
        assert getattr(ours, "kind", None) == getattr(theirs, "kind", None)
        assert getattr(ours, "tied_to", None) == getattr(theirs, "tied_to", None)
        mine, other = layer_params(ours), layer_params(theirs)
        if mine is None or other is None:
            assert mine is other
            continue
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        # One number for each group at most: rows and columns repeat it.
        assert mine.strides[1:] == (0,) * (mine.ndim - 1)
        assert len(np.unique(mine[0])) == 1


@pytest.mark.parametrize("name", BUILDERS)
def test_initialise_draws_what_the_builder_draws(name: str) -> None:
    structure, drawn = BUILDERS[name](None), BUILDERS[name](7)
    again = initialise(structure, 7)
    check(again)
    for ours, theirs in zip(again.layers, drawn.layers, strict=True):
        mine, other = layer_params(ours), layer_params(theirs)
        assert (mine is None) == (other is None)
        if mine is not None:
            np.testing.assert_array_equal(mine, other)
    other = initialise(structure, 8)
    assert not np.array_equal(layer_params(other.layers[0]), layer_params(again.layers[0]))


@pytest.mark.parametrize("name", SIZED)
def test_drawn_rows_are_distributions_and_tied_layers_share_them(name: str) -> None:
    drawn = initialise(SIZED[name](None), 3)
    check(drawn)
    for layer in drawn.layers:
        if isinstance(layer, SumLayer) and layer.tied_to is not None:
            assert layer.weights is drawn.layers[layer.tied_to].weights
    assert oracle.enumerate_log_likelihood(drawn) == pytest.approx(0.0, abs=1e-5)
    rows = layer_params(drawn.layers[0]).reshape(-1, layer_params(drawn.layers[0]).shape[-1])
    assert len(np.unique(rows, axis=0)) == len(rows)
