"""The features that clustering reads: pixel windows, a teacher's embeddings, or a user's files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.config import (
    FileTeacher,
    MaeTeacher,
    ObjectTeacher,
    PatchCircuit,
    PixelTeacher,
)
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.context import ImageContext
from pyjuice_bridge.teachers import (
    ArrayEmbeddings,
    Embeddings,
    Teacher,
    cached_embeddings,
    describe,
    load_embeddings,
    make_teacher,
)

_PROBE = 4
_WEIGHTS = "mae.pt"


@dataclass(frozen=True)
class Features:
    """Embeddings of every split, made or opened when asked for.

    Attributes:
        key: names them in the hashes of artifacts.
        embeddings: opens them.
        facts: plain facts about the teacher, kept with the assignments.
        seconds: of what had to be trained or computed, by stage.
    """

    key: Mapping[str, Any]
    embeddings: Callable[[], Mapping[str, Embeddings]]
    facts: Mapping[str, str | int | float | bool]
    seconds: Mapping[str, float] = field(default_factory=dict)


def features_of(context: ImageContext, teacher: object | None) -> Features:
    """The configured teacher's features; ``teacher`` is one handed over from Python."""
    section = context.config.teacher
    if isinstance(section, ObjectTeacher) != (teacher is not None):
        raise UserError("'teacher.kind: object' belongs to run(config, teacher=…) from Python")
    if isinstance(section, FileTeacher):
        return _from_files(context, str(section.embeddings))
    if isinstance(section, PixelTeacher):
        settings: dict[str, Any] = {"ring": section.ring or 0, "sigma": section.sigma}
        return _lazy(context, make_teacher("pixels", patch=_stride(context), **settings))
    if isinstance(section, ObjectTeacher):
        return _own(context, teacher)
    if isinstance(section, MaeTeacher):
        return _mae(context, section)
    device, white = context.engine.device, context.data.dataset.categories - 1
    settings = {"patch": _stride(context), "white": white, **section.model_dump(exclude={"kind"})}
    with context.reporter.task(f"loading {section.kind}"):
        public = make_teacher(section.kind, device=device, **settings)
    return _embedded(context, describe(public, _probe(context)), lambda: public, {})


def _stride(context: ImageContext) -> int:
    circuit = context.circuit
    return circuit.patch if isinstance(circuit, PatchCircuit) else 1


def _probe(context: ImageContext) -> NDArray[np.uint8]:
    return context.data.dataset.train[:_PROBE]


def _own(context: ImageContext, teacher: object) -> Features:
    """A teacher handed over: any object with ``embed``."""
    if not callable(getattr(teacher, "embed", None)):
        raise UserError(
            f"teacher: {type(teacher).__name__} has no method embed(images uint8 [N, H, W, C]) "
            "-> float32 [N, positions, dim]"
        )
    own: Teacher = teacher  # type: ignore[assignment]
    if callable(getattr(own, "lazy", None)):
        return _lazy(context, own)
    return _embedded(context, describe(own, _probe(context)), lambda: own, {})


def _lazy(context: ImageContext, teacher: Any) -> Features:
    """Features that are cheaper to make anew than to keep."""
    dataset = context.data.dataset
    facts = describe(teacher, _probe(context))

    def embeddings() -> Mapping[str, Embeddings]:
        return {split: teacher.lazy(getattr(dataset, split)) for split in SPLITS}

    return Features({"images": dataset.fingerprint, **facts}, embeddings, _plain(facts))


def _mae(context: ImageContext, section: MaeTeacher) -> Features:
    """Train the autoencoder as a stage of its own; its features name it by that stage."""
    images = context.data.dataset.train
    settings = {
        **section.model_dump(exclude={"kind"}),
        "patch": _stride(context),
        "seed": context.config.seed,
    }
    device = context.engine.device

    def trained(folder: Path, on_epoch: Callable[[int, int, float], None] | None) -> Teacher:
        return make_teacher(
            "mae",
            images=images,
            checkpoint=folder / _WEIGHTS,
            device=device,
            on_epoch=on_epoch,
            **settings,
        )

    def build(folder: Path) -> None:
        with context.reporter.task("train the autoencoder", range(section.epochs)) as tick:

            def epoch(done: int, total: int, loss: float) -> None:
                tick(done, total)
                context.reporter.note(f"autoencoder: epoch {done} of {total}, loss {loss:.5f}")

            trained(folder, epoch)

    inputs = {"images": context.data.dataset.fingerprint, "device": device, **settings}
    artifact = context.store.stage("teacher", 1, inputs, build)
    facts = {"kind": "mae", "weights": artifact.id, **settings}
    seconds = {"teacher": artifact.seconds}
    return _embedded(context, facts, lambda: trained(artifact.path, None), seconds)


def _embedded(
    context: ImageContext,
    facts: Mapping[str, Any],
    teacher: Callable[[], Teacher],
    seconds: Mapping[str, float],
) -> Features:
    """Features computed once and kept on disk."""
    dataset = context.data.dataset
    key = {"images": dataset.fingerprint, "teacher": dict(facts)}

    def build(folder: Path) -> None:
        made = teacher()
        for split in SPLITS:
            with context.reporter.task(f"embed {split}") as tick:
                images = getattr(dataset, split)
                cached_embeddings(
                    made, images, folder / split, {**key, "split": split}, on_progress=tick
                )

    artifact = context.store.stage("embed", 1, key, build, together=True)

    def embeddings() -> Mapping[str, Embeddings]:
        return {
            split: ArrayEmbeddings(
                np.load(artifact.path / f"{split}.npy", mmap_mode="r", allow_pickle=False),
                position_major=True,
            )
            for split in SPLITS
        }

    return Features(key, embeddings, _plain(facts), {**seconds, "embed": artifact.seconds})


def _from_files(context: ImageContext, path: str) -> Features:
    found = load_embeddings(path)
    key = {}
    for split in SPLITS:
        if split not in found:
            raise UserError(f"{path} holds no embeddings of the {split} images")
        shape, rows = found[split].shape, len(context.data.rows[split])
        if shape[0] != rows:
            raise UserError(f"{path} has {shape[0]} {split} rows for {rows} {split} images")
        key[split] = _sha256(found[split])
    facts = {"kind": "file", "path": path}
    return Features({"files": key}, lambda: {s: found[s] for s in SPLITS}, facts)


def _sha256(embeddings: Embeddings) -> str:
    digest = hashlib.sha256(str(embeddings.shape).encode())
    for start in range(0, embeddings.shape[0], 1024):
        part = embeddings.read(slice(None), slice(start, start + 1024))
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def _plain(facts: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """The facts that HDF5 attributes can hold."""
    return {k: v for k, v in facts.items() if isinstance(v, (str, int, float, bool))}
