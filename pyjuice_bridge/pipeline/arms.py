"""The arms of a comparison: where each one starts, and what it cost to get there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.config import PatchCircuit
from pyjuice_bridge.distill.bound import bound_and_marginal
from pyjuice_bridge.distill.latents import LatentValues
from pyjuice_bridge.distill.latents import latents as latent_values
from pyjuice_bridge.pipeline.context import ImageContext
from pyjuice_bridge.pipeline.files import write_array
from pyjuice_bridge.pipeline.store import Artifact

CIRCUIT = "circuit.h5"
_TREE_ROWS = 20_000
"""Rows that mutual information is estimated from, at most."""


@dataclass(frozen=True)
class Stage:
    """A training of ``lvd`` that came before the data alone.

    ``bound`` and ``marginal`` are the measure's figures on validation after it; ``reused`` tells
    whether it was there already.
    """

    name: str
    passes: int
    seconds: float
    bound: float
    marginal: float
    reused: bool


@dataclass(frozen=True)
class Start:
    """The circuit an arm is trained from.

    Attributes:
        arm: its name.
        key: names the circuit in the hashes of artifacts.
        circuit: makes it.
        seconds: of everything before it that this arm alone would need.
        stages: what was trained before; their passes count towards the arm's.
        z: validation latents for the bound, None where the arm has none.
        states: the size of the arm where a run has several, else None.
        work: of one of its passes, against that of other arms.
        assignments: the file of the latent values that it was counted from, where a run has
            several such files.
        made_by: the engine of every part that was not done by Python alone.
    """

    arm: str
    key: Mapping[str, Any]
    circuit: Callable[[], Circuit]
    seconds: float
    stages: tuple[Stage, ...] = ()
    z: NDArray[np.int32] | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    states: int | None = None
    work: float = 1.0
    assignments: Path | None = None
    made_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The arm, and its size where there are several: ``lvd-256``."""
        return self.arm if self.states is None else f"{self.arm}-{self.states}"

    @property
    def passes(self) -> int:
        return sum(stage.passes for stage in self.stages)


def starts(context: ImageContext, teacher: object | None) -> list[Start]:
    """Every arm of the config, in its order."""
    if isinstance(context.circuit, PatchCircuit):
        from pyjuice_bridge.pipeline.patch_arms import patch_starts

        return patch_starts(context, teacher)
    return _hclt_starts(context, teacher)


def _hclt_starts(context: ImageContext, teacher: object | None) -> list[Start]:
    tree = image_tree(context)
    made: dict[str, Start] = {}
    for arm in context.config.arms or []:
        if arm == "lvd":
            found = latent_values(context, context.circuit.latents, teacher)
            made[arm] = _counted(context, tree, found)
        else:
            made[arm] = random_hclt(context, tree, arm, context.circuit.latents)
    return list(made.values())


def image_tree(context: ImageContext) -> Artifact:
    """The Chow-Liu tree over all variables of an image."""
    inputs = {"data": context.data.key, "rows": _TREE_ROWS, "seed": context.config.seed}
    x, sizes = context.data.rows["train"], context.data.categories
    return tree_stage(context, "tree", inputs, x, sizes)


def tree_stage(
    context: ImageContext,
    title: str,
    inputs: Mapping[str, Any],
    x: NDArray[Any],
    sizes: IntArray | int,
    **options: int,
) -> Artifact:
    """A Chow-Liu tree over the columns of ``x``, kept as ``parents.npy``.

    ``options`` are those of ``chow_liu_tree`` that differ from its defaults.
    """
    inputs = {**inputs, **options}

    def build(folder: Path) -> Mapping[str, Any]:
        builders, seed = context.builders, context.config.seed
        with context.reporter.task(title):
            parents = builders.chow_liu_tree(x, sizes, rows=_TREE_ROWS, seed=seed, **options)
        write_array(folder / "parents.npy", parents)
        return {"made_by": builders.name}

    return context.store.stage("tree", 1, {"of": title, **inputs}, build)


def made_by(artifact: Artifact) -> str:
    """The engine that a stage was done with, also where it was there already."""
    return str(artifact.info.get("made_by", "python"))


def parents_of(tree: Artifact) -> IntArray:
    """The parents of a tree artifact, int32 [n]."""
    parents: IntArray = np.load(tree.path / "parents.npy", allow_pickle=False)
    return parents


def random_hclt(context: ImageContext, tree: Artifact, arm: str, latents: int) -> Start:
    """An HCLT with Dirichlet(1) rows."""
    seed = context.config.seed
    builders = context.builders
    key = {"random": "hclt", "tree": tree.id, "latents": latents, "seed": seed}
    key["builders"] = builders.name
    sizes = context.data.categories

    def make() -> Circuit:
        return builders.hclt(parents_of(tree), latents, sizes, seed=seed)

    return Start(
        arm,
        key,
        make,
        tree.seconds,
        parts={"tree": tree.seconds},
        made_by={"tree": made_by(tree), "circuit": builders.name},
    )


def _counted(context: ImageContext, tree: Artifact, latents: LatentValues) -> Start:
    """LVD by counting: one pass over the images and their latents."""
    data, section, seed = context.data, context.circuit, context.config.seed
    z = {s: per_variable(latents.z[s], len(data.categories)) for s in ("train", "valid")}
    inputs = {
        "data": data.key,
        "tree": tree.id,
        "clusters": latents.artifact.id,
        "latents": section.latents,
        "pseudocount": section.pseudocount,
        "engine": context.engine_key,
    }

    def build(folder: Path) -> Mapping[str, Any]:
        with context.reporter.task("counting"):
            builders = context.builders
            blank = builders.hclt(parents_of(tree), section.latents, data.categories, seed=seed)
            counted = builders.count_parameters(
                blank, data.rows["train"], z["train"], pseudocount=section.pseudocount
            )
            hdf5.save(counted, folder / CIRCUIT)
            bound, marginal = bound_and_marginal(
                context.engine, counted, data.rows["valid"], z["valid"]
            )
        return {"bound": bound, "marginal": marginal, "made_by": builders.name}

    counted = context.store.stage("counting", 1, inputs, build)
    bound, marginal = (data.value("valid", counted.info[k]) for k in ("bound", "marginal"))
    seconds = latents.seconds + tree.seconds + counted.seconds
    stage = Stage("counting", 1, seconds, bound, marginal, counted.reused)
    parts = {**latents.parts, "tree": tree.seconds, "counting": counted.seconds}
    return Start(
        "lvd",
        {"artifact": counted.id},
        lambda: hdf5.load(counted.path / CIRCUIT),
        seconds,
        (stage,),
        z["valid"],
        parts,
        made_by={"tree": made_by(tree), "counting": made_by(counted)},
    )


def per_variable(z: NDArray[np.int32], variables: int) -> NDArray[np.int32]:
    """Latent values of pixels as those of variables: the channels of a pixel share its value."""
    return np.repeat(z, variables // z.shape[1], axis=1)
