"""What teachers share that are trained by the run: checkpoints, and how step sizes change."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

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


def set_step_size(optimizer: torch.optim.Optimizer, size: float, step: int, steps: int) -> None:
    """Warm up over the first twentieth of the steps, then follow a cosine to zero."""
    warm = max(1, steps // 20)
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = size * min((step + 1) / warm, 1.0) * cosine


def images_hash(images: Images) -> str:
    """Return the SHA-256 of images and their shape."""
    digest = hashlib.sha256(str(images.shape).encode())
    for start in range(0, len(images), 4096):
        digest.update(images[start : start + 4096].tobytes())
    return digest.hexdigest()
