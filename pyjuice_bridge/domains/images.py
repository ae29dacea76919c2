"""``data.kind: images``: 8-bit images, whose rows are the codes of their pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import IntArray
from pyjuice_bridge.cluster.assignments import FILE as ASSIGNMENTS
from pyjuice_bridge.cluster.assignments import Assignments
from pyjuice_bridge.codecs import ImageCodec
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.data import Dataset, load_dataset
from pyjuice_bridge.data.catalogue import known_set
from pyjuice_bridge.data.colour import get_colour
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.data.shapes import SHAPES
from pyjuice_bridge.domains.base import (
    FIGURES,
    Arm,
    Context,
    DataSection,
    Domain,
    Prepared,
    Samples,
    Shape,
    Tools,
    ancestor,
    copy_clusters,
    no_check,
    spread,
)
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import copy_file, write_arrays
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.sections import Count
from pyjuice_bridge.stages.store import Artifact, fingerprint

_CHUNK = 4096
_POSITIONS, _VALUES, _EXAMPLES = 4, 16, 8

Images = NDArray[np.uint8] | Mapping[str, NDArray[np.uint8]]
Arrays = dict[str, NDArray[Any]]


class ImageSection(DataSection):
    """Which images, and how they are split.

    ``name`` is a data set (``data list`` names them), or the path of a ``.npy``/``.npz`` file or of
    a folder of images.  ``valid`` images are taken from the training split by the seed; ``limit``
    keeps at most that many images of every split.
    """

    kind: Literal["images"] = "images"
    valid: Count | None = None
    limit: Count | None = None
    colour: Literal["rgb", "ycocg_r", "ycbcr_lossy", "ycocg_lossy"] = "rgb"


@dataclass(frozen=True, eq=False)
class ImageData(Prepared):
    """Images: rows are the codes of the configured colour transform, int [N, H * W * C].

    Attributes:
        dataset: the images.
        colour: the transform's name.
    """

    dataset: Dataset
    colour: str

    def by_class(self) -> list[ImageData]:
        """Return the data of every class.

        Raises:
            UserError: the images have no labels, or a class has too few of them.
        """
        dataset = self.dataset
        if not dataset.classes:
            published = known_set(dataset.name, "images")
            how = "give each class a folder, or arrays train_labels, valid_labels and test_labels"
            if published and published.labels:
                how = f"`python -m pyjuice_bridge data get {dataset.name}` brings them"
            raise UserError(f"'circuit.classes' needs labels, but {dataset.name} has none: {how}")
        return [prepare(dataset.of_class(k), self.colour) for k in range(len(dataset.classes))]

    def facts(self) -> dict[str, Any]:
        """Return the set behind a figure; ``variant`` if its name means several sets."""
        dataset = self.dataset
        variant = {key: dataset.meta[key] for key in ("variant",) if key in dataset.meta}
        return {
            "colour": self.colour,
            "dataset": dataset.name,
            **variant,
            "images": dataset.counts,
            "shape": list(dataset.shape),
            "fingerprint": dataset.fingerprint,
        }


def _section(config: Settings) -> ImageSection:
    assert isinstance(config.data, ImageSection)
    return config.data


def _load(tools: Tools, images: Images | None) -> ImageData:
    config = tools.config
    section = _section(config)
    dataset = _split(config, section.name if images is None else images)
    counts = "/".join(f"{n:,}" for n in dataset.counts.values())
    tools.reporter.say(
        f"data {dataset.name}: {counts} images of {'×'.join(map(str, dataset.shape))}"
    )
    tools.reporter.say(dataset.origins())
    return prepare(dataset, section.colour)


def _split(config: Settings, source: Any, root: Path | None = None) -> Dataset:
    """Load images with the splits of a run's config."""
    section = _section(config)
    return load_dataset(
        source,
        root=root or section.root_of(source),
        valid=section.valid,
        seed=config.seed,
        limit=section.limit,
    )


def prepare(dataset: Dataset, colour: str) -> ImageData:
    """Encode every split.

    Raises:
        UserError: the config sets a colour transform, but the images are grey.
    """
    height, width, channels = dataset.shape
    transform = _transform(colour, channels, dataset.name)
    codec = ImageCodec(height, width, channels, transform, dataset.categories)
    rows, preimage = {}, {}
    for split in SPLITS:
        rows[split], preimage[split] = _encode(codec, getattr(dataset, split))
    return ImageData(
        rows=rows,
        codec=codec,
        name=dataset.name,
        observed=dict.fromkeys(SPLITS, float(len(codec.categories))),
        correction=preimage,
        key=fingerprint({"images": dataset.fingerprint, "colour": colour}),
        shape=_shape_of(codec, len(dataset.train), len(dataset.valid)),
        samples=Samples(
            {split: getattr(dataset, split) for split in SPLITS},
            dataset.fingerprint,
            "images",
            white=dataset.categories - 1,
        ),
        dataset=dataset,
        colour=colour,
    )


def _transform(colour: str, channels: int, name: str) -> Any:
    if colour == "rgb":
        return None
    if channels != 3:
        raise UserError(f"'data.colour' is '{colour}', but {name} has grey images; leave it out")
    return get_colour(colour)


def _shape_of(codec: ImageCodec, train: int, valid: int) -> Shape:
    size = len(codec.categories) * (1 if codec.colour is None else 2)
    note = f"{train:,} training images of {'×'.join(map(str, codec.sides))}"
    return Shape(train, valid, codec.categories, size, note, codec.sides)


def _encode(codec: ImageCodec, images: NDArray[np.uint8]) -> tuple[NDArray[Any], float]:
    """Return the rows of images and their mean log-preimage, in nats."""
    if codec.colour is None:
        return images.reshape(len(images), -1), 0.0
    codes = np.empty((len(images), len(codec.categories)), np.int16)
    total = 0.0
    for start in range(0, len(images), _CHUNK):
        part = slice(start, start + _CHUNK)
        codes[part] = codec.encode(images[part])
        total += float(codec.log_preimage(codes[part]).sum())
    return codes, total / len(images)


def _shape(config: Settings) -> Shape:
    """Return the shape of the config's images; published sets need not be there."""
    section = _section(config)
    if section.name in SHAPES:
        known = SHAPES[section.name]
        valid = section.valid or known.valid
        train = known.train + known.valid - valid
        if train < 1:
            raise UserError(f"'data.valid' is {valid}, which leaves no image to train on")
        train, sides, levels = min(train, section.limit or train), known.shape, known.categories
    else:
        dataset = _split(config, section.name)
        train, valid, sides = len(dataset.train), len(dataset.valid), dataset.shape
        levels = dataset.categories
    transform = _transform(section.colour, sides[2], section.name)
    return _shape_of(ImageCodec(*sides, transform, levels), train, valid)


def _show(
    context: Context, folder: Path, arms: Sequence[Arm], best: Arm, scopes: IntArray | None
) -> None:
    """Leave ``figures.npz`` and ``assignments.h5`` in the run's folder."""
    clusters = next((a for arm in arms if (a := ancestor(arm, "clusters"))), None)
    divided = ("classes", "mixture")
    if any(getattr(context.config.circuit, name, None) for name in divided):
        clusters = None  # every part of the images has its own
    drawn = _figures(context, arms, clusters, scopes)
    copy_file(drawn.path / FIGURES, folder / FIGURES)
    copy_clusters(clusters, folder)


def _figures(
    context: Context, arms: Sequence[Arm], clusters: Artifact | None, scopes: IntArray | None
) -> Artifact:
    """Draw samples and inpaintings of every arm, and what the first latents' values look like."""
    data, seed, section = context.data, context.config.seed, context.config.report
    assert isinstance(data, ImageData)
    inputs = {"data": data.key, "report": section.model_dump(), "seed": seed}
    parents = [arm.artifact for arm in arms]

    def build(folder: Path) -> None:
        valid = data.dataset.valid
        hidden = valid[spread(len(valid), section.inpaint)]
        masks = make_masks(hidden.shape[0], hidden.shape[1:3], np.random.default_rng(seed))
        arrays: Arrays = {
            "real": valid[spread(len(valid), section.samples)],
            "inpaint/original": hidden,
        }
        arrays |= {f"inpaint/masks/{name}": mask for name, mask in masks.items()}
        for arm in arms:
            with context.reporter.task(f"pictures of {arm.arm}"):
                model = Model(arm.circuit(), context.engine)
                arrays[f"samples/{arm.arm}"] = model.sample(section.samples, seed=seed)
                for name, mask in masks.items():
                    try:
                        filled = model.inpaint(hidden, mask, seed=seed)
                    except UserError as error:
                        # An arm without pseudocounts may hold what is shown for impossible.
                        context.reporter.say(f"{arm.arm}: no completions ({error})")
                    else:
                        arrays[f"inpaint/{arm.arm}/{name}"] = filled
        for artifact in {a.id: a for arm in arms for a in arm.artifact.lineage()}.values():
            if (artifact.path / FIGURES).exists():
                with np.load(artifact.path / FIGURES, allow_pickle=False) as file:
                    arrays |= {name: file[name] for name in file.files}
        if clusters is not None and scopes is not None:
            assignments = Assignments.load(clusters.path / ASSIGNMENTS)
            arrays |= _examples(context.config, data.dataset.train, assignments, scopes)
        write_arrays(folder / FIGURES, arrays)

    return context.store.stage("figures", 4, inputs, build, parents=parents)


def make_masks(
    count: int, sides: tuple[int, ...], rng: np.random.Generator
) -> dict[str, NDArray[np.bool_]]:
    """Hide the lower half [H, W], and a random square of half the side [count, H, W]."""
    height, width = sides
    lower = np.zeros((height, width), np.bool_)
    lower[height // 2 :] = True
    tall, wide = max(1, height // 2), max(1, width // 2)
    tops = rng.integers(0, height - tall + 1, count)[:, None, None]
    lefts = rng.integers(0, width - wide + 1, count)[:, None, None]
    r, c = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
    inside = (r >= tops) & (r < tops + tall) & (c >= lefts) & (c < lefts + wide)
    return {"lower_half": lower, "squares": inside}


def _examples(
    config: Settings, images: NDArray[np.uint8], found: Assignments, scopes: IntArray
) -> Arrays:
    """Cut real windows for the first values of a few latents; black where there are too few."""
    z, channels = found.z["train"], images.shape[3]
    positions = z.shape[1]
    shown = varied(z, found.clusters)
    marks = np.zeros((len(shown), *images.shape[1:]), np.bool_)
    side = math.isqrt(scopes.shape[1] // channels)
    ring = getattr(config.teacher, "ring", 3 if side == 1 else 0) or 0
    wide = side + 2 * ring
    values = min(_VALUES, found.clusters)
    examples = np.zeros((len(shown), values, _EXAMPLES, wide, wide, channels), np.uint8)
    for i, position in enumerate(shown):
        # A teacher may give every channel of a pixel a latent of its own.
        scope = scopes[position // (positions // len(scopes))]
        top, left, _ = np.unravel_index(scope[0], images.shape[1:])
        marks[i].reshape(-1)[scope] = True
        for value in range(values):
            rows = np.flatnonzero(z[:, position] == value)
            rows = rows[spread(len(rows), _EXAMPLES)]
            if len(rows):
                padded = np.pad(images[rows], ((0, 0), (ring, ring), (ring, ring), (0, 0)))
                cut = padded[:, top : top + wide, left : left + wide]
                examples[i, value, : len(rows)] = cut
    return {
        "clusters/examples": examples,
        "clusters/positions": shown.astype(np.int32),
        "clusters/mean": images[spread(len(images), _CHUNK)].mean(0).round().astype(np.uint8),
        "clusters/marks": marks.any(-1),
    }


def varied(z: NDArray[Any], clusters: int) -> NDArray[np.int64]:
    """Choose a few positions, evenly among those whose values have at least median entropy."""
    some = z[spread(len(z), _CHUNK)]
    counts = np.stack([np.bincount(column, minlength=clusters) for column in some.T])
    shares = counts / counts.sum(1, keepdims=True)
    entropy = -(shares * np.log(np.maximum(shares, 1e-12))).sum(1)
    candidates = np.flatnonzero(entropy >= np.median(entropy))
    chosen = np.linspace(0, len(candidates) - 1, _POSITIONS + 2).astype(np.int64)[1:-1]
    return np.unique(candidates[chosen])


DOMAIN = Domain(
    name="images",
    section=ImageSection,
    teacher="pixels",
    circuit="hclt",
    check=no_check,
    load=_load,
    split=_split,
    shape=_shape,
    show=_show,
)
