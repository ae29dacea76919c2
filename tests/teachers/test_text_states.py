"""States on disk: shards that are whole or absent, and what interrupted runs keep."""

import json

import numpy as np
import pytest

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.text_states import TokenStates, write_states

BOUNDS = [0, 4, 9, 11]
ARRAY = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float16)


class Maker:
    """Makes shards, notes which, and is killed before the shard ``fail``."""

    def __init__(self, fail=None):
        self.made, self.fail = [], fail

    def __call__(self, shard):
        if shard == self.fail:
            raise KeyboardInterrupt
        self.made.append(shard)
        return ARRAY[BOUNDS[shard] : BOUNDS[shard + 1]]


def fill(folder, maker=None, key=None, **more):
    return list(write_states(folder, BOUNDS, 3, key or {"a": 1}, maker or Maker(), **more))


def test_written_and_read(tmp_path):
    assert fill(tmp_path / "new", start=ARRAY[0]) == BOUNDS[1:]
    states = TokenStates.open(tmp_path / "new")
    assert states.shape == (11, 3)
    np.testing.assert_array_equal(states.start, ARRAY[0])
    index = np.array([[10, 0, 3], [4, 8, 9]])
    np.testing.assert_array_equal(states.gather(index), ARRAY[index])
    assert states.gather(np.zeros((0, 2), int)).shape == (0, 2, 3)
    with pytest.raises(UserError, match="outside the 11 tokens"):
        states.gather(np.array([11]))


def test_an_interrupted_run_goes_on_after_the_last_shard(tmp_path):
    first = Maker(fail=2)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, first)
    assert first.made == [0, 1]
    with pytest.raises(UserError, match=r"states-00002\.npy: is missing"):
        TokenStates.open(tmp_path)
    second = Maker()
    assert fill(tmp_path, second) == BOUNDS[1:] and second.made == [2]
    np.testing.assert_array_equal(TokenStates.open(tmp_path).gather(np.arange(11)), ARRAY)
    third = Maker()
    fill(tmp_path, third)
    assert third.made == []


def test_a_damaged_shard_is_made_again(tmp_path):
    fill(tmp_path)
    path = tmp_path / "states-00001.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"states-00001\.npy: is missing or damaged"):
        TokenStates.open(tmp_path)
    maker = Maker()
    fill(tmp_path, maker)
    assert maker.made == [1]


def test_states_of_another_key_are_replaced(tmp_path):
    fill(tmp_path, start=ARRAY[0])
    maker = Maker(fail=1)
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path, maker, key={"a": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["states-00000.npy", "states.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_damaged_notes(tmp_path, text):
    fill(tmp_path)
    (tmp_path / "states.json").write_text(text)
    with pytest.raises(UserError, match="holds no token states"):
        TokenStates.open(tmp_path)
    maker = Maker()
    fill(tmp_path, maker)
    assert maker.made == [0, 1, 2]


def test_note_with_impossible_bounds(tmp_path):
    fill(tmp_path)
    note = json.loads((tmp_path / "states.json").read_text())
    for wrong in ([0], [], "ab", [0, "x"], None):
        (tmp_path / "states.json").write_text(json.dumps({**note, "bounds": wrong}))
        with pytest.raises(UserError, match="holds no token states"):
            TokenStates.open(tmp_path)


def test_numbers_too_large_for_half_precision(tmp_path):
    with pytest.raises(UserError, match="not finite in float16"):
        fill(tmp_path, lambda shard: np.full((4, 3), np.inf, np.float16))
    assert not list(tmp_path.glob("*.npy"))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        fill(tmp_path / "file" / "states")


def test_pickles_are_not_read(tmp_path):
    fill(tmp_path)
    np.save(tmp_path / "states-00000.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"states-00000\.npy: is missing or damaged"):
        TokenStates.open(tmp_path)
