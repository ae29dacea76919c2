"""Time the engines and other programs on the same work, after comparing their numbers.

    python -m experiments.bench --quick
    python -m experiments.bench --threads 2 --out results.json
    python -m experiments.bench --only hmm --peers ours Ctrl-G --ctrlg PATH

Run it from the repository's root.  See ``experiments/README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from experiments.bench import suite
from experiments.bench.contest import Result, Settings, run
from experiments.bench.contestants import CONTESTANTS, ENGINES, Entry
from experiments.bench.fits import Fit, fit_all, series
from experiments.bench.machine import facts
from experiments.bench.table import bullets, case_table, fit_table, heading
from pyjuice_bridge.files import atomic_file


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m experiments.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="tiny sizes, only to see that it runs")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="cases with WORD in their name")
    parser.add_argument("--peers", nargs="+", metavar="WORD", help="peers with WORD in their name")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every peer")
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds for one answer")
    parser.add_argument("--ctrlg", type=Path, help="folder that holds Ctrl-G's package")
    parser.add_argument("--out", type=Path, help="JSON file for everything that was measured")
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    """Run what was asked for, printing tables as they are made; the exit status."""
    options = arguments(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: PyTorch sees no CUDA device.", file=sys.stderr)
        return 2
    if options.ctrlg is not None:
        os.environ["CTRLG"] = str(options.ctrlg)
    torch.set_num_threads(options.threads)
    if options.device == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    settings = Settings(
        options.threads, options.device, options.rounds, options.seconds, options.patience
    )
    if options.quick:
        settings = Settings(options.threads, options.device, 2, 0.02, 300.0, 0.0)
    entries = [e for e in CONTESTANTS if _wanted(e.name, options.peers)]
    here = [e for e in entries if options.device in e.devices]
    machine = facts(options.threads, options.device)
    print(heading(machine))
    results = []
    for case in suite.cases(quick=options.quick, cuda=options.device == "cuda"):
        if _wanted(case.name, options.only):
            results.append(run(case, here, settings))
            _print(case_table(results[-1]))
    fits: list[Fit] = []
    failed: list[str] = []
    if _wanted("fits", options.only):
        ours = [e for e in here if e in ENGINES and not e.absent(options.device)]
        fits, failed = fit_all(series(quick=options.quick), ours, settings)
        _print(fit_table(fits))
    missing = failed + not_measured(options.device, entries)
    _print(bullets("Not measured", missing))
    if options.out is not None:
        document = {
            "command": ["python", "-m", "experiments.bench", *words],
            "machine": machine,
            "cases": [_as_json(result) for result in results],
            "fits": [asdict(fit) for fit in fits],
            "not_measured": missing,
        }
        with atomic_file(options.out) as file:
            file.write(json.dumps(document, indent=1).encode())
    return 0


def _print(part: str) -> None:
    print(f"\n{part}", flush=True)


def _wanted(name: str, words: Sequence[str] | None) -> bool:
    return not words or any(word.lower() in name.lower() for word in words)


def not_measured(device: str, entries: Sequence[Entry]) -> list[str]:
    """What this run cannot say, a line each."""
    lines = [f"{e.name}: {why}" for e in entries if (why := e.absent(device))]
    if device == "cpu":
        names = [e.name for e in entries if "cpu" not in e.devices]
        lines += [f"{name}: runs on CUDA alone" for name in names]
        lines.append(
            "CUDA (float32, TF32, bf16; HMMs of 1,024 to 8,192 states, HCLTs past 10⁸ edges): "
            + ("ask with --device cuda" if torch.cuda.is_available() else "no CUDA device here")
        )
    else:
        lines += [f"{e.name}: runs on CPUs alone" for e in entries if device not in e.devices]
    return lines


def _as_json(result: Result) -> dict[str, object]:
    return {**asdict(result), "peers": [row.as_json() for row in result.peers]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
