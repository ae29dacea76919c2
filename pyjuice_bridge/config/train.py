"""How circuits are trained."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from pyjuice_bridge.engines.base import FitOptions, Optimizer, Schedule, ScheduleKind
from pyjuice_bridge.sections import (
    A_FEW,
    Amount,
    BatchSize,
    Count,
    Epochs,
    Fraction,
    Section,
    at_most,
)

_FEW_STEPS, _MOST_PASSES = 400, 100
"""Of EM: where passes are not set, at least so many steps, but at most so many passes."""
_MANY_STEPS, _LARGE_STEPS = 1000, (0.5, 0.05)
"""Where step sizes are not set, shorter trainings take larger ones."""


class StepSize(Section):
    """η of mini-batch EM, from ``start`` to ``end`` over the training.

    ``step`` stays at ``start`` for the share ``switch`` of the training, then takes ``end``.
    """

    start: Fraction = Schedule.start
    end: Fraction = Schedule.end
    kind: ScheduleKind = Schedule.kind
    switch: Fraction = Schedule.switch

    @property
    def schedule(self) -> Schedule:
        """The same for the engines."""
        return Schedule(**self.model_dump())


class Phase(Section):
    """One of the two trainings that precede gluing; its epochs count as passes of ``lvd``."""

    epochs: Epochs = 3
    batch_size: BatchSize = 256
    step_size: StepSize = Field(default_factory=StepSize)


class LatentStepSize(StepSize):
    """As ``StepSize``, ending lower."""

    end: Fraction = 0.001


class LatentPhase(Phase):
    """Training of the latent circuit."""

    step_size: LatentStepSize = Field(default_factory=LatentStepSize)


class ObservedPhase(Phase):
    """Training with the latents of regions of at least ``pixels`` pixels (columns) observed."""

    pixels: Count


class Grow(Section):
    """Growing during a training, which is cut into ``rounds`` + 1 trainings of equal length.

    Between two, the share ``prune`` of the nodes of every block goes, those with the least flow,
    and the block is doubled with ``noise`` (see ``circuit.doubling``).
    """

    rounds: Annotated[int, Field(ge=1), at_most(8, "each doubles the circuit")] = 1
    prune: Annotated[float, Field(ge=0, lt=1)] = 0.0
    noise: Amount = 0.2


class Train(Section):
    """EM on the data.

    ``epochs`` is the number of passes over the training data that every arm gets in all: counting,
    patch training, latent training and those of ``observed`` are passes of ``lvd``, fine-tuning
    has the rest.  With ``candidates`` three of four passes over whole samples evaluate only so many
    values of a latent variable above sub-circuits (patch circuits and growing heads).  With
    ``grow`` every arm grows on its way.  ``start`` is a run's folder or a circuit's file, with
    which the arm of that name begins.
    """

    optimizer: Optimizer = FitOptions.optimizer
    epochs: Epochs = FitOptions.epochs
    batch_size: BatchSize = 256
    step_size: StepSize = Field(default_factory=StepSize)
    pseudocount: Amount = FitOptions.pseudocount
    patience: Count | None = FitOptions.patience
    candidates: Count | None = FitOptions.candidates
    grow: Grow | None = None
    start: str | None = None
    patch_training: Phase | None = None
    latent_training: LatentPhase | None = None
    observed: Annotated[list[ObservedPhase], A_FEW] | None = None

    def fitted(self, rows: int) -> Train:
        """Return the settings with what was not set fitted to a number of training rows.

        Small data get more passes, and short trainings larger steps: otherwise much of the start is
        left in the parameters.
        """
        unset: dict[str, Any] = {}
        each = 1 if self.optimizer == "full_em" else -(-rows // self.batch_size)
        epochs = self.epochs
        if "epochs" not in self.model_fields_set:
            epochs = max(epochs, min(_MOST_PASSES, -(-_FEW_STEPS // each)))
            unset["epochs"] = epochs
        if "step_size" not in self.model_fields_set and epochs * each < _MANY_STEPS:
            unset["step_size"] = StepSize(start=_LARGE_STEPS[0], end=_LARGE_STEPS[1])
        return self.model_copy(update=unset)


class Tune(Section):
    """A small grid tried equally by every arm: the best on validation trains the arm.

    Each pair is trained for ``epochs`` passes over the first ``rows`` rows of the training data.
    """

    pseudocounts: Annotated[list[Amount], A_FEW] = Field(default=[0.01, 0.1, 1.0])
    step_sizes: Annotated[list[Fraction], A_FEW] = Field(default=[0.1])
    rows: Count = 2000
    epochs: Epochs = 2
