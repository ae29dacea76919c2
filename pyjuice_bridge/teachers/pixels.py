"""Raw pixels as features: the control every other teacher has to beat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.sections import Positive, at_most
from pyjuice_bridge.teachers.base import (
    FloatArray,
    Images,
    Rows,
    TeacherInputs,
    TeacherSection,
    patch_grid,
)

Padding = Literal["zero", "edge"]


class PixelSection(TeacherSection):
    """Raw pixels: the pixel (for ``hclt``) or patch itself and ``ring`` pixels around it.

    The default ring is 3 for HCLTs (windows of 7 × 7), 0 for patches and region graphs.  With
    ``sigma`` a ring pixel at distance d counts exp(-d² / (2 sigma²)).
    """

    kind: Literal["pixels"] = "pixels"
    ring: Annotated[int, Field(ge=0), at_most(256, "it is a number of pixels")] | None = None
    sigma: Positive | None = None

    def make(self, inputs: TeacherInputs) -> PixelTeacher:
        """Cut windows around patches or pixels."""
        return PixelTeacher(patch=inputs.patch, ring=self.ring or 0, sigma=self.sigma)


class PixelWindows:
    """Windows of pixels cut on demand: nothing but the images is held.

    Position (i, j) is the square of ``patch`` pixels at row ``i * patch``, column
    ``j * patch``, with ``ring`` more pixels on every side.  ``patch=4, ring=0`` gives
    non-overlapping patches; ``patch=1, ring=3`` the 7x7 window around every pixel.

    Args:
        images: uint8 [N, H, W, C].
        patch: side of the squares, and their stride; divides H and W.
        ring: width of the context around a square, in pixels.
        padding: beyond the image's border, zeros or the border's own pixels.
        sigma: if given, a ring pixel at distance d from the square counts exp(-d^2 / (2 sigma^2)),
            so that clusters tell the square's own pixels apart first.
    """

    def __init__(
        self,
        images: Images,
        *,
        patch: int = 1,
        ring: int = 0,
        padding: Padding = "zero",
        sigma: float | None = None,
    ) -> None:
        self._grid = patch_grid(images, patch)
        if ring < 0:
            raise UserError(f"the context ring of pixel windows cannot be negative, found {ring}")
        if padding not in ("zero", "edge"):
            raise UserError(f'padding of pixel windows is "zero" or "edge", found "{padding}"')
        self._images, self._patch, self._ring, self._padding = images, patch, ring, padding
        if sigma is not None and not sigma > 0:
            raise UserError(f"sigma of pixel windows must be positive, found {sigma}")
        self._side = patch + 2 * ring
        self._scale = _scale(patch, ring, sigma)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, D)."""
        return (
            len(self._images),
            self._grid[0] * self._grid[1],
            self._side * self._side * self._images.shape[3],
        )

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        """Cut windows float32 [rows, positions, side * side * C], in [0, 1] before weighting."""
        _, total, dim = self.shape
        chosen = np.arange(total)[positions]
        if not len(chosen):
            return np.empty((len(self._images[rows]), 0, dim), np.float32)
        columns = self._grid[1]
        tops, lefts = (chosen // columns) * self._patch, (chosen % columns) * self._patch
        box = self._box(rows, (tops.min(), tops.max()), (lefts.min(), lefts.max()))
        pixels = box.astype(np.float32)
        tops, lefts = tops - tops.min(), lefts - lefts.min()
        out = np.empty((len(chosen), len(box), dim), np.float32)
        side = self._side
        for k, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            window = out[k].reshape(len(box), side, side, box.shape[3])
            np.multiply(pixels[:, top : top + side, left : left + side], self._scale, out=window)
        return out.transpose(1, 0, 2)

    def _box(self, rows: Rows, tops: tuple[int, int], lefts: tuple[int, int]) -> Images:
        """Return the padded part of the images that holds all windows of these tops and lefts."""
        height, width = self._images.shape[1:3]
        low = tops[0] - self._ring, lefts[0] - self._ring
        high = tops[1] + self._patch + self._ring, lefts[1] + self._patch + self._ring
        part = self._images[
            rows, max(0, low[0]) : min(height, high[0]), max(0, low[1]) : min(width, high[1])
        ]
        pads = (
            (0, 0),
            (max(0, -low[0]), max(0, high[0] - height)),
            (max(0, -low[1]), max(0, high[1] - width)),
            (0, 0),
        )
        return np.pad(part, pads, mode="constant" if self._padding == "zero" else "edge")


def _scale(patch: int, ring: int, sigma: float | None) -> FloatArray:
    """Return the factors of pixel values, float32 [side, side, 1]."""
    steps = np.arange(-ring, patch + ring)
    away = np.maximum(np.maximum(-steps, steps - (patch - 1)), 0)
    squared = away[:, None] ** 2 + away[None] ** 2
    weight = np.ones(squared.shape) if sigma is None else np.exp(-squared / (2 * sigma**2))
    return (weight[..., None] / 255).astype(np.float32)


class PixelTeacher:
    """Raw pixel windows as a teacher; see `PixelWindows` for the arguments."""

    def __init__(
        self,
        *,
        patch: int = 1,
        ring: int = 0,
        padding: Padding = "zero",
        sigma: float | None = None,
    ) -> None:
        self.patch, self.ring, self.padding, self.sigma = patch, ring, padding, sigma

    def lazy(self, images: Images) -> PixelWindows:
        """Return windows of ``images`` that are cut when read."""
        return PixelWindows(
            images, patch=self.patch, ring=self.ring, padding=self.padding, sigma=self.sigma
        )

    def embed(self, images: Images, /) -> FloatArray:
        """Cut all windows at once."""
        return self.lazy(images).read(slice(None), slice(None))

    def describe(self) -> dict[str, Any]:
        """Return the settings."""
        return {
            "kind": "pixels",
            "patch": self.patch,
            "ring": self.ring,
            "padding": self.padding,
            "sigma": self.sigma,
        }
