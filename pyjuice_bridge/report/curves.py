"""Line and dot charts as inline SVG whose colours follow the page's style sheet."""

import io
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pyjuice_bridge.measure import Measure
from pyjuice_bridge.report.run_dir import Epoch, StageBound
from pyjuice_bridge.report.words import arm_name, spoken

ARM_COLOURS = 6
"""Number of `--arm-i` colours the style sheet defines; further arms start again at the first."""
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")
# Each stand-in colour is drawn by matplotlib and then replaced by a variable of the style sheet.
_INK, _FAINT, _PAPER = "#fe0001", "#fe0002", "#fe0003"
_VARIABLES = {_INK: "--ink-soft", _FAINT: "--rule", _PAPER: "--paper"} | {
    f"#fe01{i:02x}": f"--arm-{i}" for i in range(ARM_COLOURS)
}

# Text stays text, names are never read as formulas, and equal inputs give equal bytes.
_styled = mpl.rc_context(
    {"svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False}
)


@_styled
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
    figure = _figure(5.6, 3.7)
    axes = figure.add_axes((0.115, 0.15, 0.63, 0.8))
    _plain(axes)
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
    _end_labels(axes, ends, arms, measure)
    return _svg(figure, ident), cropped


@_styled
def bound_chart(bounds: Sequence[StageBound], measure: Measure, *, ident: str) -> str:
    """Draw one row per stage: the bound (ring) and the marginal (dot), joined by their gap."""
    figure = _figure(5.6, 0.75 + 0.42 * len(bounds))
    room = 0.62 / figure.get_figheight()
    axes = figure.add_axes((0.25, room, 0.7, 1 - room - 0.02))
    _plain(axes)
    axes.grid(axis="x", color=_FAINT, linewidth=0.7)
    axes.grid(visible=False, axis="y")
    colour = _colour(0)
    for row, stage in enumerate(bounds):
        if stage.marginal is not None:
            axes.plot([stage.marginal, stage.bound], [row, row], color=colour, lw=2, alpha=0.45)
            axes.plot(stage.marginal, row, "o", color=colour, ms=8)
        axes.plot(stage.bound, row, "o", mfc=_PAPER, mec=colour, mew=1.8, ms=8)
    axes.set_yticks(range(len(bounds)), [_short(spoken(b.stage), 18) for b in bounds])
    axes.set_ylim(len(bounds) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.set_xlabel(f"validation {measure.unit} (ring: bound, dot: marginal)")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return _svg(figure, ident)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _colour(index: int) -> str:
    return f"#fe01{index % ARM_COLOURS:02x}"


def _plain(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    axes.tick_params(colors=_INK, length=0, pad=5)
    axes.tick_params(axis="x", length=3)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(axis="y", color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def _curve(axes: Axes, points: Sequence[tuple[float, float, str]], index: int) -> None:
    colour, marker = _colour(index), _MARKERS[index % len(_MARKERS)]
    x, y = [p[0] for p in points], [p[1] for p in points]
    axes.plot(x, y, _LINES[index % len(_LINES)], color=colour, lw=2)
    if len(points) <= 30:
        axes.plot(x, y, marker, color=colour, ms=4)
    starts = [next(stage) for _, stage in groupby(points, key=lambda p: p[2])][1:]
    rings = [p[0] for p in starts], [p[1] for p in starts]
    axes.plot(*rings, "o", mfc=_PAPER, mec=colour, mew=1.6, ms=8)


def _frame(values: Sequence[Sequence[float]]) -> tuple[float, float, bool]:
    """Limits of the figures' axis that keep the late, close part of the curves readable."""
    if not values:
        return 0.0, 1.0, False
    low = min(min(v) for v in values)
    top = max(max(v) for v in values)
    high = min(top, max(low + 2.0 * (max(median(v) for v in values) - low), low + 0.02))
    high = max(high, max(v[-1] for v in values))
    room = 0.06 * max(high - low, 0.01)
    return low - room, high + room, top > high + room


def _end_labels(
    axes: Axes, ends: Sequence[tuple[float, float, int]], arms: Sequence[str], measure: Measure
) -> None:
    """Name every curve beside its last point, pushed apart so that no two labels overlap."""
    low, high = axes.get_ylim()
    ordered = sorted(ends, key=lambda end: end[1])
    step = 0.12
    heights: list[float] = []
    for _, y, _ in ordered:
        height = (y - low) / (high - low)
        heights.append(max(height, heights[-1] + step) if heights else max(height, 0.03))
    for i in range(len(heights)):
        ceiling = 0.97 - step * (len(heights) - 1 - i)
        heights[i] = min(heights[i], ceiling)
    for (x, y, index), height in zip(ordered, heights, strict=True):
        axes.annotate(
            f"{_short(arm_name(arms[index]), 13)}\n{measure.text(y)}",
            xy=(x, y),
            xytext=(1.045, height),
            textcoords="axes fraction",
            color=_colour(index),
            fontweight="bold",
            linespacing=1.15,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": _colour(index),
                "lw": 0.7,
                "alpha": 0.6,
                "shrinkA": 2,
                "shrinkB": 5,
                "relpos": (0, 0.5),
            },
        )


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _svg(figure: Figure, ident: str) -> str:
    """The figure as an SVG element that can stand inside HTML beside others."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r'<svg aria-hidden="true" \1', svg, count=1)
    svg = re.sub(r'\bid="', f'id="{ident}-', svg)
    svg = svg.replace("url(#", f"url(#{ident}-").replace('xlink:href="#', f'href="#{ident}-')
    for stand_in, variable in _VARIABLES.items():
        svg = svg.replace(stand_in, f"var({variable})")
    return svg
