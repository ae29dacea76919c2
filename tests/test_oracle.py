"""The oracle against values worked out by hand."""

import numpy as np
import pytest
from oracle import (
    enumerate_log_likelihood,
    expected_counts,
    log_likelihood,
    max_value,
    node_values,
    scopes,
)

from pyjuice_bridge.circuit.types import Circuit, InputLayer, Layer, ProductLayer, SumLayer

LEFT = np.array([[0.2, 0.8], [0.5, 0.5]])
RIGHT = np.array([[0.1, 0.3, 0.6], [1.0, 0.0, 0.0]])


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def inputs() -> list[Layer]:
    return [
        InputLayer(ints(0), ints(0), LEFT[None]),
        InputLayer(ints(1), ints(0), RIGHT[None]),
    ]


def mixture(kind: str, weights: list[float]) -> Circuit:
    product = ProductLayer(kind, ints(0, 2), ints(0, 1))
    top = SumLayer(ints(0, 1), ints(2), ints(0), np.array([[weights]]))
    return Circuit(2, (*inputs(), product, top), ints(3), {"z": ints(2)})


def test_hadamard_mixture_is_the_written_out_sum() -> None:
    circuit = mixture("hadamard", [0.25, 0.75])
    expected = 0.25 * 0.8 * 0.1 + 0.75 * 0.5 * 1.0
    assert log_likelihood(circuit, [1, 0])[0] == pytest.approx(np.log(expected))
    assert log_likelihood(circuit, [-1, 2])[0] == pytest.approx(np.log(0.25 * 0.6))
    assert log_likelihood(circuit, [-1, -1])[0] == pytest.approx(0)
    assert scopes(circuit)[3] == {0, 1}


def test_kronecker_runs_the_second_index_fastest() -> None:
    circuit = mixture("kronecker", [0.1, 0.2, 0.3, 0.4])
    pairs = [0.2 * 0.6, 0.2 * 0.0, 0.5 * 0.6, 0.5 * 0.0]
    np.testing.assert_allclose(np.exp(node_values(circuit, [0, 2])[2]), pairs)
    expected = np.dot([0.1, 0.2, 0.3, 0.4], pairs)
    assert log_likelihood(circuit, [0, 2])[0] == pytest.approx(np.log(expected))


def test_concat_and_sums_of_several_edges_and_ties() -> None:
    """Two tied sums with two edges each, listed by a concat; then one mixture of both."""
    leaf = InputLayer(ints(0, 0), ints(0, 1), np.stack([LEFT, LEFT[::-1]]))
    weights = np.array([[[0.1, 0.2]], [[0.3, 0.4]]])
    pair = SumLayer(ints(0, 2, 4), ints(0, 1, 1, 0), ints(0, 1, 0, 1), weights)
    listed = ProductLayer("concat", ints(0, 2), ints(2, 3))
    top = SumLayer(ints(0, 1), ints(4), ints(0), np.array([[[0.6, 0.4]]]))
    circuit = Circuit(1, (leaf, pair, listed, top), ints(5))
    first = 0.1 * 0.2 + 0.2 * 0.5 + 0.3 * 0.5 + 0.4 * 0.2
    second = 0.1 * 0.5 + 0.2 * 0.2 + 0.3 * 0.2 + 0.4 * 0.5
    np.testing.assert_allclose(np.exp(node_values(circuit, [0])[4]), [first, second])
    expected = 0.6 * first + 0.4 * second
    assert log_likelihood(circuit, [0])[0] == pytest.approx(np.log(expected))


def test_latents_select_and_weigh_nodes() -> None:
    circuit = mixture("hadamard", [0.25, 0.75])
    observed = log_likelihood(circuit, [1, 0], {"z": [0]})[0]
    assert observed == pytest.approx(np.log(0.25 * 0.8 * 0.1))
    soft = log_likelihood(circuit, [1, 0], {"z": [[0.5, 0.2]]})[0]
    assert soft == pytest.approx(np.log(0.5 * 0.25 * 0.8 * 0.1 + 0.2 * 0.75 * 0.5))
    unobserved = log_likelihood(circuit, [1, 0], {"z": [-1]})[0]
    assert unobserved == log_likelihood(circuit, [1, 0])[0]


def test_enumeration_sums_to_one_and_to_marginals() -> None:
    circuit = mixture("kronecker", [0.1, 0.2, 0.3, 0.4])
    assert enumerate_log_likelihood(circuit) == pytest.approx(0)
    marginal = log_likelihood(circuit, [-1, 0])[0]
    assert enumerate_log_likelihood(circuit, [-1, 0]) == pytest.approx(marginal)


def test_max_product_is_the_best_induced_tree() -> None:
    circuit = mixture("hadamard", [0.25, 0.75])
    trees = [0.25 * p * q for p in LEFT[0] for q in RIGHT[0]]
    trees += [0.75 * p * q for p in LEFT[1] for q in RIGHT[1]]
    assert max_value(circuit, [-1, -1])[0] == pytest.approx(np.log(max(trees)))
    assert max_value(circuit, [0, 1])[0] == pytest.approx(np.log(0.25 * 0.2 * 0.3))


def test_counts_of_a_mixture_are_its_posteriors() -> None:
    circuit = mixture("hadamard", [0.25, 0.75])
    joint = np.array([0.25 * 0.8 * 0.1, 0.75 * 0.5 * 1.0])
    posterior = joint / joint.sum()
    left, right, product, top = expected_counts(circuit, [[1, 0]], [[2.0]])
    assert product is None
    np.testing.assert_allclose(top, 2 * posterior[None, None], atol=1e-7)
    np.testing.assert_allclose(left, [[[0, 2 * posterior[0]], [0, 2 * posterior[1]]]], atol=1e-7)
    np.testing.assert_allclose(right[0, :, 0], 2 * posterior, atol=1e-7)
