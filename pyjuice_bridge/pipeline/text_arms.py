"""The arms of a run on text: HMMs of every size, counted or random."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.distill.bound import bound_and_marginal
from pyjuice_bridge.distill.features import features_of
from pyjuice_bridge.distill.hmm import interpolate
from pyjuice_bridge.distill.latents import FILE, LatentValues, latents
from pyjuice_bridge.pipeline.arms import CIRCUIT, Stage, Start, made_by
from pyjuice_bridge.pipeline.sizes import hmm_parameters, hmm_work
from pyjuice_bridge.pipeline.text_data import TextContext


def text_starts(context: TextContext, teacher: object | None) -> list[Start]:
    """Every arm in every size, the sizes one after the other; all sizes share the features."""
    arms = context.config.arms or []
    given = getattr(context.config.teacher, "assignments", None) is not None
    features = features_of(context, teacher) if "lvd" in arms and not given else None
    made = []
    for size in context.config.sizes:
        count = size or context.circuit.states
        for arm in arms:
            if arm == "lvd":
                made.append(_counted(context, size, latents(context, count, features)))
            else:
                made.append(_random(context, size))
    return made


_STEP_FLOPS = 50
"""What a parameter costs in an M-step, in operations of a matrix product."""


def _work(context: TextContext, count: int) -> float:
    """Of a pass: matrix products of every window, and the M-steps."""
    rows, window = context.data.rows["train"].shape
    steps = -(-rows // context.config.train.batch_size)
    parameters = hmm_parameters(len(context.data.dataset.vocabulary), count)
    products: float = rows * hmm_work(window, count).flops
    return float(products + steps * _STEP_FLOPS * parameters)


def _random(context: TextContext, size: int | None) -> Start:
    """An HMM with Dirichlet(1) rows."""
    seed, count = context.config.seed, size or context.circuit.states
    length, vocabulary = context.data.section.window, len(context.data.dataset.vocabulary)
    builders = context.builders
    key = {
        "random": "hmm",
        "states": count,
        "vocabulary": vocabulary,
        "length": length,
        "seed": seed,
        "builders": builders.name,
    }

    def make() -> Circuit:
        return builders.random_hmm(count, vocabulary, length, seed=seed)

    return Start(
        "random",
        key,
        make,
        0.0,
        states=size,
        work=_work(context, count),
        made_by={"circuit": builders.name},
    )


def _counted(context: TextContext, size: int | None, latents: LatentValues) -> Start:
    """LVD by counting: one pass over the windows and their latents."""
    data, count = context.data, size or context.circuit.states
    vocabulary = len(data.dataset.vocabulary)
    pseudocount, smoothing = context.circuit.pseudocount, context.circuit.smoothing
    inputs = {
        "data": data.key,
        "clusters": latents.artifact.id,
        "states": count,
        "pseudocount": pseudocount,
        "smoothing": smoothing,
        "engine": context.engine_key,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        with context.reporter.task(f"counting ({count:,} states)"):
            builders = context.builders
            rows, z = data.rows["train"], latents.z["train"]
            circuit = builders.count_hmm(rows, z, count, vocabulary, pseudocount=pseudocount)
            smooth = interpolate(Hmm.of(circuit), rows, z, smoothing)
            circuit = smooth.circuit(rows.shape[1])
            hdf5.save(circuit, folder / CIRCUIT)
            bound, marginal = bound_and_marginal(
                context.engine, circuit, data.rows["valid"], latents.z["valid"]
            )
        return {"bound": bound, "marginal": marginal, "made_by": builders.name}

    counted = context.store.stage("counting", 1, inputs, build)
    bound, marginal = (data.value("valid", counted.info[k]) for k in ("bound", "marginal"))
    seconds = latents.seconds + counted.seconds
    return Start(
        "lvd",
        {"artifact": counted.id},
        lambda: hdf5.load(counted.path / CIRCUIT),
        seconds,
        (Stage("counting", 1, seconds, bound, marginal, counted.reused),),
        latents.z["valid"],
        {**latents.parts, "counting": counted.seconds},
        states=size,
        work=_work(context, count),
        made_by={"counting": made_by(counted)},
        assignments=latents.artifact.path / FILE,
    )
