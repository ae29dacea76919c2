"""``load_dataset``: any known set, or a user's own images, as train, valid and test."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data import natural, readers
from pyjuice_bridge.data.catalogue import ARCHIVE_SOURCES, FILE_SOURCES
from pyjuice_bridge.data.dataset import (
    TEST_SEED,
    Dataset,
    Images,
    limited,
    split_at_random,
    split_off,
)
from pyjuice_bridge.data.files import cache_dir
from pyjuice_bridge.data.readers import Found
from pyjuice_bridge.data.sources import default_folder, get_archives, get_files
from pyjuice_bridge.data.text_corpora import CORPORA, get_corpus
from pyjuice_bridge.errors import UserError

_READERS: Mapping[str, Callable[[Path], Found]] = {
    "digits": readers.digits,
    "mnist5k": readers.mnist5k,
    "mnist": readers.mnist,
    "fashion_mnist": readers.fashion_mnist,
    "cifar10": readers.cifar10,
    "cifar100": readers.cifar100,
    "imagenet32": readers.imagenet32,
    "imagenet64": readers.imagenet64,
    "natural_patches": natural.read,
}
_SMALL = ("digits", "mnist5k")
_MOST_VALID = 5000


def names() -> tuple[str, ...]:
    """The sets known by name."""
    return tuple(_READERS)


def get_dataset(name: str, root: Path | None = None) -> Path:
    """Obtain the set ``name`` into ``root/name`` (default: the cache); returns that folder.

    What is there already is checked and kept.

    Raises:
        UserError: an unknown name, a folder that cannot be made, or no source could be reached.
    """
    if name not in CORPORA:
        _known(name)
    folder = default_folder(name, root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made a folder ({error.strerror}).") from error
    if name in CORPORA:
        return get_corpus(name, folder)
    if name in FILE_SOURCES:
        return get_files(name, folder)
    if name in ARCHIVE_SOURCES:
        return get_archives(name, folder)
    return natural.build(folder)


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
            where there are some, ``valid`` and ``test``.  A folder may have subfolders and an
            ``.npz`` file arrays of those names.
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
    for field, value in (("valid", valid), ("limit", limit)):
        if value is not None and value < 1:
            raise UserError(f"{field} is {value}: give at least 1 image.")
    name, found = _find(source, root)
    train, held, test = _splits(name, found, valid, seed)
    meta = {
        **found.meta,
        "split": found.split,
        "seed": seed,
        "limit": limit,
    }
    return Dataset(
        name=name,
        train=limited(train, limit, seed),
        valid=limited(held, limit, seed),
        test=limited(test, limit, seed),
        categories=found.categories,
        meta=meta,
    )


def load_undivided(source: str | Path) -> Images | None:
    """Every image of a path without a test split, in order; None for anything else.

    Raises:
        UserError: missing or damaged files.
    """
    if str(source) in _READERS:
        return None
    name, found = _find(source, None)
    if found.test is not None:
        return None
    if found.valid is None:
        return found.train
    _one_shape(name, (found.train, found.valid))
    return np.concatenate((found.train, found.valid))


def _splits(name: str, found: Found, valid: int | None, seed: int) -> tuple[Images, Images, Images]:
    train, test = found.train, found.test
    if test is None:
        count = found.test_count or max(1, len(train) // 10)
        train, test = split_at_random(train, count, TEST_SEED, name, "test")
    if found.valid is not None:
        if valid is not None:
            raise UserError(f"{name} has a valid split of its own: leave out valid = {valid}.")
        held = found.valid
    elif found.groups is not None:
        train, held = _split_by_group(name, train, found.groups, valid or len(train) // 10, seed)
    else:
        count = valid or found.valid_count or min(_MOST_VALID, max(1, len(train) // 10))
        train, held = split_at_random(train, count, seed, name, "validation")
    _one_shape(name, (train, held, test))
    return train, held, test


def _one_shape(name: str, splits: Sequence[Images]) -> None:
    shapes = {images.shape[1:] for images in splits}
    if len(shapes) > 1:
        raise UserError(
            f"{name} has splits of different image shapes"
            f" ({', '.join(str(list(shape)) for shape in sorted(shapes))}): bring them to one."
        )


def _split_by_group(
    name: str, train: Images, groups: NDArray[np.int32], count: int, seed: int
) -> tuple[Images, Images]:
    """Whole groups (photographs), in an order set by seed, until they hold ``count`` images."""
    ids, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(ids))
    taken = 1 + int(np.searchsorted(np.cumsum(sizes[order]), count))
    if taken >= len(ids):
        raise UserError(
            f"{name}: {count} validation images would take every one of its {len(ids)} training"
            " photographs; ask for fewer."
        )
    rows = np.flatnonzero(np.isin(groups, ids[order[:taken]]))
    train, held = split_off(train, rows)
    return train, limited(held, count, seed)


def _find(
    source: str | Path | NDArray[Any] | Mapping[str, NDArray[Any]], root: Path | str | None
) -> tuple[str, Found]:
    if isinstance(source, np.ndarray):
        return "array", readers.arrays({"train": source})
    if isinstance(source, Mapping):
        return "arrays", readers.arrays(source)
    if not isinstance(source, (str, Path)):
        raise UserError(
            f"images: a {type(source).__name__} cannot be read;"
            " give an array uint8 [N, H, W] or [N, H, W, C], or a mapping with train, valid, test."
        )
    if str(source) in _READERS:
        name = str(source)
        return name, _READERS[name](_folder(name, root))
    path = Path(source).expanduser()
    if not path.exists():
        if isinstance(source, str) and path.name == source and not path.suffix:
            _known(source)
        raise UserError(f"{path} does not exist: give a folder, a .npy or an .npz file.")
    return path.stem or str(path), readers.own(path)


def _folder(name: str, root: Path | str | None) -> Path:
    if root is not None:
        base = Path(root).expanduser()
        if not base.is_dir():
            raise UserError(f"data root {base} is not a folder.")
        return base / name if (base / name).is_dir() else base
    folder = cache_dir() / name
    if not folder.is_dir() or not any(folder.iterdir()):
        if name not in _SMALL:
            raise UserError(
                f"{name} is not on this machine: run `python -m pyjuice_bridge data get {name}`,"
                " or set root to a folder that holds its files."
            )
        get_files(name, folder)
    return folder


def _known(name: str) -> None:
    if name in _READERS:
        return
    if name in CORPORA:
        raise UserError(f"{name} is text: images were asked for (known: {', '.join(_READERS)}).")
    near = difflib.get_close_matches(name, (*_READERS, *CORPORA), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UserError(f"There is no data set or path {name} (known: {', '.join(_READERS)}){hint}")
