"""``data get NAME``: put a set's files into a folder, from a package or its public address."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from pyjuice_bridge.data.catalogue import DataSet, PublishedFile
from pyjuice_bridge.data.files import UnreachableError, download, scratch_folder, verify
from pyjuice_bridge.data.formats import read_bytes
from pyjuice_bridge.data.packages import installed_file
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import atomic_file, write_bytes


def get_files(entry: DataSet, folder: Path) -> Path:
    """Put the files of a set into ``folder``, unpacked and verified.

    Tried in this order: what is there already, an installed package, the package registry,
    the public address.

    Raises:
        UserError: no source could be reached, or one sent other bytes.
    """
    files = (*entry.files, *entry.labels)
    missing = [file for file in files if not is_there(folder, file)]
    for file in missing:
        local = _installed_copy(entry, file)
        raw = None if local is None else read_bytes(local)
        if raw is not None and _sha256(raw) == file.sha256:
            _store(folder / file.name, raw)
    missing = [file for file in missing if not (folder / file.name).is_file()]
    if not missing:
        return folder
    reasons = []
    for attempt in (_from_package, _from_addresses):
        try:
            attempt(entry, missing, folder)
            return folder
        except UnreachableError as error:
            reasons.append(str(error))
    raise UserError(
        f"{entry.name} could not be fetched: {'; '.join(reasons)}."
        f" Put {', '.join(file.name for file in missing)} into {folder} by hand."
    )


def published_file(entry: DataSet, folder: Path) -> Path:
    """Return the only file of a set, verified.

    Raises:
        UserError: it is not there, or has other bytes.
    """
    (file,) = entry.files
    if not is_there(folder, file):
        raise UserError(
            f"{folder} holds no file {file.name}:"
            f" run `python -m pyjuice_bridge data get {entry.name}`."
        )
    return folder / file.name


def is_there(folder: Path, file: PublishedFile) -> bool:
    """Tell whether a file is there; it must be the published one.

    Raises:
        UserError: it has other bytes.
    """
    path = folder / file.name
    if not path.is_file():
        return False
    verify(path, file.sha256)
    return True


def get_archives(entry: DataSet, folder: Path) -> Path:
    """Download and unpack the archives of a set into ``folder``.

    Each archive is done when the file ``<archive>.done`` is there; a broken transfer continues
    where it stopped.

    Raises:
        UserError: an address could not be reached, or sent other bytes.
    """
    for archive in entry.archives:
        file_name = PurePosixPath(archive.url).name
        done = folder / f"{file_name}.done"
        if done.is_file():
            continue
        local = folder / file_name
        check = partial(verify, sha256=archive.sha256)
        try:
            if local.is_file():
                check(local)
            else:
                download(archive.url, local, check)
        except UnreachableError as error:
            raise UserError(
                f"{entry.name} could not be fetched: {error}, and no package carries it."
                f" Put {file_name}, or its unpacked files, into {folder} by hand."
            ) from error
        _unpack(local, archive.pattern, folder)
        _store(done, archive.sha256.encode())
        local.unlink()
    return folder


def _installed_copy(entry: DataSet, file: PublishedFile) -> Path | None:
    """Find the file inside an installed package, without importing it."""
    if entry.module is None:
        return None
    return installed_file(entry.module, file.member.removeprefix(f"{entry.module}/"))


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def _store(path: Path, raw: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, raw)


def _checked(raw: bytes, file: PublishedFile, where: str) -> bytes:
    if _sha256(raw) != file.sha256:
        raise UserError(
            f"{file.name} from the {where} has sha256 {_sha256(raw)}, not the published"
            f" {file.sha256}: it is another version of the set."
        )
    return raw


def _check_file(file: PublishedFile, path: Path) -> None:
    _checked(read_bytes(path), file, "public address")


def _from_package(entry: DataSet, files: list[PublishedFile], folder: Path) -> None:
    if entry.package is None:
        raise UnreachableError("no package carries it")
    with scratch_folder(folder) as scratch:
        found = entry.package.unpack([file.member for file in files], scratch)
        for file in files:
            if file.member not in found:
                raise UnreachableError(f"the {entry.package} no longer holds {file.member}")
            raw = _checked(read_bytes(found[file.member]), file, str(entry.package))
            _store(folder / file.name, raw)


def _from_addresses(entry: DataSet, files: list[PublishedFile], folder: Path) -> None:
    for file in files:
        if file.url is None:
            raise UnreachableError("it has no public address of its own")
        packed = folder / f"{file.name}.download"
        download(file.url, packed, partial(_check_file, file))
        _store(folder / file.name, read_bytes(packed))
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
