"""``circuit.kind: growing``: patch circuits whose heads grow (Liu et al., ICML 2023).

Every cluster of patches has one circuit with several roots, its *heads*, and every patch belongs
to one head of its cluster.  A round trains all clusters in one pass, each patch at its head; then
weights without flow are pruned, patches are re-assigned to the heads that explain them best, and
the circuit is doubled so that the head with the worst fit becomes two.  The values of the latent
circuit above are all heads of all clusters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.growing import choose_roots, count_edges
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.size import balanced_parents
from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.distill.base import CIRCUIT, Initialisation, Kind, Passes, Stage
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.distill.bundle import bundle_rows, deal, take
from pyjuice_bridge.distill.checks import default_ring, pool
from pyjuice_bridge.distill.features import features_of
from pyjuice_bridge.distill.hclt import hclt_of_size
from pyjuice_bridge.distill.heads import (
    Floats,
    Growth,
    Heads,
    Parts,
    features_in_parts,
    first_heads,
    group_means,
    head_means,
    move,
    plan_growth,
    reassign,
    recluster,
)
from pyjuice_bridge.distill.leaves import LeafySection
from pyjuice_bridge.distill.patch_parts import (
    PatchParts,
    initialise_arms,
    passes_before,
    patch_variables,
    set_phases,
)
from pyjuice_bridge.distill.training import load_circuit, phase_options, train_stage
from pyjuice_bridge.domains.base import FIGURES, Context, Shape
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.files import write_arrays
from pyjuice_bridge.report.learners import ROUND
from pyjuice_bridge.sections import Count, Pseudocount, States, at_most
from pyjuice_bridge.stages.store import Artifact

HEADS = "heads.npz"
"""The file of an artifact that holds the head of every patch."""
_PRUNED_SHARE = 1e-4
_RELUCTANCE = 1.0
_SELECTED_SHARE = 0.4
_SCORED_ROWS = 1 << 13
"""Patches of every cluster that are scored together, about."""
_MOST_WIDE = 1024
_TRIED = 4
"""Clusters of the circuit whose time is measured for a plan."""
_CHUNK = 1 << 24
"""Pixels that are averaged together."""
_SHOWN = 16
"""Clusters whose heads a report shows."""


class GrowingCircuit(LeafySection):
    """Patch circuits with growing heads, glued under a latent circuit.

    ``clusters`` are shared by all positions.  ``heads`` of each at the start and in the end; every
    round but the last adds one.  ``width`` is that of the HCLT inside a patch at the start, doubled
    in every round but the last.  ``frozen`` leaves the patch circuits as they are when the whole
    is fine-tuned.  ``epsilon`` is the mass that p(Z | H) spreads evenly at the start.
    """

    kind: Literal["growing"]
    clusters: States = 16
    heads: Annotated[list[Count], Field(min_length=2, max_length=2)] = Field(default=[2, 4])
    width: Annotated[int, Field(ge=1), at_most(_MOST_WIDE, "blocks have its square in weights")] = 4
    patch: Annotated[int, Field(ge=1), at_most(1024, "it is a number of pixels")] = 4
    frozen: bool = False
    pseudocount: Pseudocount = 0.1
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _heads_grow(self) -> GrowingCircuit:
        first, last = self.heads
        if first > last:
            raise ValueError("'heads' are those at the start and in the end, as [2, 4]")
        if self.last_width > _MOST_WIDE:
            raise ValueError(
                f"'width' {self.width} is doubled {last - first} times, but blocks may have at "
                f"most {_MOST_WIDE} nodes; begin with fewer, or with more 'heads'"
            )
        return self

    @property
    def rounds(self) -> int:
        """How often patches are trained."""
        return 1 + self.heads[1] - self.heads[0]

    @property
    def last_width(self) -> int:
        """The width of a patch's blocks in the end."""
        return self.width << (self.rounds - 1)


def _check(config: Settings) -> None:
    section = config.circuit
    assert isinstance(section, GrowingCircuit)
    if getattr(config.teacher, "assignments", None) is not None:
        raise ValueError(
            "'teacher.assignments' are cluster ids, but 'circuit.kind: growing' clusters heads by "
            "the teacher's features; use 'teacher.embeddings'"
        )
    pool(config, "growing circuits")
    default_ring(config, 0)
    set_phases(config, section.rounds)


def _scopes(section: GrowingCircuit, shape: Shape) -> IntArray:
    assert shape.sides is not None
    return patch_variables(shape.sides, section.patch)


def _structure(section: GrowingCircuit, arm: str, shape: Shape) -> Circuit:
    places = _scopes(section, shape)
    bundle = _bundle(section, shape, section.rounds)
    heads = len(bundle.roots)
    glued = glue(hclt(balanced_parents(len(places)), heads, heads), bundle, places)
    return glued if arm != "hclt" else hclt_of_size(glued.num_parameters, shape, section)


def _bundle(section: GrowingCircuit, shape: Shape, number: int) -> Circuit:
    """Return the circuits of all clusters in a round, each with as many heads as it may have."""
    sizes = shape.categories[_scopes(section, shape)[0]]
    width, heads = section.width << (number - 1), section.heads[0] + number - 1
    bundle = patch_bundle(balanced_parents(len(sizes)), section.clusters, width, sizes)
    return choose_roots(section.leafy(bundle), _owners(section, heads))


def _owners(section: GrowingCircuit, heads: int) -> IntArray:
    """Return the cluster of every head where each cluster has so many."""
    return np.repeat(np.arange(section.clusters, dtype=np.int32), heads)


def _before(config: Settings, shape: Shape) -> list[Passes]:
    section = config.circuit
    assert isinstance(section, GrowingCircuit)
    positions = len(_scopes(section, shape))
    bundles = [_bundle(section, shape, number) for number in range(1, section.rounds + 1)]
    heads = len(bundles[-1].roots)
    latent = hclt(balanced_parents(positions), heads, heads)
    dealt = max(1, shape.train * positions // section.clusters)
    return passes_before(config, bundles, latent, shape.train, dealt)


def _trial(section: GrowingCircuit) -> GrowingCircuit:
    """Return the section with few clusters: all do the same work, and their leaves are large."""
    return section.model_copy(update={"clusters": min(section.clusters, _TRIED)})


def _initialise(context: Context) -> list[Initialisation]:
    section = context.config.circuit
    assert isinstance(section, GrowingCircuit)
    return initialise_arms(
        context,
        section.clusters,
        section.patch,
        {
            "lvd": lambda parts: _grown(parts, section),
            "random": lambda parts: _random(parts, section),
        },
        lambda: _structure(section, "hclt", context.data.shape),
    )


def _key(parts: PatchParts, section: GrowingCircuit) -> dict[str, Any]:
    fields = ("clusters", "heads", "width", "patch")
    builders = builders_of(parts.context.engine).name
    own = section.model_dump(include=set(fields))
    seed = parts.context.config.seed
    return {**own, "seed": seed, "builders": builders, **section.leaf_key}


def _random(parts: PatchParts, section: GrowingCircuit) -> Initialisation:
    """Begin with the same graph, all heads there, and Dirichlet(1) rows."""

    def make() -> Circuit:
        bundle = builders_of(parts.context.engine).choose_roots(
            parts.random_bundle(section.last_width), _owners(section, section.heads[1])
        )
        return glue(parts.above.random(len(bundle.roots)), bundle, parts.places)

    key = {"random": "growing", **_key(parts, section)}
    return Initialisation("random", key, make, (parts.patch_tree, *parts.above.parents))


def _grown(parts: PatchParts, section: GrowingCircuit) -> Initialisation:
    """Begin with heads that have grown, and a latent circuit over all of them."""
    phases = parts.context.config.train
    assert phases.patch_training is not None and phases.latent_training is not None
    grown = grow_heads(parts, section)
    z = load_heads(grown, parts)
    values = int(grown.info["heads"])
    latent = parts.train_latent(z, values, section.pseudocount, section.epsilon, (grown,))
    bounds = _bounds(parts, section, grown, latent)
    before = (parts.latents.artifact, parts.patch_tree, *parts.above.parents)
    passes = section.rounds * phases.patch_training.epochs
    stages = (
        Stage("growing", passes, (*before, grown), *bounds["growing"]),
        Stage("latent", phases.latent_training.epochs, (grown, latent), *bounds["latent"]),
    )
    frozen = tuple(range(len(load_circuit(grown).layers))) if section.frozen else ()
    return Initialisation(
        "lvd",
        _key(parts, section),
        lambda: glue(load_circuit(latent), load_circuit(grown), parts.places),
        (grown, latent),
        stages,
        z["valid"],
        frozen=frozen,
    )


def _bounds(
    parts: PatchParts, section: GrowingCircuit, grown: Artifact, latent: Artifact
) -> Mapping[str, tuple[float, float]]:
    """Measure the bound and the marginal on validation before and after latent training."""
    z, values = load_heads(grown, parts), int(grown.info["heads"])

    def steps() -> dict[str, tuple[Circuit, Circuit]]:
        counted = parts.above.counted(z["train"], values, section.pseudocount, section.epsilon)
        below = load_circuit(grown)
        return {"growing": (counted, below), "latent": (load_circuit(latent), below)}

    def join(above: Circuit, below: Circuit) -> Circuit:
        return glue(above, below, parts.places)

    return parts.bounds(steps, join, z["valid"], (grown, latent))


def load_heads(grown: Artifact, parts: PatchParts) -> dict[str, NDArray[np.int32]]:
    """Read the head of every patch, per split int32 [N, positions]."""
    with np.load(grown.path / HEADS, allow_pickle=False) as file:
        return {split: file[split].reshape(-1, len(parts.places)) for split in ("train", "valid")}


def grow_heads(parts: PatchParts, section: GrowingCircuit) -> Artifact:
    """Train and grow round by round; return the artifact of the last circuit and its heads."""
    embedded = features_of(parts.context, parts.patch)
    parents = (parts.latents.artifact, parts.patch_tree, *embedded.parents)

    def features() -> Iterator[tuple[slice, Floats]]:
        yield from features_in_parts(embedded.embeddings()["train"])()

    state = _begin(parts, section, features, parents)
    for number in range(1, section.rounds + 1):
        trained = _train(parts, state, number)
        state = _regroup(parts, state, trained, number, features, grow=number < section.rounds)
    return state


@dataclass(frozen=True, eq=False)
class _Round:
    """A round's circuit and the heads of the training patches."""

    circuit: Circuit
    heads: Heads

    @classmethod
    def load(cls, artifact: Artifact, parts: PatchParts) -> _Round:
        with np.load(artifact.path / HEADS, allow_pickle=False) as file:
            labels, owner = file["train"].reshape(-1), file["owner"]
        first = np.searchsorted(owner, np.arange(parts.clusters))
        cluster = parts.latents.z["train"].reshape(-1)
        heads = Heads((labels - first[cluster]).astype(np.int32), cluster, owner, parts.clusters)
        return cls(load_circuit(artifact), heads)


def _begin(
    parts: PatchParts, section: GrowingCircuit, features: Parts, parents: tuple[Artifact, ...]
) -> Artifact:
    """Split every cluster into the first heads, over one random circuit."""
    seed, start = parts.context.config.seed, section.heads[0]

    def build(folder: Path) -> Mapping[str, Any]:
        with parts.context.reporter.task("heads"):
            cluster = parts.latents.z["train"].reshape(-1)
            heads = first_heads(features, cluster, parts.clusters, start, seed)
            builders = builders_of(parts.context.engine)
            circuit = builders.choose_roots(parts.random_bundle(section.width), heads.owner)
        hdf5.save(circuit, folder / CIRCUIT)
        write_arrays(folder / HEADS, {"train": heads.labels, "owner": heads.owner})
        return {"heads": len(heads.owner), "history": []}

    inputs = {"data": parts.context.data.key, **_key(parts, section)}
    del inputs["heads"]
    return parts.context.store.stage("heads", 1, {**inputs, "start": start}, build, parents=parents)


def _train(parts: PatchParts, state: Artifact, number: int) -> Artifact:
    """Train all clusters in one pass, every patch at its own head."""
    phase = parts.context.config.train.patch_training
    assert phase is not None
    options = phase_options(parts.context, phase)

    def rows() -> tuple[NDArray[Any], NDArray[Any]]:
        return dealt_rows(parts, _Round.load(state, parts).heads)

    return train_stage(
        parts.context,
        f"grow-{number}",
        f"growing, round {number}",
        lambda: load_circuit(state),
        rows,
        options,
        key={"data": parts.context.data.key},
        parents=(state,),
    )


def dealt_rows(parts: PatchParts, heads: Heads) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Deal the training patches out by cluster, with the flow of each at its own head."""
    labels = heads.labels.reshape(-1, len(parts.places))
    seed = parts.context.config.seed
    patches = parts.patches("train")
    return bundle_rows(patches, labels, parts.clusters, owner=heads.owner, seed=seed)


def score_heads(
    engine: Engine, circuit: Circuit, patches: NDArray[Any], cluster: IntArray, table: IntArray
) -> Floats:
    """Return log p of every patch under the heads of its cluster, float32 [patches, slots].

    Args:
        engine: runs the circuit.
        circuit: a bundle.
        patches: int [N, positions, D].
        cluster: int32 [N * positions].
        table: int32 [clusters, slots], the heads of every cluster, -1 after the last one.
    """
    clusters, slots = table.shape
    flat = patches.reshape(-1, 1, patches.shape[2])
    scores = np.full((len(flat), slots), -np.inf, np.float32)
    step = _SCORED_ROWS * clusters
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        dealt = deal(cluster[part], clusters, max_rows=None, seed=0)
        found = engine.log_likelihood(circuit, take(flat[part], dealt))
        row, column = np.nonzero(dealt >= 0)
        heads = table[column]
        own = np.where(heads >= 0, found[row[:, None], heads], -np.inf)
        scores[start + dealt[row, column]] = own
    return scores


def _regroup(
    parts: PatchParts,
    state: Artifact,
    trained: Artifact,
    number: int,
    features: Parts,
    *,
    grow: bool,
) -> Artifact:
    """Prune a trained circuit and re-assign its patches; then grow it, if it is not the last."""
    context, builders = parts.context, builders_of(parts.context.engine)

    def build(folder: Path) -> Mapping[str, Any]:
        with context.reporter.task(f"heads after round {number}"):
            before = _Round.load(state, parts).heads
            circuit = _pruned(parts, load_circuit(trained), before)
            patches = parts.patches("train")
            scores = score_heads(context.engine, circuit, patches, before.cluster, before.table)
            heads = replace(before, slots=reassign(scores, before.slots, _RELUCTANCE))
            growth = plan_growth(heads, head_means(heads, scores), _SELECTED_SHARE, grow=grow)
            line = _history_line(parts, number, circuit, before, heads, scores, growth)
            circuit = builders.choose_roots(circuit, growth.of)
            arrays: dict[str, NDArray[Any]] = {
                "means": _mean_patches(parts, heads),
                "sizes": heads.sizes(),
            }
            if grow:
                seed = context.config.seed + number
                circuit = builders.widen(circuit, growth.second, seed=seed)
                heads = recluster(features, heads, scores, growth)
            else:
                heads = move(heads, growth)
                arrays["valid"] = _best_heads(parts, circuit, heads, "valid")
            arrays |= {"train": heads.labels, "owner": heads.owner}
        history = [*state.info["history"], line]
        hdf5.save(circuit, folder / CIRCUIT)
        write_arrays(folder / HEADS, arrays)
        if not grow:
            write_arrays(folder / FIGURES, _figures(history, arrays))
        return {"heads": len(heads.owner), "history": history, "made_by": context.engine.name}

    inputs = {"data": context.data.key, "engine": context.engine_key, "grow": grow}
    return context.store.stage("heads", 1, inputs, build, parents=(state, trained))


def _pruned(parts: PatchParts, circuit: Circuit, heads: Heads) -> Circuit:
    rows, weights = dealt_rows(parts, heads)
    engine = parts.context.engine
    counts = engine.expected_counts(circuit, rows, weights)
    return builders_of(engine).prune(circuit, counts.layers, _PRUNED_SHARE)


def _best_heads(parts: PatchParts, circuit: Circuit, heads: Heads, split: str) -> IntArray:
    """Give the patches of a split to the best heads of their clusters, int32 [patches]."""
    cluster = parts.latents.z[split].reshape(-1)
    patches = parts.patches(split)
    scores = score_heads(parts.context.engine, circuit, patches, cluster, heads.table)
    best: IntArray = heads.table[cluster, scores.argmax(1)]
    return best


def _history_line(
    parts: PatchParts,
    number: int,
    circuit: Circuit,
    before: Heads,
    heads: Heads,
    scores: Floats,
    growth: Growth,
) -> dict[str, int | float]:
    """Say what a round has come to: bits of patches given their heads, and what grew."""
    every = np.arange(len(scores))
    size = parts.places.shape[1] * math.log(2)
    trained, moved = (scores[every, each.slots] for each in (before, heads))
    return {
        "round": number,
        "heads": int((heads.sizes() > 0).sum()),
        "width": circuit.widths[0],
        "edges": count_edges(circuit),
        "bits": -float(trained.mean(dtype=np.float64)) / size,
        "reassigned_bits": -float(moved.mean(dtype=np.float64)) / size,
        "reassigned": float((before.slots != heads.slots).mean()),
        "grew": int((growth.worst >= 0).sum()),
    }


def _mean_patches(parts: PatchParts, heads: Heads) -> NDArray[np.uint8]:
    """Average the pixels of every head's patches, uint8 [clusters, slots, patch, patch, C]."""
    images = parts.context.data.samples.splits["train"]
    step = max(1, _CHUNK // images[0].size)

    def pixels() -> Iterator[tuple[slice, Floats]]:
        for start in range(0, len(images), step):
            some = images[start : start + step]
            found = some.reshape(len(some), -1)[:, parts.places].astype(np.float32)
            size = found.shape[1]
            part = slice(start * size, (start + len(some)) * size)
            yield part, found.reshape(-1, found.shape[2])

    shape = heads.table.shape
    means = np.nan_to_num(group_means(pixels, heads.cluster, heads.slots, *shape))
    return means.round().astype(np.uint8).reshape(*shape, parts.patch, parts.patch, -1)


def _figures(
    history: Sequence[Mapping[str, Any]], arrays: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return what the report shows of growing: numbers by round, and heads of some clusters."""
    largest = np.argsort(-arrays["sizes"].sum(1), kind="stable")[:_SHOWN]
    return {
        "growing/history": np.array(
            [[line[name] for name in ROUND] for line in history], np.float64
        ),
        "growing/means": arrays["means"][largest],
        "growing/sizes": arrays["sizes"][largest],
    }


KIND = Kind(
    name="growing",
    section=GrowingCircuit,
    domains=("images",),
    arms=("lvd", "random", "hclt"),
    check=_check,
    scopes=_scopes,
    structure=_structure,
    fixed=False,
    initialise=_initialise,
    trial=_trial,
    before=_before,
)
