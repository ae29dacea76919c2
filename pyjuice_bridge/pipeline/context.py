"""What every stage of a run works with."""

from __future__ import annotations

import math
import os
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
from pyjuice_bridge.config import Config, HcltCircuit, PatchCircuit
from pyjuice_bridge.data import Dataset
from pyjuice_bridge.data.colour import get_colour
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.domains.codecs import ImageCodec
from pyjuice_bridge.engines.base import Builders, Engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import BITS, Measure
from pyjuice_bridge.pipeline.builders import builders_of
from pyjuice_bridge.stages.progress import Reporter
from pyjuice_bridge.stages.store import Store, fingerprint

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Prepared:
    """Data as circuits read them.

    Attributes:
        rows: per split int [N, variables], -1 where a value is missing.
        categories: int32 [variables], the number of values of each variable.
        measure: in which figures on the data are told.
        observed: per split the mean number of values of a row that count for the measure.
        correction: per split the mean of what is taken off a row's log p, in nats, before.
        key: names the data in the hashes of artifacts.
    """

    rows: Mapping[str, NDArray[Any]]
    categories: IntArray
    measure: Measure
    observed: Mapping[str, float]
    correction: Mapping[str, float]
    key: str

    def value(self, split: str, log_p: float) -> float:
        """The measure's figure for a split's mean log p of rows, in nats."""
        return self.measure.of(-(log_p - self.correction[split]) / self.observed[split])

    def facts(self) -> dict[str, Any]:
        """What ``results.json`` tells about the data."""
        raise NotImplementedError

    def meta(self) -> dict[str, str | int | float]:
        """What a model needs to know about its data."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class ImageData(Prepared):
    """Images: rows are the codes of the configured colour transform, int [N, H * W * C].

    Attributes:
        dataset: the images.
        shape: between images and rows of codes.
        colour: the transform's name.
    """

    dataset: Dataset
    shape: ImageCodec
    colour: str

    def facts(self) -> dict[str, Any]:
        """The set behind a figure; ``variant`` where its name stands for several sets."""
        dataset = self.dataset
        variant = {key: dataset.meta[key] for key in ("variant",) if key in dataset.meta}
        return {
            "colour": self.colour,
            "dataset": dataset.name,
            **variant,
            "images": {split: len(getattr(dataset, split)) for split in SPLITS},
            "shape": list(dataset.shape),
            "fingerprint": dataset.fingerprint,
        }

    def meta(self) -> dict[str, str | int | float]:
        return {"dataset": self.dataset.name, **self.shape.meta()}


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

    @property
    def builders(self) -> Builders:
        """What constructs the circuits that the engine runs."""
        return builders_of(self.engine)

    def meta(self, circuit: Circuit, arm: str) -> dict[str, str | int | float]:
        """A circuit's meta with what a model needs to know about its data."""
        return {**circuit.meta, "arm": arm, "seed": self.config.seed, **self.data.meta()}


@dataclass(frozen=True)
class ImageContext(Context):
    """The settings and tools of a run on images."""

    data: ImageData

    @property
    def circuit(self) -> HcltCircuit | PatchCircuit:
        """The config's section; others do not model images."""
        section = self.config.circuit
        assert isinstance(section, HcltCircuit | PatchCircuit)
        return section


def prepare(dataset: Dataset, colour: str) -> ImageData:
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
    shape = ImageCodec(height, width, channels, transform, dataset.categories)
    categories = shape.categories
    rows, preimage = {}, {}
    for split in SPLITS:
        rows[split], preimage[split] = _encode(shape, getattr(dataset, split))
    return ImageData(
        rows=rows,
        categories=categories,
        measure=BITS,
        observed=dict.fromkeys(SPLITS, float(len(categories))),
        correction=preimage,
        key=fingerprint({"images": dataset.fingerprint, "colour": colour}),
        dataset=dataset,
        shape=shape,
        colour=colour,
    )


def _encode(shape: ImageCodec, images: NDArray[np.uint8]) -> tuple[NDArray[Any], float]:
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
    """The most memory this process and the engine's have held since this was made, in bytes.

    Linux can forget the former peak; elsewhere it is the peak of this whole process.
    """

    def __init__(self, engine: Engine) -> None:
        self._processes = {os.getpid(), engine.pid}
        for process in self._processes:
            with suppress(OSError):
                Path(f"/proc/{process}/clear_refs").write_text("5")

    def read(self) -> int:
        """Bytes of resident memory at the highest point."""
        with suppress(OSError, StopIteration, ValueError, IndexError):
            return sum(map(_peak, self._processes))
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
