"""What the report shows of a trained teacher and of growing heads, from figures.npz."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyjuice_bridge.report.pictures import Gallery, Picture

_SPLITS = ("Validation", "Test")
_FIGURES = 7
"""Of a teacher: bits, those of pixels and of codes, codes used of two books, their perplexities."""
ROUND = (
    "round",
    "heads",
    "width",
    "edges",
    "bits",
    "reassigned_bits",
    "reassigned",
    "grew",
)
"""The columns of growing/history."""


@dataclass(frozen=True)
class TeacherSplit:
    """What a teacher makes of a split by itself."""

    name: str
    bits: float
    pixels: float
    codes: float
    used: tuple[int, int]
    perplexity: tuple[float, float]


@dataclass(frozen=True)
class TeacherView:
    """A trained teacher: its figures, and images beside their reconstructions."""

    splits: tuple[TeacherSplit, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class ClusterHeads:
    """The mean patches of a cluster's heads, and the share of its patches that each has."""

    label: str
    src: str
    width: int
    shares: str


@dataclass(frozen=True)
class GrowingView:
    """The rounds, each with the columns of ``ROUND``, and the heads in the end."""

    rounds: tuple[dict[str, float], ...]
    clusters: tuple[ClusterHeads, ...]


def teacher_view(gallery: Gallery) -> TeacherView | None:
    """Read what a teacher left; None where there is nothing.

    Raises:
        UserError: an array has the wrong type or shape.
    """
    figures = gallery.array("teacher/figures")
    if figures is None:
        return None
    if figures.dtype.kind != "f" or figures.shape != (len(_SPLITS), _FIGURES):
        gallery.refuse("teacher/figures", f"floats {[len(_SPLITS), _FIGURES]}")
    splits = tuple(
        TeacherSplit(name, row[0], row[1], row[2], (int(row[3]), int(row[4])), (row[5], row[6]))
        for name, row in zip(_SPLITS, figures.tolist(), strict=True)
    )
    names = {"teacher/original": "Original", "teacher/reconstruction": "Reconstruction"}
    return TeacherView(splits, tuple(gallery.row(name, label) for name, label in names.items()))


def growing_view(gallery: Gallery) -> GrowingView | None:
    """Read what growing left; None where there is nothing.

    Raises:
        UserError: an array has the wrong type or shape.
    """
    history = gallery.array("growing/history")
    if history is None:
        return None
    if history.dtype.kind != "f" or history.ndim != 2 or history.shape[1] != len(ROUND):
        gallery.refuse("growing/history", f"floats [rounds, {len(ROUND)}]")
    rounds = tuple(dict(zip(ROUND, line, strict=True)) for line in history.tolist())
    means, sizes = gallery.array("growing/means"), gallery.array("growing/sizes")
    if means is None or means.ndim != 5 or means.dtype != np.uint8:
        gallery.refuse("growing/means", "uint8 [clusters, heads, h, w, C]")
    if sizes is None or sizes.shape != means.shape[:2] or sizes.dtype.kind not in "iu":
        gallery.refuse("growing/sizes", f"integers {list(means.shape[:2])}")
    clusters = []
    for images, counts in zip(means, sizes, strict=True):
        there = np.flatnonzero(counts)
        there = there[np.argsort(-counts[there], kind="stable")]
        if not len(there):
            continue
        shares = 100 * counts[there] / counts.sum()
        strip = gallery.strip("growing/means", images[there])
        text = " / ".join(f"{share:.0f}" for share in shares) + " %"
        clusters.append(ClusterHeads(f"{counts.sum():,}", strip.src, strip.width, text))
    return GrowingView(rounds, tuple(clusters))
