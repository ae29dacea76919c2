"""What a teacher is: something that gives every position of a sample a vector.

Samples are images, whose positions are patches or pixels in row-major order, or windows of text,
whose positions are tokens.  Vectors for a whole data set rarely fit in memory, so what clustering
reads is an ``Embeddings``: a shape and a way to read parts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.sections import KindSection

Images = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
Rows = slice | NDArray[np.integer[Any]]
Domain = Literal["images", "text", "table", "written"]
Progress = Callable[[int, int], None]
"""Called with what is done and the total, in the same unit (rows, positions, epochs)."""
EpochReport = Callable[[int, int, float], None]
"""Called with the epochs done, all epochs, and the mean training loss of the epoch."""


class Teacher(Protocol):
    """Gives every position of a sample a vector; any object with this one method will do.

    ``embed`` is called with ``vocabulary=``, the string of every token id, if it has a parameter of
    that name.  A teacher may also have ``describe() -> dict`` (plain settings, and a hash of its
    weights), which then names its stored embeddings, and ``lazy(images) -> Embeddings`` if its
    vectors are cheaper to compute again than to store.
    """

    def embed(self, samples: NDArray[Any], /) -> FloatArray:
        """Embed every position of every sample.

        Args:
            samples: images uint8 [N, H, W, C], or token ids int32 [N, T], -1 after a text's end.

        Returns:
            float32 [N, positions, dim]; of tokens, [N, T, dim].
        """
        ...


@runtime_checkable
class Embeddings(Protocol):
    """Vectors of N rows at P positions, read a part at a time.

    Two more attributes count where they exist: ``lengths`` int [N], the positions that a row really
    has (clusters are not fitted to those beyond), and ``by_rows``, True where reading all positions
    of some rows is cheaper than reading some positions of all rows.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, D)."""
        ...

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        """Return the vectors float32 [rows, positions, D] of the chosen rows and positions."""
        ...


class ArrayEmbeddings:
    """Embeddings over an array, float [N, P, D]; may be on disk.

    Args:
        array: the vectors.
        lengths: int [N], see `Embeddings`.
    """

    def __init__(
        self, array: NDArray[Any], *, lengths: NDArray[np.integer[Any]] | None = None
    ) -> None:
        if array.ndim != 3:
            raise UserError(
                f"embeddings must have the shape [rows, positions, dim], found {list(array.shape)}"
            )
        self._array, self.lengths = array, lengths

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, D)."""
        rows, positions, dim = self._array.shape
        return rows, positions, dim

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        """Return the vectors float32 [rows, positions, D] of the chosen rows and positions."""
        with np.errstate(over="ignore"):
            return np.asarray(self._array[:, positions][rows], dtype=np.float32)


@dataclass(frozen=True)
class TeacherInputs:
    """What a run knows when it makes its teacher.

    Attributes:
        samples: the training split, images uint8 [N, H, W, C] or token ids int32 [N, T].
        valid: the validation split, on which teachers that are trained may choose.
        patch: side of a patch in pixels, 1 where positions are pixels.
        white: the pixel value of white, 16 for the 8x8 digits.
        categories: int32 [columns], the number of values of each column of a table.
        device: "cpu" or "cuda".
        seed: of teachers that are trained.
        checkpoint: the file that these save to after every epoch, and resume from.
        on_epoch: called by these after every epoch.
    """

    samples: NDArray[Any]
    valid: NDArray[Any] | None = None
    patch: int = 1
    white: int = 255
    categories: NDArray[np.int32] | None = None
    device: str = "cpu"
    seed: int = 0
    checkpoint: Path | None = None
    on_epoch: EpochReport | None = None


class TeacherSection(KindSection):
    """The config's section of a teacher, which makes it.

    Attributes:
        domains: the kinds of data that the teacher embeds.
        patches_only: whether its positions are patches, so that it has none for single pixels.
        title: what a run trains, where it trains the teacher: "autoencoder".
        tokenizer: what cuts text into the pieces that the teacher reads.
    """

    kind: str
    domains: ClassVar[tuple[Domain, ...]] = ("images",)
    patches_only: ClassVar[bool] = False
    title: ClassVar[str | None] = None

    def make(self, inputs: TeacherInputs) -> Teacher:
        """Make the teacher, training it first if it learns from the data."""
        raise NotImplementedError

    def training_key(self, inputs: TeacherInputs) -> dict[str, Any]:
        """Return the settings that a training depends on, as plain values."""
        return {
            **self.model_dump(exclude={"kind"}),
            "patch": inputs.patch,
            "seed": inputs.seed,
            "device": inputs.device,
        }


class ObjectSection(TeacherSection):
    """A teacher handed over from Python (``run(config, teacher=…)``).

    ``tokenizer`` is whose pieces ``data.tokens: pieces`` cuts text into, named as the ``source`` of
    ``kind: text``.
    """

    domains = ("images", "text", "table")
    kind: Literal["object"]
    tokenizer: str = "minilm"


def embed(teacher: Teacher, samples: NDArray[Any], vocabulary: Any = None) -> FloatArray:
    """Embed ``samples`` and check what the teacher returns.

    Vectors after the end of a text (token id -1) are set to zero.

    Raises:
        UserError: the result is not finite floats [N, positions, dim].
    """
    wants = vocabulary is not None and "vocabulary" in signature(teacher.embed).parameters
    vectors = teacher.embed(samples, **({"vocabulary": vocabulary} if wants else {}))
    part = np.asarray(vectors)
    fits = part.ndim == 3 and len(part) == len(samples) and 0 not in part.shape[1:]
    if not fits or part.dtype.kind != "f":
        raise UserError(
            f"the teacher must return floats [N, positions, dim]; for {len(samples)} samples it "
            f"returned {part.dtype} {list(part.shape)}"
        )
    if samples.ndim == 2:
        if part.shape[:2] != samples.shape:
            raise UserError(
                f"the teacher must return floats [N, T, dim] for token ids [N, T]; for "
                f"{list(samples.shape)} it returned {list(part.shape)}"
            )
        part = np.where(samples[..., None] >= 0, part, np.float32(0))
    if not np.isfinite(part).all():
        raise UserError("the teacher returned NaN or infinite numbers")
    return part.astype(np.float32, copy=False)


def patch_grid(images: Images, patch: int) -> tuple[int, int]:
    """Return the rows and columns of non-overlapping patches.

    Raises:
        UserError: the patch does not divide the images.
    """
    if images.ndim != 4:
        raise UserError(f"images must have the shape [N, H, W, C], found {list(images.shape)}")
    height, width = images.shape[1:3]
    if patch < 1 or height % patch or width % patch:
        raise UserError(
            f"patches of {patch} pixels do not tile images of {height}x{width}; "
            f"use a patch size that divides both"
        )
    return height // patch, width // patch


def default_patch(height: int, width: int) -> int:
    """Return the papers' patch size: 4 for 28x28 and 32x32, 8 for 64x64 (2 for 8x8 digits)."""
    most = max(2, -(-max(height, width) // 7))
    fits = [p for p in range(1, most + 1) if height % p == 0 and width % p == 0]
    return fits[-1]


def neighbours(grid: tuple[int, int]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """List the 3x3 neighbourhoods of a grid, grouped by size so that each group is rectangular.

    Returns:
        Pairs (positions [G], members [G, n]): the patches within one step of each position,
        the position itself first.
    """
    rows, columns = grid
    groups: dict[int, tuple[list[int], list[list[int]]]] = {}
    for r in range(rows):
        for c in range(columns):
            around = [
                i * columns + j
                for i in range(max(0, r - 1), min(rows, r + 2))
                for j in range(max(0, c - 1), min(columns, c + 2))
                if (i, j) != (r, c)
            ]
            positions, members = groups.setdefault(len(around), ([], []))
            positions.append(r * columns + c)
            members.append([r * columns + c, *around])
    return [(np.array(p, np.int64), np.array(m, np.int64)) for p, m in groups.values()]


def describe(teacher: Teacher, probe: NDArray[Any], vocabulary: Any = None) -> dict[str, Any]:
    """Return the key of a teacher's embeddings: its description, or its vectors of ``probe``.

    Args:
        teacher: any teacher.
        probe: a few samples; used only if the teacher does not describe itself.
        vocabulary: see `embed`.
    """
    own: Callable[[], dict[str, Any]] | None = getattr(teacher, "describe", None)
    if own is not None:
        return own()
    vectors = np.ascontiguousarray(embed(teacher, probe, vocabulary))
    return {
        "kind": type(teacher).__qualname__,
        "probe": hashlib.sha256(vectors.tobytes()).hexdigest(),
    }


def key_hash(key: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a mapping of plain values, independent of the order of its keys.

    Raises:
        UserError: a value is not plain.
    """
    try:
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"the description of a teacher must consist of plain values ({error})"
        ) from None
