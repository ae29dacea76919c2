"""Folders of pictures, read through Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from pyjuice_bridge.data.dataset import Images
from pyjuice_bridge.data.stack import stacked
from pyjuice_bridge.errors import UserError

Mode = Literal["L", "RGB"]

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"})
_GREY = frozenset({"1", "L"})
_COLOUR = frozenset({"RGB", "RGBA", "RGBX", "P", "PA", "LA", "CMYK", "YCbCr", "HSV", "LAB"})
_BATCH = 1024


def picture_files(folder: Path) -> list[Path]:
    """Every picture file below ``folder``, at any depth, sorted by path."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _ENDINGS and not path.name.startswith(".") and path.is_file()
    )


def read_folder(
    name: str, folder: Path, *, mode: Mode | None = None, cache: Path | None = None
) -> Images:
    """All pictures below ``folder`` as uint8 [N, H, W, C], in path order, through the cache.

    ``mode`` forces grey or RGB; by default the first picture decides.

    Raises:
        UserError: no pictures, pictures of several sizes, colour among grey ones, or a file
            that is damaged or has more than 8 bits per channel.
    """
    files = picture_files(folder)
    if not files:
        raise UserError(f"{folder} holds no picture files (png, jpg, webp, ...).")
    mode = mode or ("L" if _mode(files[0]) in _GREY else "RGB")
    return stacked(f"{name}-{mode}", files, lambda: _batches(files, mode), cache)


def read_picture(path: Path, mode: Mode) -> Images:
    """One picture as uint8 [H, W, C]; transparency is dropped.

    Raises:
        UserError: damaged, more than 8 bits per channel, or colour where grey is wanted.
    """
    try:
        with Image.open(path) as picture:
            found = picture.mode
            if found not in _GREY | _COLOUR:
                raise UserError(
                    f"{path} has Pillow mode {found}, not 8 bits per channel:"
                    " convert it to 8-bit grey or RGB first."
                )
            if mode == "L" and found not in _GREY:
                raise UserError(
                    f"{path} is a colour picture among grey ones: convert the folder to one kind."
                )
            pixels = np.asarray(picture.convert(mode))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}).") from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _mode(path: Path) -> str:
    try:
        with Image.open(path) as picture:
            return picture.mode
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{path} cannot be read as a picture ({error}).") from error


def _batches(files: Sequence[Path], mode: Mode) -> Iterator[Images]:
    shape: tuple[int, ...] | None = None
    for start in range(0, len(files), _BATCH):
        chosen = files[start : start + _BATCH]
        pictures = [read_picture(path, mode) for path in chosen]
        shape = shape or pictures[0].shape
        for path, picture in zip(chosen, pictures, strict=True):
            if picture.shape != shape:
                raise UserError(
                    f"{path} is {picture.shape[1]}x{picture.shape[0]} pixels but {files[0]} is"
                    f" {shape[1]}x{shape[0]}: bring all pictures to one size first."
                )
        yield np.stack(pictures)
