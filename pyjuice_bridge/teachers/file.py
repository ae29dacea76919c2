"""Bring your own: embeddings or cluster ids, one array per split, from files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import (
    ArrayEmbeddings,
    FloatArray,
    Rows,
    TeacherSection,
)

_HDF5 = {".h5", ".hdf5"}
_MOST_COMPRESSED = 1100
"""No deflate stream unpacks to more than 1,032 times its size."""


class FileSection(TeacherSection):
    """Embeddings or cluster ids made elsewhere, rows in the order of the run's own splits.

    Exactly one of the two: ``embeddings``, floats [N, positions, dim], or ``assignments``, integers
    [N, positions].  Either is a folder with ``train.npy``, ``valid.npy`` and ``test.npy``, a
    ``.npz`` with these names, or HDF5 with ``/embeddings/<split>`` or ``/z/<split>``.  Rows of text
    are windows, whose positions after the end of a document do not count; of text, the test split
    is not needed, and ``tokenizer`` is whose pieces ``data.tokens: pieces`` cuts it into.
    """

    domains = ("images", "text", "table")
    kind: Literal["file"]
    embeddings: str | None = None
    assignments: str | None = None
    tokenizer: str = "minilm"

    @model_validator(mode="after")
    def _one_of_two(self) -> FileSection:
        if (self.embeddings is None) == (self.assignments is None):
            raise ValueError("give either 'embeddings' or 'assignments', not both")
        return self


class HDF5Embeddings:
    """Embeddings over a dataset [N, P, D] of an HDF5 file, read a part at a time."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self.lengths: NDArray[np.integer[Any]] | None = None
        with _opened(path) as file:
            dataset = _dataset(file, name)
            _check(dataset, f"{path}: /{name}")
            self._shape = tuple(int(n) for n in dataset.shape)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, D)."""
        rows, positions, dim = self._shape
        return rows, positions, dim

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        """Return the vectors float32 [rows, positions, D] of the chosen rows and positions."""
        with _opened(self._path) as file, np.errstate(over="ignore"):
            dataset = _dataset(file, self._name)
            if isinstance(rows, slice):
                return np.asarray(dataset[rows, positions], np.float32)
            kept, back = np.unique(rows, return_inverse=True)
            return np.asarray(dataset[kept, positions], np.float32)[back]


def load_embeddings(path: Path | str) -> dict[str, ArrayEmbeddings | HDF5Embeddings]:
    """Open embeddings of every split, float [N, positions, dim].

    Args:
        path: a folder with ``train.npy``, ``valid.npy``, ``test.npy``; a ``.npz`` with these
            names; or HDF5 with the datasets ``/embeddings/train`` and so on.  Rows are in the
            order of the data set's splits.

    Raises:
        UserError: nothing there, or arrays that are not floats [N, positions, dim].
    """
    path = Path(path)
    if path.suffix in _HDF5:
        names = _dataset_names(path, "embeddings")
        return {name: HDF5Embeddings(path, f"embeddings/{name}") for name in names}
    arrays = _arrays(path)
    for split, array in arrays.items():
        _check(array, f"{path}: {split}")
    return {split: ArrayEmbeddings(array) for split, array in arrays.items()}


def load_cluster_ids(path: Path | str, *, missing: bool = False) -> dict[str, NDArray[np.int32]]:
    """Read cluster ids of every split, int32 [N, positions].

    Args:
        path: as in `load_embeddings`; in HDF5 the datasets are ``/z/train`` and so on, which is
            also how `Assignments.save` writes them.
        missing: whether -1 may mark a missing id.

    Raises:
        UserError: nothing there, or arrays that are not such integers [N, positions].
    """
    path = Path(path)
    ids_by_split: dict[str, NDArray[np.int32]] = {}
    arrays = _hdf5_arrays(path, "z") if path.suffix in _HDF5 else _arrays(path)
    for split, ids in arrays.items():
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise UserError(
                f"{path}: {split}: must hold integers [rows, positions], "
                f"found {ids.dtype} {list(ids.shape)}"
            )
        if ids.size and (ids.min() < -int(missing) or ids.max() > np.iinfo(np.int32).max):
            raise UserError(f"{path}: {split}: cluster ids must lie in 0..2^31-1")
        ids_by_split[split] = np.array(ids, np.int32)
    return ids_by_split


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes its library raise into one sentence."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file or folder") from None
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path}: is not readable ({lines[0]})") from None


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Open the array of every split in a folder of ``.npy`` or a ``.npz``."""
    with _reading(path):
        if path.is_dir():
            files = [each for each in sorted(path.glob("*.npy")) if not each.name.startswith(".")]
            opened = {each.stem: np.load(each, mmap_mode="r", allow_pickle=False) for each in files}
        elif path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                opened = {name: archive[name] for name in archive.files}
        elif path.exists():
            raise UserError(f"{path}: must be a folder of .npy files, a .npz or an .h5 file")
        else:
            raise UserError(f"{path}: there is no such file or folder")
    if not opened:
        raise UserError(f"{path}: holds no array; name them train, valid and test")
    for split, array in opened.items():
        if not isinstance(array, np.ndarray):
            raise UserError(f"{path}: {split}: is no array")
    return opened


def _check(array: Any, where: str) -> None:
    shape = array.shape or ()
    if len(shape) != 3 or 0 in shape or array.dtype.kind != "f":
        raise UserError(
            f"{where}: must hold floats [rows, positions, dim], found {array.dtype} {list(shape)}"
        )


def _hdf5_arrays(path: Path, group: str) -> dict[str, NDArray[Any]]:
    names = _dataset_names(path, group)
    with _opened(path) as file:
        return {name: np.asarray(_dataset(file, f"{group}/{name}")[()]) for name in names}


def _dataset_names(path: Path, group: str) -> list[str]:
    """List the datasets in ``group``; links, which can lead out of the file, are refused."""
    with _opened(path) as file:
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


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset whose bytes are in the file, before any of them is read."""
    dataset = file[name]
    ratio = _MOST_COMPRESSED if dataset.compression else 1
    if dataset.nbytes > ratio * dataset.id.get_storage_size():
        raise UserError(
            f"{file.filename}: /{name}: shape {dataset.shape} needs more bytes than the file holds"
        )
    return dataset


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    with _reading(path), h5py.File(path, "r") as file:
        yield file
