"""Image grids as PNG bytes, with Pillow alone."""

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pyjuice_bridge.errors import UserError

Bytes = npt.NDArray[np.uint8]

HIDDEN_COLOUR = (154, 143, 181)
"""Red, green and blue of a pixel hidden from the model."""
MARK_COLOUR = (213, 94, 0)
"""Of a pixel that is pointed at, unlike any grey."""


def grid_png(
    images: npt.NDArray[Any], columns: int, scale: int = 1, *, gap: int = 1, white: int = 255
) -> bytes:
    """Lay images out row by row on a transparent sheet and return it as PNG bytes.

    Args:
        images: uint8 [n, H, W, C] with C = 1 (grey) or 3 (red, green, blue), n >= 1.
        columns: images per row; the last row may be shorter.
        scale: every pixel becomes a square of scale x scale pixels (no smoothing).
        gap: transparent pixels between neighbours, before scaling.
        white: the pixel value shown as full brightness (16 for the 8x8 digits of scikit-learn).

    Raises:
        UserError: the array is not of that shape or type, or a number is below its minimum.
    """
    _check(images, columns, scale, gap, white)
    n, height, width, channels = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    tiles = np.zeros((rows * columns, height + gap, width + gap, 4), np.uint8)
    tiles[:n, :height, :width, :3] = np.broadcast_to(
        brighten(images, white), (n, height, width, 3) if channels == 1 else images.shape
    )
    tiles[:n, :height, :width, 3] = 255
    sheet = tiles.reshape(rows, columns, height + gap, width + gap, 4).swapaxes(1, 2)
    sheet = sheet.reshape(rows * (height + gap), columns * (width + gap), 4)
    sheet = sheet[: sheet.shape[0] - gap, : sheet.shape[1] - gap]
    sheet = sheet.repeat(scale, axis=0).repeat(scale, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(sheet)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def brighten(images: npt.NDArray[Any], white: int) -> Bytes:
    """Stretch uint8 values so that `white` becomes 255; larger values are cut to 255."""
    if white == 255:
        return images.astype(np.uint8, copy=False)
    return np.minimum(images.astype(np.int32) * 255 // white, 255).astype(np.uint8)


def paint(
    images: Bytes,
    pixels: npt.NDArray[np.bool_],
    colour: tuple[int, int, int] = HIDDEN_COLOUR,
    *,
    white: int = 255,
) -> Bytes:
    """Return the images in colour with some pixels painted over.

    Args:
        images: uint8 [n, H, W, C], C = 1 or 3.
        pixels: bool [H, W] or [n, H, W], True where a pixel is painted.
        colour: of these pixels.
        white: the pixel value shown as full brightness; the result always uses 255.
    """
    coloured = np.broadcast_to(brighten(images, white), (*images.shape[:3], 3)).copy()
    coloured[np.broadcast_to(pixels, images.shape[:3])] = colour
    return coloured


def data_uri(png: bytes) -> str:
    """Return the `data:` address of PNG bytes, to embed them in a page."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _check(images: npt.NDArray[Any], columns: int, scale: int, gap: int, white: int) -> None:
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] not in (1, 3)
        or 0 in images.shape
    ):
        raise UserError(
            f"images: expected uint8 [n, height, width, 1 or 3] with nothing empty, "
            f"found {images.dtype} {list(images.shape)}; convert the array first."
        )
    for name, value, least in (
        ("columns", columns, 1),
        ("scale", scale, 1),
        ("gap", gap, 0),
        ("white", white, 1),
    ):
        if value < least:
            raise UserError(f"{name}: must be at least {least}, found {value}.")
