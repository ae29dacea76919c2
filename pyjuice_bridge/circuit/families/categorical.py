"""Any distribution over the values; with two values this is the Bernoulli distribution."""

from __future__ import annotations

from typing import Literal

from pyjuice_bridge.circuit.families.base import Family


class Categorical(Family):
    """A probability of its own for every value."""

    family: Literal["categorical"] = "categorical"
