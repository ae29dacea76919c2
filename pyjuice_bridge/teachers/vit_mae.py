"""Public ViT-MAE weights (He et al., CVPR 2022) as a teacher, through transformers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import (
    FloatArray,
    Images,
    TeacherInputs,
    TeacherSection,
    neighbours,
    patch_grid,
)

if TYPE_CHECKING:
    import torch

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the RGB values in [0, 1] that the public weights were trained with."""


class VitMaeSection(TeacherSection):
    """Public ViT-MAE weights; ``source`` is a local folder or a name on the hub.

    There, ``revision`` is a branch, tag or commit.
    """

    patches_only = True
    kind: Literal["vit_mae"]
    source: str = "facebook/vit-mae-base"
    revision: str | None = None

    def make(self, inputs: TeacherInputs) -> ViTMAETeacher:
        """Load the weights."""
        return ViTMAETeacher(
            self.source,
            revision=self.revision,
            patch=inputs.patch,
            device=inputs.device,
            white=inputs.white,
        )


class ViTMAETeacher:
    """The encoder's token of every patch, seen with its neighbours and the class token only.

    Images are resized so that one patch is 16 pixels and position encodings are interpolated.
    transformers masks at random even in evaluation; here the patches to keep are given, so equal
    images give equal vectors.

    Args:
        source: a local folder with ``config.json`` and weights, or a name on the hub such as
            "facebook/vit-mae-base" (never fetched while HF_HUB_OFFLINE is set).
        patch: side of a patch in pixels.
        batch: patches that go through the encoder together.
        device: "cpu" or "cuda".
        white: the pixel value of white, 16 for the 8x8 digits.
        revision: of a name on the hub, a branch, tag or commit.

    Raises:
        UserError: transformers is not installed, or there are no such weights.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        patch: int,
        batch: int = 256,
        device: str = "cpu",
        white: int = 255,
        revision: str | None = None,
    ) -> None:
        from pyjuice_bridge.teachers.public import CELL, freeze

        self.patch, self.batch, self.device, self.white = patch, batch, device, white
        self.source = str(source)
        self._model = freeze(_load(self.source, revision), device)
        config = self._model.config
        if config.patch_size != CELL or config.num_channels != 3:
            raise UserError(
                f"{source}: has patches of {config.patch_size} pixels in {config.num_channels} "
                f"channels, but only {CELL} pixels in 3 channels are supported"
            )

    def embed(self, images: Images, /) -> FloatArray:
        """Embed every patch."""
        import torch

        from pyjuice_bridge.teachers.public import enlarge

        grid = patch_grid(images, self.patch)
        count = grid[0] * grid[1]
        out = np.empty((len(images), count, self._model.config.hidden_size), np.float32)
        step = max(1, self.batch // count)
        with torch.inference_mode():
            for start in range(0, len(images), step):
                part = images[start : start + step]
                x = enlarge(part, self.patch, self.device, white=self.white)
                mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (_MEAN, _STD))
                x = (x - mean) / std
                for positions, members in neighbours(grid):
                    tokens = self._targets(x, members, count)
                    out[start : start + step, positions] = tokens.cpu().numpy()
        return out

    def _targets(self, x: torch.Tensor, members: np.ndarray[Any, Any], count: int) -> torch.Tensor:
        """Encode the first of each ``members`` [G, n], only they being kept: [B, G, hidden].

        The model keeps the patches of lowest "noise", in its order.
        """
        import torch

        groups, kept = members.shape
        rank = np.full((groups, count), kept + 1, np.float32)
        np.put_along_axis(rank, members, np.arange(kept, dtype=np.float32)[None], axis=1)
        noise = torch.as_tensor(rank, device=x.device).repeat(len(x), 1)
        self._model.config.mask_ratio = 1 - (kept + 0.5) / count if kept < count else 0.0
        result = self._model(
            pixel_values=x.repeat_interleave(groups, 0), noise=noise, interpolate_pos_encoding=True
        )
        tokens: torch.Tensor = result.last_hidden_state[:, 1]
        return tokens.view(len(x), groups, -1)

    def describe(self) -> dict[str, Any]:
        """Return the settings and a hash of the weights."""
        from pyjuice_bridge.teachers.public import facts

        return facts("vit_mae", self.patch, self.white, self._model)


def _load(source: str, revision: str | None) -> Any:
    from pyjuice_bridge.teachers.public import from_pretrained

    try:
        from transformers import ViTMAEModel
    except ImportError:
        raise UserError("the ViT-MAE teacher needs transformers; pip install -e '.[vit]'") from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # tells of every retry
    return from_pretrained(ViTMAEModel, source, "ViT-MAE weights", revision=revision)
