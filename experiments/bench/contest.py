"""One case: every peer in a process of its own, compared first, then timed in turns."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from experiments.bench.cases import Case, dense_flops, parameters
from experiments.bench.contestants import Entry
from experiments.bench.machine import Rates, multiply
from experiments.bench.peers.reference import Peer as Reference
from experiments.bench.worker import SLOW, check

ROOT = Path(__file__).resolve().parents[2]
THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "JULIA_NUM_THREADS",
    "PYTHON_JULIACALL_THREADS",
)


@dataclass(frozen=True)
class Settings:
    """How a run is done.

    Attributes:
        rounds: how often every peer has its turn.
        seconds: of one turn.
        patience: seconds after which an answer is no longer waited for.
        pause: seconds between turns, in which the threads of the last one go to sleep.
    """

    threads: int
    device: str = "cpu"
    rounds: int = 3
    seconds: float = 1.0
    patience: float = 900.0
    pause: float = 0.25


@dataclass
class Row:
    """What is known of a peer on a case; times are seconds of single runs.

    Attributes:
        deviation: by kind of work, the largest relative difference from the reference.
        notes: by kind of work, or "all", why there is no time.
    """

    peer: str
    times: dict[str, list[float]] = field(default_factory=dict)
    deviation: dict[str, float] = field(default_factory=dict)
    start_up: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def median(self, kind: str) -> float | None:
        return median(self.times[kind]) if self.times.get(kind) else None

    def best(self, kind: str) -> float | None:
        return min(self.times[kind]) if self.times.get(kind) else None

    def as_json(self) -> dict[str, Any]:
        summary = {
            kind: {"median": self.median(kind), "min": self.best(kind), "runs": len(times)}
            for kind, times in self.times.items()
            if times
        }
        return {**asdict(self), "seconds": summary}


@dataclass
class Result:
    """One case: its size, and a row for every peer."""

    case: str
    batch: int
    rows: int
    flops: int
    parameters: int
    facts: dict[str, str | int]
    peers: list[Row]
    mm: Rates
    """Flops per second of large matrix products in the same turns, by precision."""

    @property
    def rate(self) -> float:
        """The float32 one, its median."""
        return median(self.mm["float32"])


class PeerError(Exception):
    """The peer ended, or took too long; the message is one line."""


class Process:
    """A worker from outside."""

    def __init__(self, entry: Entry, folder: Path, settings: Settings, claimed: int = 0) -> None:
        began = time.perf_counter()
        self._settings = settings
        words = entry.name, str(folder), settings.device, str(claimed)
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.bench.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env=os.environ | dict.fromkeys(THREAD_SETTINGS, str(settings.threads)),
        )
        try:
            answer = self._answer()
        except PeerError:
            self.close()
            raise
        whole, parts = time.perf_counter() - began, answer["ready"]
        self.claim = int(answer["claim"])
        """Bytes it may come to need."""
        self.start_up = {"process": whole - sum(parts.values()), **parts}

    def ask(self, do: str, **facts: Any) -> Any:
        """The worker's answer.

        Raises:
            PeerError: there is none.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **facts}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise PeerError("ended") from None
        return self._answer()["answer"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            if not ready.select(self._settings.patience):
                raise PeerError(f"no answer within {self._settings.patience:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"ended with status {self._process.wait()}")
        message: dict[str, Any] = json.loads(line)
        if "failed" in message:
            raise PeerError(message["failed"])
        return message

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout, self._log):
            if end is not None:
                end.close()


def run(case: Case, entries: Sequence[Entry], settings: Settings) -> Result:
    """Compare, then time, all ``entries`` that know the case."""
    problem = case.build()
    known = [e for e in entries if problem.family in e.families and e.only in ("", case.name)]
    rows = [Row(entry.name) for entry in known]
    sizes = len(problem.rows), dense_flops(problem.circuit), parameters(problem.circuit)
    result = Result(case.name, problem.batch, *sizes, dict(problem.facts), rows, {})
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        problem.save(folder)
        make = partial(Reference, device="cpu", options={})
        expected = check(make, make(problem), case.work)
        del problem
        running: list[tuple[Process, Row]] = []
        for entry, row in zip(known, rows, strict=True):
            claimed = sum(process.claim for process, _ in running)
            process = _start(entry, row, folder, settings, claimed)
            if process is None:
                continue
            stack.callback(process.close)
            if _agrees(process, entry, row, case, expected):
                running.append((process, row))
            else:
                process.close()
        for kind in case.work:
            _take_turns(kind, running, settings, result.mm)
        for process, row in running:
            if "all" not in row.notes:
                row.memory = process.ask("memory")
    return result


def _start(
    entry: Entry, row: Row, folder: Path, settings: Settings, claimed: int
) -> Process | None:
    row.notes["all"] = entry.absent(settings.device)
    if not row.notes["all"]:
        try:
            process = Process(entry, folder, settings, claimed)
        except PeerError as failure:
            row.notes["all"] = str(failure)
        else:
            del row.notes["all"]
            row.start_up = process.start_up
            return process
    return None


def _agrees(
    process: Process, entry: Entry, row: Row, case: Case, expected: dict[str, list[float]]
) -> bool:
    """Compare log-likelihoods; what differs gets a note, and no time will be taken."""
    began = time.perf_counter()
    try:
        answer = process.ask("check", work=case.work)
    except PeerError as failure:
        row.notes["all"] = str(failure)
        return False
    row.start_up["first steps"] = time.perf_counter() - began
    row.versions = answer["versions"]
    for kind in expected:
        found = answer["log_likelihood"].get(kind)
        if found is None:
            row.notes[kind] = answer["why"] or "it has no mini-batch EM"
            continue
        row.deviation[kind] = deviation(found, expected[kind])
        if not row.deviation[kind] <= entry.tolerance:
            row.notes[kind] = f"differs by {row.deviation[kind]:.1e}, allowed {entry.tolerance:g}"
    if "forward" in row.notes:
        row.notes["all"] = row.notes.pop("forward")
    return "all" not in row.notes and any(kind not in row.notes for kind in case.work)


def deviation(found: Sequence[float], expected: Sequence[float]) -> float:
    """Largest difference, relative to the expected values where those exceed one."""
    a, b = np.asarray(found), np.asarray(expected)
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a - b) / np.maximum(1.0, np.abs(b)))
    return float(difference.max())


def _take_turns(
    kind: str, running: list[tuple[Process, Row]], settings: Settings, mm: Rates
) -> None:
    """Every peer in turn, ``rounds`` times; a peer whose turn took very long has no second one."""
    slow: set[str] = set()
    for _ in range(settings.rounds):
        for process, row in running:
            if {kind, "all"} & row.notes.keys() or row.peer in slow:
                continue
            began = time.perf_counter()
            try:
                row.times.setdefault(kind, []).extend(process.ask(kind, seconds=settings.seconds))
            except PeerError as failure:
                row.notes["all"] = str(failure)
                process.close()
            if time.perf_counter() - began > SLOW:
                slow.add(row.peer)
            time.sleep(settings.pause)
        for precision, rate in multiply(settings.device).items():
            mm.setdefault(precision, []).append(rate)
        time.sleep(settings.pause)
