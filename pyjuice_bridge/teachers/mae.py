"""A masked autoencoder trained by the run, as a teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pyjuice_bridge.sections import BatchSize, Epochs, at_most
from pyjuice_bridge.teachers.base import Teacher, TeacherInputs, TeacherSection

_Width = Annotated[int, Field(ge=1), at_most(16_384, "weights have the square of it in entries")]
_Depth = Annotated[int, Field(ge=1), at_most(100, "deeper autoencoders do not train")]


class MaeSection(TeacherSection):
    """A masked autoencoder trained by the run; the default takes minutes on a CPU.

    ``layers`` are those of the encoder and of the decoder.  The papers' size is hidden 256, mlp
    512, heads 8, layers [6, 4], step_size 5e-5.
    """

    patches_only = True
    title = "autoencoder"
    kind: Literal["mae"]
    hidden: _Width = 128
    mlp: _Width = 256
    heads: _Width = 4
    layers: Annotated[list[_Depth], Field(min_length=2, max_length=2)] = Field(default=[3, 1])
    epochs: Epochs = 20
    batch: BatchSize = 256
    step_size: Annotated[float, Field(gt=0), at_most(10, "training would not settle")] = 1e-3

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> MaeSection:
        if self.hidden % self.heads:
            raise ValueError(
                f"'heads' is {self.heads}, but must divide 'hidden', which is {self.hidden}"
            )
        return self

    def make(self, inputs: TeacherInputs) -> Teacher:
        """Train the network, or load it from a finished checkpoint."""
        from pyjuice_bridge.teachers.mae_training import MAESettings, train_mae

        settings = self.model_dump(exclude={"kind"})
        return train_mae(
            inputs.samples,
            MAESettings(patch=inputs.patch, seed=inputs.seed, **settings),
            checkpoint=inputs.checkpoint,
            device=inputs.device,
            on_epoch=inputs.on_epoch,
        )
