"""Training of a VQ-VAE-2, its features per patch, and what it makes of images by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.numbers import SEEDS, whole
from pyjuice_bridge.teachers.base import EpochReport, FloatArray, Images, key_hash, patch_grid
from pyjuice_bridge.teachers.checkpoint import (
    images_hash,
    load_checkpoint,
    save_checkpoint,
    train_epoch,
)
from pyjuice_bridge.teachers.public import weights_hash
from pyjuice_bridge.teachers.vqvae_model import VQVAE, Decoder

_LIKELIHOOD = 1e-6 * 3072
"""Weight of nats per dimension beside the books' loss: 10⁻⁶ of nats per image of 32×32 RGB."""
_PIXELS = 1 << 18
"""Pixels that go through the network together when it is used."""
_PRIOR_COUNT = 0.5
"""Added to how often a code is used, so that the prior excludes none."""


@dataclass(frozen=True)
class VqVaeSettings:
    """Size and training of a VQ-VAE-2; see `vqvae.VqVaeSection`.

    Attributes:
        patch: side of a patch in pixels; divides the image.
        white: the pixel value of white.
        decoder: "independent" or "convolutional".
        width: channels of the networks.
        residual: channels inside a residual block.
        blocks: residual blocks of each network.
        dim: numbers of a code.
        codes: of each book.
        epochs: passes over the images.
        batch: images per step.
        step_size: of Adam, after a warm-up over the first twentieth and on a cosine to zero.
        seed: of weights and order.
    """

    patch: int = 4
    white: int = 255
    decoder: Decoder = "independent"
    width: int = 64
    residual: int = 16
    blocks: int = 1
    dim: int = 16
    codes: int = 128
    epochs: int = 10
    batch: int = 64
    step_size: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", whole("VQ-VAE-2: seed", self.seed, SEEDS))


@dataclass(frozen=True)
class OwnFigures:
    """What a VQ-VAE-2 makes of images by itself.

    Attributes:
        pixels: bits per dimension of the pixels, given the codes.
        codes: bits per dimension of the codes, each drawn as often as it is used on the training
            images, independently of its position and of others.
        used: of each book, top then bottom, how many codes the images use.
        perplexity: of each book, the perplexity of its use.
    """

    pixels: float
    codes: float
    used: tuple[int, int]
    perplexity: tuple[float, float]

    @property
    def bits(self) -> float:
        """A bound on the bits per dimension of the images, RGB-exact."""
        return self.pixels + self.codes

    def values(self) -> dict[str, Any]:
        """Return the figures as plain values."""
        return {"bits": self.bits, **asdict(self)}

    def __str__(self) -> str:
        top, bottom = self.used
        return (
            f"at most {self.bits:.4f} bits/dim ({self.pixels:.4f} of pixels given their codes, "
            f"{self.codes:.4f} of codes; {top} and {bottom} codes of the two books used)"
        )


class VqVaeTeacher:
    """The codes of a trained VQ-VAE-2: per patch its own and that of its neighbourhood.

    Args:
        model: the network.
        settings: of its training.
        counts: per book float64 [codes], how often a code is used on the training images.
        device: "cpu" or "cuda".
    """

    def __init__(
        self,
        model: VQVAE,
        settings: VqVaeSettings,
        counts: Sequence[NDArray[np.float64]],
        device: str = "cpu",
    ) -> None:
        self.model, self.settings, self.device = model.to(device).eval(), settings, device
        self.counts = counts

    def embed(self, images: Images, /) -> FloatArray:
        """Return both codes of every patch, float32 [N, positions, 2 dim]."""
        rows, columns = self._grid(images)
        out = np.empty((len(images), rows * columns, 2 * self.settings.dim), np.float32)
        step = max(1, _PIXELS // (images.shape[1] * images.shape[2]))
        with torch.inference_mode():
            for start in range(0, len(images), step):
                part = slice(start, start + step)
                pixels = to_pixels(images[part], self.settings.white, self.device)
                codes = self.model.encode(pixels)[0]
                out[part] = codes.flatten(2).transpose(1, 2).cpu().numpy()
        return out

    def describe(self) -> dict[str, Any]:
        """Return the settings and a hash of the weights."""
        return {"kind": "vqvae2", **asdict(self.settings), "weights": weights_hash(self.model)}

    def figures(self, images: Images) -> OwnFigures:
        """Measure the teacher alone on ``images``."""
        self._grid(images)
        nats, counts = _used(self.model, images, self.settings, self.device)
        cost = 0.0
        for count, trained in zip(counts, self.counts, strict=True):
            prior = (trained + _PRIOR_COUNT) / (trained + _PRIOR_COUNT).sum()
            cost -= float(count @ np.log2(prior))
        top, bottom = map(_use, counts)
        return OwnFigures(
            nats / math.log(2), cost / images.size, (top[0], bottom[0]), (top[1], bottom[1])
        )

    def reconstruct(self, images: Images) -> Images:
        """Encode and decode images uint8 [N, H, W, C]: the likeliest component's means."""
        self._grid(images)
        with torch.inference_mode():
            codes = self.model.encode(to_pixels(images, self.settings.white, self.device))[0]
            pixels = self.model.mode(codes).permute(0, 2, 3, 1) * self.settings.white
        found: Images = pixels.round().byte().cpu().numpy()
        return found

    def _grid(self, images: Images) -> tuple[int, int]:
        grid = patch_grid(images, self.settings.patch)
        if grid != self.model.grid or images.shape[3] != self.model.channels:
            height, width = (n * self.settings.patch for n in self.model.grid)
            raise UserError(
                f"the VQ-VAE-2 was trained on images [{height}, {width}, {self.model.channels}], "
                f"these are {list(images.shape[1:])}"
            )
        return grid


def to_pixels(images: Images, white: int, device: str) -> Tensor:
    """Return images uint8 [N, H, W, C] as float32 [N, C, H, W] in [0, 1]."""
    x = torch.as_tensor(np.ascontiguousarray(images), device=device)
    return x.permute(0, 3, 1, 2).float().div_(white)


def train_vqvae(
    images: Images,
    settings: VqVaeSettings,
    *,
    valid: Images | None = None,
    checkpoint: Path | str | None = None,
    device: str = "cpu",
    on_epoch: EpochReport | None = None,
) -> VqVaeTeacher:
    """Train on ``images`` uint8 [N, H, W, C], or continue where ``checkpoint`` stopped.

    Args:
        images: the training split.
        settings: sizes and training.
        valid: images that the best epoch is chosen on, by the bits of their pixels given codes;
            without them it is the last.
        checkpoint: written after every epoch; of a finished training, it is loaded only.
        device: "cpu" or "cuda".
        on_epoch: called after every epoch, with the mean nats per dimension of the pixels given
            their codes.

    Raises:
        UserError: no images, images that patches do not tile, or a checkpoint that is damaged or of
            other settings or images.
    """
    grid = patch_grid(images, settings.patch)
    if not len(images):
        raise UserError("VQ-VAE-2: there are no images to train on")
    model = build(grid, images.shape[3], settings)
    model.initialise(torch.Generator().manual_seed(settings.seed))
    model.to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.step_size)
    path = None if checkpoint is None else Path(checkpoint)
    chosen_on = images[:0] if valid is None else valid
    hashes = {"images": images_hash(images), "valid": images_hash(chosen_on)}
    key = key_hash({**asdict(settings), **hashes})
    best: dict[str, Any] = {"nats": math.inf, "model": model.state_dict(), "counts": None}

    def restore(state: dict[str, Any]) -> int:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        best.update(state["best"])
        return int(state["epochs"])

    def save(epochs: int) -> None:
        if path:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(path, key, {"epochs": epochs, "best": best, **state})

    first = load_checkpoint(path, key, "a VQ-VAE-2", restore) if path else 0
    for epoch in range(first, settings.epochs):
        loss = _epoch(model, optimizer, images, settings, epoch, device)
        nats = _used(model, chosen_on, settings, device)[0] if len(chosen_on) else -float(epoch)
        if nats < best["nats"]:
            kept = {name: each.cpu().clone() for name, each in model.state_dict().items()}
            best.update(nats=nats, model=kept)
        save(epoch + 1)
        if on_epoch:
            on_epoch(epoch + 1, settings.epochs, loss)
    if best["counts"] is None:
        last = model.state_dict()
        last = {name: each.clone() for name, each in last.items()}
        model.load_state_dict(best["model"])
        counts = _used(model, images, settings, device)[1]
        best["counts"] = [torch.from_numpy(each) for each in counts]
        model.load_state_dict(last)
        save(settings.epochs)
    model.load_state_dict(best["model"])
    return VqVaeTeacher(model, settings, [each.numpy() for each in best["counts"]], device)


def build(grid: tuple[int, int], channels: int, settings: VqVaeSettings) -> VQVAE:
    """Return an untrained network of the given settings."""
    return VQVAE(
        grid,
        settings.patch,
        channels,
        white=settings.white,
        width=settings.width,
        residual=settings.residual,
        blocks=settings.blocks,
        dim=settings.dim,
        codes=settings.codes,
        decoder=settings.decoder,
    )


def _epoch(
    model: VQVAE,
    optimizer: torch.optim.Optimizer,
    images: Images,
    settings: VqVaeSettings,
    epoch: int,
    device: str,
) -> float:
    """Train for one epoch; return the mean nats per dimension given codes.

    Codes that are not used restart at its beginning, in the first half of the epochs.
    """
    model.train()

    def losses(chosen: Images, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pixels = to_pixels(chosen, settings.white, device)
        restart = generator if step == 0 and 2 * epoch < settings.epochs else None
        codes, _, _, book_loss = model.encode(pixels, restart)
        nats = -model.log_likelihood(codes, pixels).mean() / pixels[0].numel()
        return _LIKELIHOOD * nats + book_loss, nats

    return train_epoch(optimizer, images, settings, epoch, device, losses)


def _used(
    model: VQVAE, images: Images, settings: VqVaeSettings, device: str
) -> tuple[float, list[NDArray[np.float64]]]:
    """Return nats per dimension given codes, and how often each code of either book is used."""
    model.eval()
    step = max(1, _PIXELS // (images.shape[1] * images.shape[2]))
    nats, counts = 0.0, [np.zeros(settings.codes) for _ in range(2)]
    with torch.inference_mode():
        for start in range(0, len(images), step):
            pixels = to_pixels(images[start : start + step], settings.white, device)
            codes, *ids, _ = model.encode(pixels)
            nats -= float(model.log_likelihood(codes, pixels).sum(dtype=torch.float64))
            for count, each in zip(counts, ids, strict=True):
                found = torch.bincount(each.reshape(-1), minlength=settings.codes)
                count += found.double().cpu().numpy()
    return nats / images.size, counts


def _use(counts: NDArray[np.float64]) -> tuple[int, float]:
    """Return how many codes are used, and the perplexity of their use."""
    share = counts[counts > 0] / counts.sum()
    return len(share), float(np.exp(-(share * np.log(share)).sum()))
