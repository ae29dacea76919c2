"""Where the files of a data set are, and ``data get NAME``, which puts them there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from pyjuice_bridge.data import natural, text_corpora
from pyjuice_bridge.data.catalogue import DataSet, Domain, known_set, unknown_set
from pyjuice_bridge.data.files import cache_dir
from pyjuice_bridge.data.sources import get_archives, get_files
from pyjuice_bridge.errors import UserError

_BUILDERS: Mapping[str, Callable[[DataSet, Path], Path]] = {
    "brown": text_corpora.get_brown,
    "natural": lambda _, folder: natural.build(folder),
}


def get_dataset(name: str, root: Path | None = None) -> Path:
    """Obtain the set ``name`` into ``root/name`` (default: the cache); returns that folder.

    What is there already is checked and kept.

    Raises:
        UserError: an unknown name, a folder that cannot be made, or no source could be reached.
    """
    entry = next((e for d in ("images", "text", "table") if (e := known_set(name, d))), None)  # type: ignore[arg-type]
    if entry is None:
        raise unknown_set(name)
    folder = (root or cache_dir()) / (entry.family or entry.name)
    if entry.by_hand:
        raise UserError(f"{name} is in no package: {_by_hand(entry, folder)}.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made a folder ({error.strerror}).") from error
    get = _BUILDERS.get(entry.reader) or (get_files if entry.files else get_archives)
    return get(entry, folder)


def set_folder(entry: DataSet, root: Path | str | None) -> Path:
    """Return the folder with the files of a set: under ``root``, or in the cache.

    Raises:
        UserError: it is not there.
    """
    inner = entry.family or entry.name
    if root is not None:
        base = _expanded(root)
        if base is None or not base.is_dir():
            raise UserError(f"data root {root} is not a folder.")
        return base / inner if (base / inner).is_dir() else base
    folder = cache_dir() / inner
    if not folder.is_dir() or not any(folder.iterdir()):
        if not entry.small:
            how = (
                _by_hand(entry, folder)
                if entry.by_hand
                else (
                    f"run `python -m pyjuice_bridge data get {entry.name}`,"
                    " or set root to a folder that holds its files"
                )
            )
            raise UserError(f"{entry.name} is not on this machine: {how}.")
        get_dataset(entry.name)
    return folder


def own_path(source: str | Path, domain: Domain) -> Path:
    """Return the path of a user's own data.

    Raises:
        UserError: nothing is there.
    """
    path = _expanded(source)
    if path is None:
        raise unknown_set(str(source), domain)
    return path


def _expanded(path: str | Path) -> Path | None:
    """The path with ``~`` spelled out; None where nothing is there."""
    try:
        found = Path(path).expanduser()
        return found if found.exists() else None
    except (OSError, ValueError, RuntimeError):  # a name that no file, or no user, can have
        return None


def _by_hand(entry: DataSet, folder: Path) -> str:
    what = entry.by_hand.format(name=entry.name, folder=folder)
    return f"{what}, or set root to a folder that holds them"
