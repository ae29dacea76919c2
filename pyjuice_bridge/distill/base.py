"""The one idea of distillation: a structure with named latents, observed in some stages.

A *kind* of circuit says which structure it is, which scopes its latent variables have, and
how each arm of the comparison begins; everything else (training, scoring, reporting) is the same
for all kinds.  A kind is one file with one :class:`Kind`, listed in ``distill.registry``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.domains.base import Context, Shape
from pyjuice_bridge.sections import Arm, KindSection
from pyjuice_bridge.stages.store import Artifact

CIRCUIT = "circuit.h5"
"""The file of an artifact that holds a circuit."""


@dataclass(frozen=True)
class Stage:
    """A training of the distilled arm that came before the data alone.

    Attributes:
        name: as curves and tables show it.
        passes: over the training data.
        artifacts: everything that it needs, itself last.
        bound: mean log p(x, z) on validation after it, in nats.
        marginal: mean log p(x) on validation after it, in nats.
    """

    name: str
    passes: int
    artifacts: tuple[Artifact, ...]
    bound: float
    marginal: float

    @property
    def seconds(self) -> float:
        """Seconds of everything that led to it."""
        return sum(artifact.seconds for artifact in ancestry(self.artifacts))


@dataclass(frozen=True, eq=False)
class Initialisation:
    """The circuit that an arm's training on the data alone begins with.

    Attributes:
        arm: its name.
        key: names the circuit, together with ``parents``, in the hashes of artifacts.
        circuit: makes it.
        parents: the artifacts that it is made from; cost and engines are read off their ancestry.
        stages: trainings before; their passes count towards the arm's.
        z: validation latents int32 [N, positions] for the bound, None where the arm has none.
        frozen: the layers that its training leaves as they are.
    """

    arm: str
    key: Mapping[str, Any]
    circuit: Callable[[], Circuit]
    parents: tuple[Artifact, ...]
    stages: tuple[Stage, ...] = ()
    z: NDArray[np.int32] | None = None
    frozen: tuple[int, ...] = ()

    @property
    def passes(self) -> int:
        """Passes over the training data before this circuit."""
        return sum(stage.passes for stage in self.stages)


def ancestry(artifacts: Sequence[Artifact]) -> tuple[Artifact, ...]:
    """Return the artifacts and all their ancestors, each once, parents first."""
    by_id = {each.id: each for artifact in artifacts for each in artifact.lineage()}
    return tuple(by_id.values())


@dataclass(frozen=True, eq=False)
class Passes:
    """Passes of EM that precede an arm's training on the data alone, as a plan sees them.

    Attributes:
        circuit: what is trained, without numbers.
        rows: in a pass.
        batch_size: rows of a step.
        count: how many passes.
    """

    circuit: Circuit
    rows: int
    batch_size: int
    count: int


@dataclass(frozen=True)
class Kind:
    """A kind of circuit that a run can train.

    Attributes:
        name: ``circuit.kind`` of a config.
        section: the config's section.
        domains: the kinds of data that it models.
        arms: the arms that it has, in the order of tables; also the default.
        check: fills in the defaults of other sections and refuses what does not fit, by ValueError.
        scopes: from the section and the data's shape the variables of each latent's scope, int32
            [positions, size]; None for kinds without latents that a teacher can fill.
        structure: from the section, an arm and the data's shape the circuit of the arm without
            numbers, over a stand-in for what is learnt from data.
        initialise: every arm of the config at its beginning.
        trial: the section of a smaller circuit, on which a plan measures time.
        before: from the config and the data's shape the passes of the arm ``lvd`` in which parts of
            its circuit are trained.
        finish: what is done to a trained circuit before it is kept.
        fixed: whether ``structure`` has the size of every trained circuit.
    """

    name: str
    section: type[KindSection]
    domains: tuple[str, ...]
    arms: tuple[Arm, ...]
    check: Callable[[Settings], None]
    scopes: Callable[[Any, Shape], IntArray] | None
    structure: Callable[[Any, str, Shape], Circuit]
    initialise: Callable[[Context], Sequence[Initialisation]]
    trial: Callable[[Any], KindSection] = lambda section: section
    before: Callable[[Settings, Shape], Sequence[Passes]] = lambda *_: ()
    finish: Callable[[Context, Circuit], Circuit] = lambda _, circuit: circuit
    fixed: bool = True
