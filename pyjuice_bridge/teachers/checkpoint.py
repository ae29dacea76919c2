"""What teachers share that are trained by the run: checkpoints and epochs."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import atomic_file
from pyjuice_bridge.teachers.base import Images


def save_checkpoint(path: Path, key: str, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values; ``key`` names what they depend on.

    Raises:
        UserError: the file cannot be written.
    """
    # Straight into a file that cannot grow, torch.save fails without naming the cause.
    buffer = io.BytesIO()
    torch.save({"key": key, **state}, buffer)
    try:
        with atomic_file(path) as file:
            file.write(buffer.getbuffer())
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def load_checkpoint(
    path: Path, key: str, name: str, restore: Callable[[dict[str, Any]], int]
) -> int:
    """Restore a checkpoint; return the epochs behind it, 0 if there is none.

    Args:
        path: the file.
        key: what it must depend on.
        name: of the network, for messages.
        restore: takes what was saved, returns the epochs.

    Raises:
        UserError: the file is damaged, or of another key.
    """
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["key"] != key:
            raise UserError(
                f"{path}: is the checkpoint of {name} with other settings or images; "
                f"remove it or choose another path"
            )
        return restore(state)
    except UserError:
        raise
    except Exception as error:  # damaged files raise anything
        raise UserError(
            f"{path}: is not a readable checkpoint of {name} ({type(error).__name__}); remove it"
        ) from None


def _set_step_size(optimizer: torch.optim.Optimizer, size: float, step: int, steps: int) -> None:
    """Warm up over the first twentieth of the steps, then follow a cosine to zero."""
    warm = max(1, steps // 20)
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = size * min((step + 1) / warm, 1.0) * cosine


class EpochSettings(Protocol):
    """What an epoch depends on besides the network."""

    @property
    def seed(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def step_size(self) -> float: ...


def train_epoch(
    optimizer: torch.optim.Optimizer,
    images: Images,
    settings: EpochSettings,
    epoch: int,
    device: str,
    losses: Callable[[Images, int, torch.Generator], tuple[Tensor, Tensor]],
) -> float:
    """Take the steps of one epoch; all randomness comes from the seed and the epoch's number.

    Args:
        optimizer: of the network.
        images: uint8 [N, H, W, C].
        settings: seed, number of epochs, images per step and step size of the training.
        epoch: counts from 0.
        device: of the network.
        losses: of a step's images, its number and a generator to draw with: what to lower, and what
            to report.

    Returns:
        The mean over the images of what is to be reported.
    """
    generator = torch.Generator().manual_seed((settings.seed + 1) * 1_000_003 + epoch)
    rows = torch.randperm(len(images), generator=generator).numpy()
    steps = -(-len(rows) // settings.batch)
    total = torch.zeros((), device=device)
    for step in range(steps):
        chosen = rows[step * settings.batch : (step + 1) * settings.batch]
        loss, told = losses(images[chosen], step, generator)
        _set_step_size(optimizer, settings.step_size, epoch * steps + step, settings.epochs * steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += told.detach() * len(chosen)
    return float(total) / len(rows)


def images_hash(images: Images) -> str:
    """Return the SHA-256 of images and their shape."""
    digest = hashlib.sha256(str(images.shape).encode())
    for start in range(0, len(images), 4096):
        digest.update(images[start : start + 4096].tobytes())
    return digest.hexdigest()
