"""A masked autoencoder trained on the training split, and its features per patch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.numbers import SEEDS, whole
from pyjuice_bridge.teachers.base import (
    EpochReport,
    FloatArray,
    Images,
    key_hash,
    patch_grid,
)
from pyjuice_bridge.teachers.checkpoint import (
    images_hash,
    load_checkpoint,
    save_checkpoint,
    train_epoch,
)
from pyjuice_bridge.teachers.mae_model import MAE
from pyjuice_bridge.teachers.public import weights_hash

_EMBED_PATCHES = 4096
"""Patches that go through the encoder together, each with its neighbours."""


@dataclass(frozen=True)
class MAESettings:
    """Size and training of a masked autoencoder; the defaults take minutes on a CPU.

    Attributes:
        patch: side of a patch in pixels; divides the image.
        hidden: width of tokens and of the features.
        mlp: width inside a block.
        heads: attention heads; divides ``hidden``.
        layers: blocks of the encoder and of the decoder.
        epochs: passes over the images.
        batch: images per step.
        step_size: of AdamW, after a warm-up over the first twentieth and on a cosine to zero.
        weight_decay: of AdamW.
        mask_ratio: the share of masked patches is uniform between these, drawn per step.
        seed: of weights, order and masks.
    """

    patch: int = 4
    hidden: int = 128
    mlp: int = 256
    heads: int = 4
    layers: tuple[int, int] = (3, 1)
    epochs: int = 20
    batch: int = 128
    step_size: float = 1e-3
    weight_decay: float = 0.05
    mask_ratio: tuple[float, float] = (0.1, 0.9)
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "mask_ratio", tuple(self.mask_ratio))
        object.__setattr__(self, "seed", whole("MAE: seed", self.seed, SEEDS))
        if self.hidden % self.heads:
            raise UserError(
                f"MAE: hidden ({self.hidden}) must be a multiple of heads ({self.heads})"
            )
        if min(self.layers) < 1 or len(self.layers) != 2:
            raise UserError("MAE: layers are two numbers of at least 1, encoder and decoder")
        low, high = self.mask_ratio
        if not 0 < low <= high < 1:
            raise UserError(f"MAE: mask_ratio must be two numbers within 0..1, found {low}, {high}")
        if self.epochs < 0 or self.batch < 1 or self.step_size <= 0:
            raise UserError("MAE: epochs, batch and step_size must be positive")


class MAETeacher:
    """Features of a trained masked autoencoder, one vector of ``hidden`` numbers per patch."""

    def __init__(self, model: MAE, settings: MAESettings, device: str = "cpu") -> None:
        self.model, self.settings, self.device = model.to(device).eval(), settings, device

    def embed(self, images: Images) -> FloatArray:
        rows, columns = patch_grid(images, self.settings.patch)
        if (rows, columns) != self.model.grid:
            raise UserError(
                f"the MAE was trained on {self.model.grid[0]}x{self.model.grid[1]} patches, "
                f"these images have {rows}x{columns}"
            )
        step = max(1, _EMBED_PATCHES // (rows * columns))
        out = np.empty((len(images), rows * columns, self.settings.hidden), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), step):
                patches = to_patches(images[start : start + step], self.settings.patch)
                part = self.model.features(torch.as_tensor(patches, device=self.device))
                out[start : start + step] = part.cpu().numpy()
        return out

    def describe(self) -> dict[str, Any]:
        """Return the settings and a hash of the weights."""
        return {"kind": "mae", **_plain(self.settings), "weights": weights_hash(self.model)}


def to_patches(images: Images, patch: int) -> FloatArray:
    """Cut non-overlapping patches, float32 [N, P, patch * patch * C] in [0, 1]."""
    rows, columns = patch_grid(images, patch)
    n, _, _, channels = images.shape
    split = images.reshape(n, rows, patch, columns, patch, channels).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(n, rows * columns, -1).astype(np.float32) / np.float32(255)


def train_mae(
    images: Images,
    settings: MAESettings,
    *,
    checkpoint: Path | str | None = None,
    device: str = "cpu",
    on_epoch: EpochReport | None = None,
) -> MAETeacher:
    """Train on ``images`` uint8 [N, H, W, C], or continue where ``checkpoint`` stopped.

    The checkpoint is written after every epoch.  An interrupted run that resumes ends with the
    same weights, to the bit, as an uninterrupted one on the same machine and threads.

    Raises:
        UserError: no images, a patch that does not tile them, or a checkpoint that is damaged
            or of other settings or images.
    """
    grid = patch_grid(images, settings.patch)
    if not len(images):
        raise UserError("MAE: there are no images to train on")
    generator = torch.Generator().manual_seed(settings.seed)
    model = build(grid, images.shape[3], settings)
    model.initialise(generator)
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.step_size, weight_decay=settings.weight_decay
    )
    path = None if checkpoint is None else Path(checkpoint)
    key = key_hash({**_plain(settings), "images": images_hash(images)})

    def restore(state: dict[str, Any]) -> int:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["epochs"])

    first = load_checkpoint(path, key, "an MAE", restore) if path else 0
    for epoch in range(first, settings.epochs):
        loss = _epoch(model, optimizer, images, settings, epoch, device)
        if path:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(path, key, {"epochs": epoch + 1, **state})
        if on_epoch:
            on_epoch(epoch + 1, settings.epochs, loss)
    return MAETeacher(model, settings, device)


def build(grid: tuple[int, int], channels: int, settings: MAESettings) -> MAE:
    """Return an untrained network of the given settings."""
    return MAE(
        grid,
        settings.patch**2 * channels,
        hidden=settings.hidden,
        mlp=settings.mlp,
        heads=settings.heads,
        layers=settings.layers,
    )


def _epoch(
    model: MAE,
    optimizer: torch.optim.Optimizer,
    images: Images,
    settings: MAESettings,
    epoch: int,
    device: str,
) -> float:
    """Train for one epoch; return the mean loss."""
    count = model.grid[0] * model.grid[1]
    low, high = settings.mask_ratio

    def losses(chosen: Images, _: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        patches = torch.as_tensor(to_patches(chosen, settings.patch), device=device)
        ratio = low + (high - low) * float(torch.rand((), generator=generator))
        visible = min(max(1, round((1 - ratio) * count)), count - 1)
        order = torch.rand(len(chosen), count, generator=generator).argsort(1).to(device)
        loss = model.loss(patches, order, visible)
        return loss, loss

    return train_epoch(optimizer, images, settings, epoch, device, losses)


def _plain(settings: MAESettings) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}
