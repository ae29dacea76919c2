"""The features that clustering reads: pixel windows, a teacher's embeddings, or a user's files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.config import FileTeacher, ObjectTeacher, PatchCircuit, PixelTeacher
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.context import Context
from pyjuice_bridge.teachers import pixels
from pyjuice_bridge.teachers.base import ArrayEmbeddings, Embeddings, Teacher, describe, key_hash

_PROBE = 4


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


def features_of(context: Context, teacher: object | None) -> Features:
    """The configured teacher's features; ``teacher`` is one handed over from Python."""
    section = context.config.teacher
    if isinstance(section, ObjectTeacher) != (teacher is not None):
        raise UserError("'teacher.kind: object' belongs to run(config, teacher=…) from Python")
    if isinstance(section, FileTeacher):
        return _from_files(context, Path(str(section.embeddings)))
    if isinstance(section, PixelTeacher):
        return _lazy(context, pixels.PixelTeacher(patch=_stride(context), ring=section.ring or 0))
    if isinstance(section, ObjectTeacher):
        return _embedded(context, _with_embed(teacher), {})
    raise UserError(f"'teacher.kind: {section.kind}' is not available in this version")


def _stride(context: Context) -> int:
    circuit = context.config.circuit
    return circuit.patch if isinstance(circuit, PatchCircuit) else 1


def _with_embed(teacher: object) -> Teacher:
    if not callable(getattr(teacher, "embed", None)):
        raise UserError(
            f"teacher: {type(teacher).__name__} has no method embed(images uint8 [N, H, W, C]) "
            "-> float32 [N, positions, dim]"
        )
    return teacher  # type: ignore[return-value]


def _lazy(context: Context, teacher: Any) -> Features:
    dataset = context.data.dataset
    facts = teacher.describe()

    def embeddings() -> Mapping[str, Embeddings]:
        return {split: teacher.lazy(getattr(dataset, split)) for split in SPLITS}

    return Features({"images": dataset.fingerprint, **facts}, embeddings, facts)


def _embedded(
    context: Context, teacher: Teacher, seconds: Mapping[str, float]
) -> Features:
    """Features kept on disk, or made when read if the teacher prefers that."""
    dataset = context.data.dataset
    if callable(getattr(teacher, "lazy", None)):
        return _lazy(context, teacher)
    facts = describe(teacher, dataset.train[:_PROBE])
    key = {"images": dataset.fingerprint, "teacher": key_hash(facts)}

    def build(folder: Path) -> None:
        for split in SPLITS:
            with context.reporter.task(f"embed {split}") as tick:
                _embed_split(teacher, getattr(dataset, split), folder / f"{split}.npy", tick)

    artifact = context.store.stage("embed", 1, key, build)

    def embeddings() -> Mapping[str, Embeddings]:
        return {s: ArrayEmbeddings(_open(artifact.path / f"{s}.npy")) for s in SPLITS}

    plain = {k: v for k, v in facts.items() if isinstance(v, (str, int, float, bool))}
    return Features(key, embeddings, plain, {**seconds, "embed": artifact.seconds})


def _from_files(context: Context, folder: Path) -> Features:
    arrays = {}
    for split in SPLITS:
        arrays[split] = _open(folder / f"{split}.npy")
        rows = len(context.data.rows[split])
        if arrays[split].ndim != 3 or len(arrays[split]) != rows:
            raise UserError(
                f"{folder / split}.npy has shape {list(arrays[split].shape)}; expected [{rows}, "
                f"positions, dim] for the {rows} {split} images"
            )
    key = {split: sha256_of(array) for split, array in arrays.items()}

    def embeddings() -> Mapping[str, Embeddings]:
        return {split: ArrayEmbeddings(array) for split, array in arrays.items()}

    return Features({"files": key}, embeddings, {"kind": "file", "folder": str(folder)})


def read_ids(path: Path) -> NDArray[np.int32]:
    """Cluster ids int [N, positions] from a ``.npy`` file."""
    ids = _open(path)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise UserError(f"{path} holds {ids.dtype} {list(ids.shape)}; expected int [N, positions]")
    return np.asarray(ids).astype(np.int32)


def _open(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is not a .npy file of numbers ({error})") from None
    if array.dtype.kind not in "iuf":
        raise UserError(f"{path} holds {array.dtype}; expected numbers")
    return array


def sha256_of(array: NDArray[Any]) -> str:
    """Hexadecimal SHA-256 of an array's type, shape and values."""
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    for start in range(0, len(array), 1024):
        digest.update(np.ascontiguousarray(array[start : start + 1024]).data)
    return digest.hexdigest()


def _embed_split(
    teacher: Teacher, images: NDArray[np.uint8], path: Path, tick: Callable[[int, int], None]
) -> None:
    """Write float32 [N, positions, dim] to ``path``, a batch at a time."""
    out: Any = None
    for start in range(0, len(images), 256):
        batch = images[start : start + 256]
        vectors = np.asarray(teacher.embed(batch))
        shape = vectors.shape
        if vectors.ndim != 3 or len(vectors) != len(batch) or (out is not None and shape[1:] != out.shape[1:]):
            raise UserError(
                f"teacher: embed gave {list(shape)} for {len(batch)} images; expected "
                "[images, positions, dim]"
            )
        if not np.isfinite(vectors).all():
            raise UserError("teacher: embed gave NaN or infinite numbers")
        if out is None:
            whole = (len(images), *shape[1:])
            out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=whole)
        out[start : start + len(batch)] = vectors
        tick(start + len(batch), len(images))
    out.flush()
