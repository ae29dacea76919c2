"""The run's folder: what was asked, how it went, what came out."""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import yaml

from pyjuice_bridge.config import Arm
from pyjuice_bridge.data.dataset import SPLITS, Dataset
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.arms import CIRCUIT
from pyjuice_bridge.pipeline.context import UNIT, Context
from pyjuice_bridge.pipeline.files import copy_file, write_json, write_jsonl, write_text
from pyjuice_bridge.pipeline.store import Artifact
from pyjuice_bridge.pipeline.training import Trained

ARTIFACTS = "artifacts.json"
_OUTCOME = (
    "report.html",
    "results.json",
    "bound.json",
    "figures.npz",
    "assignments.h5",
    "model.h5",
    *(f"{arm}.h5" for arm in get_args(Arm)),
)


def open_folder(out: Path) -> None:
    """Make the run's folder; refuses a folder that holds something else."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made a run's folder ({error.strerror})") from None
    if any(out.iterdir()) and not (out / "config.yaml").exists() and not (out / "log.txt").exists():
        raise UserError(f"{out} is not empty and not a run's folder; give another --out")


def write_config(context: Context, out: Path) -> None:
    """The resolved config, with every default filled in.

    What another config left in the folder is removed, so that its figures and models never stand
    beside this one.
    """
    path = out / "config.yaml"
    text = yaml.safe_dump(context.config.model_dump(), sort_keys=False)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        for name in _OUTCOME:
            (out / name).unlink(missing_ok=True)
    write_text(path, text)


class Metrics:
    """``metrics.jsonl``, one line per pass, written as training goes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        write_jsonl(path, [])

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        write_jsonl(self._path, self._rows)


def score(context: Context, arm: Trained) -> Artifact:
    """Mean log p of every split under a finished arm; the test images are looked at only here."""
    inputs = {
        "arm": arm.artifact.id,
        "data": context.data.key,
        "engine": context.engine_key,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        circuit = arm.circuit()
        found = {}
        for split in SPLITS:
            with context.reporter.task(f"score {arm.start.arm} on {split}"):
                log_p = context.engine.log_likelihood(circuit, context.data.rows[split])
            found[split] = float(np.mean(log_p))
        return found

    return context.store.stage("score", 1, inputs, build)


def result_row(context: Context, arm: Trained, scores: Artifact, command: str) -> dict[str, Any]:
    """An entry of ``results.json``."""
    bits = {s: {"value": context.data.bits(s, scores.info[s]), "unit": UNIT} for s in SPLITS}
    return {
        "model": arm.start.arm,
        "engine": context.engine.name,
        "device": context.engine.device,
        "parameters": arm.artifact.info["parameters"],
        **bits,
        "seconds": arm.seconds,
        "peak_memory_bytes": arm.artifact.info["peak_memory_bytes"],
        "seed": context.config.seed,
        **arm.extra,
        "colour": context.config.data.colour,
        **_dataset(context.data.dataset),
        "command": command,
        **surroundings(),
    }


def _dataset(dataset: Dataset) -> dict[str, Any]:
    """The set behind a figure; ``variant`` where its name stands for several sets."""
    variant = {key: dataset.meta[key] for key in ("variant",) if key in dataset.meta}
    return {
        "dataset": dataset.name,
        **variant,
        "images": {split: len(getattr(dataset, split)) for split in SPLITS},
        "shape": list(dataset.shape),
        "fingerprint": dataset.fingerprint,
    }


def surroundings() -> dict[str, Any]:
    """The machine and the versions a figure was made with."""
    import torch

    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def write_models(out: Path, arms: Sequence[Trained]) -> None:
    """``<arm>.h5`` for every arm, and ``model.h5``, which is ``lvd`` where there is one."""
    for arm in arms:
        copy_file(arm.artifact.path / CIRCUIT, out / f"{arm.start.arm}.h5")
    best = next((arm for arm in arms if arm.start.arm == "lvd"), arms[0])
    copy_file(best.artifact.path / CIRCUIT, out / "model.h5")


def write_bounds(out: Path, arms: Sequence[Trained]) -> None:
    """``bound.json``: the bound and the marginal after every stage of ``lvd``."""
    rows = []
    for arm in arms:
        for stage in arm.start.stages:
            rows.append((stage.name, stage.bound, stage.marginal))
        if arm.bound is not None:
            rows.append(("fine-tune", *arm.bound))
    keys = ("stage", "bound_bpd", "marginal_bpd")
    write_json(out / "bound.json", [dict(zip(keys, row, strict=True)) for row in rows])


def command_line() -> str:
    """How the process was started, for the record."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    if name == "__main__.py":
        return " ".join(["python -m pyjuice_bridge", *sys.argv[1:]])
    return " ".join([name, *sys.argv[1:]]) or "python"
