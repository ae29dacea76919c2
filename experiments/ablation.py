"""Teachers, growing and fine-tuning, each with and without: one table of patch circuits.

    python experiments/ablation.py --data mnist5k --out runs/ablation

All circuits have 16 clusters, 4 heads in the end, 16 nodes, and the same passes.  Every row is a
run of its own in the folder OUT; a second start continues.  A teacher's own figure is a bound on
the bits per dimension of the same images: those of the pixels given its codes, and of the codes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pyjuice_bridge as pj

TEACHERS: dict[str, dict[str, Any]] = {
    "raw pixels": {"kind": "pixels"},
    "masked autoencoder": {"kind": "mae"},
    "VQ-VAE-2, independent decoder": {"kind": "vqvae2", "decoder": "independent"},
    "VQ-VAE-2, convolutional decoder": {"kind": "vqvae2", "decoder": "convolutional"},
}
ROUND = 2
"""Passes of a round of growing, of which there are three."""
STEPS = {"start": 0.1, "end": 0.01}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    teacher: str
    grows: bool
    frozen: bool

    @property
    def name(self) -> str:
        words = self.teacher.replace(",", "").replace(" ", "_")
        return (
            f"{words}-{'growing' if self.grows else 'plain'}-{'frozen' if self.frozen else 'free'}"
        )

    def config(self, data: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return the config of the row's run."""
        heads, width, each = ([2, 4], 4, ROUND) if self.grows else ([4, 4], 16, 3 * ROUND)
        return {
            "name": self.name,
            "seed": seed,
            "engine": "torch",
            "data": dict(data),
            "teacher": TEACHERS[self.teacher],
            "circuit": {
                "kind": "growing",
                "patch": 4,
                "clusters": 16,
                "heads": heads,
                "width": width,
                "frozen": self.frozen,
            },
            "train": {
                "epochs": 14,
                "batch_size": 256,
                "pseudocount": 0.1,
                "step_size": STEPS,
                "patch_training": {"epochs": each, "batch_size": 256, "step_size": STEPS},
                "latent_training": {"epochs": 2, "batch_size": 256, "step_size": STEPS},
            },
            "arms": ["lvd"],
        }


def rows() -> list[Row]:
    """Return all lines, in order."""
    return [
        Row(teacher, grows, frozen)
        for teacher in TEACHERS
        for grows, frozen in ((False, False), (True, False), (True, True))
    ]


def line(row: Row, result: Mapping[str, Any], folder: Path) -> str:
    """Render a line of the table."""
    own = "–"
    with np.load(folder / "figures.npz", allow_pickle=False) as figures:
        if "teacher/figures" in figures:
            own = f"{figures['teacher/figures'][1, 0]:.4f}"
    scores = [f"{result[split]['value']:.4f}" for split in ("train", "valid", "test")]
    cells = [
        row.teacher,
        "yes" if row.grows else "no",
        "no" if row.frozen else "yes",
        f"{result['parameters']:,}",
        own,
        *scores,
        f"{result['seconds']:,.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="mnist5k")
    parser.add_argument("--root", default=None, help="where the files of the set are")
    parser.add_argument("--colour", default="rgb")
    parser.add_argument("--limit", type=int, default=None, help="images of every split, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    data = {k: getattr(given, k) for k in ("root", "colour", "limit")}
    lines = [
        "| teacher | growing | fine-tuned as a whole | parameters | teacher's own, test | train "
        "| valid | test | seconds |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows():
        folder = given.out / f"{row.name}-{given.seed}"
        result = pj.run(row.config({"name": given.data, **data}, given.seed), out=folder)
        lines.append(line(row, result.results[0], folder))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
