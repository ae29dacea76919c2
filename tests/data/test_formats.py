"""Every file format, on small files written here in the true form."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from pyjuice_bridge.data.formats import (
    map_npy,
    read_batch,
    read_cifar_bin,
    read_csv_images,
    read_idx,
    read_npz_array,
)
from pyjuice_bridge.data.unpickle import load_arrays
from pyjuice_bridge.errors import UserError


def idx_bytes(array: np.ndarray) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
    return head + array.tobytes()


def planes(images: np.ndarray) -> np.ndarray:
    return np.concatenate([images[..., i].reshape(len(images), -1) for i in range(3)], axis=1)


def python2_pickle(rows: np.ndarray) -> bytes:
    """A protocol 2 pickle as Python 2 wrote CIFAR's: byte strings, numpy.core, dtype 'u1'."""
    raw = rows.tobytes()
    return (
        b"\x80\x02}q\x00(U\x0bbatch_labelq\x01U\x15training batch 1 of 5U\x04dataq\x02"
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
        b"(K\x01"
        + b"M"
        + struct.pack("<H", rows.shape[0])
        + b"M"
        + struct.pack("<H", rows.shape[1])
        + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
        b"U\x06labels](K\x06K\x09eu."
    )


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (4, 32, 32, 3), np.uint8)


def test_idx_raw_and_gzip(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 5, 4), np.uint8)
    (tmp_path / "raw").write_bytes(idx_bytes(array))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx_bytes(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "raw"), array)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed.gz"), array)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"hello world", "not an idx file"),
        (idx_bytes(np.zeros((2, 3, 3), np.uint8))[:-1], "17 bytes after its header"),
        (b"\0\0\x08\x03\0\0", "inside its idx header"),
        (gzip.compress(b"\0" * 5000, mtime=0)[:30], "cannot be read as a gzip file"),
    ],
)
def test_damaged_idx(tmp_path: Path, raw: bytes, says: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(raw)
    with pytest.raises(UserError, match=says) as error:
        read_idx(path)
    assert path.name in str(error.value)


def test_csv_divides_pixels_and_label(tmp_path: Path) -> None:
    rows = np.arange(10).reshape(2, 5)
    path = tmp_path / "d.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in rows))
    np.testing.assert_array_equal(read_csv_images(path, 2, "toy")[0].reshape(2, 4), rows[:, :4])
    np.testing.assert_array_equal(read_csv_images(path, 2, "toy")[1], rows[:, 4])
    with pytest.raises(UserError, match="expected 9 pixels"):
        read_csv_images(path, 3, "toy")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_batches_of_every_protocol(tmp_path: Path, images: np.ndarray, protocol: int) -> None:
    batch = {b"data": planes(images), b"labels": [1, 2, 3, 4], "mean": np.ones(3)}
    path = tmp_path / "train_data_batch_1"
    path.write_bytes(pickle.dumps(batch, protocol=protocol))
    np.testing.assert_array_equal(read_batch(path, 32).images, images)
    np.testing.assert_array_equal(load_arrays(path)["mean"], np.ones(3))


def test_python2_batch(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(python2_pickle(planes(images)))
    assert load_arrays(path)["labels"] == [6, 9]
    np.testing.assert_array_equal(read_batch(path, 32).images, images)


def test_fortran_order_and_other_types(tmp_path: Path) -> None:
    arrays = {
        "f": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "b": np.array([True, False]),
    }
    path = tmp_path / "x"
    path.write_bytes(pickle.dumps(arrays, protocol=3))
    for name, array in arrays.items():
        np.testing.assert_array_equal(load_arrays(path)[name], array)


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "content",
    [
        b"cposix\nsystem\n(U\x04trueetR.",
        b"cbuiltins\neval\n(U\x011tR.",
        b"cnumpy\nload\n(U\x01xtR.",
        pickle.dumps({"data": np.array([{}], dtype=object)}),
        pickle.dumps({"data": np.zeros(2, dtype=[("a", "u1")])}, protocol=4),
        # a state dictionary aimed at the stand-in for numpy.dtype
        b"\x80\x02cnumpy\ndtype\nN}U\x05_callNs\x86b.",
    ],
)
def test_pickles_that_ask_for_more_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(UserError, match="data_batch_1 is not a pickle of plain arrays"):
        load_arrays(path)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(_Runs(tmp_path / "ran")))
    with pytest.raises(UserError, match="asks for"):
        load_arrays(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x02}q", b"not a pickle", pickle.dumps([1])])
def test_damaged_pickles(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(UserError, match="data_batch_1"):
        load_arrays(path)


def test_wrong_array_size_in_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "b"
    good = python2_pickle(np.zeros((2, 300), np.uint8))
    path.write_bytes(good.replace(b"M" + struct.pack("<H", 300), b"M" + struct.pack("<H", 299)))
    with pytest.raises(UserError, match="600 bytes"):
        load_arrays(path)


def test_npz_batch(tmp_path: Path, images: np.ndarray) -> None:
    path = tmp_path / "val_data.npz"
    np.savez(path, data=planes(images), labels=np.arange(4))
    np.testing.assert_array_equal(read_batch(path, 32).images, images)
    with pytest.raises(UserError, match="three 64x64 planes"):
        read_batch(path, 64)
    with pytest.raises(UserError, match="no array named images"):
        read_npz_array(path, "images")


@pytest.mark.parametrize("labels", [1, 2])
def test_cifar_bin(tmp_path: Path, images: np.ndarray, labels: int) -> None:
    path = tmp_path / "data_batch_1.bin"
    label = np.full((4, labels), 7, np.uint8)
    label[:, -1] = np.arange(4)
    path.write_bytes(np.concatenate([label, planes(images)], axis=1).tobytes())
    read = read_cifar_bin(path, labels)
    np.testing.assert_array_equal(read.images, images)
    np.testing.assert_array_equal(read.labels, np.arange(4))
    with pytest.raises(UserError, match="not a multiple"):
        read_cifar_bin(path, 3 - labels)


def test_pickled_objects_in_numpy_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", data=np.array([{}], dtype=object))
    with pytest.raises(UserError, match=r"a\.npy"):
        map_npy(tmp_path / "a.npy")
    with pytest.raises(UserError, match=r"a\.npz"):
        read_npz_array(tmp_path / "a.npz", "data")
