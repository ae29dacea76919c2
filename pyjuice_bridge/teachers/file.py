"""Bring your own: embeddings or cluster ids, one array per split, from files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import ArrayEmbeddings, Embeddings, FloatArray, Rows

_HDF5 = {".h5", ".hdf5"}


class HDF5Embeddings:
    """Embeddings over a dataset [N, P, D] of an HDF5 file, read a part at a time."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        with _open(path) as file:
            dataset = file[name]
            _check(dataset, f"{path}: /{name}")
            self._shape = tuple(int(n) for n in dataset.shape)

    @property
    def shape(self) -> tuple[int, int, int]:
        rows, positions, dim = self._shape
        return rows, positions, dim

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        with _open(self._path) as file:
            dataset = file[self._name]
            if isinstance(rows, slice):
                return np.asarray(dataset[rows, positions], np.float32)
            kept, back = np.unique(rows, return_inverse=True)
            part = np.asarray(dataset[kept, positions], np.float32)
        return part[back]


def load_embeddings(path: Path | str) -> dict[str, Embeddings]:
    """Embeddings of every split, float [N, positions, dim].

    Args:
        path: a folder with ``train.npy``, ``valid.npy``, ``test.npy``; a ``.npz`` with these
            names; or HDF5 with the datasets ``/embeddings/train`` and so on.  Rows are in the
            order of the data set's splits.

    Raises:
        UserError: nothing there, or arrays that are not finite floats [N, positions, dim].
    """
    path = Path(path)
    if path.suffix in _HDF5:
        names = _dataset_names(path, "embeddings")
        return {name: HDF5Embeddings(path, f"embeddings/{name}") for name in names}
    found: dict[str, Embeddings] = {}
    for split, array in _arrays(path):
        _check(array, f"{path}: {split}")
        found[split] = ArrayEmbeddings(array)
    return found


def load_cluster_ids(path: Path | str) -> dict[str, NDArray[np.int32]]:
    """Cluster ids of every split, int32 [N, positions], for `Assignments(z, clusters)`.

    Args:
        path: as in `load_embeddings`; in HDF5 the datasets are ``/z/train`` and so on, which is
            also how `Assignments.save` writes them.

    Raises:
        UserError: nothing there, or arrays that are not integers of 0 or more [N, positions].
    """
    path = Path(path)
    found: dict[str, NDArray[np.int32]] = {}
    if path.suffix in _HDF5:
        names = _dataset_names(path, "z")
        with _open(path) as file:
            pairs: list[tuple[str, Any]] = [(name, file[f"z/{name}"][()]) for name in names]
    else:
        pairs = list(_arrays(path))
    for split, ids in pairs:
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise UserError(
                f"{path}: {split}: must hold integers [rows, positions], "
                f"found {ids.dtype} {list(ids.shape)}"
            )
        if ids.size and (ids.min() < 0 or ids.max() > np.iinfo(np.int32).max):
            raise UserError(f"{path}: {split}: cluster ids must lie in 0..2^31-1")
        found[split] = np.asarray(ids, np.int32)
    return found


def _arrays(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """Name and array of every split in a folder of ``.npy`` or a ``.npz``."""
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder")
    opened: Mapping[str, Any]
    try:
        if path.is_dir():
            files = [each for each in sorted(path.glob("*.npy")) if not each.name.startswith(".")]
            opened = {each.stem: np.load(each, mmap_mode="r", allow_pickle=False) for each in files}
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                opened = {name: archive[name] for name in archive.files}
        else:
            raise UserError(f"{path}: must be a folder of .npy files, a .npz or an .h5 file")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not readable ({error})") from None
    if not opened:
        raise UserError(f"{path}: holds no array; name them train, valid and test")
    yield from opened.items()


def _check(array: Any, where: str) -> None:
    shape = getattr(array, "shape", ())
    if len(shape) != 3 or 0 in shape or array.dtype.kind != "f":
        raise UserError(
            f"{where}: must hold floats [rows, positions, dim], "
            f"found {getattr(array, 'dtype', 'no array')} {list(shape)}"
        )


def _dataset_names(path: Path, group: str) -> list[str]:
    """Names of the datasets in ``group``; links, which can lead out of the file, are refused."""
    with _open(path) as file:
        link = file.get(group, getlink=True)
        if not isinstance(link, h5py.HardLink) or not isinstance(file[group], h5py.Group):
            raise UserError(f"{path}: /{group}: must be a group with one dataset per split")
        names = []
        for name in file[group]:
            hard = isinstance(file[group].get(name, getlink=True), h5py.HardLink)
            item = file[group][name] if hard else None
            if not isinstance(item, h5py.Dataset) or item.is_virtual or item.external:
                raise UserError(f"{path}: /{group}/{name}: must be a dataset stored in this file")
            names.append(str(name))
    if not names:
        raise UserError(f"{path}: /{group}: is empty; name its datasets train, valid and test")
    return names


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path}: is not a readable HDF5 file ({error})") from None
