"""Images in three splits, and what is done to them before a run sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.splits import SPLITS, SplitData
from pyjuice_bridge.errors import UserError

__all__ = ["SPLITS", "Dataset", "Images", "as_images", "limited", "split_off"]

Images = NDArray[np.uint8]


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(SplitData):
    """Images in three splits.

    Attributes:
        name: the set's name, or the last part of the path it came from.
        train: uint8 [N, H, W, C], grey images with C = 1; may be mapped from a file.
        valid: uint8 [N, H, W, C], taken from the published training split by seed.
        test: uint8 [N, H, W, C], the published test split, untouched.
        categories: number of values a pixel can take (256; 17 for the digits).
        meta: JSON-able provenance: ``source``, ``sources`` (where each split comes from),
            ``seed``, ``limit`` and, where a name stands for several sets, ``variant``.
        labels: by split the number of every image's class, int32 [N]; empty without labels.
        classes: their names.
    """

    counted = "images"

    name: str
    train: Images
    valid: Images
    test: Images
    categories: int = 256
    meta: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def of_class(self, number: int) -> Dataset:
        """Return the images of a class; where there are none for testing, those for validation.

        Raises:
            UserError: there is none to train on or none for validation.
        """
        rows = {split: np.flatnonzero(self.labels[split] == number) for split in SPLITS}
        for split in ("train", "valid"):
            if not len(rows[split]):
                raise UserError(
                    f"{self.name} has no {split} images of the class {self.classes[number]}."
                )
        parts = {split: getattr(self, split)[rows[split]] for split in SPLITS}
        if not len(parts["test"]):
            parts["test"] = parts["valid"]
        return Dataset(self.name, **parts, categories=self.categories, meta=self.meta)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        height, width, channels = self.train.shape[1:]
        return int(height), int(width), int(channels)

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 over the shapes and bytes of the three splits."""
        digest = hashlib.sha256()
        for split in SPLITS:
            images: Images = getattr(self, split)
            digest.update(f"{split}{images.shape}".encode())
            for start in range(0, len(images), 65536):
                digest.update(np.ascontiguousarray(images[start : start + 65536]).data)
        return digest.hexdigest()

    def record(self) -> dict[str, Any]:
        """Return what identifies this set, as JSON-able values."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "categories": self.categories,
            "images": self.counts,
            "sha256": self.fingerprint,
            **self.meta,
        }


def as_images(array: NDArray[Any], where: str) -> Images:
    """Return ``array`` [N, H, W] or [N, H, W, C] as uint8 [N, H, W, C], without copying.

    Raises:
        UserError: another dtype, rank or channel count, masked pixels, or no images.
    """
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        raise UserError(f"{where} has masked pixels: images to train on must be complete.")
    if array.dtype != np.uint8:
        raise UserError(f"{where} holds {array.dtype} values: convert it to uint8 (0..255) first.")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise UserError(
            f"{where} has shape {list(array.shape)}: expected at least one image as"
            " [N, H, W], [N, H, W, 1] or [N, H, W, 3]."
        )
    return np.asarray(array)


def split_off(images: Images, rows: NDArray[np.int64]) -> tuple[Images, Images]:
    """Move ``rows`` out of ``images`` in place and return (the others, the rows taken).

    The holes are filled from the end, so the others are a view of the same memory and only the
    rows taken are copied; the order of the others changes there. ``images`` must be writable.
    """
    rows = np.unique(rows)
    keep = len(images) - len(rows)
    taken = images[rows]
    holes = rows[rows < keep]
    tail = np.setdiff1d(np.arange(keep, len(images)), rows, assume_unique=True)
    images[holes] = images[tail]
    return images[:keep], taken


def limited(images: NDArray[Any], limit: int | None, seed: int) -> NDArray[Any]:
    """Return at most ``limit`` images (or rows of any kind), chosen by seed, in their order."""
    if limit is None or limit >= len(images):
        return images
    rows = np.random.default_rng(seed).choice(len(images), size=limit, replace=False)
    return images[np.sort(rows)]
