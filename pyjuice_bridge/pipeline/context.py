"""What every stage of a run works with."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.config import Config
from pyjuice_bridge.data import Dataset
from pyjuice_bridge.data.colour import get_colour
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.progress import Reporter
from pyjuice_bridge.pipeline.store import Store, fingerprint
from pyjuice_bridge.query.images import ImageShape

UNIT = "bits/dim"
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Prepared:
    """A data set as circuits read it.

    Attributes:
        dataset: the images.
        shape: between images and rows of codes.
        rows: per split int [N, H * W * C], the codes of the configured colour transform.
        categories: int32 [H * W * C], the number of codes of each variable.
        preimage: per split the mean log number of images behind a row (0 if the map is exact).
        key: names the data and the transform in the hashes of artifacts.
    """

    dataset: Dataset
    shape: ImageShape
    rows: Mapping[str, NDArray[Any]]
    categories: IntArray
    preimage: Mapping[str, float]
    key: str

    def bits(self, split: str, log_p: float) -> float:
        """Bits per dimension of the 8-bit images from a split's mean log p of codes, in nats."""
        return -(log_p - self.preimage[split]) / (math.log(2) * len(self.categories))


@dataclass(frozen=True)
class Context:
    """The run's settings and tools."""

    config: Config
    engine: Engine
    store: Store
    reporter: Reporter
    data: Prepared

    @property
    def engine_key(self) -> dict[str, str]:
        """What names the engine in the hashes of artifacts."""
        precision = self.config.precision
        return {"name": self.engine.name, "device": self.engine.device, "precision": precision}

    def meta(self, circuit: Circuit, arm: str) -> dict[str, str | int | float]:
        """A circuit's meta with what a model needs to know about its images."""
        shape = self.data.shape
        return {
            **circuit.meta,
            "arm": arm,
            "seed": self.config.seed,
            "dataset": self.data.dataset.name,
            "image_height": shape.height,
            "image_width": shape.width,
            "image_channels": shape.channels,
            "colour": self.config.data.colour,
        }


def prepare(dataset: Dataset, colour: str) -> Prepared:
    """Encode every split.

    Raises:
        UserError: a colour transform was asked for on grey images.
    """
    height, width, channels = dataset.shape
    if colour != "rgb" and channels != 3:
        raise UserError(
            f"'data.colour' is '{colour}', but {dataset.name} has grey images; leave it out"
        )
    transform = None if colour == "rgb" else get_colour(colour)
    shape = ImageShape(height, width, channels, transform)
    each = (dataset.categories,) * channels if transform is None else transform.categories
    categories = np.tile(np.asarray(each, np.int32), height * width)
    rows, preimage = {}, {}
    for split in SPLITS:
        rows[split], preimage[split] = _encode(shape, getattr(dataset, split))
    key = fingerprint({"images": dataset.fingerprint, "colour": colour})
    return Prepared(dataset, shape, rows, categories, preimage, key)


def _encode(shape: ImageShape, images: NDArray[np.uint8]) -> tuple[NDArray[Any], float]:
    if shape.colour is None:
        return images.reshape(len(images), -1), 0.0
    codes = np.empty((len(images), math.prod(shape.sides)), np.int16)
    total = 0.0
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        codes[part] = shape.encode(images[part])
        total += float(shape.log_preimage(codes[part]).sum())
    return codes, total / len(images)


class PeakMemory:
    """The most memory the process has held since this was made, in bytes.

    Linux can forget the former peak; elsewhere it is the peak of the whole process.
    """

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> int:
        """Bytes of resident memory at the highest point."""
        with suppress(OSError, StopIteration, ValueError, IndexError):
            lines = Path("/proc/self/status").read_text().splitlines()
            peak = next(line for line in lines if line.startswith("VmHWM"))
            return int(peak.split()[1]) * 1024
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
