"""What lossless codecs need for the same images: the bar that a density model should clear."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, features

from pyjuice_bridge.data.dataset import Images
from pyjuice_bridge.errors import UserError

_WEBP_SIDE = 16383


def mosaic(images: Images) -> Images:
    """Lay all images in one nearly square picture, uint8 [rows·H, columns·W, C], padded with 0."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count * height / width))
    rows = math.ceil(count / columns)
    tiles = np.zeros((rows * columns, height, width, channels), np.uint8)
    tiles[:count] = images
    grid = tiles.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return grid.reshape(rows * height, columns * width, channels)


def codec_bits(images: Images) -> dict[str, float]:
    """Measure the bits per dimension of PNG and lossless WebP on one mosaic of all ``images``.

    One file for all, because the headers of small files alone cost about 0.1 bits per
    dimension. WebP is left out where Pillow lacks it; a set too large for one WebP picture
    (16,383 pixels a side) is coded in as few pictures as it takes.

    Args:
        images: uint8 [N, H, W, C], C = 1 or 3.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
        raise UserError(
            f"Codecs need uint8 images [N, H, W, C], not {images.dtype} {list(images.shape)}."
        )
    codecs: dict[str, dict[str, int]] = {"png": {"optimize": True}}
    if features.check("webp"):
        codecs["webp"] = {"lossless": True, "quality": 100, "method": 5}
    most = (_WEBP_SIDE // max(images.shape[1:3]) - 1) ** 2
    parts = np.array_split(np.arange(len(images)), math.ceil(len(images) / max(1, most)))
    bits = dict.fromkeys(codecs, 0)
    for part in parts:
        picture = mosaic(images[part[0] : part[-1] + 1])
        pillow = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        for name, options in codecs.items():
            buffer = io.BytesIO()
            pillow.save(buffer, name, **options)
            bits[name] += 8 * buffer.tell()
    return {name: total / images.size for name, total in bits.items()}
