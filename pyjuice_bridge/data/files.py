"""The cache folder, checksums and resumable downloads."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import user_cache

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30.0


class UnreachableError(Exception):
    """One source of a data set could not be reached; the message says which and why."""


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/pyjuice_bridge/data``, by default under ``~/.cache``."""
    return user_cache() / "data"


@contextlib.contextmanager
def scratch_folder(near: Path) -> Iterator[Path]:
    """A temporary folder on the same file system as ``near``, removed afterwards."""
    near.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=near))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def verify(path: Path, checksum: str) -> None:
    """Compare a file with a checksum written as ``sha256:…`` or ``md5:…``.

    Raises:
        UserError: the bytes are not the expected ones.
    """
    algorithm, _, expected = checksum.partition(":")
    found = file_digest(path, algorithm)
    if found != expected:
        raise UserError(
            f"{path} has {algorithm} {found}, not the expected {expected}:"
            " delete it and get it again."
        )


def download(url: str, path: Path, checksum: str) -> None:
    """Fetch ``url`` to ``path``, going on from ``<path>.part`` where a former try stopped.

    Raises:
        UnreachableError: the address did not answer, or the transfer broke off (the part is kept).
        UserError: the bytes are not those of ``checksum`` (they are removed).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _transfer(url, part)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise UnreachableError(f"{url} could not be fetched ({error})") from error
    try:
        verify(part, checksum)
    except UserError:
        part.unlink()
        raise UserError(
            f"{url} sent bytes that do not match the checksum {checksum}:"
            " try again later, or get the files elsewhere."
        ) from None
    part.replace(path)


def _transfer(url: str, part: Path) -> None:
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "pyjuice_bridge"}
    if start:
        headers["Range"] = f"bytes={start}-"
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return
        raise
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        with part.open("ab" if resumed else "wb") as stream:
            before = stream.tell()
            shutil.copyfileobj(response, stream, _CHUNK)
            received = stream.tell() - before
        if length is not None and received < int(length):
            raise http.client.IncompleteRead(b"", int(length) - received)
