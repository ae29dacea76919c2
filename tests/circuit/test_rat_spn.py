"""Region graphs and RAT-SPNs against enumeration and the definition."""

import json
import re
from itertools import pairwise
from itertools import product as cartesian
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import enumerate_log_likelihood, log_likelihood, scopes

from pyjuice_bridge.circuit.rat_spn import (
    RegionGraph,
    load_region_graph,
    random_region_graph,
    rat_spn,
)
from pyjuice_bridge.circuit.types import InputLayer, ProductLayer, SumLayer
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.errors import UserError

DOCS = Path(__file__).parents[2] / "docs" / "region_graph.md"


def example():
    return json.loads(re.search(r"```json\n(.*?)```", DOCS.read_text(), re.S).group(1))


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 6), st.integers(0, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)
)
def test_probabilities_sum_to_one(n, depth, replicas, sums, inputs):
    graph = random_region_graph(n, depth, replicas, seed=n)
    circuit = rat_spn(graph, sums, inputs, 2, seed=depth)
    check(circuit)
    assert enumerate_log_likelihood(circuit) == pytest.approx(0.0, abs=1e-5)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 6), st.integers(1, 4), st.integers(0, 99))
def test_random_graphs_are_balanced_and_split_down_to_the_depth(n, depth, replicas, seed):
    graph = random_region_graph(n, depth, replicas, seed=seed)
    assert len(graph.splits[graph.root]) == (replicas if n > 1 and depth else 0)
    for region, left, right in graph.partitions:
        sizes = [len(graph.scopes[i]) for i in (left, right)]
        assert sum(sizes) == len(graph.scopes[region]) and sizes[1] - sizes[0] in (0, 1)
    leaves = [len(s) for s, pairs in zip(graph.scopes, graph.splits, strict=True) if not pairs]
    assert max(leaves) <= max(1, -(-n // 2**depth))
    assert graph == random_region_graph(n, depth, replicas, seed=seed)


def test_value_equals_the_definition(tmp_path):
    """Two partitions of four variables, written out as one mixture of products of leaves."""
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(example()))
    circuit = rat_spn(load_region_graph(path), 2, 3, np.array([2, 3, 2, 2]), seed=0)
    two, three, leaf, pair, top = circuit.layers
    assert isinstance(top, SumLayer) and top.weights.shape == (2, 1, 9)
    assert isinstance(pair, ProductLayer) and pair.kind == "kronecker"
    by_scope = [[0, 1], [2, 3], [0, 2], [1, 3]]
    assert [sorted(s) for s in map(scopes(circuit).__getitem__, range(8, 12))] == by_scope
    assert isinstance(two, InputLayer) and isinstance(three, InputLayer)
    for x in cartesian(range(2), range(3), range(2), range(2)):
        table = [
            p[:, x[v]]
            for layer in (two, three)
            for v, p in zip(layer.variables, layer.params, strict=True)
        ]
        regions = [
            np.prod([table[c] for c in leaf.children[a:b]], axis=0)
            for a, b in pairwise(leaf.offsets)
        ]
        expected = sum(
            top.weights[g, 0] @ np.outer(regions[2 * g], regions[2 * g + 1]).ravel()
            for g in range(2)
        )
        assert np.exp(log_likelihood(circuit, x)[0]) == pytest.approx(expected, rel=1e-5)


def test_a_region_under_several_partitions_is_one_block():
    shared = RegionGraph(
        4,
        ((0, 1, 2, 3), (0, 1), (2, 3), (0,), (1, 2, 3), (1,), (2,), (3,)),
        ((0, 1, 2), (0, 3, 4), (4, 5, 2), (2, 6, 7), (1, 3, 5)),
    )
    circuit = rat_spn(shared, 2, 2, 2, seed=0)
    check(circuit)
    assert sum(isinstance(layer, InputLayer) for layer in circuit.layers) == 1
    assert circuit.layers[0].num_blocks == 4
    assert enumerate_log_likelihood(circuit) == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(UserError, match="Region 0 has partitions of different widths"):
        rat_spn(shared, 2, 3, 2, seed=0)


def test_files_round_trip(tmp_path):
    graph = random_region_graph(9, 3, 2, seed=4)
    path = tmp_path / "graph.json"
    path.write_text(graph.to_json())
    assert load_region_graph(path) == graph


def damaged(change):
    graph = example()
    change(graph)
    return json.dumps(graph)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "the file must be an object"),
        (damaged(lambda g: g.update(more=1)), "no others"),
        (damaged(lambda g: g.update(num_vars=0)), "num_vars must be at least 1"),
        (damaged(lambda g: g.update(num_vars=True)), "num_vars must be an integer"),
        (damaged(lambda g: g.update(regions={})), "regions must be a list"),
        (damaged(lambda g: g["regions"][1].update(scope=[0, 0])), r"regions\[1\].scope .*twice"),
        (damaged(lambda g: g["regions"][1].update(scope=[])), "at least one"),
        (damaged(lambda g: g["regions"][1].update(scope=[0, 9])), "from 0 to 3"),
        (damaged(lambda g: g["regions"][1].update(scope=[0, 1.5])), "must be an integer"),
        (damaged(lambda g: g["partitions"][1].update(children=[1])), "region 0 into two"),
        (damaged(lambda g: g["partitions"][1].update(children=[1, 7])), "from 0 to 4"),
        (
            damaged(lambda g: g["partitions"][1].update(children=[1, 4])),
            "region 0 into two",
        ),
        (damaged(lambda g: g["partitions"].pop()), r"these are: \[0, 3, 4\]"),
        (damaged(lambda g: g.update(num_vars=5)), "all 5 variables"),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(tmp_path, text, words):
    path = tmp_path / "graph.json"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_region_graph(path)
    assert "graph.json" in str(caught.value) and "\n" not in str(caught.value)


def test_graphs_take_lists_of_any_whole_numbers_and_say_little():
    lists = [[0, 1], [0], np.array([1])], np.array([[0, 1, 2]])
    graph = RegionGraph(2, *lists)
    assert graph == RegionGraph(2, ((0, 1), (0,), (1,)), ((0, 1, 2),))
    assert repr(graph) == "RegionGraph(2 variables, 3 regions, 1 partitions)"
    for wrong in (((0, (1, 2)),), (0, 1, 2), ((0, 1.0, 2),), None):
        with pytest.raises(UserError, match="partitions must be lists of whole numbers"):
            RegionGraph(2, lists[0], wrong)
    with pytest.raises(UserError, match="must name a region and its children"):
        RegionGraph(2, lists[0], [[]])


def test_other_bad_input_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        load_region_graph(tmp_path / "absent.json")
    with pytest.raises(UserError, match="at least 1"):
        random_region_graph(3, 1, 0, seed=0)
    with pytest.raises(UserError, match="at least 1"):
        rat_spn(random_region_graph(3, 1, 1, seed=0), 0, 1, 2, seed=0)
