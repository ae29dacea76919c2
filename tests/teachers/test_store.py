"""Stored blocks: whole or absent, continued after a kill, replaced where their key differs."""

import json

import numpy as np
import pytest

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers import (
    PixelTeacher,
    TokenStates,
    describe,
    open_embeddings,
    store_embeddings,
)
from pyjuice_bridge.teachers import store as module
from pyjuice_bridge.teachers.store import Blocks

KEY = {"data": "abc", "teacher": {"kind": "sum", "weights": "1"}}
BOUNDS = [0, 4, 9, 11]
ARRAY = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float16)


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


@pytest.fixture
def small(monkeypatch):
    """Blocks of four rows."""
    monkeypatch.setattr(module, "_BLOCK_FLOATS", 8)
    monkeypatch.setattr(module, "_BLOCKS", 1)


def stored(teacher, images, folder, key=KEY, **more):
    store_embeddings(teacher, images, folder, "e", key, **more)
    return whole(open_embeddings(folder, "e"))


def whole(embeddings):
    return embeddings.read(slice(None), slice(None))


def half(teacher, images):
    return teacher.embed(images).astype(np.float16)


def test_written_once_and_read_back(images, tmp_path, small):
    teacher, calls = Sums(), []
    found = stored(teacher, images, tmp_path, on_progress=lambda *c: calls.append(c))
    np.testing.assert_array_equal(found, half(Sums(), images))
    assert calls == [(i, 20) for i in (4, 8, 12, 16, 20)]
    rows = teacher.rows
    np.testing.assert_array_equal(stored(teacher, images, tmp_path), found)
    assert teacher.rows == rows
    note = json.loads((tmp_path / "e.json").read_text())
    assert (note["key"], note["shape"], note["dtype"]) == (KEY, [2, -1, 1], "float16")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*(f"e-{i:05}.npy" for i in range(5)), "e.json"]


def test_parts_are_read_across_blocks_in_any_order(images, tmp_path, small):
    found = stored(Sums(), images, tmp_path)
    opened = open_embeddings(tmp_path, "e")
    assert opened.shape == (20, 2, 1)
    for rows in (slice(2, 15), slice(None, None, -3), np.array([19, 0, 7, 7]), np.array([], int)):
        for positions in (slice(1, 2), slice(None, None, -1), slice(0, 0)):
            part = opened.read(positions, rows)
            assert part.dtype == np.float32
            np.testing.assert_array_equal(part, found[rows][:, positions])


def test_an_interrupted_run_continues_where_it_stopped(images, tmp_path, small):
    with pytest.raises(KeyboardInterrupt):
        stored(Sums(stop_after=9), images, tmp_path)
    teacher = Sums()
    np.testing.assert_array_equal(stored(teacher, images, tmp_path), half(Sums(), images))
    assert teacher.rows == 12


def test_few_samples_are_several_blocks_that_processes_share(images, tmp_path):
    stored(Sums(), images, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 10


def test_another_key_or_a_damaged_file_is_computed_again(images, tmp_path, small):
    stored(Sums(), images, tmp_path)
    other = {**KEY, "data": "abd"}
    expected = half(Sums(2.0), images)
    np.testing.assert_array_equal(stored(Sums(2.0), images, tmp_path, other), expected)
    path = tmp_path / "e-00001.npy"
    for damage in (b"", b"not an array", path.read_bytes()[:-1]):
        path.write_bytes(damage)
        with pytest.raises(UserError, match=r"e-00001\.npy: is missing or damaged"):
            open_embeddings(tmp_path, "e")
        teacher = Sums(2.0)
        np.testing.assert_array_equal(stored(teacher, images, tmp_path, other), expected)
        assert teacher.rows == 4
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.testing.assert_array_equal(stored(Sums(2.0), images, tmp_path, other), expected)


class Flat:
    def embed(self, images):
        return images.reshape(len(images), -1).astype(np.float32)


class Wide:
    """As many numbers as images."""

    def embed(self, images):
        return np.zeros((len(images), 2, 1 + len(images)), np.float32)


def test_what_a_teacher_may_not_return(images, tmp_path, small):
    for teacher, message in (
        (Sums(1e5), "too large for float16"),
        (Sums(np.nan), "NaN"),
        (Flat(), "positions"),
        (Wide(), r"shape \(2, 5\) after \(2, 1\)"),
    ):
        with pytest.raises(UserError, match=message):
            stored(teacher, images, tmp_path / "new")
    with pytest.raises(UserError, match="no samples"):
        stored(Sums(), images[:0], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        stored(Sums(), images, tmp_path / "file" / "below")
    with pytest.raises(UserError, match="plain values"):
        stored(Sums(), images, tmp_path, {"weights": np.zeros(2)})


def test_a_teacher_with_one_method_is_named_by_what_it_does(images):
    assert describe(Sums(), images[:2]) == describe(Sums(), images[:2])
    assert describe(Sums(), images[:2]) != describe(Sums(2.0), images[:2])
    assert describe(PixelTeacher(ring=2), images)["ring"] == 2


class Maker:
    """Makes blocks of token states, notes which, and is killed before the block ``fail``."""

    def __init__(self, fail=None):
        self.made, self.fail = [], fail

    def __call__(self, index):
        if index == self.fail:
            raise KeyboardInterrupt
        self.made.append(index)
        return ARRAY[BOUNDS[index] : BOUNDS[index + 1]]


def fill(folder, maker=None, key=None, facts=None):
    blocks = Blocks(folder, "states", BOUNDS, (-1, 3), "float16", facts or {})
    return list(blocks.fill(key or {"a": 1}, maker or Maker()))


def test_states_are_gathered_from_their_blocks(tmp_path):
    assert fill(tmp_path / "new", facts={"start": ARRAY[0].tolist()}) == BOUNDS[1:]
    states = TokenStates.open(tmp_path / "new")
    assert states.shape == (11, 3)
    np.testing.assert_array_equal(states.start, ARRAY[0])
    index = np.array([[10, 0, 3], [4, 8, 9]])
    np.testing.assert_array_equal(states.gather(index), ARRAY[index])
    assert states.gather(np.zeros((0, 2), int)).shape == (0, 2, 3)
    with pytest.raises(UserError, match="outside the 11 tokens"):
        states.gather(np.array([11]))
    fill(tmp_path / "other", facts={"start": [1.0, 2.0]})
    with pytest.raises(UserError, match="that fit together"):
        TokenStates.open(tmp_path / "other")


def test_only_missing_and_damaged_blocks_are_made(tmp_path):
    first = Maker(fail=2)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, first)
    assert first.made == [0, 1]
    with pytest.raises(UserError, match=r"states-00002\.npy: is missing"):
        TokenStates.open(tmp_path)
    path = tmp_path / "states-00001.npy"
    path.write_bytes(path.read_bytes()[:-1])
    second = Maker()
    assert fill(tmp_path, second) == BOUNDS[1:] and second.made == [1, 2]
    np.testing.assert_array_equal(TokenStates.open(tmp_path).gather(np.arange(11)), ARRAY)


def test_blocks_of_another_key_are_removed_first(tmp_path):
    fill(tmp_path)
    (tmp_path / "others-00000.npy").write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, Maker(fail=1), key={"a": 2})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["others-00000.npy", "states-00000.npy", "states.json"]


def wrong_notes():
    note = {"bounds": BOUNDS, "shape": [-1, 3], "dtype": "float16", "facts": {}, "key": {}}
    yield from ("", "[]", "{}", "{", "[" * 200_000)
    for wrong in ([0], [], "ab", [0, "x"], None, [0, 4, 4], [1, 4]):
        yield json.dumps({**note, "hash": "", "bounds": wrong})
    for name in ("shape", "dtype", "facts", "key", "hash"):
        yield json.dumps({**note, "hash": "", name: None})


@pytest.mark.parametrize("text", list(wrong_notes()), ids=lambda text: text[:40])
def test_damaged_notes(tmp_path, text):
    fill(tmp_path)
    (tmp_path / "states.json").write_text(text)
    with pytest.raises(UserError, match="holds no states"):
        TokenStates.open(tmp_path)
    maker = Maker()
    fill(tmp_path, maker)
    assert maker.made == [0, 1, 2]


def test_numbers_too_large_for_half_precision(tmp_path):
    with pytest.raises(UserError, match="too large for float16"):
        fill(tmp_path, lambda index: np.full((4, 3), 1e6))
    assert not list(tmp_path.glob("*.npy"))
