"""Check single numbers that a caller gives: whole numbers of any kind, and real ones in a range."""

from __future__ import annotations

import math
import operator
from typing import Annotated, Any, SupportsFloat, cast

from annotated_types import Interval

from pyjuice_bridge.errors import UserError, shown

SEEDS = Interval(ge=0, lt=2**63)
COUNTS = Interval(ge=1, lt=2**63)

StepSize = Annotated[float, Interval(gt=0, le=1)]
"""A step of 1 replaces parameters by what a batch says; beyond it they may become negative."""

MOST_EPOCHS = 100_000
MOST_PSEUDOCOUNT = 10**9
"""It outweighs any data: rows of parameters become uniform."""


def whole(name: str, value: Any, bounds: Interval) -> int:
    """Return ``value`` as an ``int``; NumPy's and PyTorch's integers are welcome, booleans not.

    Raises:
        UserError: it is no whole number, or outside ``bounds``.
    """
    try:
        number = None if _is_bool(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not _within(number, bounds):
        raise UserError(f"{name} is {shown(value)}, must be a whole number {_phrase(bounds)}.")
    return number


def real(name: str, value: Any, bounds: Interval) -> float:
    """Return ``value`` as a ``float``.

    Raises:
        UserError: it is no number, not finite, or outside ``bounds``.
    """
    number = math.nan
    if not _is_bool(value) and not isinstance(value, str | bytes):
        try:
            number = float(cast(SupportsFloat, value))
        except (TypeError, ValueError, OverflowError, RuntimeError):
            number = math.nan
    if not math.isfinite(number) or not _within(number, bounds):
        raise UserError(f"{name} is {shown(value)}, must be a number {_phrase(bounds)}.")
    return number


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def _within(number: float, bounds: Interval) -> bool:
    low, high = cast(Any, bounds.ge), cast(Any, bounds.le)
    above, below = cast(Any, bounds.gt), cast(Any, bounds.lt)
    return (
        (low is None or number >= low)
        and (above is None or number > above)
        and (high is None or number <= high)
        and (below is None or number < below)
    )


def _phrase(bounds: Interval) -> str:
    """Say ``from 0 to 1``, ``above 0 and at most 1`` …"""
    low = f"from {bounds.ge}" if bounds.ge is not None else f"above {bounds.gt}"
    if bounds.lt is not None:
        return f"{low} and below {bounds.lt}"
    if bounds.le is None:
        return low
    return f"{low} to {bounds.le}" if bounds.ge is not None else f"{low} and at most {bounds.le}"
