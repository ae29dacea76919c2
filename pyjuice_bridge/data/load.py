"""``load_dataset``: any known set, or a user's own images, as train, valid and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data import natural, readers
from pyjuice_bridge.data.catalogue import DataSet, known_set, names_of
from pyjuice_bridge.data.dataset import Dataset, Images, limited, split_off
from pyjuice_bridge.data.obtain import find
from pyjuice_bridge.data.readers import FoundImages
from pyjuice_bridge.data.splits import Division, Found, divided, whole_number
from pyjuice_bridge.errors import UserError

_READERS = {**readers.READERS, "natural": natural.read}
_IMAGES: Division[Images] = Division("images", len, split_off)
_MOST_VALID = 5000


def names() -> tuple[str, ...]:
    """Return the names of the known sets of images."""
    return names_of("images")


def load_dataset(
    source: str | Path | NDArray[Any] | Mapping[str, NDArray[Any]],
    *,
    root: Path | str | None = None,
    valid: int | None = None,
    seed: int = 0,
    limit: int | None = None,
) -> Dataset:
    """Load a set by name, or a user's images by path or as arrays.

    Args:
        source: one of :func:`names`; a folder of pictures, a ``.npy`` or an ``.npz`` file; an
            array [N, H, W] or [N, H, W, C] of uint8; or a mapping with arrays ``train`` and,
            where there are some, ``valid``, ``test``, and labels ``train_labels`` ….  Folders in
            which all pictures lie are their labels, too.  A folder may have subfolders and an
            ``.npz`` file arrays of those names (or training, validation, val, dev, eval, testing,
            in upper or lower case).
        root: for a set known by name: a folder with its files, or with a folder ``name``.  By
            default the cache, where ``data get`` puts it; the two smallest sets are fetched
            there when they are missing.
        valid: number of images moved from train to valid; by default a tenth, at most 5,000.
            Not allowed where the source has a valid split of its own.
        seed: chooses the validation images (and those kept by ``limit``).
        limit: at most this many images in each split, for trials.

    A source without a test split gives a tenth for it, the same for every seed.

    Raises:
        UserError: unknown name, missing or damaged files, too few images.
    """
    seed = whole_number("seed", seed, 0)
    valid = None if valid is None else whole_number("valid", valid)
    limit = None if limit is None else whole_number("limit", limit)
    name, found = _find(source, root)
    own_valid = "valid" in found.parts
    if found.groups is not None and not own_valid:
        count = valid or len(found.parts["train"]) // 10
        _take_groups(name, found, found.groups, count, seed)
        valid = None
    counts = {
        "test": lambda whole, _: max(1, whole // found.test_one_in),
        "valid": lambda whole, left: valid or _valid_count(found, whole, left),
    }
    labels, classes = _labels(name, found, counts, seed)
    done = divided(name, found, _IMAGES, counts, {"valid": valid}, seed)
    _one_shape(name, list(done.parts.values()))
    return Dataset(
        name=name,
        **{split: limited(part, limit, seed) for split, part in done.parts.items()},
        categories=found.categories,
        labels={split: limited(part, limit, seed) for split, part in labels.items()},
        classes=classes,
        meta={**found.meta, "sources": done.sources, "seed": seed, "limit": limit},
    )


def _labels(
    name: str,
    found: FoundImages,
    counts: Mapping[str, Callable[[int, int], int]],
    seed: int,
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Divide labels as their images will be; return them as numbers of classes, and the names.

    Raises:
        UserError: a class has no training image.
    """
    if found.labels is None:
        return {}, ()
    copies = {split: each.copy() for split, each in found.labels.items()}
    parts = divided(name, Found(copies, dict(found.sources)), _IMAGES, counts, {}, seed).parts
    classes = np.unique(parts["train"])
    for split, part in parts.items():
        unknown = np.setdiff1d(part, classes)
        if len(unknown):
            raise UserError(f"{name}: no training image has the label {unknown[0]} of its {split}.")
    numbers = {s: np.searchsorted(classes, part).astype(np.int32) for s, part in parts.items()}
    return numbers, tuple(map(str, classes.tolist()))


def load_undivided(source: str | Path) -> Images | None:
    """Return every image of a path without a test split, in order; None for anything else.

    Raises:
        UserError: missing or damaged files.
    """
    if known_set(source, "images"):
        return None
    name, found = _find(source, None)
    if "test" in found.parts:
        return None
    _one_shape(name, list(found.parts.values()))
    return np.concatenate([found.parts[s] for s in ("train", "valid") if s in found.parts])


def _valid_count(found: FoundImages, whole: int, left: int) -> int:
    if found.valid_one_in:
        return max(1, whole // found.valid_one_in)
    return min(_MOST_VALID, max(1, left // 10))


def _one_shape(name: str, splits: Sequence[Images]) -> None:
    shapes = {images.shape[1:] for images in splits}
    if len(shapes) > 1:
        raise UserError(
            f"{name} has splits of different image shapes"
            f" ({', '.join(str(list(shape)) for shape in sorted(shapes))}): bring them to one."
        )


def _take_groups(
    name: str, found: FoundImages, groups: NDArray[np.int32], count: int, seed: int
) -> None:
    """Move whole groups (photographs) to valid, in an order set by seed, up to ``count`` images."""
    ids, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(ids))
    taken = 1 + int(np.searchsorted(np.cumsum(sizes[order]), count))
    if taken >= len(ids):
        raise UserError(
            f"{name}: {count} validation images would take every one of its {len(ids)} training"
            " photographs; ask for fewer."
        )
    rows = np.flatnonzero(np.isin(groups, ids[order[:taken]]))
    found.parts["train"], held = split_off(found.parts["train"], rows)
    found.parts["valid"] = limited(held, count, seed)
    found.sources["valid"] = f"{taken} photographs of the training split, by seed"


def _find(source: Any, root: Path | str | None) -> tuple[str, FoundImages]:
    return find(source, root, "images", memory=_memory, read=_read, own=readers.own)


def _read(entry: DataSet, folder: Path) -> FoundImages:
    return _READERS[entry.reader](entry, folder)


def _memory(source: Any) -> tuple[str, FoundImages]:
    if isinstance(source, np.ndarray):
        return "array", readers.arrays({"train": source})
    if isinstance(source, Mapping):
        return "arrays", readers.arrays(source)
    raise UserError(
        f"images: a {type(source).__name__} cannot be read;"
        " give an array uint8 [N, H, W] or [N, H, W, C], or a mapping with train, valid, test."
    )
