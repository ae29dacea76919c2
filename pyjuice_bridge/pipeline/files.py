"""The formats of a run's files, which are either whole or absent."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.files import atomic_file, replacing


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
    """Write indented JSON with sorted keys; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object per line."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write one array as ``.npy``."""
    _write(path, lambda file: np.save(file, array, allow_pickle=False))


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a compressed ``.npz``; names may contain slashes."""
    _write(path, lambda file: np.savez_compressed(file, allow_pickle=False, **dict(arrays)))


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def copy_file(source: Path, target: Path) -> None:
    """A copy of a file, by hard link where the file system allows one."""
    with replacing(target) as temporary:
        try:
            temporary.hardlink_to(source)
        except OSError:
            _write(temporary, lambda file: _pour(source, file))


def _pour(source: Path, target: IO[bytes]) -> None:
    with source.open("rb") as file:
        while chunk := file.read(1 << 22):
            target.write(chunk)
