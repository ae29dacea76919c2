"""The cache folder, checksums, resumable downloads, and guards around other libraries' readers."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import user_cache

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30.0
_UNPACKED_AT_LEAST = 256 << 20
_UNPACKED_MOST = 100
"""Images, text and 0/1 tables pack to a hundredth of their size at best; bombs to a thousandth."""


class UnreachableError(Exception):
    """One source of a data set could not be reached; the message says which and why."""


def cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/pyjuice_bridge/data``, by default under ``~/.cache``."""
    return user_cache() / "data"


@contextlib.contextmanager
def scratch_folder(near: Path) -> Iterator[Path]:
    """Make a temporary folder on the same file system as ``near``, removed afterwards."""
    near.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=near))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def reading(path: Path | str, what: str, advice: str = "get it again") -> Iterator[None]:
    """Turn whatever a library raises over a file into one sentence.

    Raises:
        UserError: the file cannot be read as ``what``.
    """
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than there is: take part of it.") from error
    except Exception as error:  # damaged files make libraries raise nearly anything
        lines = str(error).strip().splitlines()
        reason = (getattr(error, "strerror", None) or (lines[0] if lines else "")).rstrip(".")[:200]
        raise UserError(
            f"{path} cannot be read as {what} ({reason or type(error).__name__}): {advice}."
        ) from error


@contextlib.contextmanager
def writing_cache(folder: Path) -> Iterator[None]:
    """Turn a full disk or a cache that may not be written into one sentence.

    Raises:
        UserError: that is what happened.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise UserError(
            f"{folder} cannot be written ({error.strerror}):"
            " make room, or point XDG_CACHE_HOME at another place."
        ) from error


def check_unpacked(path: Path | str, packed: int, unpacked: int) -> None:
    """Refuse archives that unpack to implausibly much more than their size.

    Raises:
        UserError: it does.
    """
    if unpacked > max(_UNPACKED_AT_LEAST, _UNPACKED_MOST * packed):
        raise UserError(
            f"{path} unpacks from {packed:,} bytes to {unpacked:,} or more, which no data set does:"
            " get it again, or unpack it yourself."
        )


def file_digest(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes.

    Raises:
        UserError: it cannot be read.
    """
    with reading(path, "a file", "look at its permissions"), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(path: Path, sha256: str) -> None:
    """Compare a file with the SHA-256 that it should have.

    Raises:
        UserError: the bytes are not the expected ones.
    """
    digest = file_digest(path)
    if digest != sha256:
        raise UserError(
            f"{path} has sha256 {digest}, not the expected {sha256}: delete it and get it again."
        )


def download(url: str, path: Path, check: Callable[[Path], None]) -> None:
    """Fetch ``url`` to ``path``, continuing from the ``<path>.part`` of an earlier try.

    Raises:
        UnreachableError: the address did not answer, or the transfer broke off (the part is kept).
        UserError: ``check`` raised it over the bytes (they are removed).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        _transfer(url, part)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise UnreachableError(f"{url} could not be fetched ({error})") from error
    try:
        check(part)
    except UserError as error:
        part.unlink()
        raise UserError(
            f"{url} sent bytes that are not the published ones ({error}):"
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
