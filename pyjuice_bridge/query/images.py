"""Between what a user holds (images or rows) and what a circuit reads (rows of codes)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import MISSING, Circuit
from pyjuice_bridge.data.colour import Colour, get_colour
from pyjuice_bridge.errors import UserError


@dataclass(frozen=True)
class ImageShape:
    """Height, width and channels of the images a circuit models, and their colour transform."""

    height: int
    width: int
    channels: int
    colour: Colour | None

    @classmethod
    def of(cls, circuit: Circuit) -> ImageShape | None:
        """From the circuit's meta; None for a circuit that does not model images."""
        sides = _sides(circuit.meta)
        if sides is None:
            return None
        if int(np.prod(sides)) != circuit.num_vars:
            raise UserError(
                f"meta: the image shape {sides} does not fit the circuit's "
                f"{circuit.num_vars} variables."
            )
        colour = str(circuit.meta.get("colour", "rgb"))
        return cls(*sides, None if sides[2] != 3 or colour == "rgb" else get_colour(colour))

    @property
    def sides(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    def encode(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images int [N, H, W, C], -1 where missing, to codes int [N, H * W * C]."""
        if images.shape[1:] != self.sides:
            raise UserError(f"images: expected shape [N, {self._text}], got {images.shape}.")
        if images.size and (images.min() < MISSING or images.max() > 255):
            raise UserError("images: values must be 0 … 255, or -1 where missing.")
        if self.colour is None:
            return images.reshape(len(images), math.prod(self.sides))
        hidden = images == MISSING
        if (hidden.any(-1) != hidden.all(-1)).any():
            raise UserError(
                f"images: with the colour transform {self.colour.name} a pixel must be missing "
                "in all of its channels or in none."
            )
        codes = self.colour.encode(np.where(hidden, 0, images).astype(np.uint8))
        codes = np.where(hidden, MISSING, codes).astype(np.int16)
        return codes.reshape(len(images), math.prod(self.sides))

    def decode(self, codes: NDArray[Any]) -> NDArray[np.uint8]:
        """Codes int [N, H * W * C] without gaps to images uint8 [N, H, W, C]."""
        images = codes.reshape(len(codes), *self.sides)
        if self.colour is not None:
            images = self.colour.decode(images.astype(np.int16))
        return images.astype(np.uint8)

    def log_preimage(self, codes: NDArray[Any]) -> NDArray[np.float64]:
        """log of the number of RGB images behind each row of codes, float64 [N]."""
        if self.colour is None:
            return np.zeros(len(codes))
        return self.colour.log_preimage(codes.reshape(len(codes), *self.sides))

    @property
    def _text(self) -> str:
        return ", ".join(map(str, self.sides))


def _sides(meta: Mapping[str, Any]) -> tuple[int, int, int] | None:
    try:
        return int(meta["image_height"]), int(meta["image_width"]), int(meta["image_channels"])
    except KeyError:
        return None
