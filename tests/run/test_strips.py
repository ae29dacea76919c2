"""Positions whose clusters a report shows."""

import numpy as np

from pyjuice_bridge.domains.images import varied
from pyjuice_bridge.runner.results import processor, surroundings


def test_positions_are_chosen_where_values_vary() -> None:
    rng = np.random.default_rng(0)
    z = np.zeros((200, 40), np.int32)
    lively = np.array([3, 5, 8, 13, 21, 22, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 1, 2, 7, 9])
    z[:, lively] = rng.integers(0, 4, (200, len(lively)))
    chosen = varied(z, 4)
    assert len(chosen) == 4 and set(chosen) <= set(lively.tolist())
    assert len(varied(np.zeros((5, 2), np.int32), 3)) <= 2


def test_the_processor_is_named() -> None:
    assert processor() and surroundings()["processor"] == processor()
