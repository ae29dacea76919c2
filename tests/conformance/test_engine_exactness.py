"""Fast arithmetic against the log domain: circuits that lose everything to underflow if allowed.

Every number is compared with ``oracle``, which works in logarithms and float64, to 1e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import oracle
import pytest
from circuits import hmm, ids, random_rows, rows

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.types import (
    Circuit,
    InputLayer,
    ProductLayer,
    SumLayer,
    layer_params,
)
from pyjuice_bridge.engines.base import Engine, FitOptions

Adversary = tuple[Circuit, np.ndarray]
FAINT = 1e-30


def with_params(circuit: Circuit, change: Callable[[np.ndarray], np.ndarray]) -> Circuit:
    """Every array of probabilities changed, its rows scaled to one; float32 as a file holds it."""
    changed = []
    for params in map(layer_params, circuit.layers):
        if params is not None:
            params = change(params.astype(float))
            params = (params / params.sum(-1, keepdims=True)).astype("f4")
        changed.append(params)
    return circuit.with_layer_params(changed)


def random_tree(size: int, reach: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [-1, *(int(rng.integers(max(0, i - reach), i)) for i in range(1, size))]


def sharp_leaves() -> Adversary:
    """Leaves that rule out almost everything, each state something else."""
    circuit = hclt(random_tree(9, 9, 0), 3, 4, seed=1)
    circuit = with_params(circuit, lambda p: np.maximum(p**60, FAINT) if p.shape[2] == 4 else p)
    return circuit, random_rows(circuit, 24, 2, 0.1)


def near_disjoint_children() -> Adversary:
    """Children of one node that agree only on states which each calls all but impossible.

    State h of the root makes child c certain to be in state (h + c) mod 3, and the leaf of the
    child shows its state.
    """
    circuit = hclt([-1, 0, 0, 0, 1], 3, 3, seed=3)
    eye = np.eye(3)

    def shift(params: np.ndarray) -> np.ndarray:
        if params.shape[1] == 1:
            return params
        turns = np.stack([np.roll(eye, i, 1) for i in range(len(params))])
        return np.maximum(turns, FAINT)

    circuit = with_params(circuit, shift)
    return circuit, np.array(list(np.ndindex(3, 3, 3, 3, 3)), np.int32)[::5]


def opposed_scales() -> Adversary:
    """Three-way products whose factors name different states, below other such products."""
    values = np.array([[1, FAINT, 1e-15], [FAINT, 1, 1e-15], [1e-35, 1e-35, 1e-12]] * 3)
    leaf = np.stack([values / 2, 1 - values / 2], -1)
    uniform = np.full((3, 3, 3), 1 / 3) + np.eye(3) / 3
    layers = (
        InputLayer(np.arange(9, dtype=np.int32), np.arange(9, dtype=np.int32), leaf),
        ProductLayer("hadamard", ids(0, 3, 6, 9), np.arange(9, dtype=np.int32)),
        SumLayer(
            ids(0, 1, 2, 3), ids(9, 10, 11), ids(0, 1, 2), uniform / uniform.sum(-1)[..., None]
        ),
        ProductLayer("hadamard", ids(0, 3), ids(12, 13, 14)),
        SumLayer(ids(0, 1), ids(15), ids(0), np.array([[[1 - 1e-20, 1e-20, FAINT]]])),
    )
    circuit = Circuit(9, layers, ids(16), {"z": ids(9, 10, 11, 15)})
    x = np.random.default_rng(4).integers(0, 2, (32, 9))
    x[0], x[1] = 0, -1
    return circuit, x.astype(np.int32)


def zero_weights() -> Adversary:
    """Sums and leaves with zeros, columns of zeros, rows with a single term."""
    circuit = hclt(random_tree(7, 3, 5), 4, 3, seed=6)

    def some_zero(params: np.ndarray) -> np.ndarray:
        kept = np.random.default_rng(params.shape).random(params.shape) < 0.6
        kept[..., 0] |= ~kept.any(-1)
        if params.shape[1:] == (4, 4):
            kept[:, :, 3] = False
            kept[:, :, 0] |= ~kept.any(-1)
        return params**8 * kept

    circuit = with_params(circuit, some_zero)
    return circuit, random_rows(circuit, 40, 7, 0.2)


def returning_state() -> Adversary:
    """A chain that never changes its state; the first half says one, the second the other."""
    circuit = hmm(40, 2, 2, 8)
    emission = np.array([[[1 - 1e-4, 1e-4], [1e-4, 1 - 1e-4]]])
    params = [layer_params(layer) for layer in circuit.layers]
    params = [None if p is None else np.eye(2)[None] if p.shape == (1, 2, 2) else p for p in params]
    params[0], params[-1] = emission, np.array([[[0.5, 0.5]]])
    x = [[0] * 20 + [1] * 20, [0] * 19 + [1] * 21, [0] * 40, [-1] * 20 + [1] * 20]
    return circuit.with_layer_params(params), np.array(x, np.int32)


def many_terms() -> Adversary:
    """A sum of 300 terms of which each is negligible, beside one that evidence takes away."""
    width = 300
    leaf = np.full((2, width, 2), 0.5)
    leaf[0, 0], leaf[1, 0] = [1 - 1e-9, 1e-9], [1e-30, 1]
    leaf[:, 1:, 0], leaf[:, 1:, 1] = 1e-25, 1.0
    leaf /= leaf.sum(-1, keepdims=True)
    weights = np.full((1, 1, width), 1e-12)
    weights[0, 0, 0] = 1 - weights[0, 0, 1:].sum()
    layers = (
        InputLayer(ids(0, 1), ids(0, 1), leaf),
        ProductLayer("hadamard", ids(0, 2), ids(0, 1)),
        SumLayer(ids(0, 1), ids(2), ids(0), weights),
    )
    return Circuit(2, layers, ids(3)), np.array(list(np.ndindex(2, 2)), np.int32)


SMALL: dict[str, Callable[[], Adversary]] = {
    "sharp leaves": sharp_leaves,
    "near-disjoint children": near_disjoint_children,
    "opposed scales": opposed_scales,
    "zero weights": zero_weights,
    "a state that returns": returning_state,
    "many terms": many_terms,
}


def deep() -> Adversary:
    circuit = hclt(random_tree(3072, 4, 9), 4, 16, seed=10)
    circuit = with_params(circuit, lambda p: p**8)
    return circuit, random_rows(circuit, 3, 11, 0.0)


def star() -> Adversary:
    """One product of 3,072 factors."""
    circuit = hclt([-1, *[0] * 3071], 3, 8, seed=12)
    circuit = with_params(circuit, lambda p: p**4)
    return circuit, random_rows(circuit, 3, 13, 0.0)


def chain() -> Adversary:
    """A long homogeneous HMM with near-certain transitions."""
    circuit = hmm(600, 3, 16, 14)
    eye = np.roll(np.eye(3), 1, 1)[None]
    circuit = with_params(circuit, lambda p: eye + FAINT if p.shape == (1, 3, 3) else p**6 + 1e-35)
    return circuit, random_rows(circuit, 3, 15, 0.3)


LARGE: dict[str, Callable[[], Adversary]] = {"deep": deep, "star": star, "chain": chain}


@pytest.fixture(scope="module", params=SMALL)
def small(request: pytest.FixtureRequest) -> Adversary:
    return SMALL[request.param]()


@pytest.fixture(scope="module", params=LARGE)
def large(request: pytest.FixtureRequest) -> tuple[Circuit, np.ndarray, np.ndarray]:
    circuit, x = LARGE[request.param]()
    return circuit, x, oracle.log_likelihoods(circuit, x)


def expected(circuit: Circuit, x: np.ndarray) -> np.ndarray:
    return oracle.log_likelihoods(circuit, x)


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_log_likelihoods(engine: Engine, small: Adversary) -> None:
    circuit, x = small
    wanted = expected(circuit, x)
    assert np.isfinite(wanted).any()
    close(engine.log_likelihood(circuit, x), wanted)


def test_a_batch_changes_no_row(engine: Engine, small: Adversary) -> None:
    """Rows that must be taken again, and impossible ones, leave those beside them alone."""
    circuit, x = small
    alone = np.concatenate([engine.log_likelihood(circuit, row[None]) for row in x[:8]])
    together = engine.log_likelihood(circuit, np.tile(x, (3, 1)))
    close(together[: len(alone)], alone)
    close(together[-len(x) :][: len(alone)], alone)


def possible(circuit: Circuit, x: np.ndarray, rows_: int) -> np.ndarray:
    return x[np.isfinite(expected(circuit, x)).all(1)][:rows_]


def test_counts(engine: Engine, small: Adversary) -> None:
    circuit, x = small
    x = possible(circuit, x, 2)
    found = engine.expected_counts(circuit, x).layers
    for counts, wanted in zip(found, oracle.expected_counts(circuit, x), strict=True):
        assert (counts is None) == (wanted is None)
        if counts is not None:
            np.testing.assert_allclose(counts, wanted, atol=1e-5)


def test_impossible_rows_count_nothing(engine: Engine) -> None:
    circuit, x = zero_weights()
    impossible = np.isneginf(expected(circuit, x)).all(1)
    assert 3 <= impossible.sum() <= len(x) - 3
    found = engine.log_likelihood(circuit, x)
    np.testing.assert_array_equal(np.isneginf(found).all(1), impossible)
    every, some = (engine.expected_counts(circuit, rows_) for rows_ in (x, x[~impossible]))
    for a, b in zip(every.layers, some.layers, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_step_on_impossible_rows_is_one_without_them(engine: Engine) -> None:
    """Parameters stay rows of probabilities, and are those of training without such rows."""
    circuit, x = zero_weights()
    options = FitOptions("full_em", epochs=1, pseudocount=0.01)
    fitted = engine.fit(circuit, x, options).circuit
    alone = engine.fit(circuit, possible(circuit, x, len(x)), options).circuit
    for layer, other in zip(fitted.layers, alone.layers, strict=True):
        params = layer_params(layer)
        if params is not None:
            np.testing.assert_allclose(params.sum(-1), 1, atol=1e-5)
            np.testing.assert_allclose(params, layer_params(other), atol=1e-4)


def evidence(circuit: Circuit, count: int) -> Iterator[np.ndarray]:
    """Observed states; then weights, most of them nearly or exactly nothing."""
    width = circuit.widths[circuit.layer_of(int(circuit.latents["z"][0]))]
    rng = np.random.default_rng(16)
    shape = (count, len(circuit.latents["z"]))
    yield rng.integers(-1, width, shape)
    yield rng.choice([0.0, 1e-35, 1e-20, 1.0], (*shape, width), p=[0.2, 0.3, 0.2, 0.3])


@pytest.mark.parametrize("name", ["sharp leaves", "near-disjoint children", "zero weights"])
def test_observed_latents(engine: Engine, name: str) -> None:
    circuit, x = SMALL[name]()
    for z in evidence(circuit, len(x)):
        pairs = zip(x, z, strict=True)
        wanted = [oracle.log_likelihood(circuit, row, {"z": states}) for row, states in pairs]
        close(engine.log_likelihood(circuit, x, {"z": z}), np.array(wanted))


def test_posteriors(engine: Engine) -> None:
    """p(z | x) by Bayes' rule in the log domain, where float32 saw one of the two states vanish."""
    circuit, x = returning_state()
    found = engine.posteriors(circuit, x, "z")
    for t in (0, 20, 39):
        both = []
        for state in (0, 1):
            z = np.full(40, -1)
            z[t] = state
            both.append([oracle.log_likelihood(circuit, row, {"z": z})[0] for row in x])
        log_p = np.array(both).T
        share = np.exp(log_p - np.logaddexp.reduce(log_p, axis=1)[:, None])
        np.testing.assert_allclose(found[:, t], share, atol=1e-5)


def test_many_variables(engine: Engine, large: tuple[Circuit, np.ndarray, np.ndarray]) -> None:
    circuit, x, wanted = large
    assert wanted.max() < -1_000
    close(engine.log_likelihood(circuit, x), wanted)
    counts = engine.expected_counts(circuit, x)
    assert counts.log_likelihood == pytest.approx(wanted.sum(), rel=1e-5)
    first, root = counts.layers[0], counts.layers[-1]
    assert first is not None and root is not None
    np.testing.assert_allclose(first.sum(), (x >= 0).sum(), rtol=1e-5)
    np.testing.assert_allclose(root.sum(), len(x), rtol=1e-5)


def test_parts_that_are_mixed_far_below_their_maxima(engine: Engine) -> None:
    """Two edges into one sum, of which one is nothing to the other until a third factor comes."""
    rng = np.random.default_rng(17)
    leaf = rows(rng, 6, 2, 3) ** 40
    leaf = np.maximum(leaf / leaf.sum(-1, keepdims=True), 1e-36)
    leaf = (leaf / leaf.sum(-1, keepdims=True)).astype("f4")
    layers = (
        InputLayer(ids(0, 1, 0, 1, 2, 2), np.arange(6, dtype=np.int32), leaf),
        ProductLayer("hadamard", ids(0, 2, 4), ids(0, 1, 2, 3)),
        SumLayer(ids(0, 2), ids(6, 7), ids(0, 1), np.array([[[1 - 1e-30, 0], [0, 0.5]],
                                                           [[1e-30, 0], [0.5, 0]]])),
        ProductLayer("hadamard", ids(0, 2), ids(8, 4)),
        SumLayer(ids(0, 1), ids(9), ids(0), np.array([[[0.5, 0.5]]])),
    )  # fmt: skip
    circuit = Circuit(3, layers, ids(10))
    x = np.array(list(np.ndindex(3, 3, 3)), np.int32)
    close(engine.log_likelihood(circuit, x), expected(circuit, x))


def test_roots_that_are_leaves(engine: Engine) -> None:
    """One of them is a factor of the other root, too."""
    leaves = InputLayer(ids(0, 1), ids(0, 1), np.full((2, 1, 2), 0.5, np.float32))
    circuit = Circuit(2, (leaves, ProductLayer("hadamard", ids(0, 2), ids(0, 1))), ids(0, 2))
    x = np.array([[1, 0], [1, 1], [0, 1], [1, -1]], np.int32)
    assert np.exp(engine.log_likelihood(circuit, x))[:, 0] == pytest.approx(0.5)
    counts = engine.expected_counts(circuit, x).layers[0]
    np.testing.assert_allclose(counts, [[[2, 6]], [[1, 2]]], rtol=1e-6)
