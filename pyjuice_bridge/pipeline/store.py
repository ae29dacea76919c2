"""Results of stages, kept in folders named by the hash of everything that went into them.

An artifact is the folder ``<stage>-<hash>``.  It is finished once it holds ``done.json``, which is
written last and lists the folder's files with their sizes; anything else is an interrupted attempt
that the same stage continues (engines resume from their checkpoint) or overwrites.

Of several processes the first one alone looks, locks and keeps; the others wait, or help with the
stages that are built together.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyjuice_bridge import processes
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.files import read_json, write_json

DONE = "done.json"
LOCK = "lock"
Build = Callable[[Path], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder and what ``done.json`` says about it.

    ``info`` has ``seconds`` (work that went into it) beside whatever the stage noted down.
    """

    id: str
    path: Path
    info: Mapping[str, Any]
    reused: bool

    @property
    def seconds(self) -> float:
        return float(self.info["seconds"])


def fingerprint(value: object) -> str:
    """16 hex digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """The artifact folder of a directory of runs.

    Args:
        root: holds one folder per artifact; made when missing.
        fresh: compute every artifact anew (once), whether or not it is there.
        say: receives one-line messages (what is waited for, what was damaged).
        ledger: a file that always lists the artifacts this run refers to.
    """

    def __init__(
        self,
        root: Path,
        *,
        fresh: bool = False,
        say: Callable[[str], object] = id,
        ledger: Path | None = None,
    ) -> None:
        self.root = root
        self.used: dict[str, Artifact] = {}
        self._fresh, self._say = fresh, say
        self._ledger, self._names = ledger, set[str]()

    def stage(
        self,
        stage: str,
        version: int,
        inputs: Mapping[str, Any],
        build: Build,
        *,
        together: bool = False,
    ) -> Artifact:
        """The artifact of ``stage`` for these inputs, built now unless it is there.

        ``build`` gets the artifact's folder, writes its files there and returns what to note in
        ``done.json`` (plain JSON).  It may find files of an interrupted attempt.  It reports
        ``seconds`` itself where the work of earlier attempts counts, else the time it took does.

        ``together`` says that ``build`` contains work that several processes share: all of them
        call it, but what they write is kept for the first one only.
        """
        name = f"{stage}-{fingerprint({'version': version, 'inputs': inputs})}"
        if name in self.used:
            return self.used[name]
        self._names.add(name)
        if self._ledger is not None:
            write_json(self._ledger, sorted(self._names))
        if processes.rank() == 0:
            artifact = None if self._fresh else self._finished(name, reused=True)
            if artifact is None:
                with _locked(self.root / name, self._say):
                    artifact = None if self._fresh else self._finished(name, reused=True)
                    artifact = artifact or self._build(name, inputs, build, together)
            _tell(name, artifact)
        else:
            artifact = self._helped(name, build)
        self.used[name] = artifact
        return artifact

    def _helped(self, name: str, build: Build) -> Artifact:
        """The artifact that the first process finds or builds, with this one's help if asked."""
        info = _hear(name)
        if info is None:
            with tempfile.TemporaryDirectory(prefix="pyjuice_bridge-") as scratch:
                build(Path(scratch))
            info = _hear(name)
        assert info is not None
        return Artifact(name, self.root / name, info["info"], info["reused"])

    def _build(
        self, name: str, inputs: Mapping[str, Any], build: Build, together: bool
    ) -> Artifact:
        folder = self.root / name
        if self._fresh or (folder / DONE).exists():
            _empty(folder)
        start = time.perf_counter()
        if together:
            _tell(name, None)
        with contextlib.nullcontext() if together else processes.alone():
            info = {"seconds": 0.0, **(build(folder) or {})}
        info["seconds"] = info["seconds"] or time.perf_counter() - start
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink()
        files = {
            str(p.relative_to(folder)): p.stat().st_size
            for p in sorted(folder.rglob("*"))
            if p.is_file() and p.name != LOCK
        }
        write_json(folder / DONE, {"inputs": inputs, "files": files, "info": info})
        return Artifact(name, folder, info, reused=False)

    def _finished(self, name: str, *, reused: bool) -> Artifact | None:
        folder = self.root / name
        try:
            done = read_json(folder / DONE)
            damaged = [
                file
                for file, size in done["files"].items()
                if not (folder / file).is_file() or (folder / file).stat().st_size != size
            ]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            damaged = [DONE]
        if damaged:
            self._say(f"{name}: {damaged[0]} is damaged or missing, computing it again")
            return None
        return Artifact(name, folder, done["info"], reused=reused)


def _tell(name: str, artifact: Artifact | None) -> None:
    """Let the other processes know what a stage came to; None: they are to help building it."""
    told = artifact and {"info": dict(artifact.info), "reused": artifact.reused}
    processes.share({"name": name, "told": told})


def _hear(name: str) -> dict[str, Any] | None:
    """What the first process told."""
    heard: dict[str, Any] = processes.share({})
    if heard["name"] != name:
        raise UserError(
            f"process {processes.rank()} came to {name} where the first one was at "
            f"{heard['name']}; do both read the same config and data?"
        )
    told: dict[str, Any] | None = heard["told"]
    return told


def _empty(folder: Path) -> None:
    """Remove an artifact's files, ``done.json`` first; the lock stays."""
    (folder / DONE).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _locked(folder: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Hold the folder's lock; the system releases it however its process dies."""
    waiting = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("a+") as file:
            held = _try_lock(file.fileno())
            if held and _same_file(folder / LOCK, file.fileno()):
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
                yield
                return
            if not held and not waiting:
                file.seek(0)
                say(f"{folder.name}: waiting for process {file.read().strip() or 'unknown'}")
                waiting = True
        time.sleep(0.2)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Some network file systems have no locks; two runs at once are then the user's to avoid.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def _same_file(path: Path, descriptor: int) -> bool:
    """Whether ``path`` is still the open file (another process may have removed the folder)."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def remove(folder: Path) -> bool:
    """Delete an artifact unless a process is working on it; whether it was deleted."""
    with (folder / LOCK).open("a+") as file:
        if not _try_lock(file.fileno()):
            return False
        (folder / DONE).unlink(missing_ok=True)
        shutil.rmtree(folder)
    return True


def unused(runs: Path) -> list[Path]:
    """Artifacts in ``runs/artifacts`` that no run in ``runs`` refers to."""
    used: set[str] = set()
    for note in runs.glob("*/artifacts.json"):
        with contextlib.suppress(OSError, ValueError):
            used.update(map(str, read_json(note)))
    folders = sorted((runs / "artifacts").glob("*-*"))
    return [path for path in folders if path.is_dir() and path.name not in used]
