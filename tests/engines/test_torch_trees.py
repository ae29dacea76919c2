"""Trees evaluated depth first against the plain passes in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from circuits import CIRCUITS, hmm, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from random_circuits import random_circuit, sharpened

from pyjuice_bridge.circuit.families.base import Family
from pyjuice_bridge.circuit.families.binomial import Binomial
from pyjuice_bridge.circuit.families.gaussian import Gaussian
from pyjuice_bridge.circuit.families.logistic import Logistic
from pyjuice_bridge.circuit.families.smooth import Smooth
from pyjuice_bridge.circuit.growing import choose_roots, widen
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.initialise import initialise
from pyjuice_bridge.circuit.leaves import with_leaves
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.region_circuit import region_circuit
from pyjuice_bridge.circuit.region_graph import RegionGraph
from pyjuice_bridge.circuit.region_rectangles import quad_graph, quad_tree
from pyjuice_bridge.circuit.types import Circuit, layer_params
from pyjuice_bridge.engines.base import FitOptions, Schedule
from pyjuice_bridge.engines.torch import TorchEngine, batches
from pyjuice_bridge.engines.torch.backward import finish_counts, new_counts
from pyjuice_bridge.engines.torch.fused import Trees, lanes, upward
from pyjuice_bridge.engines.torch.fused.trees import _distinct, cut
from pyjuice_bridge.engines.torch.fused.vectors import row_size
from pyjuice_bridge.engines.torch.values import Workspace

ENGINE = TorchEngine()
EXACT = TorchEngine(precision="float64")
WIDTHS = (2, 3, 16)


def random_tree(rng: np.random.Generator, size: int) -> list[int]:
    return [-1, *(int(rng.integers(0, i)) for i in range(1, size))]


def glued(seed: int, width: int, clusters: int | None = None) -> Circuit:
    """Patches of up to four variables at up to three positions, in any order."""
    rng = np.random.default_rng(seed)
    positions, size = (int(n) for n in rng.integers(1, 5, 2))
    clusters = int(rng.integers(2, 6)) if clusters is None else clusters
    latent = hclt(random_tree(rng, positions), int(rng.integers(1, 4)), clusters, seed=seed)
    bundle = patch_bundle(random_tree(rng, size), clusters, width, 3, seed=seed + 1)
    places = rng.permutation(positions * size).reshape(positions, size)
    return glue(latent, bundle, places)


def growing(seed: int, width: int) -> Circuit:
    """Patches of one to five heads a cluster, with numbers of their own."""
    rng = np.random.default_rng(seed)
    clusters = int(rng.integers(1, 4))
    owner = np.repeat(np.arange(clusters), rng.integers(1, 6, clusters))
    tree = random_tree(rng, int(rng.integers(1, 5)))
    bundle = choose_roots(patch_bundle(tree, clusters, width, 3, seed=seed), owner)
    return initialise(bundle, seed)


def glued_growing(seed: int, width: int) -> Circuit:
    """Patches with several heads at up to four positions."""
    rng = np.random.default_rng(seed)
    bundle = growing(seed, width)
    size, positions = len(np.unique(bundle.layers[0].variables)), int(rng.integers(1, 5))
    size //= len({int(b) for b in bundle.layers[-1].children})
    latent = hclt(random_tree(rng, positions), 3, len(bundle.roots), seed=seed)
    return glue(latent, bundle, rng.permutation(positions * size).reshape(positions, size))


def check_same(
    circuit: Circuit,
    x: np.ndarray,
    weights: np.ndarray | None = None,
    latents: dict[str, np.ndarray] | None = None,
) -> None:
    """Log-likelihoods, and counts of the rows that are possible."""
    wanted = EXACT.log_likelihood(circuit, x, latents)
    found = ENGINE.log_likelihood(circuit, x, latents)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    possible = np.isfinite(wanted).all(1)
    if not possible.any():
        return
    given = {name: values[possible] for name, values in (latents or {}).items()}
    given_weights = None if weights is None else weights[possible]
    if given_weights is not None and not given_weights.any():
        return
    counts, exact = (
        e.expected_counts(circuit, x[possible], given_weights, given).layers
        for e in (ENGINE, EXACT)
    )
    for a, b in zip(counts, exact, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("heads", [1, 2])
def test_blocks_of_one_node_are_exact(heads: int) -> None:
    bundle = patch_bundle([-1, 0, 0, 2], 3, 1, 4, seed=0)
    circuit = choose_roots(bundle, np.repeat(np.arange(3), heads))
    check_same(circuit, random_rows(circuit, 50, seed=1))


SEEDS = st.integers(0, 100_000)
POWERS = st.sampled_from([2, 5, 30, 100])


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, size=st.integers(1, 8), width=st.sampled_from(WIDTHS), power=POWERS)
def test_hidden_chow_liu_trees(seed: int, size: int, width: int, power: int) -> None:
    rng = np.random.default_rng(seed)
    circuit = sharpened(hclt(random_tree(rng, size), width, 3, seed=seed), power, seed)
    check_same(circuit, random_rows(circuit, 20, seed, 0.2))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, width=st.sampled_from(WIDTHS), power=POWERS)
def test_bundles_with_weights_of_their_roots(seed: int, width: int, power: int) -> None:
    rng = np.random.default_rng(seed)
    bundle = patch_bundle(random_tree(rng, int(rng.integers(1, 6))), 3, width, 3, seed=seed)
    circuit = sharpened(bundle, power, seed)
    weights = rng.random((20, 3)) * (rng.random((20, 3)) < 0.6)
    check_same(circuit, random_rows(circuit, 20, seed, 0.2), weights)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, width=st.sampled_from(WIDTHS), power=POWERS)
def test_trees_of_several_roots(seed: int, width: int, power: int) -> None:
    rng = np.random.default_rng(seed)
    circuit = sharpened(growing(seed, width), power, seed)
    shape = 20, len(circuit.roots)
    weights = rng.random(shape) * (rng.random(shape) < 0.5)
    check_same(circuit, random_rows(circuit, 20, seed, 0.2), weights)


@settings(max_examples=80, deadline=None)
@given(
    seed=SEEDS,
    width=st.sampled_from(WIDTHS),
    power=POWERS,
    evidence=st.sampled_from(["none", "hard", "soft"]),
    grows=st.booleans(),
)
def test_glued_patches(seed: int, width: int, power: int, evidence: str, grows: bool) -> None:
    rng = np.random.default_rng(seed)
    circuit = sharpened((glued_growing if grows else glued)(seed, width), power, seed)
    blocks = circuit.latents["z"]
    clusters = circuit.widths[circuit.layer_of(int(blocks[0]))]
    latents: dict[str, np.ndarray] = {}
    if evidence == "hard":
        latents["z"] = rng.integers(-1, clusters, (20, len(blocks)))
    elif evidence == "soft":
        values = rng.choice([0.0, 1e-35, 1e-20, 0.3, 1.0], (20, len(blocks), clusters))
        latents["z"] = values.astype("f4")
    x = random_rows(circuit, 20, seed, 0.2)
    check_same(circuit, x, latents=latents)
    possible = x[np.isfinite(EXACT.log_likelihood(circuit, x)).all(1)]
    found, exact = (engine.posteriors(circuit, possible, "z") for engine in (ENGINE, EXACT))
    np.testing.assert_allclose(found, exact, atol=1e-4)


@pytest.mark.parametrize("observed", [False, True])
def test_lists_of_several_chunks(threads: None, observed: bool) -> None:
    """Clusters with lists of unequal length, each longer than what is evaluated together."""
    circuit = glued(7, 16, clusters=3)
    rng = np.random.default_rng(0)
    x = random_rows(circuit, 900, 3, 0.1)
    shape = len(x), len(circuit.latents["z"])
    states = rng.choice([-1, 0, 1, 2], shape, p=[0.1, 0.6, 0.2, 0.1])
    check_same(circuit, x, latents={"z": states} if observed else None)


def test_several_chunks_of_one_tree_take_turns(threads: None) -> None:
    circuit = hclt([-1, 0, 1, 1, 0, 4, 4], 16, 5, seed=2)
    x = random_rows(circuit, 1100, 2)
    check_same(circuit, x)
    first, again = (ENGINE.expected_counts(circuit, x).layers for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_stars_and_chains_of_extreme_parameters() -> None:
    """Products of many factors; values that vanish and matter, and such that do not."""
    for parents in ([-1] + [0] * 12, [-1, *range(12)], [-1, 0, 0, 0, 1, 1, 1, 2, 2, 2]):
        for seed in range(4):
            circuit = sharpened(hclt(parents, 3, 3, seed=seed), 200, seed)
            check_same(circuit, random_rows(circuit, 40, seed, 0.1))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, size=st.integers(2, 8))
def test_random_circuits(seed: int, size: int) -> None:
    """Whichever parts of them are trees."""
    circuit = random_circuit(seed, size)
    check_same(circuit, random_rows(circuit, 12, seed, 0.2))


def test_what_is_no_number_behind_the_last_row_hides_no_underflow() -> None:
    @njit  # type: ignore[untyped-decorator]
    def rescale(rows: int, exponents: int, count: int) -> int:
        return lanes.rescale(3, rows, exponents, count)  # type: ignore[no-any-return]

    for smallest, low in ((1.0, False), (1e-39, True)):
        rows, exponents = np.full((8, row_size(3)), np.nan, np.float32), np.zeros(8, np.int32)
        rows[:2] = 0.0
        rows[:2, :3] = 1.0
        rows[0, 1] = smallest
        assert bool(rescale(rows.ctypes.data, exponents.ctypes.data, 2)) == low
        np.testing.assert_array_equal(rows[:2, 0], np.float32(2.0) ** -exponents[:2])


def test_what_is_a_tree() -> None:
    found = {name: cut(ENGINE._load(make())[0]) for name, make in CIRCUITS.items()}
    shapes = {
        name: [(bank.clusters, bank.places, bank.nodes) for bank in part.banks]
        for name, part in found.items()
        if part is not None
    }
    assert shapes == {
        "hclt": [(1, 1, 4)],
        "bundle": [(2, 1, 2)],
        "glued": [(3, 2, 2)],
        "grown": [(2, 1, 2)],
    }
    wide, tied = hclt([-1, 0, 0], 65, 3, seed=0), hmm(4, 3, 3, seed=2)
    assert cut(ENGINE._load(wide)[0]) is None and cut(ENGINE._load(tied)[0]) is None


def test_growing_circuits_are_banks_of_trees_with_several_roots() -> None:
    bundle = choose_roots(patch_bundle([-1, 0, 0], 3, 4, 5, seed=1), [0, 0, 1, 2, 2, 2])
    bundle = widen(bundle, [False, True, False, False, True, True], seed=2)
    whole = glue(hclt([-1, 0], 3, 6, seed=3), bundle, np.arange(6).reshape(2, 3))
    for circuit, places in ((bundle, 1), (whole, 2)):
        found = cut(ENGINE._load(circuit)[0])
        assert found is not None
        (bank,) = found.banks
        assert (bank.clusters, bank.places, bank.width) == (3, places, 8)
        assert bank.roots.tolist() == [0, 2, 3, 6]
        assert (bank.matrices[:, -3:, 0] >= 0).sum(1).tolist() == [2, 1, 3]


def test_a_product_that_others_than_its_roots_read_is_no_tree() -> None:
    """Two of three heads are mixed by a concat; the third is a root of the circuit itself."""
    bundle = choose_roots(patch_bundle([-1, 0], 2, 3, 4, seed=1), [0, 0, 1])
    whole = glue(hclt([-1], 2, 3, seed=2), bundle, np.arange(2).reshape(1, 2))
    concat = next(i for i, c in enumerate(whole.layers) if getattr(c, "kind", "") == "concat")
    heads = whole.layers[concat].children
    circuit = replace(whole, roots=np.concatenate([whole.roots, heads[:1]]).astype("i4"))
    assert cut(ENGINE._load(circuit)[0]) is None
    check_same(circuit, random_rows(circuit, 20, 3, 0.2))


@pytest.mark.parametrize(
    "graph", [quad_tree((2, 4, 1)), quad_graph((2, 4, 1))], ids=["tree", "dag"]
)
@pytest.mark.parametrize("grows", [False, True])
def test_patches_under_a_region_graph(graph: RegionGraph, grows: bool) -> None:
    """Whatever reads the roots, the trees below stay in the kernels."""
    bundle = growing(5, 3) if grows else patch_bundle([-1, 0, 0], 4, 3, 3, seed=1)
    size = bundle.num_vars // len({int(b) for b in bundle.layers[-1].children})
    above = region_circuit(graph, 3, len(bundle.roots), seed=2)
    places = np.random.default_rng(0).permutation(8 * size).reshape(8, size)
    circuit = glue(above, bundle, places)
    assert cut(ENGINE._load(circuit)[0]) is not None
    states = np.random.default_rng(1).integers(-1, len(bundle.roots), (30, 8))
    x = random_rows(circuit, 30, 3, 0.2)
    check_same(circuit, x)
    check_same(circuit, x, latents={"z": states})


def test_evidence_inside_trees_goes_to_the_other_passes() -> None:
    circuit = hclt([-1, 0, 1], 3, 4, seed=1)
    program, params = ENGINE._load(circuit)
    x = torch.from_numpy(random_rows(circuit, 5, 1))
    states = {"z": torch.zeros(5, 3, dtype=torch.int64)}
    assert isinstance(upward(program, params, x, {}, Workspace()), Trees)
    assert not isinstance(upward(program, params, x, states, Workspace()), Trees)


@settings(max_examples=30, deadline=None)
@given(
    seed=SEEDS,
    kind=st.sampled_from(["tree", "bundle", "glued", "growing", "glued growing"]),
    width=st.sampled_from(WIDTHS),
    categories=st.sampled_from([2, 5]),
)
def test_steps_taken_while_counting(seed: int, kind: str, width: int, categories: int) -> None:
    """Steps of a training against expected counts and the M-step on them, in float64."""
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, int(rng.integers(1, 6)))
    if kind == "glued":
        circuit = glued(seed, width)
    elif kind != "tree" and kind != "bundle":
        circuit = (growing if kind == "growing" else glued_growing)(seed, width)
    else:
        circuit = patch_bundle(tree, 1 if kind == "tree" else 3, width, categories, seed=seed)
    circuit = sharpened(circuit, 3, seed)
    x = random_rows(circuit, 20, seed, 0.2)
    weights = rng.random((20, len(circuit.roots))) * (rng.random((20, len(circuit.roots))) < 0.8)
    weights[0] = 1.0
    options = FitOptions(
        "mini_em", epochs=1, batch_size=20, step_size=Schedule(0.3), pseudocount=0.1, skip=0.0
    )
    wanted = EXACT.m_step(
        circuit, EXACT.expected_counts(circuit, x, weights), step_size=0.3, pseudocount=0.1
    )
    found = ENGINE.fit(circuit, x, options, weights=weights).circuit
    for a, b in zip(found.layers, wanted.layers, strict=True):
        theta, due = layer_params(a), layer_params(b)
        if theta is not None and due is not None:
            np.testing.assert_allclose(theta, due, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("skip", [1e-3, 1e-1])
def test_at_most_a_share_of_each_clusters_flow_is_skipped(skip: float) -> None:
    circuit = sharpened(glued(7, 16, clusters=3), 5, 1)
    program, params = ENGINE._load(circuit)
    x = torch.from_numpy(random_rows(circuit, 500, 3))
    results = []
    with torch.inference_mode():
        for share in (0.0, skip):
            workspace = Workspace()
            workspace.skip = share
            counts = new_counts(program, params)
            weights = torch.ones(len(x), 1)
            batches.collect(program, params, counts, x, weights, {}, workspace)
            finish_counts(program, params, counts)
            results.append((counts, workspace))
    (all_counts, _), (some_counts, workspace) = results
    assert 0 < workspace.skipped <= skip * workspace.flow
    for layer in program.cut.inside:
        a, b = all_counts[layer], some_counts[layer]
        if a is not None and b is not None:
            lost = (a - b).flatten(1)
            assert (lost >= -1e-3).all()
    roots = [i for i in program.cut.inside if all_counts[i] is not None][-1]
    kept, full = (c[roots].sum((1, 2)) for c in (some_counts, all_counts))
    assert (kept >= (1 - skip) * full - 1e-3).all() and (kept < full - 1e-4).any()


def test_skipping_hardly_changes_a_training() -> None:
    circuit = glued(7, 16, clusters=3)
    x = random_rows(circuit, 400, 3, 0.0)
    exact, skipping = (
        ENGINE.fit(circuit, x, FitOptions("mini_em", epochs=5, batch_size=100, skip=skip))
        for skip in (0.0, 1e-4)
    )
    assert abs(exact.history[-1].train - skipping.history[-1].train) < 1e-4 * circuit.num_vars


@pytest.mark.parametrize("family", [Smooth(), Binomial(), Gaussian(), Logistic()], ids=str)
def test_leaf_families_train_as_without_trees(family: Family) -> None:
    bundle = with_leaves(patch_bundle([-1, 0, 0], 4, 3, 9, seed=1), family, seed=2)
    above = hclt([-1, 0], 2, 4, seed=3)
    circuits = (bundle, glue(above, bundle, np.arange(6).reshape(2, 3)))
    options = FitOptions(epochs=2, batch_size=16, pseudocount=0.01, skip=0.0)
    for circuit in circuits:
        x = random_rows(circuit, 48, 4, 0.1)
        fitted = (each.fit(circuit, x, options).circuit for each in (ENGINE, EXACT))
        for layer, wanted in zip(*(made.layers for made in fitted), strict=True):
            ours, theirs = layer_params(layer), layer_params(wanted)
            if ours is not None and theirs is not None:
                np.testing.assert_allclose(ours, theirs, atol=2e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(1, 3), st.integers(-1, 400))
def test_distinct_rows_are_those_of_numpy(seed: int, rows: int, columns: int, most: int) -> None:
    x = np.random.default_rng(seed).integers(-1, most + 1, (rows, columns))
    lines, places = _distinct(x)
    expected, of = np.unique(x, axis=0, return_inverse=True)
    np.testing.assert_array_equal(lines, expected)
    np.testing.assert_array_equal(places, of.reshape(-1))
