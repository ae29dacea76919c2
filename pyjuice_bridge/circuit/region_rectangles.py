"""Region graphs of images: quad trees, quad graphs and Poon-Domingos graphs.

Every region is a rectangle of pixels with all their channels, and rectangles that different cuts
lead to are one region.  Variables are numbered as the rows of images are: row by row, pixel by
pixel, channels fastest.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise, product

import numpy as np

from pyjuice_bridge.circuit.region_graph import RegionGraph
from pyjuice_bridge.circuit.types import IntArray
from pyjuice_bridge.errors import UserError, shown

Rectangle = tuple[int, int, int, int]
"""Top, left, bottom, right; the last two are outside."""
Sides = tuple[int, int, int]
"""Height, width and channels."""
_MOST_PARTITIONS = 1_000_000


def quad_tree(sides: Sides, splits: int = 4) -> RegionGraph:
    """Cut an image into quarters, those into quarters, and so on down to pixels.

    Args:
        sides: height, width and channels of the image.
        splits: 4 cuts a rectangle both ways at once; 2 halves its longer side, so that there is a
            region for the halves too.  Halves of odd sides differ by one.
    """
    if splits not in (2, 4):
        raise UserError(f"splits is {shown(splits)}, must be 2 or 4.")

    def cuts(rectangle: Rectangle) -> list[list[Rectangle]]:
        if splits == 2:
            top, left, bottom, right = rectangle
            return [_halved(rectangle, 0 if bottom - top >= right - left else 1)]
        return [_grid(_halves(rectangle, 0), _halves(rectangle, 1))]

    return _graph(sides, cuts)


def quad_graph(sides: Sides) -> RegionGraph:
    """Cut every square both ways: into upper and lower halves, and into left and right halves.

    Each half splits into its two quarters, which are squares again; a quarter that is one pixel
    wide or high has one way to be cut.
    """
    axis_of: dict[Rectangle, int] = {}

    def cuts(rectangle: Rectangle) -> list[list[Rectangle]]:
        if rectangle in axis_of:
            return [_halved(rectangle, axis_of[rectangle])]
        ways = [_halved(rectangle, axis) for axis in (0, 1)]
        ways = [parts for parts in ways if len(parts) == 2]
        if len(ways) == 2:
            for axis, parts in enumerate(ways):
                axis_of.update(dict.fromkeys(parts, 1 - axis))
        return ways

    return _graph(sides, cuts)


def poon_domingos(sides: Sides, steps: Sequence[float]) -> RegionGraph:
    """Cut an image at every multiple of a step, one partition for each cut.

    Cuts are at ceil(i * step), i = 1, 2, …, along both axes; a rectangle takes the largest step
    that cuts it and is a leaf when none does.

    Args:
        sides: height, width and channels of the image.
        steps: in pixels, at least 1 each.
    """
    if not steps or any(not 1 <= step < math.inf for step in steps):
        raise UserError(f"steps are {shown(list(steps))}, must be one or more numbers from 1 on.")

    def cuts(rectangle: Rectangle) -> list[list[Rectangle]]:
        top, left, bottom, right = rectangle
        for step in sorted(steps, reverse=True):
            parts = [
                _grid((top, cut, bottom), (left, right)) for cut in _multiples(step, top, bottom)
            ]
            parts += [
                _grid((top, bottom), (left, cut, right)) for cut in _multiples(step, left, right)
            ]
            if parts:
                return parts
        return []

    return _graph(sides, cuts)


def bounding_boxes(graph: RegionGraph, sides: Sides) -> IntArray:
    """Return the smallest rectangle around every region, int32 [regions, 4]: ``Rectangle``."""
    height, width, channels = sides
    if graph.num_vars != height * width * channels:
        raise UserError(
            f"the region graph has {graph.num_vars} variables, images of {height}x{width} with "
            f"{channels} channels have {height * width * channels}."
        )
    boxes = np.empty((len(graph.scopes), 4), np.int32)
    for region, scope in enumerate(graph.scopes):
        rows, columns = np.divmod(np.asarray(scope) // channels, width)
        boxes[region] = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    return boxes


def congruent(graph: RegionGraph, sides: Sides) -> IntArray:
    """Label regions by shape, int32 [regions]: equal labels where a shift makes them equal.

    Not only the pixels have to be the same, but all the cuts below too.
    """
    boxes = bounding_boxes(graph, sides)
    width, channels = sides[1:]
    known: dict[object, int] = {}
    shapes = np.zeros(len(graph.scopes), np.int32)
    for region in sorted(range(len(graph.scopes)), key=lambda r: len(graph.scopes[r])):
        first = (int(boxes[region, 0]) * width + int(boxes[region, 1])) * channels
        below = tuple(
            tuple(
                (int(shapes[child]), *(boxes[child, :2] - boxes[region, :2]).tolist())
                for child in part
            )
            for part in graph.splits[region]
        )
        leaves = tuple(v - first for v in sorted(graph.leaves[region]))
        shapes[region] = known.setdefault((leaves, below), len(known))
    return shapes


def _graph(sides: Sides, cuts: Callable[[Rectangle], list[list[Rectangle]]]) -> RegionGraph:
    """Cut rectangles breadth first, beginning with the whole image."""
    height, width, channels = sides
    if min(sides) < 1:
        raise UserError(f"sides are {shown(list(sides))}, must be at least 1 each.")
    whole = (0, 0, height, width)
    region_of = {whole: 0}
    partitions: list[tuple[int, ...]] = []
    waiting = deque([whole])
    while waiting:
        rectangle = waiting.popleft()
        for parts in cuts(rectangle):
            if len(parts) < 2:
                continue
            for part in parts:
                if part not in region_of:
                    region_of[part] = len(region_of)
                    waiting.append(part)
            partitions.append((region_of[rectangle], *(region_of[part] for part in parts)))
        if len(partitions) > _MOST_PARTITIONS:
            raise UserError(
                f"the region graph has more than {_MOST_PARTITIONS:,} partitions; cut more coarsely"
            )
    variables = np.arange(height * width * channels).reshape(sides)
    scopes = tuple(
        tuple(variables[top:bottom, left:right].ravel().tolist())
        for top, left, bottom, right in region_of
    )
    return RegionGraph(variables.size, scopes, tuple(partitions))


def _halves(rectangle: Rectangle, axis: int) -> tuple[int, ...]:
    """Return where two halves of a side begin and end; a side of one pixel is not cut."""
    low, high = rectangle[axis], rectangle[axis + 2]
    return (low, high) if high - low == 1 else (low, (low + high) // 2, high)


def _halved(rectangle: Rectangle, axis: int) -> list[Rectangle]:
    """Cut one side in two."""
    top, left, bottom, right = rectangle
    if axis == 0:
        return _grid(_halves(rectangle, 0), (left, right))
    return _grid((top, bottom), _halves(rectangle, 1))


def _grid(rows: Sequence[int], columns: Sequence[int]) -> list[Rectangle]:
    """Return the rectangles between the given rows and columns, row by row."""
    between = product(pairwise(rows), pairwise(columns))
    return [(top, left, bottom, right) for (top, bottom), (left, right) in between]


def _multiples(step: float, low: int, high: int) -> list[int]:
    """Return the different ceil(i * step) strictly between ``low`` and ``high``."""
    first = max(1, math.floor(low / step))
    last = math.floor(high / step) + 1
    cuts = {math.ceil(i * step) for i in range(first, last + 1)}
    return sorted(cut for cut in cuts if low < cut < high)
