"""What the public networks share: resized images, loading, hashes, and models on loan."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyjuice_bridge.data.text_tokenizers import offline
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import Images, patch_grid

CELL = 16
"""Pixels per patch that ViT and stride-16 maps work with."""


def enlarge(images: Images, patch: int, device: str, *, white: int = 255) -> Tensor:
    """Resize images so that one patch is 16 pixels, bilinearly; repeat grey.

    Args:
        images: uint8 [N, H, W, C].
        patch: side of a patch in pixels.
        device: of the result.
        white: the pixel value that becomes 1.

    Returns:
        float32 [N, 3, 16 * rows, 16 * columns] in [0, 1].
    """
    rows, columns = patch_grid(images, patch)
    x = torch.as_tensor(np.ascontiguousarray(images), device=device).permute(0, 3, 1, 2).float()
    x = x.div(white).expand(-1, 3, -1, -1)
    size = (rows * CELL, columns * CELL)
    return nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)


def facts(kind: str, patch: int, white: int, model: nn.Module) -> dict[str, Any]:
    """Describe a teacher by settings and weights; ``white`` only if it is not the usual 255."""
    scale = {} if white == 255 else {"white": white}
    return {"kind": kind, "patch": patch, "weights": weights_hash(model), **scale}


def weights_hash(model: nn.Module) -> str:
    """Return the SHA-256 over names and values of all weights, in the order of their names."""
    digest = hashlib.sha256(sys.byteorder.encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        plain = value.cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(plain.numpy().data)
    return digest.hexdigest()


def freeze(model: Any, device: str) -> Any:
    """Move a model to ``device``, for evaluation, without gradients."""
    return model.to(device).eval().requires_grad_(False)


@contextmanager
def borrowed(model: nn.Module, device: str) -> Iterator[None]:
    """Move a model to ``device`` in evaluation mode inside the block, and restore it afterwards.

    Also after an error.  Parameters keep their ``requires_grad``.
    """
    modules = [(module, module.training) for module in model.modules()]
    leaves = [
        (module, name, leaf, leaf.data, leaf.grad, None if leaf.grad is None else leaf.grad.data)
        for module, _ in modules
        for name, leaf in module.named_parameters(recurse=False)
    ]
    buffers = [
        (module, name, buffer)
        for module, _ in modules
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        model.to(device).eval()
        yield
    finally:
        for module, name, leaf, data, grad, slope in leaves:
            setattr(module, name, leaf)
            leaf.data, leaf.grad = data, grad
            if grad is not None and slope is not None:
                grad.data = slope
        for module, name, buffer in buffers:
            setattr(module, name, buffer)
        for module, training in modules:
            module.training = training


def from_pretrained(kind: Any, source: str, holds: str, **options: Any) -> Any:
    """Load a model or tokenizer of transformers.

    Args:
        kind: the class to load with.
        source: a local folder, or a name on the hub.
        holds: what should be there, for the message: "a language model".
        options: passed on; ``revision`` is for names on the hub only.

    Raises:
        UserError: there is no such thing, or it is damaged.
    """
    local = Path(source).is_dir()
    if local:
        options.pop("revision", None)
    try:
        return kind.from_pretrained(source, local_files_only=local or offline(), **options)
    except Exception as error:  # damaged files raise anything
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = "folder" if local else "local folder or reachable model of the hub"
        raise UserError(f"{source}: is no {where} with {holds} ({first})") from None
