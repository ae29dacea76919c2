"""What the report shows: samples, inpaintings and what each latent value looks like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.cluster.assignments import Assignments
from pyjuice_bridge.config import PatchCircuit, PixelTeacher
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import write_arrays
from pyjuice_bridge.pipeline.context import ImageContext
from pyjuice_bridge.pipeline.training import Trained
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.stages.store import Artifact

FILE = "figures.npz"
_POSITIONS, _VALUES, _EXAMPLES = 4, 16, 8

Arrays = dict[str, NDArray[Any]]


def figures(context: ImageContext, arms: Sequence[Trained], assignments: Path | None) -> Artifact:
    """Draw for every arm; the artifact holds ``figures.npz``."""
    inputs = {
        "arms": [arm.artifact.id for arm in arms],
        "data": context.data.key,
        "report": context.config.report.model_dump(),
        "seed": context.config.seed,
        "clusters": assignments.parent.name if assignments else None,
    }

    def build(folder: Path) -> None:
        section, valid = context.config.report, context.data.dataset.valid
        rng = np.random.default_rng(context.config.seed)
        hidden = valid[spread(len(valid), section.inpaint)]
        masks = make_masks(hidden.shape[0], hidden.shape[1:3], rng)
        arrays: Arrays = {
            "real": valid[spread(len(valid), section.samples)],
            "inpaint/original": hidden,
        }
        arrays |= {f"inpaint/masks/{name}": mask for name, mask in masks.items()}
        for arm in arms:
            with context.reporter.task(f"pictures of {arm.start.arm}"):
                arrays |= _of_arm(context, arm, hidden, masks)
        if assignments is not None:
            arrays |= _clusters(context, Assignments.load(assignments).z["train"])
        write_arrays(folder / FILE, arrays)

    return context.store.stage("figures", 2, inputs, build)


def spread(count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` evenly spaced row numbers below ``count``: some sets are sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def make_masks(
    count: int, sides: tuple[int, ...], rng: np.random.Generator
) -> dict[str, NDArray[np.bool_]]:
    """Hidden pixels: the lower half [H, W], and a random square of half the side [count, H, W]."""
    height, width = sides
    lower = np.zeros((height, width), np.bool_)
    lower[height // 2 :] = True
    tall, wide = max(1, height // 2), max(1, width // 2)
    tops = rng.integers(0, height - tall + 1, count)[:, None, None]
    lefts = rng.integers(0, width - wide + 1, count)[:, None, None]
    r, c = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    inside = (r >= tops) & (r < tops + tall) & (c >= lefts) & (c < lefts + wide)
    return {"lower_half": lower, "squares": inside}


def _of_arm(
    context: ImageContext,
    arm: Trained,
    images: NDArray[np.uint8],
    masks: Mapping[str, NDArray[np.bool_]],
) -> Arrays:
    seed, name = context.config.seed, arm.start.arm
    model = Model(arm.circuit(), context.engine)
    found: Arrays = {f"samples/{name}": model.sample(context.config.report.samples, seed=seed)}
    for mask, hidden in masks.items():
        try:
            found[f"inpaint/{name}/{mask}"] = model.inpaint(images, hidden, seed=seed)
        except UserError as error:
            # An arm without pseudocounts may hold what is shown for impossible.
            context.reporter.say(f"{name}: no completions ({error})")
    return found


def _clusters(context: ImageContext, z: NDArray[np.int32]) -> Arrays:
    """Real windows for the first values of a few latents; black where there are too few."""
    images = context.data.dataset.train
    channels = images.shape[3]
    positions = z.shape[1]
    cut = _cutter(context, positions)
    shown = np.unique(np.linspace(0, positions - 1, _POSITIONS + 2).astype(np.int32)[1:-1])
    side = cut(images[:1], int(shown[0])).shape[1]
    values = min(_VALUES, context.circuit.latents)
    examples = np.zeros((len(shown), values, _EXAMPLES, side, side, channels), np.uint8)
    for i, position in enumerate(shown):
        for value in range(values):
            rows = np.flatnonzero(z[:, position] == value)
            rows = rows[spread(len(rows), _EXAMPLES)]
            if len(rows):
                examples[i, value, : len(rows)] = cut(images[rows], int(position))
    return {"clusters/examples": examples, "clusters/positions": shown.astype(np.int32)}


def _cutter(context: ImageContext, positions: int) -> Any:
    """A function (images, position) → the squares around that position."""
    height, width, _ = context.data.shape.sides
    circuit, teacher = context.circuit, context.config.teacher
    patch = circuit.patch if isinstance(circuit, PatchCircuit) else 1
    ring = (teacher.ring or 0) if isinstance(teacher, PixelTeacher) else 3 if patch == 1 else 0
    per_pixel = positions // ((height // patch) * (width // patch))

    def cut(images: NDArray[np.uint8], position: int) -> NDArray[np.uint8]:
        row, column = divmod(position // per_pixel, width // patch)
        padded = np.pad(images, ((0, 0), (ring, ring), (ring, ring), (0, 0)))
        top, left, side = row * patch, column * patch, patch + 2 * ring
        return padded[:, top : top + side, left : left + side]

    return cut
