"""Structures of about equal size, from random starts and distilled: one table.

    python experiments/structures.py --data mnist --parameters 8000000 --out runs/structures

The width of every structure is the one whose size is nearest to PARAMETERS; all get the same
passes.  Every arm of every structure begins with the step size, of STEPS, that ends best on
validation, and ends with a tenth of it.  Raw pixels teach where there are latents to fill: patches
with a little of what is around them, or the windows of regions.  Every structure is a run of its
own in the folder OUT for every seed and step size; a second start continues.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.size import nearest_width
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.distill.registry import KINDS
from pyjuice_bridge.domains.registry import DOMAINS
from pyjuice_bridge.runner.config import make_config

REGIONS = {"kind": "region_graph", "pseudocount": 0.1}
PATCHES = {"kind": "patches", "patch": 4, "patch_latents": 16, "pseudocount": 0.01}
CIRCUITS: dict[str, tuple[dict[str, Any], str]] = {
    "hclt": ({"kind": "hclt", "pseudocount": 0.1}, "latents"),
    "quad_tree": ({**REGIONS, "graph": "quad_tree"}, "latents"),
    "quad_graph": ({**REGIONS, "graph": "quad_graph"}, "latents"),
    "einet_pd": ({**REGIONS, "graph": "poon_domingos", "layer": "tucker"}, "latents"),
    "rat_spn": ({"kind": "rat_spn", "depth": 5, "replicas": 4}, "sums"),
    "patches": (PATCHES, "latents"),
    "patches_quad_tree": ({**PATCHES, "above": "quad_tree"}, "latents"),
}
"""By structure, its section and the field that is its width."""
SPLITS = ("train", "valid", "test")


def config(
    name: str, data: Mapping[str, Any], passes: int, start: float, seed: int
) -> dict[str, Any]:
    """Return the config of a structure's run from a first step size, at the least width."""
    section, width = CIRCUITS[name]
    steps = {"start": start, "end": start / 10}
    around = {"ring": 2, "sigma": 1.5} if section["kind"] == "patches" else {}
    train: dict[str, Any] = {
        "epochs": passes,
        "batch_size": 256,
        "pseudocount": 0.01,
        "step_size": steps,
    }
    if section["kind"] == "patches":
        phase = {"epochs": max(1, passes // 4), "batch_size": 256, "step_size": steps}
        train |= {"patch_training": phase, "latent_training": {**phase, "epochs": 1}}
    return {
        "name": name,
        "seed": seed,
        "engine": "torch",
        "data": dict(data),
        "teacher": {"kind": "pixels", **around},
        "circuit": {**section, width: 2},
        "train": train,
        "arms": ["random"] if section["kind"] == "rat_spn" else ["lvd", "random"],
    }


def sized(values: dict[str, Any], parameters: int) -> dict[str, Any]:
    """Return a config of the width whose size is nearest to ``parameters``."""
    _, field = CIRCUITS[values["name"]]

    def at(width: int) -> dict[str, Any]:
        return {**values, "circuit": {**values["circuit"], field: width}}

    shape = DOMAINS["images"].shape(make_config(values))

    def build(width: int) -> Circuit:
        section = make_config(at(width)).circuit
        return KINDS[section.kind].structure(section, "random", shape)

    return at(nearest_width(build, parameters))


def cell(rows: Sequence[Mapping[str, Any]], split: str) -> str:
    """Render a figure: the mean over seeds, and its standard deviation where there are some."""
    values = [float(row[split]["value"]) for row in rows]
    spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{spread}"


def lines(name: str, width: int, runs: Mapping[float, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Render the lines of a structure, one for every arm; ``runs`` has all seeds by step size."""
    found = []
    for arm, title in (("lvd", "distilled"), ("random", "random start")):
        own = {start: [row for row in rows if row["model"] == arm] for start, rows in runs.items()}
        if any(own.values()):
            start = min(own, key=lambda s: mean(float(row["valid"]["value"]) for row in own[s]))
            rows = own[start]
            seconds = mean(float(row["seconds"]) for row in rows)
            memory = max(float(row["peak_memory_bytes"] or 0) for row in rows) / 2**30
            cells = [name, title, str(width), f"{rows[0]['parameters']:,}", f"{start:g}"]
            cells += [cell(rows, split) for split in SPLITS]
            found.append("| " + " | ".join([*cells, f"{seconds:,.0f}", f"{memory:.2f}"]) + " |")
    return found


def main() -> None:
    """Run all structures and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--root", default=None, help="where the files of the set are")
    parser.add_argument("--colour", default="rgb", help="coding of colour images: ycocg_r …")
    parser.add_argument("--limit", type=int, default=None, help="images of every split, at most")
    parser.add_argument("--parameters", type=int, default=8_000_000)
    parser.add_argument("--passes", type=int, default=8)
    parser.add_argument("--steps", nargs="+", type=float, default=[0.1, 0.3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", default=list(CIRCUITS), choices=list(CIRCUITS))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    fields = ("root", "colour", "limit")
    data = {"name": given.data, **{field: getattr(given, field) for field in fields}}
    print(
        "| structure | start | width | parameters | step | train | valid | test | seconds | GiB |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for name in given.only:
        runs: dict[float, list[Mapping[str, Any]]] = {start: [] for start in given.steps}
        least = config(name, data, given.passes, given.steps[0], given.seeds[0])
        section = sized(least, given.parameters)["circuit"]
        for start, seed in product(given.steps, given.seeds):
            values = config(name, data, given.passes, start, seed) | {"circuit": section}
            runs[start] += pj.run(values, out=given.out / f"{name}-{start:g}-{seed}").results
        print("\n".join(lines(name, int(section[CIRCUITS[name][1]]), runs)), flush=True)


if __name__ == "__main__":
    main()
