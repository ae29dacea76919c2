"""A process in which one peer holds one problem and does as it is asked, line by line.

    python -m experiments.bench.worker PEER FOLDER DEVICE CLAIMED

Requests and answers are JSON objects, one a line.  An answer with ``failed`` ends the process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from experiments.bench.cases import CHECK_ROWS, Problem
from experiments.bench.contestants import entry_named
from experiments.bench.peers import Peer

STEPS = 3
"""Full EM steps before log-likelihoods are compared again, and at most in a row when timed."""
ETA = 0.3
"""Step size of the epoch that is compared; that of the one that is timed is 0.1."""
_CLEAR_PEAK = "5"
_LEAST = 2**31
DISTRIBUTIONS = {"cirkit": "libcirkit"}
"""Packages that go by another name where they are installed from."""
SLOW = 60.0
"""Seconds after which a run is not repeated."""


def main(words: list[str]) -> int:
    """``PEER FOLDER DEVICE CLAIMED``; answers until its input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # What libraries print must not mix with answers.
    name, folder, device, claimed = words
    try:
        work = Work(name, Path(folder), device, int(claimed))
        _say(answers, {"ready": work.start_up, "claim": work.claim})
        for line in sys.stdin:
            request = json.loads(line)
            if request["do"] == "load":
                work = Work(name, Path(request["folder"]), device, 0)
            _say(answers, {"answer": work.do[request["do"]](request)})
    except MemoryError as error:
        _say(answers, {"failed": f"not enough memory ({_first_line(error)})"})
        return 1
    except Exception as error:  # Whatever a library raises is a line in the table.
        _say(answers, {"failed": f"{type(error).__name__}: {_first_line(error)}"})
        raise
    return 0


class Work:
    """What can be asked of the peer."""

    def __init__(self, name: str, folder: Path, device: str, claimed: int) -> None:
        self.problem = Problem.load(folder)
        self.batch = self.problem.rows[: self.problem.batch]
        began = time.perf_counter()
        entry = entry_named(name)
        kind = entry.load()
        imported = time.perf_counter()
        self.claim = kind.bytes_needed(self.problem)
        if device == "cpu":
            limit_memory(self.claim, claimed)
        self.make = partial(kind, device=device, options=dict(entry.options))
        self.peer: Peer = self.make(self.problem)
        built = time.perf_counter()
        self.device = device
        self.last: dict[str, float] = {}
        self.start_up = {"import": imported - began, "build": built - imported}
        self.do: dict[str, Callable[[dict[str, Any]], Any]] = {
            "check": self.check,
            "forward": self.forward,
            "em": self.em,
            "epoch": self.epoch,
            "memory": lambda _: self.memory(),
            "load": lambda _: self.start_up,
        }
        self._watch_memory()

    def check(self, request: dict[str, Any]) -> dict[str, Any]:
        found = check(self.make, self.peer, request["work"])
        self._watch_memory()
        return {"log_likelihood": found, "why": self.peer.why, "versions": _versions()}

    def forward(self, request: dict[str, Any]) -> list[float]:
        return self._until("forward", request["seconds"], partial(self.peer.forward, self.batch))

    def em(self, request: dict[str, Any]) -> list[float]:
        return self._until("em", request["seconds"], self._steps)

    def _steps(self, times: int) -> list[float]:
        """Steps like those that were compared: never many in a row from the same start.

        On one batch, without pseudocounts, parameters soon become zeros and ones.
        """
        found: list[float] = []
        while len(found) < times:
            self.peer.reset()
            found += self.peer.em(self.batch, min(STEPS, times - len(found)))
        return found

    def epoch(self, _: dict[str, Any]) -> list[float]:
        self.peer.reset()
        problem = self.problem
        return [self.peer.epoch(problem.rows, problem.batch, 0.1, problem.pseudocount)]

    def memory(self) -> dict[str, int]:
        """Peak bytes since the peer was built: of the process, and of the GPU's allocator."""
        found = {"process": _status("VmHWM", self.peer.pid)}
        if self.device == "cuda" and "torch" in sys.modules:
            found["device"] = sys.modules["torch"].cuda.max_memory_allocated()
        return found

    def _until(self, kind: str, seconds: float, run: Callable[[int], list[float]]) -> list[float]:
        """As many runs as fit into the time, after a warm-up the first time.

        A warm-up that takes very long is all there is.
        """
        if kind not in self.last:
            first = run(1)
            self.last[kind] = first[0] if first else seconds
            if self.last[kind] > SLOW:
                return first
        times = run(max(1, min(1000, int(seconds / self.last[kind]))))
        self.last[kind] = times[-1] if times else seconds
        return times

    def _watch_memory(self) -> None:
        """Let the peak begin here, so that reading files is not counted."""
        path = Path(f"/proc/{self.peer.pid or 'self'}/clear_refs")
        try:
            path.write_text(_CLEAR_PEAK)
        except OSError:
            return


def check(
    make: Callable[[Problem], Peer], peer: Peer, work: Sequence[str]
) -> dict[str, list[float]]:
    """Log-likelihoods at the start, after full EM steps and after an epoch, on few rows."""
    rows = peer.problem.rows[:CHECK_ROWS]
    found = {"forward": peer.log_likelihood(rows)}
    compared = peer.problem.to_compare()
    if compared is not peer.problem:
        peer = make(compared)
    if peer.same_em and "em" in work:
        for _ in range(STEPS):
            peer.step(rows, 1.0, 0.0)
        found["em"] = peer.log_likelihood(rows)
        peer.reset()
    if peer.same_em and peer.minibatch and "epoch" in work:
        peer.epoch(rows, -(-len(rows) // 3), ETA, compared.pseudocount)
        found["epoch"] = peer.log_likelihood(rows)
        peer.reset()
    return {key: np.asarray(value, float).ravel().tolist() for key, value in found.items()}


def limit_memory(needed: int, claimed: int) -> None:
    """Refuse what will not fit, and let allocations fail before the machine runs out.

    ``claimed`` is what the processes beside this one may come to need.
    """
    free = _free_memory() - claimed
    if needed > 0.8 * free:
        raise MemoryError(f"needs about {needed / 1e9:.0f} GB, {max(free, 0) / 1e9:.0f} are free")
    Path("/proc/self/oom_score_adj").write_text("1000")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (max(free, _LEAST), hard))


def _free_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return sys.maxsize


def _status(field: str, pid: int | None) -> int:
    for line in Path(f"/proc/{pid or 'self'}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _versions() -> dict[str, str]:
    names = ("torch", "jax", "cirkit", "hmmlearn", "pomegranate", "dynamax", "spflow", "pyjuice")
    loaded = [name for name in names if name in sys.modules]
    return {name: version(DISTRIBUTIONS.get(name, name)) for name in loaded}


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:200]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
