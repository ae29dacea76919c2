"""The 20 binary density estimation sets: test log-likelihoods of HCLTs, with and without a teacher.

    python experiments/binary_sets.py ROOT --out runs/binary

ROOT holds the sets' ``.data`` files.  Every set is a run of its own in the folder OUT for each
number of latent values; a second start continues.  For every arm the table has the number that is
best on validation.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pyjuice_bridge as pj
from pyjuice_bridge.data.catalogue import names_of

LATENTS = (4, 16, 64)
ARMS = {"lvd": "LVD", "random": "random start"}
TRAIN = {
    "epochs": 20,
    "batch_size": 128,
    "step_size": {"start": 0.3, "end": 0.01},
    "pseudocount": 0.01,
}


def config(name: str, root: Path, latents: int, seed: int) -> dict[str, Any]:
    """Return the config of a set's run."""
    return {
        "name": f"{name}-{latents}",
        "seed": seed,
        "engine": "torch",
        "data": {"kind": "table", "name": name, "root": str(root)},
        "circuit": {"kind": "hclt", "latents": latents},
        "train": TRAIN,
        "arms": list(ARMS),
    }


def best(rows: Sequence[Mapping[str, Any]], arm: str) -> Mapping[str, Any]:
    """Return the row of an arm that is best on validation."""
    ours = (row for row in rows if row["model"] == arm)
    return min(ours, key=lambda row: float(row["valid"]["value"]))


def nats(row: Mapping[str, Any]) -> float:
    """Return the mean test log-likelihood in nats; results count bits."""
    return -float(row["test"]["value"]) * math.log(2)


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Render the markdown of the table; ``found`` has the results of all runs of a set."""
    lines = ["| set | " + " | ".join(f"{title} | K" for title in ARMS.values()) + " |"]
    lines.append("| --- |" + " ---: | ---: |" * len(ARMS))
    scores: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for name, rows in found.items():
        cells = []
        for arm in ARMS:
            row = best(rows, arm)
            scores[arm].append(nats(row))
            cells.append(f"{nats(row):.3f} | {row['latents']}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    means = " | ".join(f"{mean(scores[arm]):.3f} | " for arm in ARMS)
    lines.append(f"| mean of {len(found)} | {means} |")
    return "\n".join(lines)


def main() -> None:
    """Run all sets and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/binary"))
    parser.add_argument("--only", nargs="+", default=names_of("table"))
    parser.add_argument("--latents", nargs="+", type=int, default=LATENTS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for name in given.only:
        for latents in given.latents:
            settings = config(name, given.root, latents, given.seed)
            result = pj.run(settings, out=given.out / settings["name"])
            found.setdefault(name, []).extend({**row, "latents": latents} for row in result.results)
        print(table({name: found[name]}), flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
