"""The shapes of published sets, so that a run can be planned before its data are there."""

from __future__ import annotations

from dataclasses import dataclass

from pyjuice_bridge.data.catalogue import SETS


@dataclass(frozen=True)
class Known:
    """A set's images [H, W, C], how many train and how many validate, and pixel values."""

    shape: tuple[int, int, int]
    train: int
    valid: int = 5000
    categories: int = 256


SHAPES = {
    entry.name: Known(**{**entry.published, "shape": tuple(entry.published["shape"])})
    for entry in SETS.values()
    if "shape" in entry.published
}
