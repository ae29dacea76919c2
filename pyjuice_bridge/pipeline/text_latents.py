"""From text to latent values: the teacher's states of all tokens, then clusters per size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyjuice_bridge.cluster.assignments import Assignments
from pyjuice_bridge.cluster.cluster import cluster_embeddings
from pyjuice_bridge.data import TokenStream
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.latents import FILE, LatentValues
from pyjuice_bridge.pipeline.text_data import TextContext
from pyjuice_bridge.stages.store import Artifact
from pyjuice_bridge.teachers.base import Embeddings
from pyjuice_bridge.teachers.text import TextTeacher
from pyjuice_bridge.teachers.text_features import (
    PrefixFeatures,
    SuffixFeatures,
    TokenFeatures,
)
from pyjuice_bridge.teachers.text_scale import UnitStates, mean_state
from pyjuice_bridge.teachers.text_states import TokenStates

_SPLITS = ("train", "valid")
"""Latent values are counted on the first and the bound is measured on the second."""


@dataclass(frozen=True)
class States:
    """The teacher's states of every token, in the artifact's folders ``train`` and ``valid``.

    Attributes:
        artifact: holds them.
        features: ``suffix``, ``prefix`` or ``token``.
        scale: ``unit`` or ``raw``.
        seconds: of reading the text, also where it is reused.
    """

    artifact: Artifact
    features: str
    scale: str

    @property
    def seconds(self) -> float:
        return self.artifact.seconds

    def embeddings(self, context: TextContext) -> Mapping[str, Embeddings]:
        """The feature of every position of every window."""
        length = context.data.section.window
        mean = mean_state(TokenStates.open(self.artifact.path / "train"))
        found: dict[str, Embeddings] = {}
        for split in _SPLITS:
            cut = context.data.windows[split]
            states = TokenStates.open(self.artifact.path / split)
            if self.scale == "unit":
                states = UnitStates(states, mean)
            if self.features == "prefix":
                documents = _stream(context, split).documents
                found[split] = PrefixFeatures(
                    states, cut.starts, length, cut.lengths, documents=documents
                )
            else:
                made = SuffixFeatures if self.features == "suffix" else TokenFeatures
                found[split] = made(states, cut.starts, length, cut.lengths)
        return found


def token_states(context: TextContext) -> States:
    """Let the teacher read every token once; what was read before an interruption is kept."""
    section = context.teacher
    with context.reporter.task(f"loading {section.source}"):
        teacher = TextTeacher(
            section.source,
            layer=section.layer,
            context=section.context,
            device=context.engine.device,
        )
    features = section.features or ("prefix" if teacher.causal else "suffix")
    if features == "prefix" and not teacher.causal:
        raise UserError(
            f"{section.source} looks at both sides of a token, so 'teacher.features: prefix' would "
            "give away the token itself; use 'suffix'"
        )
    dataset = context.data.dataset
    words = dataset.vocabulary if dataset.unit == "words" else None
    inputs = {"text": dataset.fingerprint, "teacher": teacher.describe()}

    def build(folder: Path) -> None:
        for split in _SPLITS:
            stream = _stream(context, split)
            with context.reporter.task(f"read {split} ({len(stream):,} tokens)") as tick:
                teacher.store(
                    stream.tokens,
                    folder / split,
                    documents=stream.documents,
                    words=words,
                    on_progress=tick,
                )

    artifact = context.store.stage("states", 1, inputs, build, together=True)
    return States(artifact, features, section.scale)


def text_latents(context: TextContext, states: States, count: int) -> LatentValues:
    """Cluster ids of every token of every window, -1 after a document's end."""
    config = context.config
    clusters = config.cluster.model_dump()
    inputs = {
        "states": states.artifact.id,
        "features": states.features,
        "scale": states.scale,
        "data": context.data.key,
        "cluster": clusters,
        "clusters": count,
        "seed": config.seed,
    }

    def build(folder: Path) -> None:
        tokens = int(context.data.windows["train"].lengths.sum())
        if tokens < count:
            raise UserError(
                f"the training windows hold {tokens:,} tokens, which cannot fill {count:,} "
                "clusters; use fewer states, or train on more text"
            )
        with context.reporter.task(f"clusters ({count:,})") as tick:
            found = cluster_embeddings(
                states.embeddings(context),
                count,
                **clusters,
                seed=config.seed,
                device=context.engine.device,
                on_progress=tick,
            )
        source = {"teacher_kind": "text", "teacher_source": context.teacher.source}
        seen = {"teacher_features": states.features, "teacher_scale": states.scale}
        facts = {**source, **seen, **found.attributes}
        Assignments(found.z, count, found.centroids, facts).save(folder / FILE)

    artifact = context.store.stage("clusters", 1, inputs, build, together=True)
    z = Assignments.load(artifact.path / FILE).z
    rows = context.data.rows
    present = {split: np.where(rows[split] >= 0, z[split], -1).astype(np.int32) for split in z}
    parts = {"states": states.seconds, "clusters": artifact.seconds}
    return LatentValues(present, artifact, sum(parts.values()), parts)


def _stream(context: TextContext, split: str) -> TokenStream:
    stream: TokenStream = getattr(context.data.dataset, split)
    return stream
