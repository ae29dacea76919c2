import json

import numpy as np
import pytest

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers import PixelTeacher, cached_embeddings, describe, open_embeddings
from pyjuice_bridge.teachers import cache as module
from pyjuice_bridge.teachers.pixels import PixelWindows

KEY = {"data": "abc", "teacher": {"kind": "sum", "weights": "1"}}


class Sums:
    """Two positions: sum and mean of the image; counts what it is asked for."""

    def __init__(self, factor=1.0, stop_after=None):
        self.factor, self.rows, self.stop_after = factor, 0, stop_after

    def embed(self, images):
        if self.stop_after is not None and self.rows >= self.stop_after:
            raise KeyboardInterrupt
        self.rows += len(images)
        flat = images.reshape(len(images), -1).astype(np.float32)
        out = np.stack([flat.sum(1), flat.mean(1)], 1)[..., None] * self.factor
        return out.astype(np.float32)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(8, size=(20, 3, 3, 1)).astype(np.uint8)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK_FLOATS", 8)


def whole(embeddings):
    return embeddings.read(slice(None), slice(None))


def test_written_once_and_read_back(images, tmp_path):
    teacher, calls = Sums(), []
    found = cached_embeddings(
        teacher, images, tmp_path / "e", KEY, on_progress=lambda *c: calls.append(c)
    )
    np.testing.assert_array_equal(whole(found), Sums().embed(images).astype(np.float16))
    assert calls == [(i, 20) for i in (4, 8, 12, 16, 20)]
    rows = teacher.rows
    again = cached_embeddings(teacher, images, tmp_path / "e", KEY)
    assert teacher.rows == rows
    np.testing.assert_array_equal(again.read(slice(1, 2), np.array([3])), whole(found)[[3], 1:])
    note = json.loads((tmp_path / "e.json").read_text())
    assert note["key"] == KEY and note["shape"] == [2, 20, 1] and note["dtype"] == "float16"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.json", "e.npy"]


def test_an_interrupted_run_goes_on_where_it_stopped(images, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cached_embeddings(Sums(stop_after=9), images, tmp_path / "e", KEY, dtype="float32")
    teacher = Sums()
    found = cached_embeddings(teacher, images, tmp_path / "e", KEY, dtype="float32")
    assert teacher.rows == 12
    np.testing.assert_array_equal(whole(found), Sums().embed(images))


def test_another_key_or_type_or_a_damaged_file_starts_anew(images, tmp_path):
    path = tmp_path / "e"
    cached_embeddings(Sums(), images, path, KEY)
    doubled = cached_embeddings(Sums(2.0), images, path, {**KEY, "data": "abd"})
    np.testing.assert_array_equal(whole(doubled), Sums(2.0).embed(images).astype(np.float16))
    exact = cached_embeddings(Sums(3.0), images, path, {**KEY, "data": "abd"}, dtype="float32")
    np.testing.assert_array_equal(whole(exact), Sums(3.0).embed(images))
    for damage in (b"", b"not an array", (tmp_path / "e.npy").read_bytes()[:90]):
        (tmp_path / "e.npy").write_bytes(damage)
        again = cached_embeddings(Sums(4.0), images, path, KEY, dtype="float32")
        np.testing.assert_array_equal(whole(again), Sums(4.0).embed(images))
    (tmp_path / "e.json").write_text("{")
    again = cached_embeddings(Sums(5.0), images, path, KEY, dtype="float32")
    np.testing.assert_array_equal(whole(again), Sums(5.0).embed(images))


def test_what_a_teacher_may_not_return(images, tmp_path):
    with pytest.raises(UserError, match="too large for float16"):
        cached_embeddings(Sums(1e5), images, tmp_path / "e", KEY)
    with pytest.raises(UserError, match="NaN"):
        cached_embeddings(Sums(np.nan), images, tmp_path / "f", KEY)

    class Flat:
        def embed(self, images):
            return images.reshape(len(images), -1).astype(np.float32)

    with pytest.raises(UserError, match="positions"):
        cached_embeddings(Flat(), images, tmp_path / "g", KEY)
    with pytest.raises(UserError, match="cannot be written"):
        cached_embeddings(Sums(), images, tmp_path / "nowhere" / "e", KEY)


def test_lazy_teachers_leave_no_files(images, tmp_path):
    found = open_embeddings(PixelTeacher(ring=1), images, tmp_path / "e", KEY)
    assert isinstance(found, PixelWindows) and not list(tmp_path.iterdir())
    stored = open_embeddings(Sums(), images, tmp_path / "e", KEY)
    assert stored.shape == (20, 2, 1) and (tmp_path / "e.npy").exists()


def test_a_teacher_with_one_method_is_named_by_what_it_does(images):
    assert describe(Sums(), images[:2]) == describe(Sums(), images[:2])
    assert describe(Sums(), images[:2]) != describe(Sums(2.0), images[:2])
    assert describe(PixelTeacher(ring=2), images)["ring"] == 2
