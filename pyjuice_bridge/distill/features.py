"""The vectors that clustering reads: a teacher's, of every split, computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyjuice_bridge.domains.base import FIGURES, Context, Samples, spread
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import write_arrays
from pyjuice_bridge.stages.store import Artifact
from pyjuice_bridge.teachers.base import (
    Embeddings,
    ObjectSection,
    Teacher,
    TeacherInputs,
    TeacherSection,
    describe,
)
from pyjuice_bridge.teachers.file import FileSection, load_embeddings
from pyjuice_bridge.teachers.store import open_embeddings, store_embeddings
from pyjuice_bridge.teachers.text import TextTeacher
from pyjuice_bridge.teachers.text_features import Cut, window_features
from pyjuice_bridge.teachers.text_scale import UnitStates, mean_state
from pyjuice_bridge.teachers.text_states import TokenStates
from pyjuice_bridge.teachers.writer import WriterSection

_PROBE = 4
_SHOWN = 10
"""Images of which a report shows the teacher's reconstruction."""
_WEIGHTS = "weights.pt"


@dataclass(frozen=True, eq=False)
class Features:
    """Embeddings of every split, opened when they are needed.

    Attributes:
        key: names them in the hashes of artifacts.
        embeddings: opens them.
        samples: what was embedded.
        facts: plain facts about the teacher, kept with the assignments.
        parents: the artifacts that they were computed in.
    """

    key: Mapping[str, Any]
    embeddings: Callable[[], Mapping[str, Embeddings]]
    samples: Samples
    facts: Mapping[str, str | int | float | bool]
    parents: Sequence[Artifact] = field(default_factory=tuple)


def features_of(context: Context, patch: int) -> Features:
    """Embed every split with the run's teacher, or open what was embedded before.

    Args:
        context: of the run.
        patch: side of a patch of an image in pixels, 1 where positions are pixels.

    Raises:
        UserError: the teacher does not fit, or what it returns.
    """
    name = f"features {patch} {context.config.teacher.model_dump_json()}"
    if name not in context.shared:
        context.shared[name] = _features_of(context, patch)
    features: Features = context.shared[name]
    return features


def _features_of(context: Context, patch: int) -> Features:
    section, samples, teacher = context.config.teacher, context.data.samples, context.teacher
    assert isinstance(section, TeacherSection)
    if isinstance(section, ObjectSection) != (teacher is not None):
        raise UserError("'teacher.kind: object' belongs to run(config, teacher=…) from Python")
    if isinstance(section, WriterSection):
        return _from_writer(samples, section.scale)
    if isinstance(section, FileSection):
        return _from_files(samples, str(section.embeddings))
    if teacher is not None:
        return _from_teacher(context, samples, _own(teacher, samples))
    inputs = TeacherInputs(
        samples.splits["train"],
        valid=samples.splits["valid"],
        patch=patch,
        white=samples.white,
        categories=samples.categories,
        device=context.engine.device,
        seed=context.config.seed,
    )
    if section.title is not None:
        return _from_trained(context, samples, section, inputs)
    with context.reporter.task(f"loading {getattr(section, 'source', section.kind)}"):
        instance = section.make(inputs)
    if isinstance(instance, TextTeacher):
        return _from_stream(context, samples, instance)
    return _from_teacher(context, samples, instance)


def _own(teacher: object, samples: Samples) -> Teacher:
    if not callable(getattr(teacher, "embed", None)):
        images = samples.splits["train"].ndim == 4
        wanted = "images uint8 [N, H, W, C]" if images else f"{samples.noun} int32 [N, T]"
        raise UserError(
            f"teacher: {type(teacher).__name__} has no method embed({wanted}) "
            "-> float32 [N, positions, dim]"
        )
    return teacher  # type: ignore[return-value]


def _from_teacher(context: Context, samples: Samples, teacher: Teacher) -> Features:
    """Embed with a given teacher, lazily if it supports that."""
    facts = describe(teacher, samples.splits["train"][:_PROBE], samples.vocabulary)
    lazy: Callable[[Any], Embeddings] | None = getattr(teacher, "lazy", None)
    if lazy is None:
        return _embedded(context, samples, facts, lambda: teacher, ())

    def embeddings() -> Mapping[str, Embeddings]:
        return {split: lazy(each) for split, each in samples.splits.items()}

    return Features({"samples": samples.key, **facts}, embeddings, samples, _plain(facts))


def _from_trained(
    context: Context, samples: Samples, section: TeacherSection, inputs: TeacherInputs
) -> Features:
    """Train the teacher as a stage of its own; its features name it by that stage."""
    settings = section.training_key(inputs)

    def build(folder: Path) -> Mapping[str, Any] | None:
        title = section.title
        epochs = range(settings["epochs"])
        with context.reporter.task(f"train the {title}", epochs) as tick:

            def epoch(done: int, total: int, loss: float) -> None:
                tick(done, total)
                context.reporter.note(f"{title}: epoch {done} of {total}, loss {loss:.5f}")

            made = section.make(replace(inputs, checkpoint=folder / _WEIGHTS, on_epoch=epoch))
        measure = getattr(made, "figures", None)
        if measure is None:
            return None
        figures = {split: measure(samples.splits[split]) for split in ("valid", "test")}
        context.reporter.say(f"{title} by itself: {figures['valid']} on validation")
        values = {split: each.values() for split, each in figures.items()}
        valid = samples.splits["valid"]
        shown = valid[spread(len(valid), _SHOWN)]
        arrays = {
            "teacher/original": shown,
            "teacher/reconstruction": made.reconstruct(shown),  # type: ignore[attr-defined]
            "teacher/figures": np.array([np.hstack([*each.values()]) for each in values.values()]),
        }
        write_arrays(folder / FIGURES, arrays)
        return {"figures": values}

    key = {"samples": samples.key, "kind": section.kind, **settings}
    artifact = context.store.stage("teacher", 2, key, build)
    facts = {"kind": section.kind, "weights": artifact.id, **settings}
    finished = replace(inputs, checkpoint=artifact.path / _WEIGHTS)
    return _embedded(context, samples, facts, lambda: section.make(finished), (artifact,))


def _embedded(
    context: Context,
    samples: Samples,
    facts: Mapping[str, Any],
    teacher: Callable[[], Teacher],
    parents: Sequence[Artifact],
) -> Features:
    """Embed once and keep the vectors on disk."""
    key = {"samples": samples.key, "teacher": dict(facts)}

    def build(folder: Path) -> None:
        made = teacher()
        for split, each in samples.splits.items():
            with context.reporter.task(f"embed {split}") as tick:
                store_embeddings(
                    made,
                    each,
                    folder,
                    split,
                    {**key, "split": split},
                    vocabulary=samples.vocabulary,
                    on_progress=tick,
                )

    artifact = context.store.stage("embed", 2, key, build, parents=parents, together=True)

    def embeddings() -> Mapping[str, Embeddings]:
        return {
            split: open_embeddings(artifact.path, split, lengths=samples.lengths_of(split))
            for split in samples.splits
        }

    return Features(key, embeddings, samples, _plain(facts), (artifact,))


def _from_stream(context: Context, samples: Samples, teacher: TextTeacher) -> Features:
    """Have the teacher read every token once, whatever the windows."""
    streams = samples.streams or {}
    inputs = {
        "text": {split: stream.key for split, stream in streams.items()},
        "teacher": teacher.describe(),
    }

    def build(folder: Path) -> None:
        for split, stream in streams.items():
            with context.reporter.task(f"read {split} ({len(stream.tokens):,} tokens)") as tick:
                teacher.store(
                    stream.tokens,
                    folder / split,
                    documents=stream.documents,
                    words=stream.words,
                    on_progress=tick,
                )

    artifact = context.store.stage("states", 2, inputs, build, together=True)

    def embeddings() -> Mapping[str, Embeddings]:
        lengths = samples.lengths or {}
        cuts = {
            split: Cut(
                stream.starts,
                samples.splits[split].shape[1],
                lengths[split],
                stream.documents,
            )
            for split, stream in streams.items()
        }
        opened = {split: TokenStates.open(artifact.path / split) for split in streams}
        return teacher.embeddings(opened, cuts)

    view = {"features": teacher.features, "scale": teacher.scale}
    key = {"states": artifact.id, "samples": samples.key, **view}
    facts = {"kind": "text", "source": teacher.source, **view}
    return Features(key, embeddings, samples, facts, (artifact,))


def _from_writer(samples: Samples, scale: str) -> Features:
    """View the states that a language model's own text was generated from."""
    written = samples.written
    assert written is not None

    def embeddings() -> Mapping[str, Embeddings]:
        states = TokenStates.open(written.artifact.path)
        if scale == "unit":
            states = UnitStates(states, mean_state(states))
        return {
            split: window_features("prefix", states, cut) for split, cut in written.cuts.items()
        }

    key = {"samples": samples.key, "scale": scale}
    facts = {"kind": "writer", "scale": scale}
    return Features(key, embeddings, samples, facts, (written.artifact,))


def _from_files(samples: Samples, path: str) -> Features:
    """Open the user's own embeddings."""
    found, key, noun = load_embeddings(path), {}, samples.noun
    for split, each in samples.splits.items():
        if split not in found:
            raise UserError(f"{path} holds no embeddings of the {split} {noun}")
        rows = found[split].shape[0]
        if rows != len(each):
            raise UserError(f"{path} has {rows} {split} rows for {len(each)} {split} {noun}")
        key[split] = _sha256(found[split])
        found[split].lengths = samples.lengths_of(split)
    facts = {"kind": "file", "path": path}
    return Features({"files": key}, lambda: {s: found[s] for s in samples.splits}, samples, facts)


def _sha256(embeddings: Embeddings) -> str:
    digest = hashlib.sha256(str(embeddings.shape).encode())
    for start in range(0, embeddings.shape[0], 1024):
        part = embeddings.read(slice(None), slice(start, start + 1024))
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _plain(facts: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Keep the facts that HDF5 attributes can hold."""
    return {k: v for k, v in facts.items() if isinstance(v, (str, int, float, bool))}
