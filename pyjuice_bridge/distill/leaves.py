"""``circuit.leaves``: the leaf family of a circuit, whatever its kind."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pyjuice_bridge.circuit.dictionary import with_dictionary
from pyjuice_bridge.circuit.families.categorical import Categorical
from pyjuice_bridge.circuit.families.registry import Leaves
from pyjuice_bridge.circuit.leaves import with_leaves
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.sections import KindSection, at_most

Components = Annotated[int, Field(ge=2), at_most(1000, "each is a circuit of its own")]


class LeafySection(KindSection):
    """Base of the sections of circuits whose leaves may be of any family.

    With ``classes`` there is one such circuit for every label of the images, p(x | class);
    ``mixture`` puts so many side by side, for clusters of whole images.
    """

    leaves: Leaves = Field(default_factory=Categorical)
    classes: bool = False
    mixture: Components | None = None

    def leafy(self, circuit: Circuit, seed: int | None = None) -> Circuit:
        """Give a circuit the leaves of this section, random ones where there is a seed."""
        return with_leaves(circuit, self.leaves, seed=seed)

    @property
    def leaf_key(self) -> dict[str, Any]:
        """What the leaves add to the key of an artifact; nothing where they are categorical."""
        return {} if self.leaves == Categorical() else {"leaves": str(self.leaves)}


class LowRankSection(LeafySection):
    """Base of the sections of circuits whose leaves may share dictionaries.

    With ``dictionary`` leaves mix so many distributions, which those of one variable share.
    """

    dictionary: Annotated[int, Field(ge=1), at_most(4096, "rows have fewer values")] | None = None

    def leafy(self, circuit: Circuit, seed: int | None = None) -> Circuit:
        """Give a circuit the leaves of this section, random ones where there is a seed."""
        return self.low_rank(super().leafy(circuit, seed), seed)

    def low_rank(self, circuit: Circuit, seed: int | None = None) -> Circuit:
        """Let the leaves of a circuit mix dictionaries, if this section has them."""
        if self.dictionary is None:
            return circuit
        return with_dictionary(circuit, self.dictionary, seed=seed)

    @property
    def leaf_key(self) -> dict[str, Any]:
        """What the leaves add to the key of an artifact."""
        own = {} if self.dictionary is None else {"dictionary": self.dictionary}
        return super().leaf_key | own
