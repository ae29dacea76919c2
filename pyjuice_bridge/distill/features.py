"""The vectors that clustering reads: a teacher's, of every split, computed once and kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.data import TextDataset
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.spent import Spent
from pyjuice_bridge.teachers.base import (
    Embeddings,
    ObjectSection,
    Progress,
    Teacher,
    TeacherInputs,
    TeacherSection,
    describe,
)
from pyjuice_bridge.teachers.file import FileSection, load_embeddings
from pyjuice_bridge.teachers.store import open_embeddings, store_embeddings
from pyjuice_bridge.teachers.text import TextTeacher
from pyjuice_bridge.teachers.text_features import Cut
from pyjuice_bridge.teachers.text_states import TokenStates

if TYPE_CHECKING:
    from pyjuice_bridge.config import Config
    from pyjuice_bridge.engines.base import Engine
    from pyjuice_bridge.pipeline.progress import Reporter
    from pyjuice_bridge.pipeline.store import Artifact, Store

_PROBE = 4
_WEIGHTS = "weights.pt"


class Context(Protocol):
    """The settings, tools and data of a run."""

    @property
    def config(self) -> Config:
        """The run's config."""

    @property
    def engine(self) -> Engine:
        """The run's engine, whose device teachers use too."""

    @property
    def store(self) -> Store:
        """The artifacts."""

    @property
    def reporter(self) -> Reporter:
        """Where progress is reported."""

    @property
    def data(self) -> Any:
        """The data as circuits read them."""


@dataclass(frozen=True, eq=False)
class Samples:
    """What a teacher embeds.

    Attributes:
        splits: images uint8 [N, H, W, C], or windows int32 [N, T], per split that has latents.
        key: names them in the hashes of artifacts.
        noun: what a sample is, in the plural.
        lengths: per split int [N], the positions of a sample that count; None if all do.
        vocabulary: the string of every token id.
        white: the value of a white pixel.
    """

    splits: Mapping[str, NDArray[Any]]
    key: str
    noun: str
    lengths: Mapping[str, NDArray[np.integer[Any]]] | None = None
    vocabulary: Sequence[str] | None = None
    white: int = 255

    def lengths_of(self, split: str) -> NDArray[np.integer[Any]] | None:
        """Return the lengths of a split's samples, if some end early."""
        return None if self.lengths is None else self.lengths[split]


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


def samples_of(data: Any) -> Samples:
    """Return what a teacher embeds of a run's data.

    Of text, latent values are counted on the training split, and the bound is measured on the
    validation split; of images, all splits are clustered.
    """
    if isinstance(data.dataset, TextDataset):
        windows = {split: data.windows[split] for split in ("train", "valid")}
        return Samples(
            {split: cut.x for split, cut in windows.items()},
            data.key,
            "windows",
            {split: cut.lengths for split, cut in windows.items()},
            data.dataset.vocabulary,
        )
    images = {split: getattr(data.dataset, split) for split in SPLITS}
    white = data.dataset.categories - 1
    return Samples(images, data.dataset.fingerprint, "images", white=white)


def features_of(context: Context, teacher: object | None) -> Features:
    """Embed every split with the configured teacher, or open what was embedded before.

    Args:
        context: of the run.
        teacher: one handed over from Python, for ``teacher.kind: object``.

    Raises:
        UserError: the teacher does not fit, or what it returns.
    """
    section, samples = context.config.teacher, samples_of(context.data)
    if isinstance(section, ObjectSection) != (teacher is not None):
        raise UserError("'teacher.kind: object' belongs to run(config, teacher=…) from Python")
    if isinstance(section, FileSection):
        return _from_files(samples, str(section.embeddings))
    if teacher is not None:
        return _from_teacher(context, samples, _own(teacher, samples))
    inputs = TeacherInputs(
        samples.splits["train"],
        patch=getattr(context.config.circuit, "patch", 1),
        white=samples.white,
        device=context.engine.device,
        seed=context.config.seed,
    )
    if section.title is not None:
        return _from_trained(context, samples, section, inputs)
    with context.reporter.task(f"loading {getattr(section, 'source', section.kind)}"):
        made = section.make(inputs)
    if isinstance(made, TextTeacher):
        return _from_stream(context, samples, made)
    return _from_teacher(context, samples, made)


def _own(teacher: object, samples: Samples) -> Teacher:
    if not callable(getattr(teacher, "embed", None)):
        wanted = "tokens int32 [N, T]" if samples.lengths else "images uint8 [N, H, W, C]"
        raise UserError(
            f"teacher: {type(teacher).__name__} has no method embed({wanted}) "
            "-> float32 [N, positions, dim]"
        )
    return teacher  # type: ignore[return-value]


def _from_teacher(context: Context, samples: Samples, teacher: Teacher) -> Features:
    """Embed with a teacher that is there; lazily if it can."""
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

    def build(folder: Path) -> Mapping[str, Any]:
        spent, title = Spent(folder), section.title
        epochs = range(settings["epochs"])
        with context.reporter.task(f"train the {title}", epochs) as tick:

            def epoch(done: int, total: int, loss: float) -> None:
                spent.mark()
                tick(done, total)
                context.reporter.note(f"{title}: epoch {done} of {total}, loss {loss:.5f}")

            section.make(replace(inputs, checkpoint=folder / _WEIGHTS, on_epoch=epoch))
        return {"seconds": spent.mark()}

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

    def build(folder: Path) -> Mapping[str, Any]:
        spent, made = Spent(folder), teacher()
        for split, each in samples.splits.items():
            with context.reporter.task(f"embed {split}") as tick:
                store_embeddings(
                    made,
                    each,
                    folder,
                    split,
                    {**key, "split": split},
                    vocabulary=samples.vocabulary,
                    on_progress=_marked(spent, tick),
                )
        return {"seconds": spent.mark()}

    artifact = context.store.stage("embed", 2, key, build, together=True)

    def embeddings() -> Mapping[str, Embeddings]:
        return {
            split: open_embeddings(artifact.path, split, lengths=samples.lengths_of(split))
            for split in samples.splits
        }

    return Features(key, embeddings, samples, _plain(facts), (*parents, artifact))


def _from_stream(context: Context, samples: Samples, teacher: TextTeacher) -> Features:
    """Have the teacher read every token once, whatever the windows."""
    data = context.data
    streams = {split: getattr(data.dataset, split) for split in samples.splits}
    words = data.dataset.vocabulary if data.dataset.unit == "words" else None
    inputs = {"text": data.dataset.fingerprint, "teacher": teacher.describe()}

    def build(folder: Path) -> Mapping[str, Any]:
        spent = Spent(folder)
        for split, stream in streams.items():
            with context.reporter.task(f"read {split} ({len(stream):,} tokens)") as tick:
                teacher.store(
                    stream.tokens,
                    folder / split,
                    documents=stream.documents,
                    words=words,
                    on_progress=_marked(spent, tick),
                )
        return {"seconds": spent.mark()}

    artifact = context.store.stage("states", 2, inputs, build, together=True)

    def embeddings() -> Mapping[str, Embeddings]:
        cuts = {
            split: Cut(
                data.windows[split].starts,
                samples.splits[split].shape[1],
                data.windows[split].lengths,
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


def _from_files(samples: Samples, path: str) -> Features:
    """Open embeddings that were made elsewhere."""
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


def _marked(spent: Spent, tick: Progress) -> Progress:
    """Note the time that was spent with every step of progress."""

    def progress(done: int, total: int) -> None:
        spent.mark()
        tick(done, total)

    return progress


def _sha256(embeddings: Embeddings) -> str:
    digest = hashlib.sha256(str(embeddings.shape).encode())
    for start in range(0, embeddings.shape[0], 1024):
        part = embeddings.read(slice(None), slice(start, start + 1024))
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _plain(facts: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Keep the facts that HDF5 attributes can hold."""
    return {k: v for k, v in facts.items() if isinstance(v, (str, int, float, bool))}
