"""The shapes of published sets, so that a run can be planned before its data are there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A set's images [H, W, C], how many train and how many validate, and pixel values."""

    shape: tuple[int, int, int]
    train: int
    valid: int = 5000
    categories: int = 256


SHAPES = {
    "digits": Known((8, 8, 1), 1439, 159, 17),
    "mnist5k": Known((28, 28, 1), 4000, 500),
    "mnist": Known((28, 28, 1), 55_000),
    "fashion_mnist": Known((28, 28, 1), 55_000),
    "cifar10": Known((32, 32, 3), 45_000),
    "cifar100": Known((32, 32, 3), 45_000),
    "imagenet32": Known((32, 32, 3), 1_276_167),
    "imagenet64": Known((64, 64, 3), 1_276_167),
}
