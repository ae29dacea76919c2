"""Sets by name and a user's own images, on tiny files in the true formats."""

import importlib.util
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_formats import idx_bytes, planes

from pyjuice_bridge.data import catalogue, get_dataset, load_dataset, names
from pyjuice_bridge.data.dataset import split_off
from pyjuice_bridge.data.readers import NEW_IMAGENET, OLD_IMAGENET
from pyjuice_bridge.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def numbered(count: int, side: int, channels: int = 3) -> np.ndarray:
    """Images that can be told apart: image i is filled with i."""
    return np.broadcast_to(
        np.arange(count, dtype=np.uint8)[:, None, None, None], (count, side, side, channels)
    ).copy()


def ids(images: np.ndarray) -> list[int]:
    return sorted(int(image.flat[0]) for image in images)


@given(st.integers(2, 40), st.data())
def test_split_off_divides_without_loss(count: int, data: st.DataObject) -> None:
    rows = data.draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    images = numbered(count, 1, 1)
    others, taken = split_off(images, np.array(sorted(rows), np.int64))
    assert ids(taken) == sorted(rows)
    assert ids(others) == sorted(set(range(count)) - rows)
    assert np.shares_memory(others, images)
    assert not np.shares_memory(taken, images)


def write_mnist(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, count in (("train", 50), ("t10k", 7)):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(
            idx_bytes(numbered(count, 28, 1)[..., 0])
        )
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(
            idx_bytes((np.arange(count) % 3).astype(np.uint8))
        )


@pytest.mark.parametrize("inner", ["", "mnist"])
def test_mnist_from_a_folder(tmp_path: Path, inner: str) -> None:
    write_mnist(tmp_path / "files" / inner)
    data = load_dataset("mnist", root=tmp_path / "files", valid=10, seed=4)
    assert (len(data.train), len(data.valid), len(data.test)) == (40, 10, 7)
    assert data.shape == (28, 28, 1)
    assert data.categories == 256
    assert ids(data.train) + ids(data.valid) != list(range(50))
    assert sorted(ids(data.train) + ids(data.valid)) == list(range(50))
    assert ids(data.test) == list(range(7))
    assert data.meta["published_bytes"] is False
    assert data.classes == ("0", "1", "2")
    for split, labels in data.labels.items():
        assert [int(image.flat[0]) % 3 for image in getattr(data, split)] == labels.tolist()
    folder = tmp_path / "files" / inner
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(6, np.uint8)))
    with pytest.raises(UserError, match=r"test labels .* \[6\]; give .* each of 7 images"):
        load_dataset("mnist", root=tmp_path / "files")
    (folder / "train-labels-idx1-ubyte").unlink()
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert load_dataset("mnist", root=tmp_path / "files").classes == ()


def test_seed_decides_validation_only(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    one, same, other = (
        load_dataset("mnist", root=tmp_path, valid=10, seed=seed) for seed in (1, 1, 2)
    )
    assert one.fingerprint == same.fingerprint
    assert one.fingerprint != other.fingerprint
    assert ids(one.valid) != ids(other.valid)
    np.testing.assert_array_equal(one.test, other.test)


def test_limit_and_bad_counts(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    data = load_dataset("mnist", root=tmp_path, limit=3)
    assert [len(data.train), len(data.valid), len(data.test)] == [3, 3, 3]
    assert data.record()["limit"] == 3
    with pytest.raises(UserError, match="cannot take 50 validation images out of 50"):
        load_dataset("mnist", root=tmp_path, valid=50)
    with pytest.raises(UserError, match="valid is 0"):
        load_dataset("mnist", root=tmp_path, valid=0)


def test_missing_sets_and_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="data get mnist"):
        load_dataset("mnist")
    with pytest.raises(UserError, match="did you mean fashion_mnist"):
        load_dataset("fashion-mnist")
    with pytest.raises(UserError, match="cannot be made a folder"):
        get_dataset("mnist", Path(__file__))
    with pytest.raises(UserError, match="a list cannot be read; give an array"):
        load_dataset([[1, 2]])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="known: digits"):
        get_dataset("nothing")
    with pytest.raises(UserError, match="is not a folder"):
        load_dataset("mnist", root=tmp_path / "none")
    with pytest.raises(UserError, match="no file train-images-idx3-ubyte"):
        load_dataset("mnist", root=tmp_path)


def write_cifar(folder: Path, *, binary: bool, hundred: bool) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    groups = [("train", images[:10]), ("test", images[10:])]
    if not hundred:
        groups = [(f"data_batch_{i + 1}", images[2 * i : 2 * i + 2]) for i in range(5)]
        groups.append(("test_batch", images[10:]))
    inner = folder / "cifar-batches"
    inner.mkdir(parents=True)
    for name, part in groups:
        if binary:
            label = np.zeros((len(part), 1 + hundred), np.uint8)
            label[:, -1] = part[:, 0, 0, 0] % 2
            (inner / f"{name}.bin").write_bytes(np.hstack([label, planes(part)]).tobytes())
        else:
            batch = {b"data": planes(part), b"coarse_labels": [0] * len(part)}
            batch[b"fine_labels" if hundred else b"labels"] = (part[:, 0, 0, 0] % 2).tolist()
            (inner / name).write_bytes(pickle.dumps(batch, protocol=2))
    return images


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("hundred", [False, True])
def test_cifar(tmp_path: Path, binary: bool, hundred: bool) -> None:
    images = write_cifar(tmp_path, binary=binary, hundred=hundred)
    data = load_dataset("cifar100" if hundred else "cifar10", root=tmp_path, valid=2)
    np.testing.assert_array_equal(data.test, images[10:])
    found = {image.tobytes() for image in (*data.train, *data.valid)}
    assert found == {image.tobytes() for image in images[:10]}
    for split, labels in data.labels.items():
        assert (getattr(data, split)[:, 0, 0, 0] % 2).tolist() == labels.tolist()
    assert data.classes == ("0", "1")


@pytest.mark.parametrize("form", ["npz", "pickle", "png"])
@pytest.mark.parametrize("side", [32, 64])
def test_imagenet_releases(tmp_path: Path, form: str, side: int) -> None:
    train, test = numbered(11, side), numbered(3, side)
    if form == "png":
        for name, part in ((f"train_{side}x{side}", train), (f"valid_{side}x{side}", test)):
            (tmp_path / name).mkdir()
            for i, image in enumerate(part):
                Image.fromarray(image).save(tmp_path / name / f"{i:04}.png")
    else:
        batches = {"train_data_batch_1": train[:6], "train_data_batch_2": train[6:]}
        for name, part in {**batches, "val_data": test}.items():
            if form == "npz":
                np.savez(tmp_path / f"{name}.npz", data=planes(part), labels=np.arange(len(part)))
            else:
                (tmp_path / name).write_bytes(pickle.dumps({"data": planes(part)}, protocol=3))
    name = f"imagenet{side}"
    data = load_dataset(name, root=tmp_path, valid=4)
    assert data.meta["variant"] == (OLD_IMAGENET if form == "png" else NEW_IMAGENET)
    assert sorted(ids(data.train) + ids(data.valid)) == list(range(11))
    np.testing.assert_array_equal(data.test, test)
    again = load_dataset(name, root=tmp_path, valid=4)
    assert again.fingerprint == data.fingerprint


def test_both_imagenet_releases_are_not_mixed(tmp_path: Path) -> None:
    for name in ("train_32x32", "valid_32x32"):
        (tmp_path / name).mkdir()
    np.savez(tmp_path / "train_data_batch_1.npz", data=planes(numbered(2, 32)))
    with pytest.raises(UserError, match="both releases"):
        load_dataset("imagenet32", root=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="neither"):
        load_dataset("imagenet32", root=tmp_path / "empty")


def test_own_folder_with_splits(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("test", 2)):
        folder = tmp_path / "mine" / split / "class"
        folder.mkdir(parents=True)
        for i, image in enumerate(numbered(count, 5, 1)):
            Image.fromarray(image[..., 0]).save(folder / f"{i}.png")
    data = load_dataset(tmp_path / "mine", valid=2)
    assert data.name == "mine"
    assert data.shape == (5, 5, 1)
    assert ids(data.test) == [0, 1]
    assert sorted(ids(data.train) + ids(data.valid)) == list(range(6))


def test_own_folder_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no picture files"):
        load_dataset(tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 5)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b\.png is 4x5 pixels but .*a\.png is 4x4"):
        load_dataset(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:6000])
    with pytest.raises(UserError, match=r"b\.png cannot be read"):
        load_dataset(tmp_path)
    Image.new("I;16", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"b\.png has Pillow mode"):
        load_dataset(tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match="colour picture among grey"):
        load_dataset(tmp_path)


def test_changed_folder_is_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(numbered(5, 4)):
        Image.fromarray(image).save(folder / f"{i}.png")
    first = load_dataset(folder)
    Image.fromarray(numbered(78, 4)[77]).save(folder / "5.png")
    second = load_dataset(folder)
    assert len(second.train) == len(first.train) + 1


def test_own_arrays_and_files(tmp_path: Path) -> None:
    images = numbered(20, 4, 1)[..., 0]
    np.save(tmp_path / "x.npy", images)
    np.savez(tmp_path / "one.npz", images=images)
    np.savez(tmp_path / "three.npz", train=images, valid=images[:2], test=images[:3])
    prints = [
        load_dataset(source, seed=1).fingerprint
        for source in (images, tmp_path / "x.npy", str(tmp_path / "one.npz"))
    ]
    assert len(set(prints)) == 1
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), images)
    assert ids(images) == list(range(20))
    np.savez(tmp_path / "test.npz", test=images)
    with pytest.raises(UserError, match="needs an array train"):
        load_dataset(tmp_path / "test.npz")
    three = load_dataset(tmp_path / "three.npz")
    assert [len(three.train), len(three.valid), len(three.test)] == [20, 2, 3]
    with pytest.raises(UserError, match="valid split of its own"):
        load_dataset(tmp_path / "three.npz", valid=4)
    with pytest.raises(UserError, match="float64"):
        load_dataset(images.astype(float))
    with pytest.raises(UserError, match="shape"):
        load_dataset(np.zeros((5, 4, 4, 2), np.uint8))
    with pytest.raises(UserError, match="different image shapes"):
        load_dataset({"train": images, "test": images[:, :3]})
    with pytest.raises(UserError, match="trainer were given; give train"):
        load_dataset({"trainer": images})
    assert load_dataset({"Training": images}, seed=1).fingerprint in prints
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(UserError, match="neither a folder"):
        load_dataset(tmp_path / "x.txt")
    with pytest.raises(UserError, match="no data set or path"):
        load_dataset("none.npy")


@pytest.mark.skipif(importlib.util.find_spec("sklearn") is None, reason="needs scikit-learn")
def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    data = load_dataset("digits")
    assert data.categories == 17
    assert data.meta["published_bytes"] is True
    ours = np.concatenate([data.train, data.valid, data.test]).reshape(-1, 64)
    theirs = load_digits().data.astype(np.uint8)
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_mnist5k() -> None:
    try:
        data = load_dataset("mnist5k")
    except UserError as error:
        pytest.skip(f"no package registry: {error}")
    assert [len(data.train), len(data.valid), len(data.test)] == [4000, 500, 500]
    assert data.meta["published_bytes"] is True
    whole = np.concatenate([data.train, data.valid, data.test])
    assert whole.mean() / 255 == pytest.approx(0.1307, abs=2e-3)


def test_another_set_in_a_known_form_is_one_entry(tmp_path: Path, monkeypatch) -> None:
    entry = replace(catalogue.SETS["mnist"], name="letters", package=None)
    monkeypatch.setitem(catalogue.SETS, "letters", entry)
    write_mnist(tmp_path / "letters")
    data = load_dataset("letters", root=tmp_path)
    assert (data.name, data.counts) == ("letters", {"train": 45, "valid": 5, "test": 7})
    assert "letters" in names()
    with pytest.raises(UserError, match=r"run `python -m pyjuice_bridge data get letters`"):
        load_dataset("letters")


def test_names_are_all_described() -> None:
    assert {"digits", "mnist5k", "mnist", "natural_patches"} <= set(names())
