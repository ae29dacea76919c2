"""What the public networks share: images resized so that one patch is 16 pixels, and hashes."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyjuice_bridge.teachers.base import Images, patch_grid

CELL = 16
"""Pixels per patch that ViT and stride-16 maps work with."""


def enlarge(images: Images, patch: int, device: str, *, white: int = 255) -> Tensor:
    """Float32 [N, 3, 16 * rows, 16 * columns] in [0, 1]: grey repeated, bilinearly resized.

    ``white`` is the pixel value that becomes 1.
    """
    rows, columns = patch_grid(images, patch)
    x = torch.as_tensor(np.ascontiguousarray(images), device=device).permute(0, 3, 1, 2).float()
    x = x.div(white).expand(-1, 3, -1, -1)
    size = (rows * CELL, columns * CELL)
    return nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)


def facts(kind: str, patch: int, white: int, model: nn.Module) -> dict[str, Any]:
    """The settings and a hash of the weights; ``white`` only where it is not the usual 255."""
    scale = {} if white == 255 else {"white": white}
    return {"kind": kind, "patch": patch, "weights": weights_hash(model), **scale}


def weights_hash(model: nn.Module) -> str:
    """sha256 over names and values of all weights, in the order of their names."""
    digest = hashlib.sha256(sys.byteorder.encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        plain = value.cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(plain.numpy().data)
    return digest.hexdigest()


def freeze(model: Any, device: str) -> Any:
    """The model on ``device``, in evaluation mode, without gradients."""
    return model.to(device).eval().requires_grad_(False)
