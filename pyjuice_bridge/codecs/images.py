"""The codec of images: pixels, or the codes of a colour transform."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import MISSING, Circuit, IntArray
from pyjuice_bridge.codecs.arrays import as_array, as_codes
from pyjuice_bridge.data.colour import Colour, get_colour
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import BITS


@dataclass(frozen=True, eq=False)
class ImageCodec:
    """Images [N, H, W, C] with values 0 … 255; grey ones also as [N, H, W].

    Attributes:
        height: in pixels.
        width: in pixels.
        channels: values per pixel.
        colour: the transform whose codes the circuit reads, None for the pixels themselves.
        levels: number of values of a pixel where there is no transform.
    """

    height: int
    width: int
    channels: int
    colour: Colour | None = None
    levels: int = 256

    domain = "images"
    measure = BITS

    @classmethod
    def of(cls, circuit: Circuit) -> ImageCodec:
        """Return the codec that the circuit's meta describes.

        Raises:
            UserError: the shape is damaged or does not fit the circuit.
        """
        meta, found = circuit.meta, []
        for key in ("image_height", "image_width", "image_channels"):
            value = meta.get(key)
            if isinstance(value, bool | str) or value is None or value < 1 or value % 1:
                raise UserError(f"meta: {key} is {value!r}, must be a whole number from 1 up.")
            found.append(int(value))
        height, width, channels = sides = tuple(found)
        if math.prod(sides) != circuit.num_vars:
            raise UserError(
                f"meta: the image shape {sides} does not fit the circuit's "
                f"{circuit.num_vars} variables."
            )
        name = str(meta.get("colour", "rgb"))
        colour = None if channels != 3 or name == "rgb" else get_colour(name)
        return cls(height, width, channels, colour, int(circuit.categories.max(initial=0)))

    @property
    def sides(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        return self.height, self.width, self.channels

    @cached_property
    def categories(self) -> IntArray:
        """int32 [H * W * C]."""
        each = (self.levels,) * self.channels if self.colour is None else self.colour.categories
        return np.tile(np.asarray(each, np.int32), self.height * self.width)

    def meta(self) -> dict[str, str | int | float]:
        """Return the shape and the name of the colour transform."""
        return {
            "domain": self.domain,
            "image_height": self.height,
            "image_width": self.width,
            "image_channels": self.channels,
            "colour": "rgb" if self.colour is None else self.colour.name,
        }

    def facts(self) -> list[tuple[str, str]]:
        """Return the shape."""
        return [("images", "×".join(map(str, self.sides)))]

    def encode(self, data: Any, name: str = "images") -> NDArray[Any]:
        """Return images, or rows of codes, as codes int [N, H * W * C]."""
        images = self._images(as_array(data, name))
        if images is None:
            return as_codes(data, name)
        if images.dtype.kind not in "iub":
            raise UserError(
                f"images: expected integers 0 … 255, or -1 where missing, got {images.dtype}."
            )
        if images.shape[1:] != self.sides:
            sides = ", ".join(map(str, self.sides))
            raise UserError(f"images: expected shape [N, {sides}], got {images.shape}.")
        if images.size and (images.min() < MISSING or images.max() > 255):
            raise UserError("images: values must be 0 … 255, or -1 where missing.")
        if self.colour is None:
            return as_codes(images.reshape(len(images), self._size), name)
        hidden = images == MISSING
        if (hidden.any(-1) != hidden.all(-1)).any():
            raise UserError(
                f"images: with the colour transform {self.colour.name} a pixel must be missing "
                "in all of its channels or in none."
            )
        codes = self.colour.encode(np.where(hidden, 0, images).astype(np.uint8)).astype(np.int16)
        codes[hidden] = MISSING
        return codes.reshape(len(images), self._size)

    def decode(self, rows: NDArray[Any], like: Any = None) -> NDArray[Any]:
        """Return rows as uint8 images; as they are where ``like`` is rows."""
        images = rows.reshape(-1, *self.sides)
        if self.colour is not None:
            images = self.colour.decode(images.astype(np.int16))
        images = images.astype(np.uint8).reshape(*rows.shape[:-1], *self.sides)
        if like is None:
            return images
        like = as_array(like, "images")
        originals = self._images(like)
        if originals is None:
            return rows
        originals = originals.reshape(len(originals), *[1] * (rows.ndim - 2), *self.sides)
        filled = np.where(originals == MISSING, images, originals).astype(np.uint8)
        return filled[..., 0] if like.ndim == 3 else filled

    def log_preimage(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return the log of the number of RGB images behind each row of codes, float64 [N]."""
        if self.colour is None:
            return np.zeros(len(rows))
        return self.colour.log_preimage(rows.reshape(len(rows), *self.sides))

    def units(self, rows: NDArray[Any]) -> int:
        """Return the number of values, of all channels."""
        return rows.size

    @property
    def _size(self) -> int:
        return math.prod(self.sides)

    def _images(self, array: NDArray[Any]) -> NDArray[Any] | None:
        """Return an array of images as [N, H, W, C], None if it holds rows."""
        if array.ndim == 3 and self.channels == 1:
            return array[..., None]
        return array if array.ndim == 4 else None
