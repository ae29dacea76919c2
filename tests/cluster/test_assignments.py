import h5py
import numpy as np
import pytest

from pyjuice_bridge.cluster import Assignments, assign, cluster_embeddings, kmeans
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import ArrayEmbeddings
from pyjuice_bridge.teachers.pixels import PixelWindows


@pytest.fixture
def splits():
    rng = np.random.default_rng(0)
    return {
        name: ArrayEmbeddings(rng.normal(size=(n, 6, 3)).astype(np.float32))
        for name, n in (("train", 90), ("valid", 20), ("test", 10))
    }


def whole(embeddings):
    return embeddings.read(slice(None), slice(None))


def test_every_position_gets_its_own_clusters(splits):
    found = cluster_embeddings(splits, 5, scope="position", restarts=2)
    assert found.centroids.shape == (6, 5, 3) and not found.pooled
    for split, embeddings in splits.items():
        expected = assign(whole(embeddings).transpose(1, 0, 2), found.centroids).T
        np.testing.assert_array_equal(found.z[split], expected)
        assert found.z[split].dtype == np.int32


def test_pooled_clusters_see_all_positions(splits):
    found = cluster_embeddings(splits, 5, scope="pooled", seed=4)
    assert found.centroids.shape == (1, 5, 3) and found.pooled and found.positions == 6
    vectors = whole(splits["train"]).transpose(1, 0, 2).reshape(-1, 3)
    expected = kmeans(vectors, 5, seed=4)
    np.testing.assert_allclose(found.centroids[0], expected.centroids, atol=1e-5)
    assert found.attributes["cluster_inertia"] == pytest.approx(float(expected.inertia))


class Short(ArrayEmbeddings):
    """Rows that end early, and are best read whole; what is beyond an end is far off."""

    by_rows = True

    def __init__(self, array, lengths):
        beyond = np.arange(array.shape[1]) >= lengths[:, None]
        super().__init__(np.where(beyond[..., None], 1e6, array))
        self.lengths, self.reads = lengths, []

    def read(self, positions, rows):
        found = super().read(positions, rows)
        self.reads.append(found.shape[:2])
        return found


def test_positions_beyond_the_end_of_a_row_are_not_clustered(monkeypatch):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, 200).astype(np.int32)
    array = rng.normal(size=(200, 6, 3))
    short = Short(array, lengths)
    calls = []
    found = cluster_embeddings(
        {"train": short},
        8,
        scope="pooled",
        points_per_centroid=150,
        on_progress=lambda *done: calls.append(done),
    )
    inside = np.arange(6) < lengths[:, None]
    points = array.transpose(1, 0, 2)[inside.T].astype(np.float32)
    expected = kmeans(points, 8)
    np.testing.assert_allclose(found.centroids[0], expected.centroids, rtol=1e-6)
    np.testing.assert_array_equal(found.z["train"].T[inside.T], assign(points, found.centroids[0]))
    assert short.reads[-1] == (200, 6) and calls[-1] == (12, 12)

    monkeypatch.setattr("pyjuice_bridge.cluster.assignments.BLOCK", 50 * 6 * 3)
    short.reads, calls = [], []
    again = found.assign(short, on_progress=lambda *done: calls.append(done))
    assert short.reads == [(50, 6)] * 4 and calls == [(1, 6), (3, 6), (4, 6), (6, 6)]
    np.testing.assert_array_equal(again, found.z["train"])

    few = cluster_embeddings({"train": short}, 2, scope="pooled", points_per_centroid=30)
    assert np.abs(few.centroids).max() < 10


def test_other_splits_do_not_move_the_centroids(splits):
    alone = cluster_embeddings({"train": splits["train"]}, 4)
    both = cluster_embeddings(splits, 4)
    np.testing.assert_array_equal(alone.centroids, both.centroids)


def test_sampled_rows_are_enough_for_separate_groups():
    rng = np.random.default_rng(1)
    group = rng.integers(3, size=2000)
    x = (group * 10.0 + rng.normal(size=2000) * 0.1)[:, None, None].repeat(2, 1)
    train = ArrayEmbeddings(x.astype(np.float32))
    for scope in ("position", "pooled"):
        found = cluster_embeddings({"train": train}, 3, scope=scope, points_per_centroid=20)
        for z in found.z["train"].T:
            assert sorted(tuple(np.unique(z[group == g])) for g in range(3)) == [(0,), (1,), (2,)]


def test_new_data_and_progress(splits):
    calls = []
    found = cluster_embeddings(
        splits, 3, on_progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (24, 24) and calls == sorted(calls)
    np.testing.assert_array_equal(found.assign(splits["test"]), found.z["test"])


def test_saved_and_loaded(splits, tmp_path):
    found = cluster_embeddings(splits, 3, seed=2)
    found.save(tmp_path / "assignments.h5")
    again = Assignments.load(tmp_path / "assignments.h5")
    assert again.attributes == found.attributes and again.clusters == 3
    np.testing.assert_array_equal(again.centroids, found.centroids)
    assert set(again.z) == set(found.z)
    for split in found.z:
        np.testing.assert_array_equal(again.z[split], found.z[split])
    assert [p.name for p in tmp_path.iterdir()] == ["assignments.h5"]


def test_ids_alone_can_be_stored_but_not_extended(splits, tmp_path):
    Assignments({"train": np.zeros((4, 6), np.int32)}, 2).save(tmp_path / "z.h5")
    again = Assignments.load(tmp_path / "z.h5")
    with pytest.raises(UserError, match="no centroids"):
        again.assign(splits["test"])


def test_pixel_windows_of_border_pixels_that_never_change():
    images = np.zeros((40, 6, 6, 1), np.uint8)
    images[:, 2:4, 2:4] = np.random.default_rng(0).integers(256, size=(40, 2, 2, 1))
    found = cluster_embeddings({"train": PixelWindows(images, patch=1, ring=0)}, 4)
    assert np.isfinite(found.centroids).all()
    assert len(np.unique(found.z["train"][:, 0])) == 1
    assert len(np.unique(found.z["train"][:, 14])) == 4


def damage_link(file):
    del file["z/test"]
    file["z/test"] = h5py.ExternalLink("other.h5", "z")


def damage_range(file):
    file["z/train"][0, 0] = 3


def damage_positions(file):
    del file["z/test"]
    file["z/test"] = np.zeros((4, 5), np.int32)


def damage_centroids(file):
    file["centroids"][0, 0, 0] = np.nan


def damage_shape(file):
    del file["centroids"]
    file["centroids"] = np.zeros((2, 3, 3), np.float32)


def damage_format(file):
    file.attrs["format"] = "juice-bridge-circuit"


def damage_splits(file):
    del file["z"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_link, "z/test"),
        (damage_range, "z/train.*0..2"),
        (damage_positions, "number of positions"),
        (damage_centroids, "/centroids"),
        (damage_shape, "/centroids"),
        (damage_format, "format"),
        (damage_splits, "/z"),
    ],
)
def test_damaged_files_are_refused(splits, tmp_path, damage, words):
    path = tmp_path / "a.h5"
    cluster_embeddings(splits, 3).save(path)
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(UserError, match=words):
        Assignments.load(path)


def test_cut_off_and_missing_files(splits, tmp_path):
    path = tmp_path / "a.h5"
    cluster_embeddings(splits, 3).save(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UserError, match=r"a\.h5"):
        Assignments.load(path)
    with pytest.raises(UserError, match="no such file"):
        Assignments.load(tmp_path / "b.h5")


@pytest.mark.parametrize(
    ("splits_given", "words"),
    [
        ({"valid": np.zeros((3, 2, 1))}, "train"),
        ({"train": np.zeros((3, 2, 1)), "test": np.zeros((3, 2, 2))}, "one teacher"),
    ],
)
def test_refused_embeddings(splits_given, words):
    with pytest.raises(UserError, match=words):
        cluster_embeddings({k: ArrayEmbeddings(v) for k, v in splits_given.items()}, 1)
