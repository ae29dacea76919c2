"""Categorical rows whose M-step shares counts between neighbouring values."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pyjuice_bridge.circuit.families.base import Array, Family, namespace
from pyjuice_bridge.sections import at_most

_WIDTH = 0.282
"""Σ p² of a normal distribution with standard deviation 1."""
_TAIL, _FAR = 0.1, 8.0
"""Share of a count that is spread more widely, and by how much."""


class Smooth(Family):
    """A probability for every value, estimated from the counts of its neighbours, too.

    Every count is spread over its neighbours by a kernel that falls off exponentially, with the
    standard deviation ``bandwidth`` times the width of the row's counts (0.282 / Σ p², which is
    the standard deviation of a normal distribution): a leaf that knows its value stays sharp.  A
    tenth of each count is spread eight times as far, for values unlike any seen.  Nothing leaves
    the range of values, and totals stay.

    This is EM with a smoothing step (Silverman, Jones, Wilson & Nychka, *A smoothed EM approach to
    indirect estimation problems*, JRSS-B 1990).  It does not maximise the likelihood of the
    training data.  Counts are smoothed once, when they come in, and mixed with the old row
    afterwards, so that small steps smooth no more than one large step.
    """

    family: Literal["smooth"] = "smooth"
    bandwidth: Annotated[float, Field(gt=0), at_most(100, "nothing would be left of the row")] = 0.1

    def pooled(self, counts: Array) -> Array:
        """Spread counts over neighbouring values."""
        xp = namespace(counts)
        total = xp.clip(counts.sum(-1), 1e-30, None)
        width = _WIDTH * total / xp.clip((counts * counts).sum(-1) / total, 1e-30, None)
        spread = (self.bandwidth * width) ** 2 / 2
        return (1 - _TAIL) * _diffused(counts, spread) + _TAIL * _diffused(counts, _FAR**2 * spread)


def _diffused(rows: Array, amount: Array) -> Array:
    """Solve y - amount·y″ = rows, without flow over the ends: the kernel's variance is 2·amount."""
    last = rows.shape[-1] - 1
    if not last:
        return rows
    share, ahead = [amount / (1 + amount)], [rows[..., 0] / (1 + amount)]
    for k in range(1, last + 1):
        left = 1 + amount * ((2 if k < last else 1) - share[-1])
        ahead.append((rows[..., k] + amount * ahead[-1]) / left)
        share.append(amount / left)
    for k in range(last - 1, -1, -1):
        ahead[k] = ahead[k] + share[k] * ahead[k + 1]
    return namespace(rows).stack(ahead, -1)
