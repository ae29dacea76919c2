"""What a teacher says about every region of a region graph: vectors at every scale.

Raw pixels describe a region by a window around it.  A teacher of patches describes a region by the
mean of its tokens, weighted by how much of each patch lies inside; regions smaller than a patch
are described by their windows.  The columns of a table are put one after another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.region_graph import RegionGraph
from pyjuice_bridge.circuit.region_rectangles import Sides
from pyjuice_bridge.circuit.types import IntArray
from pyjuice_bridge.distill.features import Features, features_of
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.stages.store import Artifact
from pyjuice_bridge.teachers.base import Embeddings, FloatArray, Rows
from pyjuice_bridge.teachers.pixels import PixelSection


@dataclass(frozen=True, eq=False)
class RegionGroup:
    """Regions that are described by vectors of one length, which may be clustered together.

    Attributes:
        regions: int [P], in the order of the embeddings' positions.
        embeddings: per split.
    """

    regions: NDArray[np.int64]
    embeddings: Mapping[str, Embeddings]


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """The vectors of every region, opened when they are needed.

    Attributes:
        key: names them in the hashes of artifacts, together with the region graph.
        groups: opens them; gets a label for every region, and regions of different labels are in
            different groups.
        facts: plain facts about the teacher, kept with the assignments.
        parents: the artifacts that they were computed in.
    """

    key: Mapping[str, Any]
    groups: Callable[[NDArray[np.int64]], list[RegionGroup]]
    facts: Mapping[str, str | int | float | bool]
    parents: Sequence[Artifact] = field(default_factory=tuple)


def region_features(context: Context, graph: RegionGraph, patch: int) -> RegionFeatures:
    """Describe every region of a graph over the run's variables with the run's teacher.

    Args:
        context: of the run.
        graph: over the variables of the data.
        patch: side of the patches that teachers of patches embed.
    """
    sides, section = context.data.shape.sides, context.config.teacher
    parts = [own or scope for own, scope in zip(_own(graph), graph.scopes, strict=True)]
    if sides is None:
        return _of_columns(features_of(context, 1), parts)
    if isinstance(section, PixelSection):
        ring, sigma = section.ring or 0, section.sigma
        key = {"samples": context.data.samples.key, "windows": [ring, sigma]}
        facts: dict[str, str | int | float | bool] = {"kind": "pixels", "ring": ring}
        if sigma:
            facts["sigma"] = sigma
        windows = _Windows(context.data.samples.splits, sides, ring, sigma)
        return RegionFeatures(key, lambda labels: windows.groups(parts, labels), facts)
    return _of_tokens(context, features_of(context, patch), parts, sides, patch)


def _own(graph: RegionGraph) -> tuple[tuple[int, ...], ...]:
    return graph.own or ((),) * len(graph.scopes)


def _grouped(keys: Sequence[Any]) -> list[NDArray[np.int64]]:
    """Return the indices of equal keys, in the order of their first appearance."""
    found: dict[Any, list[int]] = defaultdict(list)
    for i, key in enumerate(keys):
        found[key].append(i)
    return [np.array(indices, np.int64) for indices in found.values()]


def _of_columns(features: Features, parts: Sequence[tuple[int, ...]]) -> RegionFeatures:
    def groups(labels: NDArray[np.int64]) -> list[RegionGroup]:
        tokens = features.embeddings()
        return [
            RegionGroup(
                regions,
                {
                    split: JoinedTokens(each, np.array([parts[r] for r in regions]))
                    for split, each in tokens.items()
                },
            )
            for regions in _grouped(
                [(label, len(p)) for label, p in zip(labels, parts, strict=True)]
            )
        ]

    return RegionFeatures(features.key, groups, features.facts, features.parents)


def _of_tokens(
    context: Context,
    features: Features,
    parts: Sequence[tuple[int, ...]],
    sides: Sides,
    patch: int,
) -> RegionFeatures:
    ring = 3
    windows = _Windows(context.data.samples.splits, sides, ring, None)

    def groups(labels: NDArray[np.int64]) -> list[RegionGroup]:
        tokens = features.embeddings()
        side = _token_side(tokens["train"].shape[1], sides)
        boxes = [_box(part, sides) for part in parts]
        large = np.array([min(b[2] - b[0], b[3] - b[1]) >= side for b in boxes])
        made = []
        for regions in _grouped(
            [label if big else -2 for label, big in zip(labels, large, strict=True)]
        ):
            if not large[regions[0]]:
                continue
            shares = np.stack([_shares(boxes[r], sides, side) for r in regions])
            each = {split: MeanTokens(part, shares) for split, part in tokens.items()}
            made.append(RegionGroup(regions, each))
        small = np.flatnonzero(~large)
        below = windows.groups([parts[r] for r in small.tolist()], labels[small])
        return made + [RegionGroup(small[g.regions], g.embeddings) for g in below]

    key = {**features.key, "regions": "means", "patch": patch, "ring": ring}
    return RegionFeatures(key, groups, features.facts, features.parents)


def _token_side(count: int, sides: Sides) -> int:
    """Return the side of the squares of pixels that a teacher has described."""
    height, width, _ = sides
    for side in range(1, min(height, width) + 1):
        if height % side == 0 and width % side == 0 and height * width == count * side * side:
            return side
    raise UserError(
        f"the teacher describes {count} positions of an image, which are no grid of squares of "
        f"{height}x{width} pixels"
    )


def _box(variables: Sequence[int], sides: Sides) -> tuple[int, int, int, int]:
    """Return the smallest rectangle of pixels around variables: top, left, bottom, right."""
    rows, columns = np.divmod(np.asarray(variables) // sides[2], sides[1])
    top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    return int(top), int(left), int(bottom), int(right)


def _shares(box: tuple[int, int, int, int], sides: Sides, side: int) -> FloatArray:
    """Return the share of each square of pixels in a rectangle, float32 [squares], sum one."""
    inside = np.zeros(sides[:2], np.float32)
    inside[box[0] : box[2], box[1] : box[3]] = 1
    tiles = inside.reshape(sides[0] // side, side, sides[1] // side, side).sum(axis=(1, 3))
    shares: FloatArray = (tiles / tiles.sum()).ravel()
    return shares


class _Windows:
    """Windows of pixels around regions of images."""

    def __init__(
        self, splits: Mapping[str, NDArray[Any]], sides: Sides, ring: int, sigma: float | None
    ) -> None:
        self.splits, self.sides, self.ring, self.sigma = splits, sides, ring, sigma

    def groups(
        self, parts: Sequence[tuple[int, ...]], labels: NDArray[np.int64]
    ) -> list[RegionGroup]:
        """Group regions by label and by the shape of their windows."""
        windows = [self._window(part) for part in parts]
        keys = [(label, shape) for label, (shape, _, _) in zip(labels, windows, strict=True)]
        made = []
        for regions in _grouped(keys):
            pixels = np.stack([windows[r][1] for r in regions])
            scale = windows[regions[0]][2]
            each = {s: GatheredPixels(images, pixels, scale) for s, images in self.splits.items()}
            made.append(RegionGroup(regions, each))
        return made

    def _window(self, part: Sequence[int]) -> tuple[Any, IntArray, FloatArray]:
        """Return a window's shape, variables (-1 beyond the border) and scale.

        Variables that are not a rectangle of pixels have no window; they are taken as they are.
        """
        height, width, channels = self.sides
        top, left, bottom, right = _box(part, self.sides)
        tall, wide, ring = bottom - top, right - left, self.ring
        if tall * wide * channels != len(part):
            pixel = np.asarray(sorted(part), np.int32)
            return len(part), pixel, np.full(len(part), 1 / 255, np.float32)
        rows, columns = np.arange(top - ring, bottom + ring), np.arange(left - ring, right + ring)
        there = (rows[:, None] >= 0) & (rows[:, None] < height)
        there = there & (columns >= 0) & (columns < width)
        first = (rows[:, None] * width + columns) * channels
        pixels = np.where(there, first, -1)[..., None] + np.where(there, 1, 0)[
            ..., None
        ] * np.arange(channels)
        scale = (
            _falling(tall, ring, self.sigma)[:, None] ** 2 + _falling(wide, ring, self.sigma) ** 2
        )
        weight = np.exp(-scale) if self.sigma else np.ones_like(scale)
        weights = np.repeat(weight[..., None] / 255, channels, axis=2)
        return (tall, wide), pixels.ravel().astype(np.int32), weights.ravel().astype(np.float32)


def _falling(side: int, ring: int, sigma: float | None) -> NDArray[np.float64]:
    """Return how far pixels are outside of a side, in units of sigma √2."""
    steps = np.arange(-ring, side + ring)
    away = np.maximum(np.maximum(-steps, steps - (side - 1)), 0)
    scaled: NDArray[np.float64] = away / ((sigma or 1.0) * np.sqrt(2))
    return scaled


class GatheredPixels:
    """Chosen pixels of images as vectors, cut when read.

    Args:
        images: uint8 [N, H, W, C].
        pixels: int [P, D], the variables of each position, -1 for zero.
        scale: float32 [D], what their values are multiplied with.
    """

    def __init__(self, images: NDArray[np.uint8], pixels: IntArray, scale: FloatArray) -> None:
        self._images, self._pixels, self._scale = images, pixels, scale

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, D)."""
        return (len(self._images), *self._pixels.shape)

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        """Return the vectors float32 [rows, positions, D]."""
        flat = self._images.reshape(len(self._images), -1)[rows]
        pixels = self._pixels[positions]
        values = flat[:, np.maximum(pixels, 0)] * self._scale
        values[:, pixels < 0] = 0
        return values


class MeanTokens:
    """Weighted means of a teacher's tokens: ``shares`` is float32 [P, tokens], rows sum to one."""

    def __init__(self, tokens: Embeddings, shares: FloatArray) -> None:
        self._tokens, self._shares = tokens, shares

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, D)."""
        rows, _, dim = self._tokens.shape
        return rows, len(self._shares), dim

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        """Return the vectors float32 [rows, positions, D]."""
        shares = self._shares[positions]
        used = np.flatnonzero(shares.any(axis=0))
        some = slice(int(used[0]), int(used[-1]) + 1)
        means: FloatArray = np.matmul(shares[:, some], self._tokens.read(some, rows))
        return means


class JoinedTokens:
    """Vectors of several positions one after another: ``members`` is int [P, tokens]."""

    def __init__(self, tokens: Embeddings, members: NDArray[Any]) -> None:
        self._tokens, self._members = tokens, members

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, P, D)."""
        rows, _, dim = self._tokens.shape
        return rows, len(self._members), self._members.shape[1] * dim

    def read(self, positions: slice, rows: Rows) -> FloatArray:
        """Return the vectors float32 [rows, positions, D]."""
        members = self._members[positions]
        vectors = self._tokens.read(slice(None), rows)[:, members]
        return vectors.reshape(*vectors.shape[:2], -1)
