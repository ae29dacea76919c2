"""The run's folder: what was asked, how it went, what came out."""

from __future__ import annotations

import datetime
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
import yaml

from pyjuice_bridge import processes
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.distill.base import CIRCUIT
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import copy_file, finite, write_json, write_jsonl, write_text
from pyjuice_bridge.runner.arms import Trained
from pyjuice_bridge.runner.classes import accuracies
from pyjuice_bridge.sections import Arm
from pyjuice_bridge.stages.store import Artifact

ARTIFACTS = "artifacts.json"
LOCK = ".lock"
_OUTCOME = (
    "report.html",
    "results.json",
    "bound.json",
    "figures.npz",
    "assignments.h5",
    "text.json",
    "table.json",
    "tokens.json",
    "model.h5",
    *(f"{arm}.h5" for arm in get_args(Arm)),
    *(f"{arm}-*.h5" for arm in get_args(Arm)),
)
"""What a finished run leaves, as patterns."""


def open_folder(out: Path) -> None:
    """Make the run's folder; refuse a folder that holds something else."""
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise UserError(f"{str(out)!r}: the name is not UTF-8; give another --out") from None
    if out.absolute().name.casefold() == "artifacts":
        raise UserError(f"{out} is the folder of stored stages; give another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made a run's folder ({error.strerror})") from None
    others = {path.name for path in out.iterdir()} - {LOCK}
    if others and not (out / "config.yaml").exists() and not (out / "log.txt").exists():
        raise UserError(f"{out} is not empty and not a run's folder; give another --out")


def write_config(context: Context, out: Path) -> None:
    """Write the resolved config, with every default filled in.

    What another config left in the folder is removed, so that its figures and models never stand
    beside this one.
    """
    path = out / "config.yaml"
    text = yaml.safe_dump(context.config.model_dump(), sort_keys=False)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        for name in (file for pattern in _OUTCOME for file in out.glob(pattern)):
            name.unlink()
    write_text(path, text)


class Metrics:
    """``metrics.jsonl``, one line per pass, written as training goes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[dict[str, Any]] = []
        write_jsonl(path, [])

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        write_jsonl(self._path, finite(self._rows))


def score(context: Context, arm: Trained) -> Artifact:
    """Measure the mean log p of every split under a finished arm; nothing else reads test.

    The artifact also notes how many rows of each split have probability 0, which is then said.
    """
    inputs = {"data": context.data.key, "engine": context.engine_key}

    def build(folder: Path) -> Mapping[str, Any]:
        circuit = arm.circuit()
        figures: dict[str, Any] = {"impossible": {}}
        for split in SPLITS:
            with context.reporter.task(f"score {arm.training.name} on {split}"):
                log_p = context.engine.log_likelihood(circuit, context.data.rows[split])
            figures[split] = float(np.mean(log_p))
            figures["impossible"][split] = int(np.isneginf(log_p).sum())
        if right := accuracies(context, context.engine, circuit):
            figures["accuracy"] = right
        return figures

    scores = context.store.stage("score", 3, inputs, build, parents=(arm.artifact,), together=True)
    for split, count in scores.info["impossible"].items():
        if count:
            said = context.data.measure.impossible(count, len(context.data.rows[split]))
            context.reporter.say(f"{arm.training.name} on {split}: {said}")
    return scores


def result_row(context: Context, arm: Trained, scores: Artifact, command: str) -> dict[str, Any]:
    """Return an entry of ``results.json``."""
    data = context.data
    return {
        "model": arm.arm,
        **arm.training.facts,
        "engine": context.engine.name,
        "device": context.engine.device,
        "parameters": arm.artifact.info["parameters"],
        **{split: _figure(context, scores, split) for split in SPLITS},
        "seconds": arm.seconds,
        "peak_memory_bytes": arm.artifact.info["peak_memory_bytes"],
        "seed": context.config.seed,
        **arm.costs(),
        **({"start": arm.training.start.key["start"]} if arm.arm == "start" else {}),
        **({"accuracy": scores.info["accuracy"]} if "accuracy" in scores.info else {}),
        **_candidates(context, arm),
        **({} if arm.tuned is None else {"tuned": dict(arm.tuned)}),
        **({"trials": [dict(trial) for trial in arm.trials]} if arm.trials else {}),
        "pseudocount": arm.options.pseudocount,
        "step_size": asdict(arm.options.step_size),
        **data.facts(),
        "command": command,
        **surroundings(),
        **context.engine.facts(),
        **({"processes": processes.started()} if processes.started() > 1 else {}),
    }


def _candidates(context: Context, arm: Trained) -> dict[str, Any]:
    """Return what the candidates of partial E-steps leave of the score on validation."""
    nats = arm.artifact.info.get("candidates")
    if nats is None:
        return {}
    value, measure = context.data.value("valid", nats), context.data.measure
    found = {"values": arm.options.candidates, "valid": value, "unit": measure.unit}
    return {"candidates": found}


def _figure(context: Context, scores: Artifact, split: str) -> dict[str, Any]:
    """Return the figure of a split, and how many of its rows are why it has none."""
    data = context.data
    figure = {"value": data.value(split, scores.info[split]), "unit": data.measure.unit}
    if count := scores.info["impossible"][split]:
        figure |= {"impossible": count, "rows": len(data.rows[split])}
    return figure


def surroundings() -> dict[str, Any]:
    """Return the machine and the versions that a figure was made with."""
    import torch

    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def processor() -> str:
    """Return the model of the CPU, as far as the system tells."""
    with suppress(OSError, UnicodeDecodeError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def best_arm(arms: Sequence[Trained], scores: Sequence[Artifact]) -> Trained:
    """Choose ``lvd`` or else the first arm; of several points of a sweep the best on validation."""
    wanted = "lvd" if any(arm.arm == "lvd" for arm in arms) else arms[0].arm
    pairs = [pair for pair in zip(arms, scores, strict=True) if pair[0].arm == wanted]
    return max(pairs, key=lambda pair: float(pair[1].info["valid"]))[0]


def write_models(out: Path, arms: Sequence[Trained], best: Trained) -> None:
    """Write a file for every arm, and ``model.h5``, which is the best."""
    for arm in arms:
        copy_file(arm.artifact.path / CIRCUIT, out / f"{arm.training.name}.h5")
    copy_file(best.artifact.path / CIRCUIT, out / "model.h5")


def write_bounds(context: Context, out: Path, arms: Sequence[Trained]) -> None:
    """Write ``bound.json``: the bound and the marginal after every stage of ``lvd``."""
    rows, value, unit = [], context.data.value, context.data.measure.unit
    for arm in arms:
        found = [
            (s.name, value("valid", s.bound), value("valid", s.marginal))
            for s in arm.training.start.stages
        ]
        found += [("fine-tune", *arm.bound)] if arm.bound is not None else []
        for stage, bound, marginal in found:
            figures = {"bound": bound, "marginal": marginal, "unit": unit}
            rows.append({"stage": stage, **arm.training.facts, **figures})
    write_json(out / "bound.json", finite(rows))


def command_line() -> str:
    """Return how the process was started, for the record."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    if name == "__main__.py":
        start = "python"
        if processes.started() > 1:
            start = f"torchrun --nproc-per-node {processes.started_here()}"
        return " ".join([f"{start} -m pyjuice_bridge", *sys.argv[1:]])
    return " ".join([name, *sys.argv[1:]]) or "python"
