"""Colour codings of 8-bit RGB images, and what each does to a likelihood.

A model of codes f(x) gives p(x) = p'(f(x)) / |f⁻¹(f(x))| for the image x.  For a reversible f the
divisor is 1; a lossy f keeps only some of the 2²⁴ colours, and leaving out its divisor makes a
model look better than it is (by about 0.68 bits per dimension for 8-bit YCbCr).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.dataset import Images
from pyjuice_bridge.errors import UserError

Codes = NDArray[np.int16] | NDArray[np.uint8]

_LEVELS = 256
_CHUNK = 1 << 18


class Colour(Protocol):
    """A coding of RGB pixels.

    Attributes:
        name: as in a config.
        categories: number of codes of each channel.
        lossless: whether ``decode`` undoes ``encode`` exactly.
        label: how a table must call figures made with it.
    """

    @property
    def name(self) -> str: ...
    @property
    def categories(self) -> tuple[int, int, int]: ...
    @property
    def lossless(self) -> bool: ...
    @property
    def label(self) -> str: ...

    def encode(self, images: Images) -> Codes:
        """Encode uint8 [N, H, W, 3] as codes [N, H, W, 3], each channel's from 0."""

    def decode(self, codes: NDArray[Any]) -> Images:
        """Decode codes [N, H, W, 3] to uint8 [N, H, W, 3]; codes of no colour give a near one."""

    def inside(self, codes: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark the pixels whose codes are those of some 8-bit colour, bool [N, H, W]."""

    def log_preimage(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """Return ln |f⁻¹| of each image, float64 [N], in nats: subtract it from its log-likelihood.

        Raises:
            UserError: a code that no 8-bit colour has.
        """


class _Rgb:
    """The pixels themselves."""

    name = "rgb"
    categories = (_LEVELS, _LEVELS, _LEVELS)
    lossless = True
    label = "RGB"

    def encode(self, images: Images) -> Codes:
        return _colour_images(images)

    def decode(self, codes: NDArray[Any]) -> Images:
        return codes.astype(np.uint8)

    def inside(self, codes: NDArray[Any]) -> NDArray[np.bool_]:
        return np.ones(codes.shape[:-1], np.bool_)

    def log_preimage(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        return np.zeros(len(codes))


class _YCoCgR:
    """Reversible YCoCg by lifting (Malvar & Sullivan 2003), Co and Cg shifted by 255.

    Its 256·511·511 codes are more than the 2²⁴ colours: a model may put mass on codes that no
    image has, so its figures are upper bounds of the bits needed.
    """

    name = "ycocg_r"
    categories = (_LEVELS, 2 * _LEVELS - 1, 2 * _LEVELS - 1)
    lossless = True
    label = "RGB-exact (YCoCg-R)"

    def encode(self, images: Images) -> Codes:
        red, green, blue = _channels(_colour_images(images))
        orange = red - blue
        mean = blue + (orange >> 1)
        teal = green - mean
        return np.stack([mean + (teal >> 1), orange + 255, teal + 255], axis=-1)

    def decode(self, codes: NDArray[Any]) -> Images:
        return np.clip(self._colours(codes), 0, 255).astype(np.uint8)

    def inside(self, codes: NDArray[Any]) -> NDArray[np.bool_]:
        colours = self._colours(codes)
        return np.asarray(((colours >= 0) & (colours <= 255)).all(axis=-1))

    def log_preimage(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        _check_inside(self, codes)
        return np.zeros(len(codes))

    @staticmethod
    def _colours(codes: NDArray[Any]) -> NDArray[np.int16]:
        luma, orange, teal = _channels(codes)
        orange, teal = orange - 255, teal - 255
        mean = luma - (teal >> 1)
        blue = mean - (orange >> 1)
        return np.stack([blue + orange, teal + mean, blue], axis=-1)


class _Lossy:
    """A map of the 2²⁴ colours onto fewer 8-bit codes, with its exact divisor."""

    categories = (_LEVELS, _LEVELS, _LEVELS)
    lossless = False

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self.label = label

    def _forward(self, images: Images) -> Images:
        raise NotImplementedError

    def decode(self, codes: NDArray[Any]) -> Images:
        raise NotImplementedError

    def encode(self, images: Images) -> Codes:
        return self._forward(_colour_images(images))

    @cached_property
    def preimages(self) -> NDArray[np.uint8]:
        """Uint8 [2²⁴]: the number of colours behind the code ``c0·2¹⁶ + c1·2⁸ + c2``."""
        counts = np.zeros(_LEVELS**3, np.uint8)
        for start in range(0, _LEVELS**3, _CHUNK):
            colours = np.arange(start, start + _CHUNK)
            pixels = np.stack([colours >> 16, colours >> 8, colours], axis=-1).astype(np.uint8)
            keys, found = np.unique(_packed(self._forward(pixels)), return_counts=True)
            counts[keys] += found.astype(np.uint8)
        return counts

    def inside(self, codes: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray(self.preimages[_packed(codes)] > 0)

    def log_preimage(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        _check_inside(self, codes)
        logs = np.log(np.maximum(np.arange(_LEVELS), 1))
        total = np.empty(len(codes))
        for row, image in enumerate(codes):
            total[row] = logs[self.preimages[_packed(image)]].sum()
        return total


class _YCbCrLossy(_Lossy):
    """8-bit YCbCr, full range, with the BT.709 weights at four digits that [B]'s code uses.

    About 4.15 M of the 16.8 M colours survive; the BT.601 weights of JPEG files would keep 4.01 M.
    """

    def _forward(self, images: Images) -> Images:
        red, green, blue = (images[..., i].astype(np.int32) for i in range(3))
        luma = 2126 * red + 7152 * green + 722 * blue
        cb = -1146 * red - 3854 * green + 5000 * blue + 1_280_000
        cr = 5000 * red - 4542 * green - 458 * blue + 1_280_000
        codes = (np.stack([luma, cb, cr], axis=-1) + 5000) // 10000
        clipped: Images = np.minimum(codes, 255).astype(np.uint8)
        return clipped

    def decode(self, codes: NDArray[Any]) -> Images:
        luma, cb, cr = (codes[..., i].astype(np.float64) for i in range(3))
        cb, cr = cb - 128, cr - 128
        return _rounded(luma + 1.5748 * cr, luma - 0.1873 * cb - 0.4681 * cr, luma + 1.8556 * cb)


class _YCoCgLossy(_Lossy):
    """YCoCg with every channel rounded down to 8 bits."""

    def _forward(self, images: Images) -> Images:
        red, green, blue = _channels(images)
        luma = (red + 2 * green + blue) >> 2
        orange = ((red - blue) >> 1) + 128
        teal = ((2 * green - red - blue) >> 2) + 128
        return np.stack([luma, orange, teal], axis=-1).astype(np.uint8)

    def decode(self, codes: NDArray[Any]) -> Images:
        luma, orange, teal = (codes[..., i].astype(np.float64) for i in range(3))
        luma, orange, teal = luma + 0.375, orange - 127.75, teal - 127.625
        return _rounded(luma + orange - teal, luma + teal, luma - orange - teal)


COLOURS: dict[str, Colour] = {
    "rgb": _Rgb(),
    "ycocg_r": _YCoCgR(),
    "ycbcr_lossy": _YCbCrLossy("ycbcr_lossy", "paper protocol (lossy 8-bit YCbCr)"),
    "ycocg_lossy": _YCoCgLossy("ycocg_lossy", "paper protocol (lossy 8-bit YCoCg)"),
}


def get_colour(name: str) -> Colour:
    """Return the coding called ``name``.

    Raises:
        UserError: there is none.
    """
    try:
        return COLOURS[name]
    except KeyError:
        raise UserError(f"There is no colour {name}: choose one of {', '.join(COLOURS)}.") from None


def _colour_images(images: Images) -> Images:
    if images.dtype != np.uint8 or images.shape[-1:] != (3,):
        raise UserError(
            f"Colour coding needs uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}:"
            " use rgb for grey images."
        )
    return images


def _channels(
    pixels: NDArray[Any],
) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]:
    first, second, third = (pixels[..., i].astype(np.int16) for i in range(3))
    return first, second, third


def _packed(codes: NDArray[Any]) -> NDArray[np.int32]:
    first, second, third = (codes[..., i].astype(np.int32) for i in range(3))
    return (first << 16) | (second << 8) | third


def _rounded(
    red: NDArray[np.float64], green: NDArray[np.float64], blue: NDArray[np.float64]
) -> Images:
    return np.clip(np.rint(np.stack([red, green, blue], axis=-1)), 0, 255).astype(np.uint8)


def _check_inside(colour: Colour, codes: NDArray[Any]) -> None:
    outside = int(codes.shape[0] and (~colour.inside(codes)).sum())
    if outside:
        raise UserError(
            f"{outside} pixels have {colour.name} codes that no 8-bit colour has:"
            " encode the images with this colour coding first."
        )
