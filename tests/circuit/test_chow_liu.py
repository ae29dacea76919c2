"""Mutual information against scikit-learn, spanning trees and their roots against scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree, shortest_path
from sklearn.metrics import mutual_info_score

from pyjuice_bridge.circuit import chow_liu
from pyjuice_bridge.circuit.chow_liu import (
    chow_liu_tree,
    maximum_spanning_tree,
    mutual_information,
)
from pyjuice_bridge.errors import UserError


def correlated(n=300, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, (n, 7))
    x[:, 3] = x[:, 2]
    x[:, 4] = 1
    x[:, 6] = (x[:, 5] + rng.integers(0, 2, n)) % 5
    x[rng.random(n) < 0.7, 0] = 0
    return x


def pairwise_sklearn(x):
    n = x.shape[1]
    scores = [[mutual_info_score(x[:, i], x[:, j]) for j in range(n)] for i in range(n)]
    return np.array(scores) * (1 - np.eye(n))


def edges(parents):
    return {tuple(sorted((i, int(p)))) for i, p in enumerate(parents) if p >= 0}


def test_information_equals_sklearn():
    x = correlated()
    np.testing.assert_allclose(
        mutual_information(x, 5, pseudocount=0.0), pairwise_sklearn(x), atol=6e-7
    )


def test_information_does_not_depend_on_how_tables_are_batched(monkeypatch):
    x = correlated()
    whole = mutual_information(x, 5)
    monkeypatch.setattr(chow_liu, "_CELLS", 30)
    monkeypatch.setattr(chow_liu, "_VALUES", 50)
    np.testing.assert_array_equal(mutual_information(x, 5), whole)


def test_pseudocount_mixes_in_one_uniform_row_per_unit():
    x = np.array([[0, 0], [1, 2], [1, 2]])
    table = np.full((2, 3), 3.0 / 6)
    table[0, 0] += 1
    table[1, 2] += 2
    p = table / table.sum()
    expected = (p * np.log(p / np.outer(p.sum(1), p.sum(0)))).sum()
    found = mutual_information(x, np.array([2, 3]), pseudocount=3.0)
    assert found[0, 1] == pytest.approx(expected, abs=1e-6)


def test_missing_values_leave_the_row_out_of_a_pair_only():
    x = correlated()
    holes = np.random.default_rng(1).random(x.shape) < 0.3
    gappy = np.where(holes, -1, x)
    expected = np.zeros((7, 7))
    for i in range(7):
        for j in range(i):
            rows = ~(holes[:, i] | holes[:, j])
            expected[i, j] = expected[j, i] = mutual_info_score(x[rows, i], x[rows, j])
    np.testing.assert_allclose(mutual_information(gappy, 5, pseudocount=0.0), expected, atol=6e-7)


def test_a_pair_never_seen_together_has_no_information():
    x = np.array([[0, -1], [1, -1], [-1, 1]])
    assert mutual_information(x, 2, pseudocount=0.0)[0, 1] == 0.0


def test_bins_give_a_frequent_value_its_own_bin_and_keep_to_the_limit():
    rng = np.random.default_rng(0)
    column = np.where(rng.random(4000) < 0.8, 0, rng.integers(1, 256, 4000))
    codes, used, missing = chow_liu._binned(column[:, None], np.array([256], np.int32), 8)
    assert used[0] == 8 and not missing[0]
    assert set(codes[0][column == 0]) == {0} and 0 not in codes[0][column > 0]
    sizes = np.bincount(codes[0])[1:]
    assert sizes.max() < 1.3 * sizes.min()
    assert np.all(np.diff(codes[0][np.argsort(column)].astype(int)) >= 0)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=60),
    st.integers(1, 9),
)
def test_bins_never_exceed_the_limit_and_none_is_empty(values, bins):
    column = np.array(values)[:, None]
    codes, used, _ = chow_liu._binned(column, np.array([41], np.int32), bins)
    assert used[0] <= bins
    assert set(codes[0].tolist()) == set(range(int(used[0])))


@settings(deadline=None)
@given(st.integers(2, 12), st.integers(0, 10_000))
def test_spanning_tree_has_the_weight_scipy_finds(n, seed):
    weights = np.random.default_rng(seed).random((n, n))
    weights = np.triu(weights, 1) + np.triu(weights, 1).T
    parents = maximum_spanning_tree(weights)
    chosen = sum(weights[i, p] for i, p in enumerate(parents) if p >= 0)
    best = 2.0 * (n - 1) - minimum_spanning_tree(np.triu(2.0 - weights, 1)).sum()
    assert len(edges(parents)) == n - 1
    assert chosen == pytest.approx(best)


@settings(deadline=None)
@given(st.integers(1, 25), st.integers(0, 10_000))
def test_root_has_the_least_eccentricity(n, seed):
    rng = np.random.default_rng(seed)
    weights = np.zeros((n, n))
    for i in range(1, n):
        j = rng.integers(0, i)
        weights[i, j] = weights[j, i] = 1.0
    parents = maximum_spanning_tree(weights)
    eccentricity = shortest_path(weights, unweighted=True).max(axis=1)
    assert np.flatnonzero(parents == -1).tolist() == [int(eccentricity.argmin())]


def test_ties_go_to_the_lowest_index():
    assert maximum_spanning_tree(np.zeros((4, 4))).tolist() == [-1, 0, 0, 0]


def test_constant_and_independent_variables_are_attached():
    x = correlated()
    parents = chow_liu_tree(x, 5, pseudocount=0.0)
    assert len(edges(parents)) == 6
    assert (2, 3) in edges(parents) and (5, 6) in edges(parents)
    assert chow_liu_tree(np.zeros((5, 3), np.uint8), 2).tolist() == [-1, 0, 0]
    assert chow_liu_tree(np.zeros((5, 1), np.uint8), 2).tolist() == [-1]


def test_row_sample_is_settled_by_the_seed():
    x = correlated(2000)
    first = mutual_information(x, 5, rows=400, seed=3)
    np.testing.assert_array_equal(first, mutual_information(x, 5, rows=400, seed=3))
    assert not np.array_equal(first, mutual_information(x, 5, rows=400, seed=4))
    np.testing.assert_array_equal(mutual_information(x, 5), mutual_information(x, 5, rows=5000))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((0, 3), int), "non-empty"),
        (np.zeros((3, 2)), "integer"),
        (np.array([[0, 1], [0, 5]]), "variable 1"),
        (np.array([[-2, 1]]), "variable 0"),
    ],
)
def test_bad_rows_are_refused(x, words):
    with pytest.raises(UserError, match=words):
        mutual_information(x, 5)


def test_bad_weights_are_refused():
    with pytest.raises(UserError, match="finite"):
        maximum_spanning_tree(np.full((2, 2), np.nan))


def test_progress_counts_every_pair_once():
    seen = []
    mutual_information(correlated(), 5, on_pair=lambda *pair: seen.append(pair))
    assert [done for done, _ in seen] == [6, 11, 15, 18, 20, 21, 21]
    assert {total for _, total in seen} == {21}
