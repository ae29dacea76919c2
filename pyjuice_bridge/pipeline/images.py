"""A run on images: its data, its arms, what its report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.config import Config, ImageData
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.distill.latents import FILE as ASSIGNMENTS
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.pipeline.arms import Start, starts
from pyjuice_bridge.pipeline.context import ImageContext, prepare
from pyjuice_bridge.pipeline.figures import FILE as FIGURES
from pyjuice_bridge.pipeline.figures import figures
from pyjuice_bridge.pipeline.files import copy_file
from pyjuice_bridge.pipeline.progress import Reporter
from pyjuice_bridge.pipeline.store import Store
from pyjuice_bridge.pipeline.training import Trained

Images = NDArray[np.uint8] | Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class ImageWork:
    """What is special about images, once their data are there."""

    context: ImageContext
    teacher: object | None

    def starts(self) -> Sequence[Start]:
        """Every arm, at its start."""
        return starts(self.context, self.teacher)

    def show(self, folder: Path, trained: Sequence[Trained], best: Trained) -> None:
        """Leave ``figures.npz`` and ``assignments.h5`` in the run's folder."""
        used = self.context.store.used.values()
        clusters = next((a.path for a in used if a.id.startswith("clusters-")), None)
        assignments = clusters / ASSIGNMENTS if clusters else None
        drawn = figures(self.context, trained, assignments)
        copy_file(drawn.path / FIGURES, folder / FIGURES)
        if assignments is not None:
            copy_file(assignments, folder / ASSIGNMENTS)


def image_work(
    config: Config,
    section: ImageData,
    engine: Engine,
    store: Store,
    reporter: Reporter,
    images: Images | None,
    teacher: object | None,
) -> ImageWork:
    """Load the images, or take the user's own."""
    dataset = load_dataset(
        section.name if images is None else images,
        root=section.root,
        valid=section.valid,
        seed=config.seed,
        limit=section.limit,
    )
    counts = f"{len(dataset.train):,}/{len(dataset.valid):,}/{len(dataset.test):,}"
    reporter.say(f"data {dataset.name}: {counts} images of {'×'.join(map(str, dataset.shape))}")
    data = prepare(dataset, section.colour)
    return ImageWork(ImageContext(config, engine, store, reporter, data), teacher)
