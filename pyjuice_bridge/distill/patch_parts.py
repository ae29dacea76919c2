"""What circuits of patches are made of: positions, their clusters, and two trees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.config.train import LatentPhase, Phase
from pyjuice_bridge.distill.above import Above, AboveName, ChowLiu, QuadTree
from pyjuice_bridge.distill.base import Initialisation, Passes
from pyjuice_bridge.distill.bound import bound_and_marginal
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.distill.hclt import random_hclt_like
from pyjuice_bridge.distill.latents import LatentValues, latents
from pyjuice_bridge.distill.leaves import LeafySection
from pyjuice_bridge.distill.training import phase_options, train_stage
from pyjuice_bridge.distill.trees import parents_of, tree_stage
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.stages.store import Artifact
from pyjuice_bridge.teachers.base import patch_grid

_PATCH_ROWS = 200_000
"""Patches that the tree inside a patch is learnt from, at most."""


def patch_variables(sides: tuple[int, int, int], patch: int) -> IntArray:
    """Return the variables of every patch, int32 [positions, patch * patch * C], row-major."""
    channels = sides[2]
    rows, columns = patch_grid(np.empty((0, *sides), np.uint8), patch)
    ids = np.arange(math.prod(sides), dtype=np.int32)
    tiles = ids.reshape(rows, patch, columns, patch, channels).swapaxes(1, 2)
    return np.ascontiguousarray(tiles.reshape(rows * columns, -1))


def set_phases(config: Settings, rounds: int = 1) -> None:
    """Set the phases before fine-tuning to their defaults; check that they leave it a pass.

    Args:
        config: of the run.
        rounds: how often patches are trained.
    """
    train = config.train
    train.patch_training = train.patch_training or Phase()
    train.latent_training = train.latent_training or LatentPhase()
    before = rounds * train.patch_training.epochs + train.latent_training.epochs
    if train.epochs <= before and "lvd" in (config.arms or []):
        raise ValueError(
            f"'train.epochs' is {train.epochs}, but patch and latent training already take "
            f"{before} of the passes; use at least {before + 1}"
        )


def passes_before(
    config: Settings, bundles: Sequence[Circuit], latent: Circuit, rows: int, dealt: int
) -> list[Passes]:
    """Return the passes of patch training and of latent training, as a plan sees them.

    Args:
        config: of the run.
        bundles: all patch circuits without numbers, one for every time that they are trained.
        latent: the latent circuit without numbers.
        rows: training rows.
        dealt: rows of a bundle, a patch of every cluster in each.
    """
    patches, above = config.train.patch_training, config.train.latent_training
    assert patches is not None and above is not None
    return [
        *(Passes(bundle, dealt, patches.batch_size, patches.epochs) for bundle in bundles),
        Passes(latent, rows, above.batch_size, above.epochs),
    ]


@dataclass(frozen=True, eq=False)
class PatchParts:
    """Positions, the clusters of their patches, and the trees inside a patch and over patches.

    Attributes:
        context: the run.
        clusters: of patches, shared by all positions.
        patch: side of a patch.
        places: int32 [positions, D], the variables of every patch.
        latents: the clusters of all patches.
        patch_tree: over the variables of a patch.
        above: builds latent circuits over the positions.
    """

    context: Context
    clusters: int
    patch: int
    places: IntArray
    latents: LatentValues
    patch_tree: Artifact
    above: Above

    @classmethod
    def of(
        cls, context: Context, clusters: int, patch: int, above: AboveName = "chow_liu"
    ) -> PatchParts:
        """Cluster the teacher's features of patches, learn a patch's tree and what is above."""
        sides = context.data.shape.sides
        assert sides is not None
        places = patch_variables(sides, patch)
        assignments = latents(context, clusters, (len(places),), patch=patch)
        train = context.data.rows["train"]
        some = train[: max(1, _PATCH_ROWS // len(places))]
        patches = some[:, places].reshape(-1, places.shape[1])
        inputs = {"data": context.data.key, "patch": patch, "seed": context.config.seed}
        sizes = context.data.categories[places[0]]
        patch_tree = tree_stage(context, "patch tree", inputs, patches, sizes)
        if above == "quad_tree":
            built: Above = QuadTree.of(context, places, sides, patch, clusters)
        else:
            built = ChowLiu.of(context, assignments, clusters)
        return cls(context, clusters, patch, places, assignments, patch_tree, built)

    def patches(self, split: str) -> NDArray[Any]:
        """Return the patches of a split's rows, int [N, positions, D]."""
        return self.context.data.rows[split][:, self.places]

    def random_bundle(self, width: int) -> Circuit:
        """Build a circuit for every cluster, with Dirichlet(1) rows."""
        sizes, seed = self.context.data.categories[self.places[0]], self.context.config.seed
        tree = parents_of(self.patch_tree)
        builders, section = builders_of(self.context.engine), self.context.config.circuit
        assert isinstance(section, LeafySection)
        return section.leafy(
            builders.patch_bundle(tree, self.clusters, width, sizes, seed=seed), seed
        )

    def train_latent(
        self,
        z: Mapping[str, NDArray[np.int32]],
        values: int,
        pseudocount: float,
        epsilon: float,
        parents: Sequence[Artifact],
    ) -> Artifact:
        """Fit the latent circuit to the ids ``z`` of a split each: latent training."""
        phase = self.context.config.train.latent_training
        assert phase is not None
        return train_stage(
            self.context,
            "latent",
            "latent training",
            lambda: self.above.counted(z["train"], values, pseudocount, epsilon),
            lambda: (z["train"], None),
            phase_options(self.context, phase),
            key={"epsilon": epsilon, "counting": pseudocount},
            parents=(*parents, *self.above.parents),
            valid=z["valid"],
        )

    def bounds(
        self,
        steps: Callable[[], Mapping[str, tuple[Circuit, Circuit]]],
        join: Callable[[Circuit, Circuit], Circuit],
        z: NDArray[np.int32],
        parents: tuple[Artifact, ...],
    ) -> Mapping[str, tuple[float, float]]:
        """Measure the bound and the marginal on validation after every step.

        Args:
            steps: gives by name the latent circuit and the patch circuits after a step.
            join: glues the two.
            z: int32 [N, positions], the latent values of the validation images.
            parents: the artifacts that the circuits come from.
        """
        context = self.context

        def build(folder: Path) -> Mapping[str, Any]:
            bounds = {}
            for name, (above, below) in steps().items():
                with context.reporter.task(f"bound ({name})"):
                    rows = context.data.rows["valid"]
                    bounds[name] = bound_and_marginal(context.engine, join(above, below), rows, z)
            return bounds

        inputs = {"data": context.data.key, "engine": context.engine_key}
        return context.store.stage("bounds", 1, inputs, build, parents=parents).info


def initialise_arms(
    context: Context,
    clusters: int,
    patch: int,
    arms: Mapping[str, Callable[[PatchParts], Initialisation]],
    plain: Callable[[], Circuit],
    above: AboveName = "chow_liu",
) -> list[Initialisation]:
    """Begin the arms of a config over circuits of patches, whose parts are made only if needed.

    Args:
        context: of the run.
        clusters: of patches.
        patch: side of a patch.
        arms: begins the arms of circuits of patches.
        plain: gives the structure of the arm ``hclt``.
        above: how the latent circuit is built.
    """
    wanted = context.config.arms or []
    begun: dict[str, Initialisation] = {}
    if any(arm in arms for arm in wanted):
        parts = PatchParts.of(context, clusters, patch, above)
        begun = {arm: begin(parts) for arm, begin in arms.items() if arm in wanted}
    if "hclt" in wanted:
        begun["hclt"] = random_hclt_like(context, plain())
    return [begun[arm] for arm in wanted]
