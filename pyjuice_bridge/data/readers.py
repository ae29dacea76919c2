"""Readers of images: from a folder with a set's files, or a user's own, to the splits there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.catalogue import DataSet
from pyjuice_bridge.data.dataset import Images, as_images
from pyjuice_bridge.data.folders import class_folders, picture_folders, read_folder
from pyjuice_bridge.data.formats import (
    map_npy,
    npz_names,
    read_batch,
    read_bytes,
    read_cifar_bin,
    read_csv_images,
    read_idx,
    read_npz_array,
)
from pyjuice_bridge.data.splits import (
    Found,
    is_hidden,
    one_by_split,
    refuse_without_train,
    split_called,
)
from pyjuice_bridge.data.stack import stacked
from pyjuice_bridge.errors import UserError

OLD_IMAGENET = "old release: PNG folders, 1,281,149 train and 49,999 test images in full"
NEW_IMAGENET = "new release: batches, 1,281,167 train and 50,000 test images in full"


_LABELS = re.compile(r"images([-.])idx3")
"""In the name of a file of images, what is another in that of their labels."""


@dataclass
class FoundImages(Found[Images]):
    """Images as published.

    Attributes:
        groups: int32 [len(train)], what must not be divided between train and valid.
        categories: number of values a pixel can take.
        test_one_in: one image in so many is for test, where there is no test split.
        valid_one_in: the same for valid; by default one in ten, at most 5,000.
        labels: by part the class of every image, numbers or text; None where there are none.
    """

    groups: NDArray[np.int32] | None = None
    categories: int = 256
    test_one_in: int = 10
    valid_one_in: int | None = None
    labels: dict[str, NDArray[Any]] | None = None


def read_csv(entry: DataSet, folder: Path) -> FoundImages:
    """Read a table of square grey images and their labels."""
    (path,) = _files(entry, folder)
    options = dict(entry.options)
    images, labels = read_csv_images(path, options.pop("side"), entry.name)
    source = _source(entry, [path])
    return FoundImages(
        {"train": images}, {"train": path.name}, source, labels={"train": labels}, **options
    )


def read_idx_files(entry: DataSet, folder: Path) -> FoundImages:
    """Read MNIST or a set in its form from idx files."""
    paths = _files(entry, folder)
    arrays = [as_images(read_idx(path), str(path)) for path in paths]
    splits = dict(zip(("train", "test"), arrays, strict=True))
    files = [path.with_name(_LABELS.sub(r"labels\1idx1", path.name)) for path in paths]
    labels = [read_idx(file) if file.is_file() else None for file in files]
    return _published(splits, _source(entry, paths), dict(zip(splits, labels, strict=True)))


def read_cifar(entry: DataSet, folder: Path) -> FoundImages:
    """Read CIFAR from the python or the binary version."""
    options = entry.options
    names = [*options["train"], options["test"]]
    paths = [_one_of(folder, [name, f"{name}.bin"], entry.name) for name in names]
    batches = [
        read_cifar_bin(path, options["labels"]) if path.suffix == ".bin" else read_batch(path, 32)
        for path in paths
    ]
    images = [batch.images for batch in batches]
    splits = {"train": np.concatenate(images[:-1]), "test": np.ascontiguousarray(images[-1])}
    read = [batch.labels for batch in batches if batch.labels is not None]
    labels = {}
    if len(read) == len(batches):
        labels = {"train": np.concatenate(read[:-1]), "test": read[-1]}
    return _published(splits, {"source": [str(path) for path in paths]}, labels)


def read_imagenet(entry: DataSet, folder: Path) -> FoundImages:
    """Read ImageNet32 or ImageNet64, old or new release, as found."""
    name, side = entry.name, int(entry.options["side"])
    old = {s: folder / f"{n}_{side}x{side}" for s, n in (("train", "train"), ("test", "valid"))}
    new = {
        s: _batch_files(folder, n)
        for s, n in (("train", "train_data_batch_"), ("test", "val_data"))
    }
    has_old = all(path.is_dir() for path in old.values())
    if has_old and new["train"]:
        raise UserError(
            f"{folder} holds both releases of ImageNet{side}, which are different sets:"
            " point root at a folder with one of them."
        )
    if has_old:
        splits = {s: read_folder(f"{name}-{s}", path, mode="RGB") for s, path in old.items()}
        meta = {"source": [str(path) for path in old.values()], "variant": OLD_IMAGENET}
    elif all(new.values()):
        splits = {s: _stack_batches(f"{name}-{s}", files, side) for s, files in new.items()}
        meta = {"source": [str(p) for s in new.values() for p in s], "variant": NEW_IMAGENET}
    else:
        raise UserError(
            f"{folder} holds neither train_data_batch_* and val_data (.npz or pickle) nor the"
            f" folders train_{side}x{side} and valid_{side}x{side} of PNG files."
        )
    for split, images in splits.items():
        if images.shape[1:] != (side, side, 3):
            raise UserError(f"{folder}: its {split} images are not {side}x{side} pixels in colour.")
    return _published(splits, meta)


READERS: Mapping[str, Callable[[DataSet, Path], FoundImages]] = {
    "csv": read_csv,
    "idx": read_idx_files,
    "cifar": read_cifar,
    "imagenet": read_imagenet,
}


def own(path: Path) -> FoundImages:
    """Read a user's folder of pictures, ``.npy`` or ``.npz`` file."""
    meta = {"source": [str(path)]}
    labels: Mapping[str, NDArray[Any] | None] = {}
    if path.is_dir():
        folders = picture_folders(path)
        parts = {s or "train": read_folder(f"{path.name}-{s}", p) for s, p in folders.items()}
        sources = {s or "train": f"{p.name}/" for s, p in folders.items()}
        labels = {s or "train": class_folders(p) for s, p in folders.items()}
    elif path.suffix.lower() == ".npy":
        parts, sources = {"train": as_images(map_npy(path), str(path))}, {"train": path.name}
    elif path.suffix.lower() == ".npz":
        keys = label_names(npz_names(path))
        sources = npz_splits(path, without=keys.values())
        parts = {
            s: as_images(read_npz_array(path, key), f"{path}: {key}") for s, key in sources.items()
        }
        read = {split: read_npz_array(path, key) for split, key in keys.items()}
        alone = keys.get("train") == "labels"
        # The name alone is too common to say what they are labels of.
        fits = not alone or len(read["train"]) == len(parts.get("train", ()))
        labels = read if fits else {}
    else:
        raise UserError(f"{path} is neither a folder of pictures nor a .npy or .npz file.")
    refuse_without_train(parts, str(path))
    return FoundImages(parts, sources, meta, labels=checked_labels(labels, parts, str(path)))


def label_names(names: Iterable[str]) -> dict[str, str]:
    """Return by split the names that end in ``labels``; ``labels`` alone are those of ``train``."""
    found = {n: n.removesuffix("labels").rstrip("_-") for n in names if n.endswith("labels")}
    splits = {n: split_called(word) if word else "train" for n, word in found.items()}
    return {split: n for n, split in splits.items() if split}


def checked_labels(
    labels: Mapping[str, NDArray[Any] | None], parts: Mapping[str, Images], where: str
) -> dict[str, NDArray[Any]] | None:
    """Return the labels of all parts; None where a part has none.

    Raises:
        UserError: labels without images, or not a number or a text for every image.
    """
    there = {split: np.asarray(each) for split, each in labels.items() if each is not None}
    for split, each in there.items():
        count = len(parts.get(split, ()))
        if each.shape != (count,) or each.dtype.kind not in "biuU":
            raise UserError(
                f"{where}: its {split} labels are {each.dtype} {list(each.shape)}; give a whole "
                f"number or a text for each of {count:,} images."
            )
    return there if there and parts.keys() <= there.keys() else None


def npz_splits(path: Path, without: Collection[str] = ()) -> dict[str, str]:
    """Return the array of each split in an ``.npz`` file, ``without`` some; an only one is train.

    Raises:
        UserError: it holds several arrays, none of them for train.
    """
    names = [name for name in npz_names(path) if name not in without]
    splits = one_by_split(names, str(path))
    if not splits and len(names) == 1:
        return {"train": names[0]}
    if "train" not in splits:
        raise UserError(
            f"{path} holds {', '.join(names) or 'nothing'}: it needs an array train (and, if there"
            " are such splits, valid and test), or one array only."
        )
    return splits


def arrays(splits: Mapping[str, NDArray[Any]]) -> FoundImages:
    """Take arrays in memory; they are copied, so that the caller's stay as they are."""
    keys = label_names(map(str, splits))
    names = mapping_splits({n: a for n, a in splits.items() if n not in keys.values()}, "arrays")
    parts = {
        split: as_images(
            np.ma.array(splits[n]) if np.ma.isMA(splits[n]) else np.array(splits[n]), f"array {n}"
        )
        for split, n in names.items()
    }
    return FoundImages(
        parts,
        {split: f"array {n}" for split, n in names.items()},
        {"source": ["memory"]},
        labels=checked_labels({s: splits[n] for s, n in keys.items()}, parts, "arrays"),
    )


def mapping_splits(splits: Mapping[str, Any], what: str) -> dict[str, str]:
    """Return the key of each split in a mapping; every key must be a split's name.

    Raises:
        UserError: another key, or none for train.
    """
    named = one_by_split(map(str, splits), what)
    if len(named) < len(splits) or "train" not in named:
        raise UserError(
            f"{what} {', '.join(map(str, splits)) or '(none)'} were given;"
            " give train and, where there are some, valid and test."
        )
    return named


def _published(
    splits: dict[str, Images],
    meta: dict[str, Any],
    labels: Mapping[str, NDArray[Any] | None] | None = None,
) -> FoundImages:
    sources = {split: f"the published {split} split" for split in splits}
    known = checked_labels(labels or {}, splits, meta["source"][0])
    return FoundImages(splits, sources, meta, labels=known)


def _files(entry: DataSet, folder: Path) -> list[Path]:
    """Find the set's files; a dot before ``idx`` and a ``.gz`` at the end are common spellings."""
    return [
        _one_of(folder, [file.name, file.name.replace("-idx3", ".idx3")], entry.name)
        for file in entry.files
    ]


def _source(entry: DataSet, paths: Sequence[Path]) -> dict[str, Any]:
    digests = [hashlib.sha256(read_bytes(path)).hexdigest() for path in paths]
    published = digests == [file.sha256 for file in entry.files]
    return {"source": [str(path) for path in paths], "published_bytes": published}


def _one_of(folder: Path, wanted: Sequence[str], what: str) -> Path:
    """Find the first of ``wanted`` (plain or ``.gz``) in ``folder`` or a folder directly in it."""
    for place in _places(folder):
        for name in wanted:
            for path in (place / name, place / f"{name}.gz"):
                if path.is_file():
                    return path
    raise UserError(f"{folder} has no file {wanted[0]}: it does not hold all of {what}.")


def _places(folder: Path) -> list[Path]:
    """List a folder and the visible folders directly in it."""
    inner = sorted(p for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))
    return [folder, *inner]


def _batch_files(folder: Path, prefix: str) -> list[Path]:
    """Find the batches of the newer release in ``folder`` or one level down, in numeric order."""
    by_name: dict[str, Path] = {}
    for place in _places(folder):
        for path in place.glob(f"{prefix}*"):
            if path.suffix in ("", ".npz") and path.is_file():
                by_name.setdefault(path.stem, path)
    return [by_name[stem] for stem in sorted(by_name, key=lambda stem: (len(stem), stem))]


def _stack_batches(name: str, files: Sequence[Path], side: int) -> Images:
    def batches() -> Iterator[Images]:
        for path in files:
            yield read_batch(path, side).images

    return stacked(name, files, batches)
