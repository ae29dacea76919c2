"""A VQ-VAE-2 trained by the run, as a teacher."""

from __future__ import annotations

from typing import Any, Literal

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.sections import BatchSize, Count, Epochs, Positive, States
from pyjuice_bridge.teachers.base import Teacher, TeacherInputs, TeacherSection


class VqVaeSection(TeacherSection):
    """A VQ-VAE-2 trained by the run; the default takes minutes on a CPU.

    Every patch has a code of its own and shares one with the patches around; the feature of a patch
    is both codes.  The ``independent`` decoder sees the codes of one patch only, the
    ``convolutional`` one all around.  ``width`` are channels, ``residual`` those inside a residual
    block, ``dim`` the numbers of a code, ``codes`` those of each book.  The papers' size is width
    128, residual 32, blocks 2, dim 64, codes 1024, epochs 50, batch 64, step_size 3e-4.
    """

    patches_only = True
    title = "VQ-VAE-2"
    kind: Literal["vqvae2"]
    decoder: Literal["independent", "convolutional"] = "independent"
    width: Count = 64
    residual: Count = 16
    blocks: Count = 1
    dim: Count = 16
    codes: States = 128
    epochs: Epochs = 10
    batch: BatchSize = 64
    step_size: Positive = 1e-3

    def make(self, inputs: TeacherInputs) -> Teacher:
        """Train the network, or load it from a finished checkpoint."""
        from pyjuice_bridge.teachers.vqvae_training import VqVaeSettings, train_vqvae

        if inputs.patch < 2:
            raise UserError("'teacher.kind: vqvae2' needs patches of 2 or more pixels")
        settings = self.model_dump(exclude={"kind"})
        return train_vqvae(
            inputs.samples,
            VqVaeSettings(patch=inputs.patch, white=inputs.white, seed=inputs.seed, **settings),
            valid=inputs.valid,
            checkpoint=inputs.checkpoint,
            device=inputs.device,
            on_epoch=inputs.on_epoch,
        )

    def training_key(self, inputs: TeacherInputs) -> dict[str, Any]:
        """Return the settings that a training depends on, as plain values."""
        return {**super().training_key(inputs), "white": inputs.white}
