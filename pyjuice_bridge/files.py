"""Files that are either whole or absent: written beside their place, then renamed into it.

And where a user's caches are.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder that becomes ``path`` if the block succeeds.

    Raises:
        UserError: ``path`` is a device, a link, or anything else but a regular file.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path} cannot be written: it is not a regular file; give another name")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield a binary file to write to, which becomes ``path`` if the block succeeds.

    Raises:
        OSError: the folder is missing or the file cannot be written; ``path`` is as it was.
        UserError: ``path`` is not a regular file.
    """
    with replacing(path) as temporary, temporary.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    with atomic_file(path) as file:
        fill(file)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes."""
    _write(path, lambda file: file.write(content))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with sorted keys; refuse NaN and infinities."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object per line; refuse NaN and infinities."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def finite(value: Any) -> Any:
    """Replace NaN and infinities in nested plain values by None, JSON's null."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write one array as ``.npy``."""
    _write(path, lambda file: np.save(file, array, allow_pickle=False))


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a compressed ``.npz``; names may contain slashes."""
    _write(path, lambda file: np.savez_compressed(file, allow_pickle=False, **dict(arrays)))


def read_json(path: Path) -> Any:
    """Return the value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, so that changes to the copy leave the original as it is."""
    with source.open("rb") as original:
        _write(target, lambda file: shutil.copyfileobj(original, file, 1 << 22))


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed process left in a folder."""
    for path in folder.rglob(".*." + "[0-9a-f]" * 8 + ".tmp"):
        path.unlink(missing_ok=True)


def user_cache() -> Path:
    """Return ``$XDG_CACHE_HOME/pyjuice_bridge``, by default under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pyjuice_bridge"
