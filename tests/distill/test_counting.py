"""Counting against written-out frequencies, and against every other parameter setting."""

from dataclasses import replace

import numpy as np
import pytest
from oracle import enumerate_log_likelihood, log_likelihood

from pyjuice_bridge.circuit.chow_liu import chow_liu_tree
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import Hmm, random_hmm
from pyjuice_bridge.circuit.patches import patch_bundle
from pyjuice_bridge.circuit.types import InputLayer, SumLayer, layer_params
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.distill.counting import count_parameters, latent_circuit
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.errors import UserError

TREE = [1, -1, 1, 2]
SIZES = np.array([2, 3, 3, 2])


def data(n=60, k=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, SIZES, (n, 4)), rng.integers(0, k, (n, 4))


def double(circuit):
    return circuit.with_layer_params(
        [p if p is None else p.astype(np.float64) for p in map(layer_params, circuit.layers)]
    )


def joint(circuit, x, z):
    return sum(
        log_likelihood(circuit, row, {"z": values})[0] for row, values in zip(x, z, strict=True)
    )


def expected_joint(x, z, i, parent, size, pseudocount, k=2):
    """p(x_i | z_i) and p(z_i | z_parent) counted one row at a time."""
    leaf, edge = np.full((k, size), pseudocount / size), np.full((k, k), pseudocount / k)
    for row, values in zip(x, z, strict=True):
        if row[i] >= 0 and values[i] >= 0:
            leaf[values[i], row[i]] += 1
        if values[parent] >= 0 and values[i] >= 0:
            edge[values[parent], values[i]] += 1
    return leaf / leaf.sum(1, keepdims=True), edge / edge.sum(1, keepdims=True)


@pytest.mark.parametrize("missing", ["nothing", "values", "values and latents"])
def test_parameters_are_the_smoothed_frequencies(missing):
    x, z = data()
    if "values" in missing:
        x = np.where(np.random.default_rng(1).random(x.shape) < 0.3, -1, x)
    if "latents" in missing:
        z = np.where(np.random.default_rng(2).random(z.shape) < 0.3, -1, z)
    circuit = count_parameters(double(hclt(TREE, 2, SIZES, seed=0)), x, z, pseudocount=0.7)
    check(circuit)
    hidden = circuit.latents["z"].tolist()
    owner = {3: 2, 2: 1, 0: 1}
    seen = 0
    for i, layer in enumerate(circuit.layers):
        if isinstance(layer, InputLayer):
            for variable, params in zip(layer.variables, layer.params, strict=True):
                leaf, _ = expected_joint(x, z, variable, 1, SIZES[variable], 0.7)
                np.testing.assert_allclose(params, leaf, rtol=1e-12)
                seen += 1
        elif isinstance(layer, SumLayer) and circuit.starts[i] not in circuit.roots:
            for child, weights in zip(layer.children, layer.weights, strict=True):
                variable = hidden.index(child)
                _, edge = expected_joint(x, z, variable, owner[variable], 3, 0.7)
                np.testing.assert_allclose(weights, edge, rtol=1e-12)
                seen += 1
    assert seen == 7
    prior = np.bincount(z[z[:, 1] >= 0, 1], minlength=2) + 0.35
    np.testing.assert_allclose(circuit.layers[-1].weights[0, 0], prior / prior.sum())
    assert enumerate_log_likelihood(circuit) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("pseudocount", [0.0, 0.7])
def test_counting_is_one_step_of_em(pseudocount):
    """All of the data at once with the latents observed, from the uniform start, in float64."""
    x, z = data()
    x = np.where(np.random.default_rng(1).random(x.shape) < 0.3, -1, x)
    start = double(hclt(TREE, 2, SIZES))
    options = FitOptions("full_em", epochs=1, pseudocount=pseudocount)
    engine = get_engine("torch", "cpu", precision="float64")
    fitted = engine.fit(start, x, options, latents={"z": z}).circuit
    counted = count_parameters(start, x, z, pseudocount=pseudocount)
    for ours, theirs in zip(counted.layers, fitted.layers, strict=True):
        if layer_params(ours) is not None:
            np.testing.assert_allclose(layer_params(ours), layer_params(theirs), rtol=1e-12)


def test_tied_layers_add_their_counts():
    """An HMM whose positions share one table, with a state that is not known."""
    z = np.array([[0, 1, 1, 2], [1, 1, -1, 0]])
    x = np.array([[0, 1, 2, 3], [3, -1, 0, 0]])
    start = random_hmm(3, 4, None).circuit(4)
    counted = Hmm.of(count_parameters(start, x, z, pseudocount=0.0))
    np.testing.assert_allclose(counted.initial, [1 / 2, 1 / 2, 0])
    # 0 → 1, 1 → 1, 1 → 2 and 1 → 1; what precedes or follows the unknown state is not counted.
    np.testing.assert_allclose(counted.transition, [[0, 1, 0], [0, 2 / 3, 1 / 3], [1 / 3] * 3])
    np.testing.assert_allclose(
        counted.emission, [[1, 0, 0, 0], [0, 1 / 3, 1 / 3, 1 / 3], [0, 0, 0, 1]], atol=1e-7
    )


def test_no_other_parameters_explain_the_pairs_better():
    x, z = data()
    best = count_parameters(double(hclt(TREE, 2, SIZES, seed=0)), x, z, pseudocount=0.0)
    top = joint(best, x, z)
    rng = np.random.default_rng(3)
    for i, layer in enumerate(best.layers):
        old = layer_params(layer)
        if old is None:
            continue
        for size in (1e-3, 0.3):
            noisy = old * np.exp(size * rng.standard_normal(old.shape))
            noisy /= noisy.sum(axis=-1, keepdims=True)
            params = [None] * len(best.layers)
            params[i] = noisy
            assert joint(best.with_layer_params(params), x, z) < top


def test_rows_without_data_stay_or_become_uniform():
    x, z = data()
    z[:] = 0
    start = hclt(TREE, 2, 3, seed=0)
    kept = count_parameters(start, x, z, pseudocount=0.0)
    np.testing.assert_array_equal(kept.layers[0].params[:, 1], start.layers[0].params[:, 1])
    assert not np.array_equal(kept.layers[0].params[:, 0], start.layers[0].params[:, 0])
    smoothed = count_parameters(start, x, z, pseudocount=0.1)
    np.testing.assert_allclose(smoothed.layers[0].params[:, 1], 1 / 3, rtol=1e-6)
    assert kept.layers[0].params.dtype == np.float32


def test_tied_leaves_add_their_counts():
    x, z = data()
    x %= 2
    circuit = double(hclt(TREE, 2, 2, seed=0))
    leaf = circuit.layers[0]
    tied = InputLayer(leaf.variables, np.zeros(4, np.int32), leaf.params[:1])
    circuit = type(circuit)(4, (tied, *circuit.layers[1:]), circuit.roots, circuit.latents)
    counted = count_parameters(circuit, x, z, pseudocount=0.0)
    table = np.zeros((2, 2))
    np.add.at(table, (z.ravel(), x.ravel()), 1)
    np.testing.assert_allclose(
        counted.layers[0].params[0], table / table.sum(1, keepdims=True), rtol=1e-12
    )


@pytest.mark.parametrize("epsilon", [0.0, 0.25])
def test_latent_circuit_starts_at_the_counts(epsilon):
    z = np.random.default_rng(0).integers(0, 3, (80, 3))
    z[:, 2] = np.where(z[:, 2] < 2, z[:, 0], z[:, 2])
    circuit = latent_circuit(z, 3, pseudocount=0.5, epsilon=epsilon)
    check(circuit)
    softened = (1 - epsilon) * np.eye(3) + epsilon / 3
    np.testing.assert_allclose(circuit.layers[0].params, np.stack([softened] * 3), rtol=1e-6)
    parents = chow_liu_tree(z, 3)
    assert (parents >= 0).sum() == 2
    again = latent_circuit(z, 3, pseudocount=0.5, epsilon=epsilon, parents=parents)
    for ours, theirs in zip(circuit.layers, again.layers, strict=True):
        np.testing.assert_array_equal(layer_params(ours), layer_params(theirs))
    assert enumerate_log_likelihood(circuit) == pytest.approx(0.0, abs=1e-6)


def test_latent_circuit_without_softening_is_the_tree_over_ids():
    z = np.random.default_rng(0).integers(0, 3, (50, 2))
    circuit = latent_circuit(z, 3, pseudocount=0.0, epsilon=0.0, parents=[-1, 0])
    table = np.zeros((3, 3))
    np.add.at(table, (z[:, 0], z[:, 1]), 1)
    for a in range(3):
        for b in range(3):
            found = np.exp(log_likelihood(circuit, [a, b])[0])
            assert found == pytest.approx(table[a, b] / 50, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, z: (x, z + 1), "z: row 0, column 0 is 2; values must be 0 … 1, or -1"),
        (lambda x, z: (x, z - 2), r"z: row \d+, column \d is -2; values must be 0 … 1, or -1"),
        (lambda x, z: (x + 1, z), "x: row 0, column 0 is 2; values must be 0 … 1, or -1"),
        (lambda x, z: (x[:3], z), "3 rows"),
        (lambda x, z: (x[:, :2], z), r"\[rows, 4\]"),
        (lambda x, z: (x, z.astype(float)), "integer"),
    ],
)
def test_data_that_does_not_fit_is_refused(change, words):
    x, z = change(*data())
    with pytest.raises(UserError, match=words):
        count_parameters(hclt(TREE, 2, SIZES, seed=0), x, z, pseudocount=0.1)


def test_edges_of_one_sum_get_equal_shares():
    x, z = data()
    circuit = hclt(TREE, 2, SIZES, seed=0)
    last = circuit.layers[-1]
    children, offsets = np.repeat(last.children, 2), np.array([0, 2], np.int32)
    two = SumLayer(offsets, children, np.array([0, 1], np.int32), np.repeat(last.weights / 2, 2, 0))
    layers = (*circuit.layers[:-1], two)
    counted = count_parameters(replace(circuit, layers=layers), x, z, pseudocount=0.3)
    one = count_parameters(circuit, x, z, pseudocount=0.3).layers[-1].weights
    np.testing.assert_allclose(counted.layers[-1].weights, np.repeat(one / 2, 2, 0), rtol=1e-6)


def test_other_circuits_are_refused():
    x, z = data()
    with pytest.raises(UserError, match="no latents"):
        count_parameters(patch_bundle(TREE, 1, 2, 3, seed=0), x, z, pseudocount=0.1)
    circuit = hclt(TREE, 2, 3, seed=0)
    fewer = type(circuit)(4, circuit.layers, circuit.roots, {"z": circuit.latents["z"][1:]})
    with pytest.raises(UserError, match="not an HCLT"):
        count_parameters(fewer, x, z[:, 1:], pseudocount=0.1)
    with pytest.raises(UserError, match="epsilon"):
        latent_circuit(z, 2, pseudocount=0.1, epsilon=2.0)
