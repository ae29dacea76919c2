"""Circuits, files and trees that both languages make: equal where nothing is random."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from circuits import CIRCUITS, random_rows
from julia_program import run_julia, skip_without_julia
from random_circuits import random_circuit

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.dictionary import with_dictionary
from pyjuice_bridge.circuit.doubling import double, narrow
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.rat_spn import rat_spn
from pyjuice_bridge.circuit.region_circuit import latent_regions
from pyjuice_bridge.circuit.region_graph import (
    RegionGraph,
    load_region_graph,
    random_region_graph,
    tree_regions,
)
from pyjuice_bridge.circuit.region_rectangles import (
    congruent,
    poon_domingos,
    quad_graph,
    quad_tree,
)
from pyjuice_bridge.circuit.types import Circuit, SumLayer, layer_params
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.cluster.assignments import Assignments
from pyjuice_bridge.distill.builders import Builders, PythonBuilders
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.errors import UserError

PYTHON = PythonBuilders()


@pytest.fixture(scope="module")
def julia() -> Builders:
    skip_without_julia()
    from pyjuice_bridge.engines.julia.builders import JuliaBuilders

    return JuliaBuilders()


def assert_same(found: Circuit, expected: Circuit, *, params: bool = True) -> None:
    """Every array, number and name; parameters too unless they are random."""
    assert (found.num_vars, found.meta) == (expected.num_vars, expected.meta)
    np.testing.assert_array_equal(found.roots, expected.roots)
    assert found.latents.keys() == expected.latents.keys()
    for name, blocks in expected.latents.items():
        np.testing.assert_array_equal(found.latents[name], blocks)
    for a, b in zip(found.layers, expected.layers, strict=True):
        assert type(a) is type(b) and vars(a).keys() == vars(b).keys()
        for name, value in vars(b).items():
            other = getattr(a, name)
            if not isinstance(value, np.ndarray):
                assert other == value, name
            elif params or name not in ("weights", "params"):
                assert other.dtype == value.dtype, name
                np.testing.assert_array_equal(other, value)
            else:
                assert other.shape == value.shape, name


COPY = """
using JuiceBridge
for name in readlines(joinpath(ARGS[1], "names"))
    save_circuit(load_circuit(joinpath(ARGS[1], name)), joinpath(ARGS[2], name))
end
save_assignments(load_assignments(joinpath(ARGS[1], "z")), joinpath(ARGS[2], "z"))
"""


def test_files_come_back_bit_for_bit(tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    there.mkdir()
    back.mkdir()
    circuits = {name: make() for name, make in CIRCUITS.items()}
    circuits |= {f"random{seed}": random_circuit(seed, 5) for seed in range(10)}
    odd = {"text": "Zürich – 東京", "empty": "", "count": -(2**62), "share": 0.1, "none": 0}
    circuits["meta"] = replace(circuits["hclt"], meta=odd)
    circuits["float32"] = random_circuit(1, 4, np.float32)
    for name, circuit in circuits.items():
        hdf5.save(circuit, there / name)
    (there / "names").write_text("\n".join(circuits))
    z = {"train": np.array([[0, 2], [1, 1], [2, 0]], np.int32), "valid": np.ones((1, 2), np.int32)}
    centroids = np.random.default_rng(0).random((2, 3, 4), np.float32)
    Assignments(z, 3, centroids, {"teacher": "pixels", "ring": 3, "sigma": 0.5}).save(there / "z")
    run_julia(COPY, there, back)
    for name, circuit in circuits.items():
        assert_same(hdf5.load(back / name), circuit)
    found = Assignments.load(back / "z")
    assert found.clusters == 3 and found.centroids is not None
    assert found.attributes == {"teacher": "pixels", "ring": 3, "sigma": 0.5}
    np.testing.assert_array_equal(found.centroids, centroids)
    for split, ids in z.items():
        np.testing.assert_array_equal(found.z[split], ids)


MAKE = """
using JuiceBridge
import HDF5
graph = load_region_graph(joinpath(ARGS[1], "graph.json"))
save_circuit(rat_spn(graph, 3, 2, [2, 3, 2, 4]; seed = 1), joinpath(ARGS[1], "rat_spn.h5"))
initial, transition, emission = HDF5.h5open(joinpath(ARGS[1], "arrays.h5")) do file
    read(file["initial"]), read(file["transition"]), read(file["emission"])
end
save_circuit(hmm(initial, transition, emission, 5), joinpath(ARGS[1], "hmm.h5"))
"""
GRAPH = {
    "num_vars": 4,
    "regions": [{"scope": s} for s in ([0, 1, 2, 3], [0, 1], [2, 3], [0, 2], [1, 3])],
    "partitions": [
        {"region": 0, "children": [1, 2]},
        {"region": 0, "children": [3, 4]},
    ],
}


def test_region_graphs_and_hmms(tmp_path: Path) -> None:
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    hmm = random_hmm(3, 4, seed=2)
    with h5py.File(tmp_path / "arrays.h5", "w", libver=("v110", "v110")) as file:
        for name in ("initial", "transition", "emission"):
            file[name] = getattr(hmm, name)
    run_julia(MAKE, tmp_path)
    graph = load_region_graph(tmp_path / "graph.json")
    expected = rat_spn(graph, 3, 2, [2, 3, 2, 4], seed=1)
    assert_same(hdf5.load(tmp_path / "rat_spn.h5"), expected, params=False)
    assert_same(hdf5.load(tmp_path / "hmm.h5"), hmm.circuit(5))


def test_trees(julia: Builders) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(2, 40, 12)
        x = rng.integers(0, sizes, (300, 12))
        for column in range(1, 12):
            same = rng.random(300) < 0.6
            x[same, column] = x[same, rng.integers(column)] % sizes[column]
        x[rng.random(x.shape) < 0.1] = -1
        for options in ({}, {"bins": 5, "pseudocount": 0.0}, {"rows": 100, "seed": seed}):
            expected = PYTHON.chow_liu_tree(x, sizes, **options)
            found = julia.chow_liu_tree(x, sizes, **options)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


def test_structures(julia: Builders) -> None:
    tree, sizes = [3, -1, 1, 1, 2, 2, 0], [2, 3, 2, 3, 4, 2, 2]
    made = julia.hclt(tree, 4, sizes, seed=1), PYTHON.hclt(tree, 4, sizes, seed=1)
    assert_same(*made, params=False)
    again, other = julia.hclt(tree, 4, sizes, seed=1), julia.hclt(tree, 4, sizes, seed=2)
    assert_same(again, made[0])
    assert not np.array_equal(layer_params(other.layers[0]), layer_params(made[0].layers[0]))
    bundles = [b.patch_bundle([1, -1, 1], 4, 2, [2, 2, 3], seed=3) for b in (julia, PYTHON)]
    assert_same(*bundles, params=False)
    above = PYTHON.hclt([-1, 0, 0], 4, 4, seed=4)
    places = np.array([[0, 4, 1], [8, 5, 2], [7, 3, 6]])
    assert_same(*(b.glue(above, bundles[1], places) for b in (julia, PYTHON)))


def test_rat_spns(julia: Builders) -> None:
    from pyjuice_bridge.engines.julia.builders import JuliaBuilders

    assert isinstance(julia, JuliaBuilders)
    for variables, depth, repeats in ((1, 1, 1), (7, 2, 1), (16, 3, 4)):
        graph = random_region_graph(variables, depth, repeats, seed=3)
        sizes = np.random.default_rng(variables).integers(2, 5, variables)
        for sums, inputs in ((3, 2), (4, 4)):
            given = (graph, sums, inputs, sizes)
            found, expected = julia.rat_spn(*given, seed=1), rat_spn(*given, seed=1)
            assert_same(found, expected, params=False)
            check(found)
    assert_same(julia.rat_spn(*given, seed=1), found)


GRAPHS = """
using JuiceBridge
using JuiceBridge: congruent
graphs = [
    quad_tree((5, 3, 2)),
    quad_tree((5, 3, 1); splits = 2),
    quad_graph((6, 5, 1)),
    poon_domingos((6, 4, 1), [2.5, 1.5]),
    tree_regions([4, 0, 2, 2, 3, 3, 1]),
    tree_regions(0:3),
]
for (i, graph) in enumerate(graphs)
    save_region_graph(graph, joinpath(ARGS[1], "$(i - 1).json"))
    println(join(latent_regions(graph) .- 1, ' '))
end
println(join(congruent(graphs[1], (5, 3, 2)) .- 1, ' '))
println(join(congruent(graphs[3], (6, 5, 1)) .- 1, ' '))
for graph in (graphs[3], graphs[5])
    path = joinpath(ARGS[1], "again.json")
    save_region_graph(graph, path)
    @assert load_region_graph(path) == graph
end
"""


def test_region_graphs_of_images_and_trees(tmp_path: Path) -> None:
    graphs = [
        quad_tree((5, 3, 2)),
        quad_tree((5, 3, 1), 2),
        quad_graph((6, 5, 1)),
        poon_domingos((6, 4, 1), [2.5, 1.5]),
        tree_regions([3, -1, 1, 1, 2, 2, 0]),
        tree_regions([-1, 0, 1, 2]),
    ]
    printed = [list(map(int, line.split())) for line in run_julia(GRAPHS, tmp_path).splitlines()]
    for i, graph in enumerate(graphs):
        assert load_region_graph(tmp_path / f"{i}.json") == graph
        assert printed[i] == latent_regions(graph).tolist()
    assert printed[6] == congruent(graphs[0], (5, 3, 2)).tolist()
    assert printed[7] == congruent(graphs[2], (6, 5, 1)).tolist()


def region_circuits() -> list[tuple[RegionGraph, object, object, object]]:
    """Graphs with the widths, categories and shapes of circuits over them."""
    rng = np.random.default_rng(2)
    tree, graph, halves = quad_tree((5, 3, 2)), quad_graph((4, 5, 1)), quad_tree((4, 4, 1), 2)
    several, chain = random_region_graph(7, 3, 2, seed=1), tree_regions([-1, 0, 1, 2])
    return [
        (tree, 3, rng.integers(2, 5, 30), None),
        (tree, 3, 4, congruent(tree, (5, 3, 2))),
        (graph, rng.integers(1, 4, len(graph.scopes)), 3, None),
        (graph, 2, 3, congruent(graph, (4, 5, 1))),
        (halves, 3, 4, np.where(np.arange(31) > 2, congruent(halves, (4, 4, 1)), -1)),
        (poon_domingos((4, 4, 1), [2.0]), 2, 2, None),
        (several, 3, rng.integers(2, 4, 7), None),
        (chain, 3, [2, 3, 2, 3], None),
        (random_region_graph(1, 0, 1, seed=0), 2, 3, None),
    ]


def test_region_circuits(julia: Builders) -> None:
    for graph, latents, sizes, shapes in region_circuits():
        given = {"shapes": shapes, "seed": 1}
        found, expected = (
            b.region_circuit(graph, latents, sizes, **given) for b in (julia, PYTHON)
        )
        assert_same(found, expected, params=False)
        check(found)
        uniform = [b.region_circuit(graph, latents, sizes, shapes=shapes) for b in (julia, PYTHON)]
        assert_same(*uniform)
    assert_same(julia.region_circuit(graph, latents, sizes, **given), found)


def test_tucker_circuits(julia: Builders) -> None:
    for graph in (quad_graph((4, 3, 1)), random_region_graph(7, 3, 2, seed=1)):
        made = [b.tucker_circuit(graph, 3, 4, seed=1) for b in (julia, PYTHON)]
        assert_same(*made, params=False)
        check(made[0])
        assert_same(*(b.tucker_circuit(graph, 3, 4) for b in (julia, PYTHON)))
    for graph in (quad_tree((2, 2, 1)), tree_regions([-1, 0, 1])):
        with pytest.raises(UserError, match="other than two regions"):
            julia.tucker_circuit(graph, 3, 4, seed=1)


def test_counting_over_region_graphs(julia: Builders) -> None:
    """Choices of a partition, pairs of a Kronecker product, and shared parameters."""
    rng = np.random.default_rng(7)
    graph, pairs = quad_graph((3, 4, 1)), quad_tree((3, 4, 1), 2)
    for blank in (
        PYTHON.region_circuit(graph, 3, 4, seed=1),
        PYTHON.region_circuit(graph, 3, 4, shapes=congruent(graph, (3, 4, 1)), seed=1),
        PYTHON.tucker_circuit(pairs, 3, 4, seed=1),
    ):
        x = rng.integers(0, 4, (60, 12))
        z = rng.integers(0, 3, (60, len(blank.latents["z"])))
        x[rng.random(x.shape) < 0.2] = -1
        z[rng.random(z.shape) < 0.1] = -1
        for pseudocount in (0.0, 0.7):
            both = [
                b.count_parameters(blank, x, z, pseudocount=pseudocount) for b in (julia, PYTHON)
            ]
            assert_same(*both, params=False)
            check(both[0])
            for a, b in zip(both[0].layers, both[1].layers, strict=True):
                if layer_params(a) is not None:
                    np.testing.assert_allclose(layer_params(a), layer_params(b), rtol=1e-6)


def test_growing(julia: Builders) -> None:
    """Choosing, pruning and doubling are the same bit for bit where there is no noise."""
    circuit = PYTHON.patch_bundle([1, -1, 1], 3, 2, [2, 3, 4], seed=3)
    x = np.random.default_rng(4).integers(0, circuit.categories, (40, 9))
    chosen, found = (b.choose_roots(circuit, [0, 0, 2, 1]) for b in (PYTHON, julia))
    assert_same(found, chosen)
    second = [False, True, False, True]
    grown, found = (b.widen(chosen, second, cross=0.3, noise=0.0) for b in (PYTHON, julia))
    assert_same(found, grown)
    counts = get_engine("torch", "cpu").expected_counts(grown, x).layers
    pruned, found = (b.prune(grown, counts, 0.05) for b in (PYTHON, julia))
    assert_same(found, pruned)
    check(found)
    sums = [layer for layer in pruned.layers if isinstance(layer, SumLayer)]
    assert any((layer.weights == 0).any() for layer in sums)
    noisy = [julia.widen(chosen, second, seed=seed) for seed in (1, 1, 2)]
    check(noisy[0])
    assert_same(noisy[0], grown, params=False)
    assert_same(noisy[1], noisy[0])
    drawn = [layer_params(each.layers[0]) for each in (*noisy, grown)]
    assert not np.array_equal(drawn[2], drawn[0]) and not np.array_equal(drawn[3], drawn[0])
    with pytest.raises(UserError, match="each of the 4 roots"):
        julia.widen(chosen, [True])
    with pytest.raises(UserError, match="from 1 to 3"):
        julia.choose_roots(circuit, [3])


DICTIONARY = """
using JuiceBridge
circuit = load_circuit(joinpath(ARGS[1], "circuit.h5"))
save_circuit(with_dictionary(circuit, 2), joinpath(ARGS[1], "low.h5"))
"""


@pytest.mark.parametrize("name", ["hclt", "hmm", "glued", "regions"])
def test_doubling_narrowing_and_dictionaries(name: str, julia: Builders, tmp_path: Path) -> None:
    circuit = CIRCUITS[name]()
    wide = double(circuit, seed=1)
    params = [layer_params(layer) for layer in wide.layers]
    wide = wide.with_layer_params([None if p is None else p.astype(np.float32) for p in params])
    counts = get_engine("torch", "cpu").expected_counts(wide, random_rows(circuit, 40, 4)).layers
    assert_same(julia.double(wide, noise=0.0), double(wide, noise=0))
    narrowed = julia.narrow(wide, counts, 0.4)
    assert_same(narrowed, narrow(wide, counts, 0.4))
    check(narrowed)
    hdf5.save(wide, tmp_path / "circuit.h5")
    run_julia(DICTIONARY, tmp_path)
    low = hdf5.load(tmp_path / "low.h5")
    check(low)
    expected = with_dictionary(wide, 2)
    assert_same(low, expected, params=False)
    for a, b in zip(low.layers, expected.layers, strict=True):
        if layer_params(a) is not None:
            np.testing.assert_allclose(layer_params(a), layer_params(b), rtol=1e-4, atol=1e-6)


def test_counting(julia: Builders) -> None:
    rng = np.random.default_rng(5)
    tree, sizes = [1, -1, 1, 2], [2, 3, 2, 3]
    blank = PYTHON.hclt(tree, 3, sizes, seed=6)
    x, z = rng.integers(0, sizes, (200, 4)), rng.integers(0, 3, (200, 4))
    x[rng.random(x.shape) < 0.2] = -1
    for pseudocount in (0.0, 0.7):
        both = [b.count_parameters(blank, x, z, pseudocount=pseudocount) for b in (julia, PYTHON)]
        assert_same(*both, params=False)
        for a, b in zip(both[0].layers, both[1].layers, strict=True):
            if layer_params(a) is not None:
                np.testing.assert_allclose(layer_params(a), layer_params(b), rtol=1e-6)
    given = {"pseudocount": 0.5, "epsilon": 0.1}
    for parents in (None, tree):
        both = [b.latent_circuit(z, 3, parents=parents, **given) for b in (julia, PYTHON)]
        assert_same(*both, params=False)
        check(both[0])
        for a, b in zip(both[0].layers, both[1].layers, strict=True):
            if layer_params(a) is not None:
                np.testing.assert_allclose(layer_params(a), layer_params(b), rtol=1e-6)


def test_hidden_markov_models(julia: Builders) -> None:
    """Windows with a tail that has neither tokens nor states, and a state that never occurs."""
    rng = np.random.default_rng(9)
    x, z = rng.integers(0, 6, (50, 7)), rng.integers(0, 3, (50, 7))
    x[:20, 5:] = z[:20, 5:] = -1
    x[rng.random(x.shape) < 0.1] = -1
    start = random_hmm(4, 6, None).circuit(7)
    for pseudocount in (0.0, 0.5):
        both = [b.count_parameters(start, x, z, pseudocount=pseudocount) for b in (julia, PYTHON)]
        assert_same(*both, params=False)
        check(both[0])
        for a, b in zip(both[0].layers, both[1].layers, strict=True):
            if layer_params(a) is not None:
                np.testing.assert_allclose(layer_params(a), layer_params(b), rtol=1e-6)
    made = [b.random_hmm(4, 6, 5, seed=1) for b in (julia, PYTHON)]
    assert_same(*made, params=False)
    check(made[0])


def test_random_rows_are_uniform_on_the_simplex(julia: Builders) -> None:
    """The mean of Dirichlet(1) rows, and the chance that the first of three is above a half."""
    circuit = julia.hclt([-1, *range(299)], 3, 3, seed=7)
    drawn = np.concatenate([layer_params(layer).reshape(-1, 3) for layer in circuit.layers[:1]])
    assert len(drawn) == 900
    np.testing.assert_allclose(drawn.mean(0), 1 / 3, atol=0.03)
    assert (drawn[:, 0] > 0.5).mean() == pytest.approx(0.25, abs=0.06)


def test_latents_of_an_odd_shape_are_refused(julia: Builders) -> None:
    blank = PYTHON.hclt([1, -1], 2, 2, seed=8)
    with pytest.raises(UserError, match="z"):
        julia.count_parameters(blank, np.zeros((4, 2), int), np.full((4, 2), 9), pseudocount=1.0)
    with pytest.raises(UserError, match="-1"):
        julia.hclt([-1, -1], 2, 2, seed=0)
