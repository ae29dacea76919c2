"""Folders of pictures, read through Pillow."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pyjuice_bridge.data.dataset import Images
from pyjuice_bridge.data.files import reading
from pyjuice_bridge.data.splits import (
    is_hidden,
    one_by_split,
    refuse_others,
    split_called,
    visible_files,
)
from pyjuice_bridge.data.stack import stacked
from pyjuice_bridge.errors import UserError

Mode = Literal["L", "RGB"]

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"})
_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "P", "PA")
_BATCH = 1024


def picture_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split, or ``folder`` itself under ``""`` where there are none.

    Raises:
        UserError: folders that look like splits and are none, splits further down or only in the
            pictures' names, or pictures beside the splits.
    """
    inner = {p.name: p for p in sorted(folder.iterdir()) if p.is_dir() and not is_hidden(p.name)}
    splits = one_by_split(inner, str(folder))
    if not splits:
        paths = [p.relative_to(folder) for p in visible_files(folder, _ENDINGS)]
        deep = {split: p for p in paths for n in _names(p) if (split := split_called(n))}
        if len(deep) > 1:
            places = " and ".join(map(str, deep.values()))
            raise UserError(
                f"{folder} has no folder train, but {places}: name the folder that holds the"
                " splits, or give each split a folder."
            )
        return {"": folder}
    others = inner.keys() - splits.values()
    refuse_others(folder, [n for n in others if visible_files(inner[n], _ENDINGS)])
    loose = [p.name for p in folder.glob("[!.]*") if p.suffix.lower() in _ENDINGS]
    refuse_others(folder, [name for name in loose if name not in inner])
    return {split: inner[name] for split, name in splits.items()}


def read_folder(name: str, folder: Path, *, mode: Mode | None = None) -> Images:
    """Read all pictures below ``folder`` as uint8 [N, H, W, C], in path order, through the cache.

    ``mode`` forces grey or RGB; by default the first picture decides.

    Raises:
        UserError: no pictures, pictures of several sizes, colour among grey ones, or a file
            that :func:`read_picture` refuses.
    """
    files = visible_files(folder, _ENDINGS)
    if not files:
        raise UserError(f"{folder} holds no picture files (png, jpg, webp, ...).")
    if mode is None:
        mode = "L" if read_picture(files[0]).shape[-1] == 1 else "RGB"
    return stacked(f"{name}-{mode}", files, lambda: _batches(files, mode))


def class_folders(folder: Path) -> NDArray[np.str_] | None:
    """Return for every picture below ``folder`` the folder that it lies in; None if one is loose.

    In the order of :func:`read_folder`.
    """
    names = [path.relative_to(folder).parts for path in visible_files(folder, _ENDINGS)]
    return np.array([name[0] for name in names]) if all(len(n) > 1 for n in names) else None


def read_picture(path: Path, mode: Mode | None = None) -> Images:
    """Read a picture as uint8 [H, W, C], upright as its EXIF orientation says.

    Without a ``mode``, grey pictures have C = 1.

    Raises:
        UserError: damaged or too large, more than 8 bits per channel, transparent pixels, several
            frames or pages, another colour space, or colour where grey is wanted.
    """
    with reading(path, "a picture"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as picture:
            kind = picture.mode
            if kind not in _GREY + _COLOUR or _is_deep(picture):
                raise UserError(
                    f"{path} has Pillow mode {kind}, or more than 8 bits per channel:"
                    " convert it to 8-bit grey or RGB first."
                )
            if mode == "L" and kind not in _GREY:
                raise UserError(
                    f"{path} is a colour picture among grey ones: convert the folder to one kind."
                )
            if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
                raise UserError(f"{path} has several frames or pages: save each as a picture.")
            upright = ImageOps.exif_transpose(picture)
            if (kind.endswith("A") or "transparency" in upright.info) and not _is_opaque(upright):
                raise UserError(f"{path} has transparent pixels: flatten it first.")
            pixels = np.asarray(upright.convert(mode or ("L" if kind in _GREY else "RGB")))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _names(path: Path) -> list[str]:
    """List the folders and the first word of a picture's name: a split, if they speak of one."""
    return [*path.parts[:-1], re.split(r"[\W\d_]", path.stem, maxsplit=1)[0]]


def _is_deep(picture: Image.Image) -> bool:
    """Tell whether Pillow would silently cut channels of 16 bits to 8."""
    for tile in getattr(picture, "tile", ()):
        args = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        raw = str(args[0])
        if ";16" in raw and raw != "BGR;16":
            return True
        if tile[0].startswith("ppm") and any(isinstance(arg, int) and arg > 255 for arg in args):
            return True
    return False


def _is_opaque(picture: Image.Image) -> bool:
    return picture.convert("RGBA").getchannel("A").getextrema() == (255, 255)


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
