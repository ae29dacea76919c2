"""States as directions from their mean."""

import numpy as np
import pytest

from pyjuice_bridge.teachers.text_features import SuffixFeatures
from pyjuice_bridge.teachers.text_scale import UnitStates, mean_state
from pyjuice_bridge.teachers.text_states import TokenStates


@pytest.fixture
def states() -> TokenStates:
    rng = np.random.default_rng(0)
    parts = rng.normal(5, 2, (3, 7, 4)).astype(np.float16)
    return TokenStates(list(parts), start=np.ones(4))


def test_directions_have_length_one_and_no_mean(states: TokenStates) -> None:
    every = states.gather(np.arange(21)).astype(np.float64)
    mean = mean_state(states)
    np.testing.assert_allclose(mean, every.mean(0), rtol=1e-6)
    unit = UnitStates(states, mean)
    assert unit.shape == states.shape
    wanted = (every - mean) / np.linalg.norm(every - mean, axis=1, keepdims=True)
    np.testing.assert_allclose(unit.gather(np.arange(21)), wanted, atol=1e-3)
    assert unit.gather(np.array([[3, 1], [0, 20]])).shape == (2, 2, 4)
    assert unit.start is not None
    wanted = (1 - mean) / np.linalg.norm(1 - mean)
    np.testing.assert_allclose(unit.start, wanted, atol=1e-3)


def test_a_state_at_the_mean_has_no_direction() -> None:
    same = TokenStates([np.full((3, 2), 2, np.float16)])
    unit = UnitStates(same, mean_state(same))
    np.testing.assert_array_equal(unit.gather(np.arange(3)), np.zeros((3, 2)))
    assert unit.start is None


def test_features_read_them_like_any_states(states: TokenStates) -> None:
    unit = UnitStates(states, mean_state(states))
    found = SuffixFeatures(unit, np.array([2, 9]), 3).read(slice(None), slice(None))
    rows = unit.gather(np.array([[2, 3, 4], [9, 10, 11]])).astype(np.float64)
    wanted = np.stack([rows[:, t:].mean(1) for t in range(3)], axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_means_do_not_depend_on_shards() -> None:
    rows = np.random.default_rng(1).normal(size=(70_000, 2)).astype(np.float16)
    one = mean_state(TokenStates([rows]))
    two = mean_state(TokenStates([rows[:100], rows[100:]]))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, rows.astype(np.float64).mean(0), atol=1e-3)
