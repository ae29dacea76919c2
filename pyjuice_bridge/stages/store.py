"""Results of stages, kept in folders named by the hash of everything that went into them.

An artifact is the folder ``<stage>-<hash>``.  It is finished once it holds ``done.json``, which is
written last and lists the folder's files with their checksums; anything else is an interrupted
attempt that the same stage continues (engines resume from their checkpoint) or overwrites.

Of several processes the first one alone looks, locks and keeps; the others wait, or help with the
stages that are built together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyjuice_bridge import processes
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import read_json, remove_leftovers, write_json
from pyjuice_bridge.stages.lock import LOCK, locked, try_lock
from pyjuice_bridge.stages.progress import Reporter

DONE = "done.json"
SPENT = "spent.json"
_NOTE_SECONDS = 1.0
"""Between two notes of the time spent on a stage."""
_ID = re.compile(r"[a-z][a-z0-9_-]*-[0-9a-f]{16}")
Build = Callable[[Path], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder and what ``done.json`` says about it.

    Attributes:
        id: the folder's name, ``<stage>-<hash>``.
        path: the folder.
        info: ``seconds`` (work that went into it) beside whatever the stage noted down.
        reused: whether it was there already.
        parents: the artifacts it was built from.
    """

    id: str
    path: Path
    info: Mapping[str, Any]
    reused: bool
    parents: tuple[Artifact, ...] = ()

    @property
    def stage(self) -> str:
        """The stage's name, as in ``tree-0123456789abcdef``."""
        return self.id.rpartition("-")[0]

    @property
    def seconds(self) -> float:
        """Work on this stage alone, over all attempts."""
        return float(self.info["seconds"])

    def lineage(self) -> tuple[Artifact, ...]:
        """List the ancestors and the artifact itself, each once, parents first."""
        by_id: dict[str, Artifact] = {}
        for parent in self.parents:
            by_id |= {artifact.id: artifact for artifact in parent.lineage()}
        return (*by_id.values(), self)


def fingerprint(value: object) -> str:
    """Return 16 hex digits of the SHA-256 of a value's canonical JSON."""
    return _digest(value)[:16]


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """The artifact folder of a directory of runs.

    Args:
        root: holds one folder per artifact; made when missing.
        fresh: compute every artifact anew (once), whether or not it is there.
        reporter: says what is waited for and what was damaged; the time spent on a stage is noted
            as its work advances.
        ledger: a file that always lists the artifacts this run refers to.
    """

    def __init__(
        self,
        root: Path,
        *,
        fresh: bool = False,
        reporter: Reporter | None = None,
        ledger: Path | None = None,
    ) -> None:
        self.root = root
        self.used: dict[str, Artifact] = {}
        self._fresh, self._reporter = fresh, reporter or Reporter()
        self._ledger, self._names = ledger, set[str]()

    def stage(
        self,
        stage: str,
        version: int,
        inputs: Mapping[str, Any],
        build: Build,
        *,
        parents: Sequence[Artifact] = (),
        together: bool = False,
    ) -> Artifact:
        """Return the artifact of ``stage`` for these inputs and parents; build it if need be.

        ``build`` gets the artifact's folder, writes its files there and returns what to note in
        ``done.json`` (plain JSON; floats need not be finite).  It may find files of an interrupted
        attempt.  ``seconds`` are those of all attempts, unless it reports others itself.

        ``together`` says that ``build`` contains work that several processes share: all of them
        call it, but what they write is kept for the first one only.
        """
        origin: dict[str, Any] = {"version": version, "inputs": inputs}
        if parents:
            origin["parents"] = [parent.id for parent in parents]
        name = f"{stage}-{fingerprint(origin)}"
        if name in self.used:
            return self.used[name]
        self._names.add(name)
        if self._ledger is not None:
            write_json(self._ledger, sorted(self._names))
        if processes.rank() == 0:
            info, reused = self._kept(name, origin, build, together)
            _tell(name, {"info": _encoded(info), "reused": reused})
        else:
            info, reused = self._helped(name, build)
        artifact = Artifact(name, self.root / name, info, reused, tuple(parents))
        self.used[name] = artifact
        return artifact

    def _kept(
        self, name: str, origin: Mapping[str, Any], build: Build, together: bool
    ) -> tuple[Mapping[str, Any], bool]:
        """Return the note of a finished artifact, and whether it was there already."""
        info, _ = self._look(name)
        if info is None:
            with locked(self.root / name, self._reporter.say):
                # Another process may have finished it meanwhile.
                info, flaw = self._look(name)
                if info is None:
                    if flaw:
                        self._reporter.say(f"{name}: {flaw}, computing it again")
                    return self._build(name, origin, build, together), False
        return info, True

    def _helped(self, name: str, build: Build) -> tuple[Mapping[str, Any], bool]:
        """Return what the first process found or built, after helping it if asked to."""
        outcome = _hear(name)
        if outcome is None:
            with tempfile.TemporaryDirectory(prefix="pyjuice_bridge-") as scratch:
                build(Path(scratch))
            outcome = _hear(name)
        assert outcome is not None
        return _decoded(outcome["info"]), outcome["reused"]

    def _build(
        self, name: str, origin: Mapping[str, Any], build: Build, together: bool
    ) -> Mapping[str, Any]:
        folder = self.root / name
        if self._fresh or (folder / DONE).exists():
            _empty(folder)
        if together:
            _tell(name, None)
        apart = contextlib.nullcontext() if together else processes.alone()
        with apart, _Clock(folder) as clock, self._reporter.watched(clock.tick):
            info = {"seconds": 0.0, **(build(folder) or {})}
            info["seconds"] = info["seconds"] or clock.seconds()
        remove_leftovers(folder)
        files = {
            str(path.relative_to(folder)): _sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in (LOCK, SPENT)
        }
        note = {
            "inputs": origin["inputs"],
            "parents": origin.get("parents", []),
            "files": files,
            "info": _encoded(info),
        }
        # As it will be read back, so that both have one checksum.
        note = json.loads(json.dumps(note, allow_nan=False))
        write_json(folder / DONE, {**note, "sha256": _digest(note)})
        (folder / SPENT).unlink(missing_ok=True)
        return info

    def _look(self, name: str) -> tuple[Mapping[str, Any] | None, str]:
        """Return what a whole artifact notes, else None and what is wrong with it, if it is there.

        Checksums are compared with those of all files, and of ``done.json`` itself.
        """
        folder = self.root / name
        if self._fresh:
            return None, ""
        try:
            note = read_json(folder / DONE)
            sha256 = note.pop("sha256", None)
            if sha256 is None and "files" in note:
                return None, "stored without checksums"
            files = note["files"].items()
            damaged = [DONE] if sha256 != _digest(note) else []
            damaged += [file for file, known in files if not _same(folder / file, known)]
        except FileNotFoundError:
            return None, ""
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            damaged = [DONE]
        if damaged:
            return None, f"{damaged[0]} is damaged or missing"
        return _decoded(note["info"]), ""


class _Clock:
    """Seconds of work on an artifact over all attempts, noted in its folder as it goes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SPENT
        self._before = 0.0
        with contextlib.suppress(OSError, ValueError, TypeError):
            self._before = max(0.0, float(read_json(self._path)))
        self._start = self._noted = time.perf_counter()

    def seconds(self) -> float:
        """Return the seconds so far."""
        return self._before + time.perf_counter() - self._start

    def tick(self) -> None:
        """Note the time spent, unless that was done just now."""
        if time.perf_counter() - self._noted >= _NOTE_SECONDS:
            self._note()

    def _note(self) -> None:
        self._noted = time.perf_counter()
        # A note that cannot be written must not end the work that it is about.
        with contextlib.suppress(OSError):
            write_json(self._path, self.seconds())

    def __enter__(self) -> _Clock:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._note()


_verified: dict[tuple[str, int, int, int, int], str] = {}
"""Checksums that this process has computed, by path, size, times of change and inode."""
_SETTLED_NS = 2_000_000_000
"""A file changed more recently may change again without a visible change of its times."""


def _sha256(path: Path) -> str:
    state = path.stat()
    key = (str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)
    if key in _verified:
        return _verified[key]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - state.st_ctime_ns > _SETTLED_NS:
        _verified[key] = digest
    return digest


def _same(path: Path, sha256: str) -> bool:
    """Return whether a regular file has this checksum."""
    return path.is_file() and _sha256(path) == sha256


def _encoded(value: Any) -> Any:
    """Put floats that JSON lacks into words: ``{"float": "-inf"}``."""
    if isinstance(value, Mapping):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return value


def _decoded(value: Any) -> Any:
    """Undo ``_encoded``."""
    if isinstance(value, dict):
        if value.keys() == {"float"}:
            return float(value["float"])
        return {key: _decoded(item) for key, item in value.items()}
    return [_decoded(item) for item in value] if isinstance(value, list) else value


def _tell(name: str, outcome: Mapping[str, Any] | None) -> None:
    """Broadcast a stage's outcome to the other processes; None asks them to help build it."""
    processes.share({"name": name, "told": outcome})


def _hear(name: str) -> dict[str, Any] | None:
    """Return what the first process broadcast."""
    heard: dict[str, Any] = processes.share({})
    if heard["name"] != name:
        raise UserError(
            f"process {processes.rank()} came to {name} where the first one was at "
            f"{heard['name']}; do both read the same config and data?"
        )
    outcome: dict[str, Any] | None = heard["told"]
    return outcome


def _empty(folder: Path) -> None:
    """Remove an artifact's files, ``done.json`` first; the lock stays."""
    (folder / DONE).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def remove(folder: Path) -> bool:
    """Delete an artifact unless a process is working on it; return whether it was deleted."""
    with (folder / LOCK).open("a+") as file:
        if not try_lock(file.fileno()):
            return False
        (folder / DONE).unlink(missing_ok=True)
        shutil.rmtree(folder)
    return True


def unused(runs: Path) -> list[Path]:
    """List the artifacts in ``runs/artifacts`` that no run in ``runs`` refers to."""
    used: set[str] = set()
    for note in runs.glob("*/artifacts.json"):
        with contextlib.suppress(OSError, ValueError):
            used.update(map(str, read_json(note)))
    folders = sorted((runs / "artifacts").glob("*-*"))
    return [path for path in folders if _is_artifact(path) and path.name not in used]


def _is_artifact(path: Path) -> bool:
    """Return whether a folder was made by a store: by its name, and by ``done.json`` or a lock."""
    if path.is_symlink() or not path.is_dir() or not _ID.fullmatch(path.name):
        return False
    with contextlib.suppress(OSError, ValueError):
        done = read_json(path / DONE)
        return isinstance(done, dict) and {"inputs", "files", "info"} <= done.keys()
    return _is_lock(path / LOCK)


def _is_lock(path: Path) -> bool:
    """Return whether a file holds the number of a process, as a stage's lock does."""
    with contextlib.suppress(OSError, ValueError):
        return not path.is_symlink() and path.read_text("utf-8").strip().isdecimal()
    return False
