"""Where the files of a data set are, and ``data get NAME``, which puts them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pyjuice_bridge.data import natural, text_corpora
from pyjuice_bridge.data.catalogue import DataSet, Domain, known_set, unknown_set
from pyjuice_bridge.data.files import cache_dir, writing_cache
from pyjuice_bridge.data.sources import get_archives, get_files
from pyjuice_bridge.errors import UserError

F = TypeVar("F")

_BUILDERS: Mapping[str, Callable[[DataSet, Path], Path]] = {
    "brown": text_corpora.get_brown,
    "natural": lambda _, folder: natural.build(folder),
}


def get_dataset(name: str, root: Path | None = None) -> Path:
    """Obtain the set ``name`` into ``root/name`` (default: the cache) and return that folder.

    What is there already is checked and kept.

    Raises:
        UserError: an unknown name, a folder that cannot be made, or no source could be reached.
    """
    entry = known_set(name)
    if entry is None:
        raise unknown_set(name)
    folder = (root or cache_dir()) / entry.folder
    if entry.by_hand:
        raise UserError(f"{name} is in no package: {entry.how_to_get(folder)}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made a folder ({error.strerror}).") from error
    get = _BUILDERS.get(entry.reader) or (get_files if entry.files else get_archives)
    with writing_cache(folder):
        return get(entry, folder)


def find(
    source: object,
    root: Path | str | None,
    domain: Domain,
    *,
    memory: Callable[[Any], tuple[str, F]],
    read: Callable[[DataSet, Path], F],
    own: Callable[[Path], F],
) -> tuple[str, F]:
    """Return the name and the parts of a source: a known set, a user's path, or data in memory.

    Raises:
        UserError: nothing is there, or a reader refuses it.
    """
    if not isinstance(source, str | Path):
        return memory(source)
    entry = known_set(source, domain)
    if entry:
        return entry.name, read(entry, set_folder(entry, root))
    path = _expanded(source)
    if path is None:
        raise unknown_set(str(source), domain)
    return path.stem or domain, own(path)


def set_folder(entry: DataSet, root: Path | str | None) -> Path:
    """Return the folder with the files of a set: under ``root``, or in the cache.

    Raises:
        UserError: it is not there.
    """
    if root is not None:
        base = _expanded(root)
        if base is None or not base.is_dir():
            raise UserError(f"data root {root} is not a folder.")
        return base / entry.folder if (base / entry.folder).is_dir() else base
    folder = cache_dir() / entry.folder
    if not folder.is_dir() or not any(folder.iterdir()):
        if not entry.small:
            how = entry.how_to_get(folder)
            raise UserError(f"{entry.name} is not on this machine: {how}.")
        get_dataset(entry.name)
    return folder


def _expanded(path: str | Path) -> Path | None:
    """Spell out ``~``; return None where nothing is there."""
    try:
        found = Path(path).expanduser()
        return found if found.exists() else None
    except (OSError, ValueError, RuntimeError):  # a name that no file, or no user, can have
        return None
