"""The image sections of the report, from the arrays of figures.npz."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.report.images import MARK_COLOUR, data_uri, grid_png, paint
from pyjuice_bridge.report.words import arm_name, spoken

Figures = Mapping[str, npt.NDArray[Any]]

_SHEET = 488
"""Widest sheet of samples in pixels: two side by side on a desktop."""
_MASKS = {"lower_half": "Lower half", "squares": "Random squares"}
_WIDEST = 512
"""Of the picture of a matrix, in CSS pixels."""
_IN_A_ROW = 10
_DARK_BELOW = 64


@dataclass(frozen=True)
class Picture:
    """One inline PNG: its address, label, and the width in CSS pixels it is shown at."""

    src: str
    label: str
    width: int
    arm: str = ""


@dataclass(frozen=True)
class Group:
    """Pictures under one heading."""

    heading: str
    pictures: tuple[Picture, ...]
    locator: Picture | None = None
    """Where in an image the pictures are from."""


class Gallery:
    """Turns the arrays of figures.npz into pictures.

    Raises:
        UserError: (from every method) an array has the wrong type or shape.
    """

    def __init__(self, figures: Figures, path: Path) -> None:
        self._figures = figures
        self._path = path
        pixels = [a for a in figures.values() if a.dtype == np.uint8 and a.size]
        brightest = max((int(a.max()) for a in pixels), default=255)
        self.white = brightest if 0 < brightest < _DARK_BELOW else 255
        """Pixel value shown as full brightness (less than 255 for data with few grey levels)."""

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """Return an array as it is, None where there is none."""
        return self._figures.get(name)

    def row(self, name: str, label: str) -> Picture:
        """Lay the images of an array out in a row."""
        images = self._figures.get(name)
        if images is None:
            self.refuse(name, "uint8 [n, H, W, 1 or 3]")
        return self._row(name, images, label)

    def strip(self, name: str, images: npt.NDArray[Any]) -> Picture:
        """Lay some small images of an array out side by side."""
        shown = _width(len(images), images.shape[2], 170)
        return Picture(self._png(name, images, len(images)), "", shown)

    def arms(self) -> list[str]:
        """List the arms that have samples or inpaintings, in file order."""
        parts = [name.split("/") for name in self._figures]
        named = [p[1] for p in parts if len(p) == 2 and p[0] == "samples"]
        named += [p[1] for p in parts if len(p) == 3 and p[0] == "inpaint" and p[1] != "masks"]
        return list(dict.fromkeys(named))

    def samples(self, arms: Sequence[str]) -> tuple[Picture, ...]:
        """Lay out real images and each arm's samples as square sheets of equal size."""
        if not any(f"samples/{arm}" in self._figures for arm in arms):
            return ()
        sheets = [("real", "Real images", "")]
        sheets += [(f"samples/{arm}", arm_name(arm), arm) for arm in arms]
        return tuple(
            self._sheet(name, label, arm) for name, label, arm in sheets if name in self._figures
        )

    def inpaintings(self, arms: Sequence[str]) -> tuple[Group, ...]:
        """Group by mask: the original, the visible part, and each arm's inpainting."""
        masks = [n.removeprefix("inpaint/masks/") for n in self._figures if "inpaint/masks/" in n]
        return tuple(self._inpainting(mask, arms) for mask in masks)

    def clusters(self) -> tuple[Group, ...]:
        """Group by position: a strip of real examples for each value of its latent."""
        examples = self._figures.get("clusters/examples")
        if examples is None:
            return ()
        if examples.ndim != 6:
            self.refuse("clusters/examples", "uint8 [positions, values, examples, h, w, C]")
        positions = self._figures.get("clusters/positions", np.arange(len(examples)))
        if positions.shape != examples.shape[:1] or positions.dtype.kind not in "iu":
            self.refuse("clusters/positions", f"integers [{len(examples)}]")
        shown = _width(examples.shape[2], examples.shape[4], 170)
        return tuple(
            Group(
                f"Position {position}",
                tuple(
                    Picture(self._png("clusters/examples", strip, len(strip)), str(value), shown)
                    for value, strip in enumerate(strips)
                ),
                self._locator(number, position),
            )
            for number, (position, strips) in enumerate(
                zip(positions.tolist(), examples, strict=True)
            )
        )

    def _locator(self, number: int, position: int) -> Picture | None:
        """Return the mean image with the position's pixels marked, where the run has left both."""
        mean, marks = self._figures.get("clusters/mean"), self._figures.get("clusters/marks")
        if mean is None or marks is None:
            return None
        if mean.ndim != 3 or marks.dtype != np.bool_ or marks.shape[1:] != mean.shape[:2]:
            self.refuse("clusters/marks", "bool [positions, H, W], as clusters/mean")
        if number >= len(marks):
            self.refuse("clusters/marks", f"bool, more than {number} positions")
        self._check("clusters/mean", mean[None])
        marked = paint(mean[None], marks[number], MARK_COLOUR, white=self.white)
        png = data_uri(grid_png(marked, 1))
        return Picture(png, f"Where position {position} is", _width(1, mean.shape[1], 72))

    def _inpainting(self, mask: str, arms: Sequence[str]) -> Group:
        original = self._figures.get("inpaint/original")
        if original is None or original.ndim != 4:
            self.refuse("inpaint/original", "uint8 [n, H, W, C]")
        hidden = self._figures[f"inpaint/masks/{mask}"]
        one, each = original.shape[1:3], original.shape[:3]
        if hidden.dtype != np.bool_ or hidden.shape not in (one, each):
            self.refuse(f"inpaint/masks/{mask}", f"bool {list(one)} or {list(each)}")
        rows = [
            self._row("inpaint/original", original, "Original"),
            self._row("inpaint/original", original, "What the model saw", hidden=hidden),
        ]
        for arm in arms:
            name = f"inpaint/{arm}/{mask}"
            if name in self._figures:
                if self._figures[name].shape != original.shape:
                    self.refuse(name, f"uint8 {list(original.shape)}, as inpaint/original")
                rows.append(self._row(name, self._figures[name], arm_name(arm), arm))
        return Group(_MASKS.get(mask, spoken(mask)), tuple(rows))

    def _sheet(self, name: str, label: str, arm: str) -> Picture:
        images = self._figures[name]
        self._check(name, images)
        size = images.shape[2]
        columns = min(8, max(1, _SHEET // (size + 1)), math.isqrt(len(images) - 1) + 1)
        png = self._png(name, images[: columns * columns], columns)
        return Picture(png, label, _width(columns, size, _SHEET), arm)

    def _row(
        self,
        name: str,
        images: npt.NDArray[Any],
        label: str,
        arm: str = "",
        hidden: npt.NDArray[np.bool_] | None = None,
    ) -> Picture:
        images = images[:_IN_A_ROW]
        if hidden is not None:
            hidden = hidden[:_IN_A_ROW] if hidden.ndim == 3 else hidden
        png = self._png(name, images, max(len(images), 1), hidden)
        return Picture(png, label, _width(len(images), images.shape[2], 720), arm)

    def _png(
        self,
        name: str,
        images: npt.NDArray[Any],
        columns: int,
        hidden: npt.NDArray[np.bool_] | None = None,
    ) -> str:
        self._check(name, images)
        if hidden is None:
            return data_uri(grid_png(images, columns, white=self.white))
        return data_uri(grid_png(paint(images, hidden, white=self.white), columns))

    def _check(self, name: str, images: npt.NDArray[Any]) -> None:
        if (
            images.dtype != np.uint8
            or images.ndim != 4
            or images.shape[-1] not in (1, 3)
            or images.size == 0
        ):
            self.refuse(name, "uint8 [n, H, W, 1 or 3] with nothing empty")

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Say that an array is missing or another than expected.

        Raises:
            UserError: always.
        """
        array = self._figures.get(name)
        actual = "no such array" if array is None else f"{array.dtype} {list(array.shape)}"
        raise UserError(
            f"{self._path}: array {name} should be {expected}, found {actual}; run again "
            f"to rewrite the file."
        )


def _width(columns: int, size: int, room: int) -> int:
    """Compute a row's width at the largest whole number of CSS pixels per pixel that fits."""
    across = columns * (size + 1) - 1
    return across * max(1, min(8, room // max(across, 1)))


def matrices(figures: Figures, kind: str, path: Path) -> tuple[Picture, ...]:
    """Show the grey levels [n, n] of every array ``<kind>/<arm>``.

    Raises:
        UserError: an array has the wrong type or shape.
    """
    shown = []
    for name, matrix in figures.items():
        found, _, arm = name.partition("/")
        if found != kind:
            continue
        if matrix.dtype != np.uint8 or matrix.ndim != 2 or not matrix.size:
            raise UserError(
                f"{path}: array {name} should be uint8 [n, n], found {matrix.dtype} "
                f"{list(matrix.shape)}; run again to rewrite the file."
            )
        size = matrix.shape[1] * max(1, _WIDEST // matrix.shape[1])
        png = grid_png(matrix[None, :, :, None], 1)
        shown.append(Picture(data_uri(png), arm_name(arm), size, arm))
    return tuple(shown)
