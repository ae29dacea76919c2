"""Region graphs of images and trees, and the circuits over them, against enumeration."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import enumerate_log_likelihood, log_likelihood, scopes

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.initialise import initialise
from pyjuice_bridge.circuit.rat_spn import tucker_circuit
from pyjuice_bridge.circuit.region_circuit import latent_regions, region_circuit
from pyjuice_bridge.circuit.region_graph import (
    RegionGraph,
    load_region_graph,
    random_region_graph,
    tree_regions,
)
from pyjuice_bridge.circuit.region_rectangles import (
    bounding_boxes,
    congruent,
    poon_domingos,
    quad_graph,
    quad_tree,
)
from pyjuice_bridge.circuit.types import Circuit, InputLayer, SumLayer, layer_params
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.distill.counting import count_parameters
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.errors import UserError

IMAGES = {
    "quad_tree": quad_tree,
    "halves": lambda sides: quad_tree(sides, 2),
    "quad_graph": quad_graph,
    "poon_domingos": lambda sides: poon_domingos(sides, [2, 1]),
    "coarse": lambda sides: poon_domingos(sides, [2]),
}
BINARY = {"halves", "quad_graph", "poon_domingos", "coarse"}
SIDES = [(2, 2, 1), (3, 2, 1), (2, 2, 2), (1, 3, 2), (1, 1, 2)]
CHAIN = np.arange(-1, 3)
sides = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 2))


def double(circuit: Circuit) -> Circuit:
    params = map(layer_params, circuit.layers)
    return circuit.with_layer_params([p if p is None else p.astype(np.float64) for p in params])


def graphs() -> dict[str, RegionGraph]:
    """One of every rule, over at most six variables."""
    made = {f"{name} {s}": make(s) for name, make in IMAGES.items() for s in SIDES}
    made["tree"] = tree_regions([1, -1, 1, 2, 2])
    made["chain"] = tree_regions(CHAIN)
    made["random"] = random_region_graph(5, 2, 2, seed=0)
    return made


GRAPHS = graphs()


# Region graphs -------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["quad_tree", "halves", "quad_graph"]), sides)
def test_quad_structures_go_down_to_pixels_and_halve_evenly(name: str, size: tuple) -> None:
    graph = IMAGES[name](size)
    boxes = bounding_boxes(graph, size)
    heights, widths = (boxes[:, 2:] - boxes[:, :2]).T
    assert [len(s) for s in graph.scopes] == (heights * widths * size[2]).tolist()
    assert len(set(map(frozenset, graph.scopes))) == len(graph.scopes)
    for region, splits in enumerate(graph.splits):
        tall, wide = int(heights[region]), int(widths[region])
        assert bool(splits) == (tall * wide > 1)
        for part in splits:
            for child in part:
                assert heights[child] in {tall, tall // 2, -(-tall // 2)}
                assert widths[child] in {wide, wide // 2, -(-wide // 2)}
        if name == "quad_tree" and splits:
            assert len(splits) == 1 and len(splits[0]) == (2 if min(tall, wide) == 1 else 4)
        elif splits:
            assert all(len(part) == 2 for part in splits)
            assert len(splits) <= (2 if name == "quad_graph" else 1)


def test_sizes_of_the_published_structures() -> None:
    digits = (28, 28, 1)
    assert len(quad_tree(digits).scopes) == 1109
    assert len(quad_tree(digits, 2).scopes) == 1567
    for step, regions, partitions in ((7, 100, 6), (4, 784, 3136), (2, 11025, 95550)):
        graph = poon_domingos(digits, [step])
        pieces = 28 // step
        assert len(graph.scopes) == regions == (pieces * (pieces + 1) // 2) ** 2
        assert step == 7 or len(graph.partitions) == partitions


def test_a_square_of_a_quad_graph_is_cut_both_ways_and_a_half_once() -> None:
    graph = quad_graph((4, 4, 1))
    boxes = bounding_boxes(graph, (4, 4, 1))
    for region, splits in enumerate(graph.splits):
        tall, wide = (boxes[region, 2:] - boxes[region, :2]).tolist()
        assert len(splits) == (0 if tall * wide == 1 else 2 if tall == wide else 1)
    root = [[boxes[child].tolist() for child in part] for part in graph.splits[graph.root]]
    assert root == [[[0, 0, 2, 4], [2, 0, 4, 4]], [[0, 0, 4, 2], [0, 2, 4, 4]]]
    assert len(graph.scopes) == 1 + 4 + 4 * (1 + 4) + 16


@settings(max_examples=40, deadline=None)
@given(sides, st.lists(st.floats(1, 5), min_size=1, max_size=2, unique=True))
def test_poon_domingos_cuts_at_every_multiple_of_the_largest_step_that_cuts(
    size: tuple, steps: list[float]
) -> None:
    graph = poon_domingos(size, steps)
    boxes = bounding_boxes(graph, size)
    for region, splits in enumerate(graph.splits):
        box, expected = boxes[region], []
        for step in sorted(steps, reverse=True):
            at = {math.ceil(i * step) for i in range(1, 20)}
            for axis in (0, 1):
                expected += [(axis, c) for c in sorted(at) if box[axis] < c < box[axis + 2]]
            if expected:
                break
        found = []
        for left, right in splits:
            axis = 0 if boxes[left, 2] == boxes[right, 0] and boxes[left, 1] == box[1] else 1
            axis = axis if boxes[left, axis + 2] == boxes[right, axis] else 1 - axis
            found.append((axis, int(boxes[left, axis + 2])))
        assert found == expected


def test_regions_of_a_tree_own_their_variable() -> None:
    graph = tree_regions([1, -1, 1, 2, 2])
    assert graph.scopes == ((0,), (0, 1, 2, 3, 4), (2, 3, 4), (3,), (4,))
    assert graph.own == ((), (1,), (2,), (), ())
    assert graph.splits == ((), ((0, 2),), ((3, 4),), (), ())
    assert graph.leaves == ((0,), (1,), (2,), (3,), (4,))


@pytest.mark.parametrize("name", GRAPHS)
def test_files_round_trip(name: str, tmp_path) -> None:
    path = tmp_path / "graph.json"
    path.write_text(GRAPHS[name].to_json())
    assert load_region_graph(path) == GRAPHS[name]


def test_congruent_regions_are_those_that_a_shift_makes_equal() -> None:
    graph = quad_tree((4, 4, 2))
    shapes, boxes = congruent(graph, (4, 4, 2)), bounding_boxes(graph, (4, 4, 2))
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    assert sorted({(int(a), int(s)) for a, s in zip(areas, shapes, strict=True)}) == [
        (1, shapes[areas == 1][0]),
        (4, shapes[areas == 4][0]),
        (16, shapes[areas == 16][0]),
    ]
    lying = quad_tree((2, 4, 1), 2)
    by_box = dict(zip(lying.scopes, congruent(lying, (2, 4, 1)), strict=True))
    assert by_box[0, 1] == by_box[6, 7] != by_box[0, 1, 4, 5] == by_box[2, 3, 6, 7]


BAD: list[tuple[object, str]] = [
    (lambda: quad_tree((2, 2, 1), 3), "splits is 3, must be 2 or 4"),
    (lambda: quad_graph((2, 0, 1)), "must be at least 1 each"),
    (lambda: poon_domingos((4, 4, 1), []), "one or more numbers from 1 on"),
    (lambda: poon_domingos((4, 4, 1), [0.5]), "one or more numbers from 1 on"),
    (lambda: bounding_boxes(quad_tree((2, 2, 1)), (2, 2, 3)), "4 variables, images of 2x2 with 3"),
    (lambda: RegionGraph(2, ((0, 1), (0,)), ((0, 1),)), "into two or more"),
    (lambda: RegionGraph(2, ((0, 1), (0,)), ((0, 1),), ((1,),)), "own has 1 entries for 2"),
    (lambda: RegionGraph(2, ((0, 1), (0,)), ((0, 1),), ((0,), ())), "with its own variables"),
    (
        lambda: RegionGraph(2, ((0, 1), (0,)), ((0, 1), (0, 1)), ((1,), ())),
        "regions.0. has own variables, so it must have exactly one partition",
    ),
    (lambda: region_circuit(quad_tree((1, 2, 1)), 0, 2), "at least 1"),
    (lambda: region_circuit(quad_tree((1, 2, 1)), [2, 2], 2), "an array of 3 of them"),
    (lambda: tucker_circuit(quad_tree((2, 2, 1)), 2, 2), "other than two regions"),
    (lambda: tucker_circuit(tree_regions(CHAIN), 2, 2), "other than two regions"),
    (lambda: tucker_circuit(quad_tree((1, 1, 1)), 2, 2), "one region alone"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_what_is_no_region_graph_or_circuit_is_refused(make, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


# Circuits ------------------------------------------------------------------------------------


def built(name: str, layer: str, seed: int | None = 0) -> Circuit | None:
    """The circuit of a graph; None where the two do not go together."""
    graph = GRAPHS[name]
    rule, size = name.split(" ")[0], name.partition(" ")[2]
    categories = np.arange(graph.num_vars) % 2 + 2
    if layer == "tucker":
        if len(graph.scopes) == 1 or (rule not in BINARY and rule != "random"):
            return None
        return tucker_circuit(graph, 2, categories, seed=seed)
    if layer == "shared":
        if not size:
            return None
        shape = tuple(int(n) for n in size.strip("()").split(","))
        categories = np.tile(np.arange(shape[2]) + 2, shape[0] * shape[1])
        return region_circuit(graph, 3, categories, shapes=congruent(graph, shape), seed=seed)
    latents = 3 if layer == "cp" else np.arange(len(graph.scopes)) % 3 + 2
    return region_circuit(graph, latents, categories, seed=seed)


CIRCUITS = [
    (name, layer)
    for name in GRAPHS
    for layer in ("cp", "shared", "widths", "tucker")
    if built(name, layer, None) is not None
]


@pytest.mark.parametrize(("name", "layer"), CIRCUITS)
def test_probabilities_sum_to_one_and_blocks_have_the_scopes_of_regions(
    name: str, layer: str
) -> None:
    circuit, graph = built(name, layer), GRAPHS[name]
    assert circuit is not None
    check(circuit)
    assert enumerate_log_likelihood(circuit) == pytest.approx(0.0, abs=1e-6)
    regions = latent_regions(graph)
    if layer == "tucker":
        regions = np.delete(np.arange(len(graph.scopes)), graph.root)
    by_block = scopes(circuit)
    found = [sorted(by_block[block]) for block in circuit.latents["z"]]
    assert found == [sorted(graph.scopes[r]) for r in regions]


@pytest.mark.parametrize(("name", "layer"), CIRCUITS)
def test_the_bound_is_below_the_marginal_and_latents_sum_out(name: str, layer: str) -> None:
    """Where every region is in all parse trees (one partition each), Σ_z p(x, z) = p(x)."""
    circuit, graph = built(name, layer), GRAPHS[name]
    assert circuit is not None
    sizes = [circuit.widths[circuit.layer_of(b)] for b in circuit.latents["z"]]
    x, rng = np.zeros(graph.num_vars, np.int64), np.random.default_rng(0)
    everything = log_likelihood(circuit, x)[0]
    if math.prod(sizes) > 100:
        z = rng.integers(0, sizes, (5, len(sizes)))
        for values in z:
            assert log_likelihood(circuit, x, {"z": values})[0] <= everything
        return
    joint = [log_likelihood(circuit, x, {"z": np.array(z)})[0] for z in product(*map(range, sizes))]
    assert max(joint) <= everything + 1e-9
    if max(map(len, graph.splits)) <= 1:
        assert np.logaddexp.reduce(joint) == pytest.approx(everything, abs=1e-6)


def test_the_circuit_of_a_tree_is_its_hclt() -> None:
    tree = np.array([1, -1, 1, 2, 2])
    ours, theirs = region_circuit(tree_regions(tree), 3, 2), hclt(tree, 3, 2, seed=0)
    assert ours.num_parameters == theirs.num_parameters
    of_block = {}
    for layer, start in zip(theirs.layers, theirs.starts, strict=False):
        if isinstance(layer, SumLayer):
            z = theirs.latents["z"].tolist()
            of_block |= {z.index(c): w for c, w in zip(layer.children, layer.weights, strict=True)}
        elif isinstance(layer, InputLayer):
            of_block |= {("x", v): p for v, p in zip(layer.variables, layer.params, strict=True)}
        del start
    z = ours.latents["z"].tolist()
    params = [
        np.stack([of_block["x", v] for v in layer.variables])
        if isinstance(layer, InputLayer)
        else np.stack([of_block[z.index(c)] for c in layer.children])
        if isinstance(layer, SumLayer)
        else None
        for layer in ours.layers
    ]
    copied = ours.with_layer_params(params)
    for x in product(range(2), repeat=5):
        assert log_likelihood(copied, x)[0] == pytest.approx(log_likelihood(theirs, x)[0])


def test_shared_parameters_do_not_depend_on_the_image_size() -> None:
    small, large = (quad_tree((side, side, 1)) for side in (4, 8))
    sizes = []
    for graph, side in ((small, 4), (large, 8)):
        boxes = bounding_boxes(graph, (side, side, 1))
        below = (boxes[:, 2:] - boxes[:, :2]).max(axis=1) <= 2
        shapes = np.where(below, congruent(graph, (side, side, 1)), -1)
        sizes.append(region_circuit(graph, 3, 5, shapes=shapes).num_parameters)
    # One leaf table, four sums below a square of 2 x 2; above, each region has its own sum.
    shared = 3 * 5 + 4 * 9
    assert sizes == [shared + 4 * 9 + 3, shared + 20 * 9 + 3]


@pytest.mark.parametrize("seed", range(6))
def test_regions_that_share_nothing_have_parameters_of_their_own(seed: int) -> None:
    """Whatever the numbers of regions and of shapes: some are equal."""
    graph, sides = quad_tree((3, 5, 1), 2), (3, 5, 1)
    alike = congruent(graph, sides)
    shared = np.random.default_rng(seed).random(alike.max() + 1) < 0.5
    shapes = np.where(shared[alike], alike, -1)
    sums, leaves = set(), set()
    for region, splits in enumerate(graph.splits):
        own = ("region", region) if shapes[region] < 0 else ("shape", int(shapes[region]))
        sums |= {(own, slot) for children in splits for slot in range(len(children))}
        leaves |= {own} if not splits else set()
    expected = 9 * len(sums) + 3 * 4 * len(leaves) + 3
    assert region_circuit(graph, 3, 4, shapes=shapes).num_parameters == expected


def test_tied_sums_stand_where_engines_find_them() -> None:
    """Every sum of a tree is one matrix over a slice of one product layer, also with ties."""
    graph = quad_tree((7, 7, 1))
    for shapes in (None, congruent(graph, (7, 7, 1))):
        circuit = region_circuit(graph, 2, 2, shapes=shapes)
        check(circuit)
        for layer in circuit.layers:
            if isinstance(layer, SumLayer):
                assert (np.diff(layer.children) == 1).all()
                repeats, rest = divmod(len(layer.groups), len(layer.weights))
                assert rest == 0
                np.testing.assert_array_equal(
                    layer.groups, np.repeat(np.arange(len(layer.weights)), repeats)
                )


# Counting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pseudocount", [0.0, 0.7])
@pytest.mark.parametrize(("name", "layer"), CIRCUITS)
def test_counting_is_one_step_of_em(name: str, layer: str, pseudocount: float) -> None:
    """From the uniform start, in float64; choices of partitions only where they are symmetric.

    A pseudocount weighs more in a region that is in half of the parse trees, whose flow is halved.
    """
    start, graph = built(name, layer, None), GRAPHS[name]
    assert start is not None
    start = double(start)
    rng = np.random.default_rng(0)
    x = rng.integers(0, start.categories, (60, graph.num_vars))
    x = np.where(rng.random(x.shape) < 0.2, -1, x)
    sizes = [start.widths[start.layer_of(b)] for b in start.latents["z"]]
    regions = latent_regions(graph)
    if layer == "tucker":
        regions = np.delete(np.arange(len(graph.scopes)), graph.root)
    draws = rng.random((60, len(graph.scopes)))[:, regions]
    z = (draws * sizes).astype(np.int64)
    counted = count_parameters(start, x, z, pseudocount=pseudocount)
    check(counted)
    uneven = pseudocount > 0 or layer == "widths" or name.startswith("poon")
    if max(map(len, graph.splits)) > 1 and uneven:
        return
    engine = get_engine("torch", "cpu", precision="float64")
    options = FitOptions("full_em", epochs=1, pseudocount=pseudocount)
    fitted = engine.fit(start, x, options, latents={"z": z}).circuit
    for ours, theirs in zip(counted.layers, fitted.layers, strict=True):
        if layer_params(ours) is not None:
            np.testing.assert_allclose(layer_params(ours), layer_params(theirs), rtol=1e-10)


def test_counts_of_pairs_and_triples_by_hand() -> None:
    """Two pixels: p(z_left | z_root) in CP; p(z_left, z_right) in Tucker."""
    graph = quad_tree((1, 2, 1), 2)
    x = np.array([[0, 1], [1, 1], [0, 0], [1, 1]])
    z = np.array([[0, 0, 1], [1, 1, 1], [0, 0, 0], [0, 1, 1]])
    cp = count_parameters(double(region_circuit(graph, 2, 2)), x, z, pseudocount=0.0)
    leaf, _, pair, _, root = cp.layers
    np.testing.assert_allclose(leaf.params, [[[1, 0], [0, 1]], [[1, 0], [0, 1]]])
    np.testing.assert_allclose(pair.weights[0], [[2 / 3, 1 / 3], [0, 1]])
    np.testing.assert_allclose(pair.weights[1], [[1 / 3, 2 / 3], [0, 1]])
    np.testing.assert_allclose(root.weights[0, 0], [3 / 4, 1 / 4])
    tucker = count_parameters(double(tucker_circuit(graph, 2, 2)), x, z[:, 1:], pseudocount=0.0)
    np.testing.assert_allclose(tucker.layers[-1].weights[0, 0], [1 / 4, 1 / 4, 0, 1 / 2])


def test_random_rows_are_those_of_initialise() -> None:
    graph = quad_graph((3, 3, 1))
    drawn, again = region_circuit(graph, 2, 3, seed=4), initialise(region_circuit(graph, 2, 3), 4)
    for ours, theirs in zip(drawn.layers, again.layers, strict=True):
        if layer_params(ours) is not None:
            np.testing.assert_array_equal(layer_params(ours), layer_params(theirs))
