"""What a leaf family is: constraints on the rows of a table of probabilities.

Every leaf is a table of probabilities, and every pass of an engine reads nothing else.  A family
says which tables there are.  It enters an M-step in two places::

    counts ← pooled(counts)                        expected counts, spread as the family likes
    target ← (1 - η)·θ + η·normalise(counts + c/#categories)          the step of a categorical
    θ      ← projected(target, θ)                  the best row of the family for the target

``projected`` is to return a row q of the family with Σ target·log q ≥ Σ target·log θ; rows of the
family itself it returns as they are.  Then every step of full-batch EM with pseudocount 0 raises
the likelihood, or keeps it (generalised EM); with η < 1 a step maximises
η·Σ counts·log q - (1 - η)·KL(θ ‖ q), so that the old row holds the new one back.  For an
exponential family, whose best row depends on the expectations of its statistics under the target
alone, this is online EM on those expectations (Cappé & Moulines, *On-line expectation-maximization
algorithm for latent data models*, JRSS-B 2009): the old row stands for the statistics so far.

Methods take NumPy arrays or PyTorch tensors, categories on the last axis, and return the same kind.
"""

from __future__ import annotations

import sys
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from pyjuice_bridge.circuit.rows import dirichlet_rows
from pyjuice_bridge.sections import Section

Array = Any
"""A NumPy array or a PyTorch tensor."""

TOLERANCE = 1e-4
"""How far a probability may be from the nearest row of its family."""


def namespace(array: Array) -> Any:
    """Return the module, ``numpy`` or ``torch``, whose functions take ``array``."""
    return sys.modules[type(array).__module__.partition(".")[0]]


class Family(Section):
    """Base of all leaf families; its fields are the family's options.

    ``family`` is its name in configs and circuit files.
    """

    model_config = ConfigDict(frozen=True)

    constrained: ClassVar[bool] = False
    """Whether some rows of probabilities are not of the family, so that M-steps project."""

    family: str

    def parameters(self, categories: int) -> int:
        """Count the numbers that a row is made from."""
        return categories

    def rows(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Draw rows to start from, float32 of ``shape``."""
        return dirichlet_rows(rng, shape)

    def pooled(self, counts: Array) -> Array:
        """Spread expected counts over values; the total of every row stays."""
        return counts

    def projected(self, target: Array, start: Array) -> Array:
        """Return the best rows of the family for ``target``, found from ``start``."""
        return target

    def strays(self, table: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell for every row whether it is none of the family, bool [groups, width]."""
        return np.zeros(table.shape[:2], bool)

    @property
    def options(self) -> dict[str, Any]:
        """Every field but ``family``."""
        return self.model_dump(exclude={"family"})

    def __str__(self) -> str:
        listed = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.family}({listed})" if listed else self.family
