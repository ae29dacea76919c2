import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from pyjuice_bridge.cluster import assign, kmeans
from pyjuice_bridge.cluster.kmeans import _lloyd
from pyjuice_bridge.errors import UserError


def nearest(x, centroids):
    return ((x[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)


@pytest.fixture
def blobs():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2, 12, 5)) * 4
    pick = rng.integers(12, size=(2, 600))
    x = np.stack([centres[p][pick[p]] for p in range(2)]) + rng.normal(size=(2, 600, 5))
    return x.astype(np.float32) + 30


def test_lloyd_takes_the_same_steps_as_scikit_learn(blobs):
    start = blobs[:, :12]
    x = torch.as_tensor(blobs)
    ours, inertia = _lloyd(x, torch.as_tensor(start), torch.zeros(2), 60, tolerance=0.0)
    for p in range(2):
        oracle = KMeans(12, init=start[p], n_init=1, tol=0, algorithm="lloyd").fit(blobs[p])
        np.testing.assert_allclose(ours[p], oracle.cluster_centers_, rtol=1e-4)
        assert float(inertia[p]) == pytest.approx(oracle.inertia_ / 600, rel=1e-3)


def test_inertia_is_about_as_low_as_scikit_learns(blobs):
    result = kmeans(blobs, 12, iterations=40, restarts=8, seed=1)
    for p in range(2):
        oracle = KMeans(12, n_init=8, random_state=0).fit(blobs[p])
        assert result.inertia[p] < 1.03 * oracle.inertia_ / 600


def test_centroids_are_means_and_inertia_is_exact(blobs):
    result = kmeans(blobs[0], 4, iterations=400, restarts=1, seed=0)
    index = nearest(blobs[0], result.centroids)
    distance = ((blobs[0] - result.centroids[index]) ** 2).sum(-1)
    assert float(result.inertia) == pytest.approx(distance.mean(), rel=1e-4)


def test_assign_is_the_nearest_centroid(blobs):
    centroids = kmeans(blobs, 9, seed=3).centroids
    z = assign(blobs, centroids)
    assert z.dtype == np.int32
    for p in range(2):
        np.testing.assert_array_equal(z[p], nearest(blobs[p], centroids[p]))
    np.testing.assert_array_equal(assign(blobs, centroids[:1])[1], nearest(blobs[1], centroids[0]))


def test_more_restarts_never_fit_the_sample_worse(blobs):
    few = kmeans(blobs[:, :300], 11, iterations=3, restarts=1, seed=5)
    many = kmeans(blobs[:, :300], 11, iterations=3, restarts=12, seed=5)
    assert (many.inertia <= few.inertia * 1.05).all()
    assert (many.inertia < few.inertia).any()


def test_same_seed_same_bits(blobs):
    first, second = (kmeans(blobs, 10, restarts=2, seed=7) for _ in range(2))
    np.testing.assert_array_equal(first.centroids, second.centroids)
    assert (kmeans(blobs, 10, restarts=2, seed=8).centroids != first.centroids).any()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_constant_points(value):
    x = np.full((3, 50, 4), value, np.float32)
    x[1] = np.random.default_rng(0).normal(size=(50, 4))
    result = kmeans(x, 8, restarts=3)
    assert np.isfinite(result.centroids).all()
    np.testing.assert_allclose(result.centroids[[0, 2]], value, rtol=1e-6)
    np.testing.assert_allclose(result.inertia[[0, 2]], 0, atol=1e-6 * value**2)
    assert len(np.unique(assign(x, result.centroids)[1])) == 8


def test_an_empty_cluster_moves_to_the_farthest_point():
    x = torch.tensor([[[0.0], [1.0], [10.0], [11.0]]])
    start = torch.tensor([[[0.5], [-500.0]]])
    centres, inertia = _lloyd(x, start, torch.zeros(1), 20, tolerance=0.0)
    assert sorted(centres.flatten().tolist()) == [0.5, 10.5]
    assert float(inertia) == pytest.approx(0.25)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 3))
def test_few_distinct_points_are_separated(seed, distinct, k, dim):
    rng = np.random.default_rng(seed)
    values = rng.permutation(40)[: distinct * dim].reshape(distinct, dim)
    x = np.concatenate([values, values[rng.integers(distinct, size=30)]]).astype(np.float32)
    result = kmeans(x, k, iterations=20, restarts=3, seed=seed)
    z = assign(x, result.centroids)
    assert np.isfinite(result.centroids).all()
    assert len(np.unique(z)) == min(k, distinct)
    assert float(result.inertia) == pytest.approx(0, abs=1e-3) or k < distinct


@pytest.mark.parametrize(
    ("x", "k", "words"),
    [
        (np.zeros((5, 2)), 6, "5 points cannot fill 6 clusters"),
        (np.array([[1.0], [np.nan]]), 1, "NaN"),
        (np.zeros((5, 2)), 0, "from 1"),
        (np.zeros(5), 1, "2 or 3 axes"),
    ],
)
def test_refusals(x, k, words):
    with pytest.raises(UserError, match=words):
        kmeans(x[None, None, :] if x.ndim == 1 and k != 1 else x, k)


def test_assign_refuses_another_dimension():
    with pytest.raises(UserError, match="dimensions"):
        assign(np.zeros((4, 3)), np.zeros((2, 5), np.float32))


def test_whole_numbers_of_any_kind(blobs):
    expected = kmeans(blobs, 3, iterations=4, restarts=2, seed=1)
    for kind in (np.int64, np.uint8, torch.tensor):
        found = kmeans(blobs, kind(3), iterations=kind(4), restarts=kind(2), seed=kind(1))
        np.testing.assert_array_equal(found.centroids, expected.centroids)
    for name, wrong in (("seed", 1.5), ("seed", "1"), ("seed", -1), ("seed", True), ("seed", None)):
        with pytest.raises(UserError, match=rf"k-means: {name} is .*, must be a whole number"):
            kmeans(blobs, 3, **{name: wrong})
    with pytest.raises(UserError, match="restarts is 0"):
        kmeans(blobs, 3, restarts=0)
