"""Both engines on the same circuits: that they agree, and how long a step of EM takes.

    python experiments/engines.py --threads 2 --json engines.json
    python experiments/engines.py --only hclt-16 hmm-64 --repeats 3

Each engine first trains a little, which compiles what it needs.  Then their log-likelihoods and
expected counts are compared.  Then they take turns, so that both see the same state of the
machine; a matrix product in PyTorch, timed in the same turns, says what the machine can do.  On a
GPU Juice.jl's own EM is timed as well.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hdf5 import save
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.patches import patch_bundle
from pyjuice_bridge.circuit.types import Circuit, SumLayer
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import Engine, FitOptions, Schedule
from pyjuice_bridge.engines.julia_environment import julia_state
from pyjuice_bridge.errors import UserError

LIKELIHOODS, COUNTS = 1e-5, 1e-4
"""How far engines may differ, relative to the largest entry."""
COMPARED_ROWS = 32
PASSES = 2
"""Passes per turn; the last one is timed."""
MATRIX = 2048
JUICE_EDGES = 20_000_000
"""Juice.jl keeps every edge as an object; larger circuits are left out."""
JUICE = """
using JuiceBridge, ProbabilisticCircuits, HDF5
pc, x = to_juice(load_circuit(ARGS[1])), h5read(ARGS[2], "x")
step() = juice_em(pc, x; batch_size = parse(Int, ARGS[3])).seconds
step()
println(join([step() for _ = 1:parse(Int, ARGS[4])], ' '))
"""


@dataclass(frozen=True)
class Case:
    """A circuit and rows to train it on, ``steps`` batches of ``batch``."""

    name: str
    circuit: Circuit
    x: NDArray[Any]
    batch: int
    weights: NDArray[Any] | None = None

    @property
    def steps(self) -> int:
        return len(self.x) // self.batch


@dataclass(frozen=True)
class Row:
    """One line of the table: seconds of a step; ``first``, what the first call took longer."""

    case: str
    parameters: int
    engine: str
    median: float
    best: float
    gflops: float
    first: float | None


def hclt_case(latents: int, variables: int = 784, batch: int = 256, steps: int = 2) -> Case:
    """An HCLT over a random tree of 8-bit values."""
    rng = np.random.default_rng(0)
    parents = np.array([-1] + [rng.integers(v) for v in range(1, variables)], np.int32)
    x = rng.integers(0, 256, (batch * steps, variables), np.uint8)
    return Case(f"HCLT, K = {latents}", hclt(parents, latents, 256, seed=1), x, batch)


def hmm_case(states: int, length: int = 32, vocabulary: int = 1000, batch: int = 64) -> Case:
    """An HMM over windows of random tokens; the smaller it is, the more steps are timed."""
    steps = max(2, 4096 // states)
    x = np.random.default_rng(0).integers(0, vocabulary, (batch * steps, length), np.int32)
    circuit = random_hmm(states, vocabulary, seed=1).circuit(length)
    return Case(f"HMM, H = {states}", circuit, x, batch)


def bundle_case(
    clusters: int = 64, latents: int = 16, size: int = 16, batch: int = 256, steps: int = 2
) -> Case:
    """Patch circuits of all clusters, every one with a patch in every row."""
    rng = np.random.default_rng(0)
    parents = np.array([-1] + [rng.integers(v) for v in range(1, size)], np.int32)
    x = rng.integers(0, 256, (batch * steps, clusters * size), np.uint8)
    circuit = patch_bundle(parents, clusters, latents, 256, seed=1)
    weights = np.ones((len(x), clusters), np.float32)
    return Case(f"{clusters} patch circuits, K = {latents}", circuit, x, batch, weights)


CASES: dict[str, Callable[[], Case]] = {
    "hclt-16": lambda: hclt_case(16),
    "hclt-32": lambda: hclt_case(32),
    "hclt-64": lambda: hclt_case(64),
    "hmm-64": lambda: hmm_case(64),
    "hmm-256": lambda: hmm_case(256),
    "hmm-1024": lambda: hmm_case(1024),
    "bundle": lambda: bundle_case(),
}


def flops(circuit: Circuit) -> int:
    """Operations of a step per row in the matrix products of sum layers, forward and twice back."""
    return sum(
        6 * len(layer.children) * layer.weights.shape[1] * layer.weights.shape[2]
        for layer in circuit.layers
        if isinstance(layer, SumLayer)
    )


def edges(circuit: Circuit) -> int:
    """Weighted edges between single nodes."""
    return flops(circuit) // 6


def disagreement(case: Case, engines: Mapping[str, Engine]) -> dict[str, float]:
    """The largest differences between the engines, relative to the largest entry."""
    x = case.x[:COMPARED_ROWS]
    weights = None if case.weights is None else case.weights[:COMPARED_ROWS]
    first, *others = engines.values()
    likelihoods = first.log_likelihood(case.circuit, x)
    counts = first.expected_counts(case.circuit, x, weights)
    worst = {"log_likelihood": 0.0, "counts": 0.0}
    for other in others:
        found = other.log_likelihood(case.circuit, x)
        worst["log_likelihood"] = max(worst["log_likelihood"], _difference(found, likelihoods))
        theirs = other.expected_counts(case.circuit, x, weights)
        for a, b in zip(theirs.layers, counts.layers, strict=True):
            if a is not None and b is not None:
                worst["counts"] = max(worst["counts"], _difference(a, b))
    return worst


def _difference(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def time_case(
    case: Case,
    engines: Mapping[str, Engine],
    first: Mapping[str, float],
    repeats: int,
    device: str,
) -> tuple[list[Row], list[float]]:
    """A row per engine, and the matrix products' GFLOP/s of every turn.

    ``first`` are the seconds of each engine's first training of this circuit.
    """
    steps: dict[str, list[float]] = {name: [] for name in engines}
    calls: dict[str, list[float]] = {name: [] for name in engines}
    products = []
    for _ in range(repeats):
        for name, engine in engines.items():
            step, call = _train(case, engine)
            steps[name].append(step)
            calls[name].append(call)
        products.append(matrix_gflops(device))
    return [
        _row(case, name, steps[name], max(0.0, first[name] - median(calls[name])))
        for name in engines
    ], products


def _row(case: Case, engine: str, steps: Sequence[float], first: float | None) -> Row:
    work = flops(case.circuit) * case.batch
    parameters = case.circuit.num_parameters
    middle, best = median(steps), min(steps)
    return Row(case.name, parameters, engine, middle, best, work / middle / 1e9, first)


def _train(case: Case, engine: Engine) -> tuple[float, float]:
    """Seconds of a step, and of the whole call with all that lies around the steps."""
    step_size = Schedule(0.1, 0.1, "constant")
    options = FitOptions("mini_em", PASSES, case.batch, step_size)
    started = time.perf_counter()
    result = engine.fit(case.circuit, case.x, options, weights=case.weights)
    call = time.perf_counter() - started
    return result.history[-1].seconds / case.steps, call


def matrix_gflops(device: str) -> float:
    """What a product of two square float32 matrices reaches in PyTorch."""
    import torch

    size = MATRIX if device == "cpu" else 4 * MATRIX
    a = torch.ones(size, size, device=device)
    seconds = math.inf
    for _ in range(3):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        seconds = min(seconds, time.perf_counter() - started)
    return 2 * size**3 / seconds / 1e9


def time_juice(case: Case, repeats: int) -> Row:
    """Juice.jl's own mini-batch EM on the GPU, in a process of its own.

    Raises:
        UserError: Julia failed; its last line says why.
    """
    state = julia_state()
    with tempfile.TemporaryDirectory() as folder:
        model, rows = Path(folder, "model.h5"), Path(folder, "rows.h5")
        save(case.circuit, model)
        with h5py.File(rows, "w", libver=("v110", "v110")) as file:
            file["x"] = case.x
        words = [str(state.executable), f"--project={state.project}", "-e", JUICE]
        words += [str(model), str(rows), str(case.batch), str(repeats)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise UserError(f"Juice.jl's EM failed on {case.name}: {last}")
    seconds = [float(word) / case.steps for word in done.stdout.splitlines()[-1].split()]
    return _row(case, "Juice.jl", seconds, None)


def start_engines(device: str) -> tuple[dict[str, Engine], dict[str, float], str]:
    """The engines that can be used, what their start took, and why Julia is not among them.

    Julia starts twice: the first start may have to compile packages, which is done once.
    """
    engines: dict[str, Engine] = {}
    seconds: dict[str, float] = {}
    engines["torch"], seconds["torch"] = _start("torch", device)
    try:
        _, seconds["julia, first start"] = _start("julia", device)
    except UserError as error:
        return engines, seconds, str(error)
    from pyjuice_bridge.engines.julia.process import shared_worker

    shared_worker().close()
    engines["julia"], seconds["julia"] = _start("julia", device)
    return engines, seconds, ""


def _start(name: str, device: str) -> tuple[Engine, float]:
    started = time.perf_counter()
    engine = get_engine(name, device)
    engine.facts()
    return engine, time.perf_counter() - started


def measure(cases: Mapping[str, Callable[[], Case]], repeats: int, device: str) -> dict[str, Any]:
    """All that the script prints, as plain values for JSON.

    Raises:
        UserError: the engines disagree.
    """
    engines, start, lacking = start_engines(device)
    where = next(iter(engines.values())).device
    rows: list[Row] = []
    products: list[float] = []
    agreement: dict[str, dict[str, float]] = {}
    missing = [f"The Julia engine. {lacking}"] if lacking else []
    for make in cases.values():
        case = make()
        first = {name: _train(case, engine)[1] for name, engine in engines.items()}
        if len(engines) > 1:
            worst = agreement[case.name] = disagreement(case, engines)
            if worst["log_likelihood"] > LIKELIHOODS or worst["counts"] > COUNTS:
                raise UserError(f"The engines disagree on {case.name}: {worst}.")
        found, rates = time_case(case, engines, first, repeats, where)
        rows += found
        products += rates
        if where == "cuda" and not lacking:
            unfit = _unfit_for_juice(case.circuit)
            if unfit:
                missing.append(f"Juice.jl's EM on {case.name}: the circuit {unfit}.")
            else:
                rows.append(time_juice(case, repeats))
    if where == "cpu":
        missing.append("Anything on CUDA, Juice.jl's own EM included, which has no CPU version.")
    # Imported after the engines have started: it loads PyTorch, which is part of a start.
    from pyjuice_bridge.runner.results import surroundings

    facts = {**surroundings(), **{f"{n} engine": e.facts() for n, e in engines.items()}}
    return {
        "facts": {**facts, "device": where, "repeats": repeats},
        "matrix_gflops": median(products),
        "start_seconds": start,
        "agreement": agreement,
        "rows": [asdict(row) for row in rows],
        "not_measured": missing,
    }


def _unfit_for_juice(circuit: Circuit) -> str:
    """Why Juice.jl's EM does not run on a circuit, in words that follow "the circuit"."""
    if len(circuit.roots) > 1:
        return "has several roots"
    return f"has more than {JUICE_EDGES:,} edges" if edges(circuit) > JUICE_EDGES else ""


def render(found: Mapping[str, Any]) -> str:
    """The markdown of a measurement."""
    rate = found["matrix_gflops"]
    head = ["circuit", "parameters", "engine", "median, s/step", "best, s/step", "GFLOP/s"]
    head += ["share", "compile, s"]
    lines = [f"| {' | '.join(head)} |", "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |"]
    for row in found["rows"]:
        first = "–" if row["first"] is None else f"{row['first']:.1f}"
        share = f"{row['gflops'] / rate:.0%}"
        times = f"{row['median']:.4f} | {row['best']:.4f} | {row['gflops']:.1f} | {share}"
        name = f"{row['case']} | {row['parameters']:,} | {row['engine']}"
        lines.append(f"| {name} | {times} | {first} |")
    facts = "; ".join(f"{key} {_plain(value)}" for key, value in found["facts"].items())
    starts = "; ".join(f"{name} {s:.1f} s" for name, s in found["start_seconds"].items())
    notes = [
        "A step is one batch of mini-batch EM. GFLOP/s count the matrix products of sum layers; "
        f"share is of {rate:.0f} GFLOP/s, PyTorch's matrix product in the same turns. Compile is "
        "what the first call took longer than a later one.",
        f"Start: {starts}.",
    ]
    if found["agreement"]:
        likelihoods, counts = (
            max(worst[name] for worst in found["agreement"].values())
            for name in ("log_likelihood", "counts")
        )
        notes.append(
            f"The engines agree: log-likelihoods to {likelihoods:.0e}, counts to {counts:.0e}."
        )
    notes.append(f"Made with {facts}.")
    if found["not_measured"]:
        notes.append("Not measured:\n\n" + "\n".join(f"- {line}" for line in found["not_measured"]))
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {item}" for key, item in value.items()) + ")"
    return str(value)


def main(words: Sequence[str]) -> int:
    """Parse the command line and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compare the engines.")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CIRCUIT")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, help="of either engine; by default each its own")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args(words)
    if asked.threads:
        os.environ["OMP_NUM_THREADS"] = os.environ["PYTHON_JULIACALL_THREADS"] = str(asked.threads)
    try:
        found = measure({name: CASES[name] for name in asked.only}, asked.repeats, asked.device)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(render(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
