"""How many samples are drawn, and from which seed."""

from __future__ import annotations

import secrets

from annotated_types import Interval

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.numbers import SEEDS, whole

_MOST_VALUES = 1 << 38
"""Most values drawn at once: 1 TiB."""


def draws_of(n: int, values: int, name: str = "n") -> int:
    """Return a number of samples, of so many values each, as an ``int``.

    Raises:
        UserError: it is no whole number from 1 up, or they fit into no memory.
    """
    count = whole(name, n, Interval(ge=1))
    if count * values > _MOST_VALUES:
        raise UserError(f"{name} is {count:,}, more than fit into memory; draw fewer at a time.")
    return count


def seed_of(seed: int | None) -> int:
    """Return a seed as an ``int``, a new one for None.

    Raises:
        UserError: it is no whole number, or out of range.
    """
    if seed is None:
        return secrets.randbelow(2**31)
    return whole("seed", seed, SEEDS)
