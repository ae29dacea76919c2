"""Patch circuits glued under a latent circuit, and their baselines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.config import PatchCircuit, Phase
from pyjuice_bridge.distill.bound import bound_and_marginal
from pyjuice_bridge.distill.latents import LatentValues
from pyjuice_bridge.distill.latents import latents as latent_values
from pyjuice_bridge.distill.patches import train_bundle, train_latent
from pyjuice_bridge.engines.base import FitOptions, FitResult, Schedule
from pyjuice_bridge.pipeline.arms import (
    CIRCUIT,
    Stage,
    Start,
    image_tree,
    made_by,
    parents_of,
    random_hclt,
    tree_stage,
)
from pyjuice_bridge.pipeline.context import ImageContext
from pyjuice_bridge.pipeline.sizes import equal_latents, glued_parameters
from pyjuice_bridge.pipeline.store import Artifact
from pyjuice_bridge.teachers.base import patch_grid

_PATCH_ROWS = 200_000
"""Patches that the tree inside a patch is drawn from, at most."""


def patch_variables(shape: tuple[int, int, int], patch: int) -> IntArray:
    """The image variables of every patch, int32 [positions, patch * patch * C], row-major."""
    height, width, channels = shape
    rows, columns = height // patch, width // patch
    ids = np.arange(height * width * channels, dtype=np.int32)
    tiles = ids.reshape(rows, patch, columns, patch, channels).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(rows * columns, -1))


def patch_starts(context: ImageContext, teacher: object | None) -> list[Start]:
    """The arms ``lvd``, ``random`` (same graph) and ``hclt`` (equal size)."""
    section = _section(context)
    patch_grid(context.data.dataset.train[:1], section.patch)
    arms = context.config.arms or []
    made: dict[str, Start] = {}
    if "lvd" in arms or "random" in arms:
        parts = _Parts(context, latent_values(context, section.latents, teacher))
        if "lvd" in arms:
            made["lvd"] = parts.distilled()
        if "random" in arms:
            made["random"] = parts.random()
    if "hclt" in arms:
        sizes = context.data.categories
        wanted = glued_parameters(context.data.shape.sides, sizes, section)
        made["hclt"] = random_hclt(
            context, image_tree(context), "hclt", equal_latents(wanted, sizes)
        )
    return [made[arm] for arm in arms]


def _section(context: ImageContext) -> PatchCircuit:
    section = context.circuit
    assert isinstance(section, PatchCircuit)
    return section


def phase_options(context: ImageContext, phase: Phase) -> FitOptions:
    """The options of patch or latent training."""
    return FitOptions(
        epochs=phase.epochs,
        batch_size=phase.batch_size,
        step_size=Schedule(**phase.step_size.model_dump()),
        pseudocount=context.config.train.pseudocount,
        seed=context.config.seed,
    )


class _Parts:
    """The trees, the bundle and the latent circuit that the glued arms are made of."""

    def __init__(self, context: ImageContext, latents: LatentValues) -> None:
        self.context, self.latents, self.section = context, latents, _section(context)
        data = context.data
        self.places = patch_variables(data.shape.sides, self.section.patch)
        self.categories = data.categories[self.places[0]]
        clusters = {"clusters": latents.artifact.id}
        train = data.rows["train"]
        some = train[: max(1, _PATCH_ROWS // len(self.places))]
        inputs = {"data": data.key, "patch": self.section.patch, "seed": context.config.seed}
        patches = some[:, self.places].reshape(-1, self.places.shape[1])
        self.patch_tree = tree_stage(context, "patch tree", inputs, patches, self.categories)
        # Ids have no order, so none share a bin.
        ids, count = latents.z["train"], self.section.latents
        self.latent_tree = tree_stage(context, "latent tree", clusters, ids, count, bins=count)

    @property
    def trees_seconds(self) -> float:
        return self.patch_tree.seconds + self.latent_tree.seconds

    @property
    def trees_made_by(self) -> str:
        return ", ".join(dict.fromkeys(map(made_by, (self.patch_tree, self.latent_tree))))

    def blank_bundle(self) -> Circuit:
        parents, seed = parents_of(self.patch_tree), self.context.config.seed
        section = self.section
        return self.context.builders.patch_bundle(
            parents, section.latents, section.patch_latents, self.categories, seed=seed
        )

    def blank_latent(self) -> Circuit:
        clusters, seed = self.section.latents, self.context.config.seed
        parents = parents_of(self.latent_tree)
        return self.context.builders.hclt(parents, clusters, clusters, seed=seed)

    def random(self) -> Start:
        """The same graph with Dirichlet(1) rows."""
        section = self.section
        key = {
            "random": "patches",
            "trees": [self.patch_tree.id, self.latent_tree.id],
            "latents": [section.latents, section.patch_latents],
            "seed": self.context.config.seed,
            "builders": self.context.builders.name,
        }

        def make() -> Circuit:
            glue = self.context.builders.glue
            return glue(self.blank_latent(), self.blank_bundle(), self.places)

        return Start(
            "random",
            key,
            make,
            self.trees_seconds,
            parts={"trees": self.trees_seconds},
            made_by={"trees": self.trees_made_by, "circuit": self.context.builders.name},
        )

    def distilled(self) -> Start:
        """Patch circuits and the latent circuit, each trained on its part of the bound."""
        bundle, latent = self._bundle(), self._latent()
        glued = self._glued(bundle, latent)
        before = self.latents.seconds + self.trees_seconds
        phases = self.context.config.train
        assert phases.patch_training is not None and phases.latent_training is not None
        passes = {
            "start": (0, before, glued),
            "patches": (phases.patch_training.epochs, before + bundle.seconds, bundle),
            "latent": (
                phases.latent_training.epochs,
                before + bundle.seconds + latent.seconds,
                latent,
            ),
        }
        value = self.context.data.value
        stages = []
        for name, (count, seconds, made) in passes.items():
            bound, marginal = (value("valid", log_p) for log_p in glued.info[name])
            stages.append(Stage(name, count, seconds, bound, marginal, made.reused))
        parts = {
            **self.latents.parts,
            "trees": self.trees_seconds,
            "patch training": bundle.seconds,
            "latent training": latent.seconds,
        }
        return Start(
            "lvd",
            {"artifact": glued.id},
            lambda: hdf5.load(glued.path / CIRCUIT),
            stages[-1].seconds,
            tuple(stages),
            self.latents.z["valid"],
            parts,
            made_by={
                "trees": self.trees_made_by,
                "patch training": made_by(bundle),
                "latent training": made_by(latent),
            },
        )

    def _bundle(self) -> Artifact:
        phase = self.context.config.train.patch_training
        assert phase is not None
        options = phase_options(self.context, phase)
        inputs = {
            "data": self.context.data.key,
            "tree": self.patch_tree.id,
            "clusters": self.latents.artifact.id,
            "latents": [self.section.latents, self.section.patch_latents],
            **_training_key(self.context, phase),
        }

        def build(folder: Path) -> Mapping[str, Any]:
            patches = self.context.data.rows["train"][:, self.places]
            with self.context.reporter.task("patch training", range(phase.epochs)) as tick:
                found = train_bundle(
                    self.context.engine,
                    self.blank_bundle(),
                    patches,
                    self.latents.z["train"],
                    options,
                    checkpoint=folder / "checkpoint.h5",
                    on_batch=tick,
                )
            return _keep(found, folder, self.context.engine.name)

        return self.context.store.stage("patches", 1, inputs, build, together=True)

    def counted_latent(self) -> Circuit:
        """p(H_c | H_p) from counts of cluster ids, p(Z | H) near the identity."""
        return self.context.builders.latent_circuit(
            self.latents.z["train"],
            self.section.latents,
            pseudocount=self.section.pseudocount,
            epsilon=self.section.epsilon,
            parents=parents_of(self.latent_tree),
        )

    def _latent(self) -> Artifact:
        phase = self.context.config.train.latent_training
        assert phase is not None
        options = phase_options(self.context, phase)
        inputs = {
            "tree": self.latent_tree.id,
            "clusters": self.latents.artifact.id,
            "epsilon": self.section.epsilon,
            "counting": self.section.pseudocount,
            **_training_key(self.context, phase),
        }

        def build(folder: Path) -> Mapping[str, Any]:
            with self.context.reporter.task("latent training", range(phase.epochs)) as tick:
                start = self.counted_latent()
                found = train_latent(
                    self.context.engine,
                    start,
                    self.latents.z["train"],
                    options,
                    valid=self.latents.z["valid"],
                    checkpoint=folder / "checkpoint.h5",
                    on_batch=tick,
                )
            return _keep(found, folder, self.context.engine.name)

        return self.context.store.stage("latent", 1, inputs, build, together=True)

    def _glued(self, bundle: Artifact, latent: Artifact) -> Artifact:
        inputs = {"patches": bundle.id, "latent": latent.id, "data": self.context.data.key}
        valid, z = self.context.data.rows["valid"], self.latents.z["valid"]

        def build(folder: Path) -> Mapping[str, Any]:
            blank, patches = self.blank_bundle(), hdf5.load(bundle.path / CIRCUIT)
            counted, trained = self.counted_latent(), hdf5.load(latent.path / CIRCUIT)
            steps = {"start": (counted, blank), "patches": (counted, patches)}
            info = {}
            for name, (above, below) in {**steps, "latent": (trained, patches)}.items():
                glued = self.context.builders.glue(above, below, self.places)
                with self.context.reporter.task(f"bound ({name})"):
                    info[name] = bound_and_marginal(self.context.engine, glued, valid, z)
            hdf5.save(glued, folder / CIRCUIT)
            return info

        return self.context.store.stage("glued", 1, inputs, build)


def _training_key(context: ImageContext, phase: Phase) -> dict[str, Any]:
    return {
        "phase": phase.model_dump(),
        "pseudocount": context.config.train.pseudocount,
        "seed": context.config.seed,
        "engine": context.engine_key,
    }


def _keep(found: FitResult, folder: Path, engine: str) -> dict[str, Any]:
    """Save a trained part; its seconds are those of its epochs, in however many attempts."""
    hdf5.save(found.circuit, folder / CIRCUIT)
    (folder / "checkpoint.h5").unlink(missing_ok=True)
    return {"seconds": sum(epoch.seconds for epoch in found.history), "made_by": engine}
