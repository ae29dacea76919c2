import h5py
import numpy as np
import pytest

from pyjuice_bridge.cluster import Assignments
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers import load_cluster_ids, load_embeddings


def store(kind, group, arrays, folder):
    if kind == "folder":
        path = folder / "own"
        path.mkdir()
        for name, array in arrays.items():
            np.save(path / f"{name}.npy", array)
    elif kind == "npz":
        path = folder / "own.npz"
        np.savez(path, **arrays)
    else:
        path = folder / "own.h5"
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[f"{group}/{name}"] = array
    return path


@pytest.mark.parametrize("kind", ["folder", "npz", "h5"])
def test_embeddings_from_files(kind, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=(n, 4, 3)) for name, n in (("train", 6), ("test", 2))}
    found = load_embeddings(store(kind, "embeddings", arrays, tmp_path))
    assert set(found) == {"train", "test"}
    for name, array in arrays.items():
        assert found[name].shape == array.shape
        for rows in (slice(None), np.array([1, 0, 1])):
            part = found[name].read(slice(1, 3), rows)
            assert part.dtype == np.float32
            np.testing.assert_allclose(part, array[rows, 1:3], rtol=1e-6)


@pytest.mark.parametrize("kind", ["folder", "npz", "h5"])
def test_cluster_ids_from_files(kind, tmp_path):
    ids = {"train": np.arange(12).reshape(3, 4), "test": np.zeros((2, 4), np.uint8)}
    found = load_cluster_ids(store(kind, "z", ids, tmp_path))
    for name in ids:
        assert found[name].dtype == np.int32
        np.testing.assert_array_equal(found[name], ids[name])


def test_saved_assignments_are_a_file_of_ids(tmp_path):
    z = {"train": np.array([[1, 0], [2, 2]], np.int32)}
    Assignments(z, 3).save(tmp_path / "a.h5")
    np.testing.assert_array_equal(load_cluster_ids(tmp_path / "a.h5")["train"], z["train"])


@pytest.mark.parametrize("kind", ["folder", "npz", "h5"])
@pytest.mark.parametrize("array", [np.zeros((3, 4)), np.zeros((3, 4, 2), int), np.zeros((3, 0, 2))])
def test_refused_embeddings(kind, array, tmp_path):
    with pytest.raises(UserError, match="floats"):
        load_embeddings(store(kind, "embeddings", {"train": array}, tmp_path))


@pytest.mark.parametrize("array", [np.zeros((3, 4)), np.zeros(3, int), np.full((2, 2), -1)])
def test_refused_ids(array, tmp_path):
    with pytest.raises(UserError, match="train"):
        load_cluster_ids(store("npz", "z", {"train": array}, tmp_path))


def test_refused_files(tmp_path):
    for name in ("missing", "missing.npz", "missing.h5"):
        with pytest.raises(UserError, match="no such file"):
            load_embeddings(tmp_path / name)
    with pytest.raises(UserError, match="no array"):
        load_embeddings(tmp_path)
    for name in ("bad.npz", "bad.h5", "bad.txt"):
        (tmp_path / name).write_bytes(b"x" * 50)
        with pytest.raises(UserError, match="bad"):
            load_embeddings(tmp_path / name)
    np.savez(tmp_path / "objects.npz", train=np.array([[[None]]]))
    with pytest.raises(UserError, match="objects"):
        load_embeddings(tmp_path / "objects.npz")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["embeddings/train"] = h5py.ExternalLink("other.h5", "x")
    with pytest.raises(UserError, match="embeddings/train"):
        load_embeddings(tmp_path / "link.h5")
