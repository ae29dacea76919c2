"""Small configs and images for tests of whole runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np

VOLATILE = ("seconds", "stage_seconds", "peak_memory_bytes", "date", "command", "threads")


def images(count: int = 120, side: int = 6, seed: int = 0) -> np.ndarray:
    """Bright bars on a dark ground, uint8 [count, side, side, 1]: easy to cluster."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, (count, side, side), np.uint8)
    rows = np.arange(side)
    bar = rng.integers(0, side, count)
    x[rows[None, :] == bar[:, None]] += 9
    return x[..., None]


def hclt_config(**changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "data": {"name": "array"},
        "teacher": {"kind": "pixels", "ring": 1},
        "circuit": {"kind": "hclt", "latents": 3},
        "train": {"epochs": 4, "batch_size": 32},
        "report": {"samples": 4, "inpaint": 2},
        "engine": "torch",
        "device": "cpu",
        **changes,
    }


def patch_config(**changes: Any) -> dict[str, Any]:
    phase = {"epochs": 1, "batch_size": 16}
    circuit = {"kind": "patches", "latents": 4, "patch": 3, "patch_latents": 2}
    train = {"epochs": 4, "batch_size": 32, "patch_training": phase, "latent_training": phase}
    own = {"teacher": {"kind": "pixels"}, "circuit": circuit, "train": train}
    return hclt_config(**{**own, **changes})


def numbers(run: Path) -> list[dict[str, Any]]:
    """The entries of results.json without what differs between equal runs."""
    rows = json.loads((run / "results.json").read_text())
    return [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows]


def curve(run: Path) -> list[tuple[Any, ...]]:
    """The learning curves without times."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    keys = ("arm", "stage", "epoch", "passes", "step_size", "train", "valid")
    return [tuple(json.loads(line)[k] for k in keys) for line in lines]
