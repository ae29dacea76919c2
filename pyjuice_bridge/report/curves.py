"""Learning curves, the bound, and figures against sizes, as inline SVG."""

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import median

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from pyjuice_bridge.config.sweep import short_name, text
from pyjuice_bridge.measure import Measure
from pyjuice_bridge.report.charts import (
    FAINT,
    INK,
    LINES,
    MARKERS,
    PAPER,
    colour_of,
    end_labels,
    new_figure,
    plain,
    short,
    styled,
    svg_of,
)
from pyjuice_bridge.report.run_dir import ArmResult, Epoch, StageBound
from pyjuice_bridge.report.words import spoken


@styled
def learning_curves(
    epochs: Sequence[Epoch], arms: Sequence[str], measure: Measure, *, against: str, ident: str
) -> tuple[str, bool]:
    """Draw validation figures of every arm against "seconds" or "passes".

    Args:
        epochs: what metrics.jsonl holds; epochs without a validation figure are passed over.
        arms: all arms of the run; the place of an arm here gives its colour.
        measure: of the figures.
        against: "seconds" (since the start of the arm) or "passes" (over the training data).
        ident: prefix of every id in the drawing, unique on the page.

    Returns:
        The SVG element, and whether early points lie above the frame.
    """
    across: Callable[[Epoch], float] = (
        (lambda e: e.total_seconds) if against == "seconds" else (lambda e: e.passes)
    )
    figure = new_figure(5.6, 3.7)
    axes = figure.add_axes((0.115, 0.15, 0.63, 0.8))
    plain(axes)
    ends: list[tuple[float, float, int]] = []
    values: list[list[float]] = []
    for index, arm in enumerate(arms):
        points = [
            (across(e), e.valid, e.stage) for e in epochs if e.arm == arm and e.valid is not None
        ]
        if points:
            _curve(axes, points, index)
            ends.append((points[-1][0], points[-1][1], index))
            values.append([valid for _, valid, _ in points])
    low, high, cropped = _frame(values)
    axes.set_ylim(low, high)
    axes.set_xlim(left=0.0)
    axes.set_xlabel("total seconds" if against == "seconds" else "passes over the training data")
    axes.set_ylabel(f"validation {measure.unit}")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=against == "passes"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    end_labels(axes, ends, arms, measure)
    return svg_of(figure, ident), cropped


@styled
def sweep_chart(
    results: Sequence[ArmResult],
    arms: Sequence[str],
    measure: Measure,
    split: str,
    name: str,
    *,
    ident: str,
) -> str:
    """Draw the best figure of every arm at each value of a field.

    Args:
        results: of a sweep; those without a figure on the split are passed over.
        arms: all arms of the run; the place of an arm here gives its colour.
        measure: of the figures.
        split: "train", "valid" or "test"; where other fields are varied too, the best of them on
            validation counts.
        name: of the field.
        ident: prefix of every id in the drawing, unique on the page.

    Returns:
        The SVG element; an empty text where the field has no two numbers.
    """
    values = {r.point[name] for r in results if type(r.point.get(name)) in (int, float)}
    if len(values) < 2:
        return ""
    figure = new_figure(5.6, 3.7)
    axes = figure.add_axes((0.115, 0.15, 0.63, 0.8))
    plain(axes)
    if min(values) > 0 and max(values) >= 4 * min(values):
        axes.set_xscale("log", base=2)
    ends: list[tuple[float, float, int]] = []
    for index, arm in enumerate(arms):
        mine = [r for r in results if r.arm == arm and r.values[split] is not None]
        points = []
        for value in sorted(values):
            there = [r for r in mine if r.point.get(name) == value]
            best = min(there, key=_on_validation, default=None)
            if best is not None and (reached := best.values[split]) is not None:
                points.append((float(value), reached))
        if points:
            axes.plot(*zip(*points, strict=True), LINES[index % len(LINES)], color=colour_of(index))
            axes.plot(
                *zip(*points, strict=True), MARKERS[index % len(MARKERS)], color=colour_of(index)
            )
            ends.append((*points[-1], index))
    axes.set_xticks(sorted(values), [text(value) for value in sorted(values)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(short_name(name, results[0].point))
    axes.set_ylabel(f"{split} {measure.unit}")
    axes.margins(y=0.12)
    end_labels(axes, ends, arms, measure)
    return svg_of(figure, ident)


@styled
def bound_chart(bounds: Sequence[StageBound], measure: Measure, *, ident: str) -> str:
    """Draw one row per stage: the bound (ring) and the marginal (dot), joined by their gap.

    The start, from which training takes a large step, does not stretch the axis: what lies outside
    is written at its edge.
    """
    figure = new_figure(5.6, 0.75 + 0.42 * len(bounds))
    room = 0.62 / figure.get_figheight()
    axes = figure.add_axes((0.25, room, 0.7, 1 - room - 0.02))
    plain(axes)
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.grid(visible=False, axis="y")
    colour = colour_of(0)
    for row, stage in enumerate(bounds):
        if stage.marginal is not None:
            axes.plot([stage.marginal, stage.bound], [row, row], color=colour, lw=2, alpha=0.45)
            axes.plot(stage.marginal, row, "o", color=colour, ms=8)
        axes.plot(stage.bound, row, "o", mfc=PAPER, mec=colour, mew=1.8, ms=8)
    axes.set_yticks(range(len(bounds)), [short(spoken(b.stage), 18) for b in bounds])
    axes.set_ylim(len(bounds) - 0.5, -0.5)
    low, high = _reach(bounds)
    axes.set_xlim(low, high)
    for row, stage in enumerate(bounds):
        figures = [v for v in (stage.marginal, stage.bound) if v is not None]
        if max(figures) > high:
            outside = " – ".join(measure.text(v) for v in figures) + " →"
            axes.text(
                0.99,
                row - 0.12,
                outside,
                transform=axes.get_yaxis_transform(),
                ha="right",
                color=INK,
            )
    axes.set_xlabel(f"validation {measure.unit} (ring: bound, dot: marginal)")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return svg_of(figure, ident)


def _on_validation(result: ArmResult) -> float:
    valid = result.values["valid"]
    return math.inf if valid is None else valid


def _reach(bounds: Sequence[StageBound]) -> tuple[float, float]:
    """Choose limits of the axis by the stages that were trained."""
    trained = [b for b in bounds if b.stage != "start"] or bounds
    figures = [v for b in trained for v in (b.bound, b.marginal) if v is not None]
    room = 0.08 * max(max(figures) - min(figures), 1e-3)
    return min(figures) - room, max(figures) + room


def _curve(axes: Axes, points: Sequence[tuple[float, float, str]], index: int) -> None:
    colour, marker = colour_of(index), MARKERS[index % len(MARKERS)]
    x, y = [p[0] for p in points], [p[1] for p in points]
    axes.plot(x, y, LINES[index % len(LINES)], color=colour, lw=2)
    if len(points) <= 30:
        axes.plot(x, y, marker, color=colour, ms=4)
    starts = [next(stage) for _, stage in groupby(points, key=lambda p: p[2])][1:]
    rings = [p[0] for p in starts], [p[1] for p in starts]
    axes.plot(*rings, "o", mfc=PAPER, mec=colour, mew=1.6, ms=8)
    # The circuit of the best pass of the last stage is kept.
    best = min((p for p in points if p[2] == points[-1][2]), key=lambda p: p[1])
    axes.plot(best[0], best[1], "*", color=colour, mec=PAPER, mew=0.8, ms=13, gid=f"best_{index}")


def _frame(values: Sequence[Sequence[float]]) -> tuple[float, float, bool]:
    """Choose axis limits that keep the late, close part of the curves readable."""
    if not values:
        return 0.0, 1.0, False
    low = min(min(v) for v in values)
    top = max(max(v) for v in values)
    high = min(top, max(low + 2.0 * (max(median(v) for v in values) - low), low + 0.02))
    high = max(high, max(v[-1] for v in values))
    room = 0.06 * max(high - low, 0.01)
    return low - room, high + room, top > high + room
