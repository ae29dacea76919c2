"""What all charts share: inline SVG whose colours follow the page's style sheet."""

import io
import re
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pyjuice_bridge.measure import Measure
from pyjuice_bridge.report.words import arm_name

ARM_COLOURS = 6
"""Number of `--arm-i` colours the style sheet defines; further arms start again at the first."""
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
# Each placeholder colour is drawn by matplotlib and then replaced by a variable of the style sheet.
INK, FAINT, PAPER = "#fe0001", "#fe0002", "#fe0003"
_VARIABLES = {INK: "--ink-soft", FAINT: "--rule", PAPER: "--paper"} | {
    f"#fe01{i:02x}": f"--arm-{i}" for i in range(ARM_COLOURS)
}

# Text stays text, names are never read as formulas, and equal inputs give equal bytes.
styled = mpl.rc_context(
    {"svg.fonttype": "none", "svg.hashsalt": "report", "text.parse_math": False}
)


def new_figure(width: float, height: float) -> Figure:
    """Create an empty figure; sizes are in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def colour_of(index: int) -> str:
    """Return the placeholder for the colour of an arm."""
    return f"#fe01{index % ARM_COLOURS:02x}"


def plain(axes: Axes) -> None:
    """Draw a baseline and faint rules, nothing else."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(INK)
    axes.tick_params(colors=INK, length=0, pad=5)
    axes.tick_params(axis="x", length=3)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def end_labels(
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
            f"{short(arm_name(arms[index]), 13)}\n{measure.text(y)}",
            xy=(x, y),
            xytext=(1.045, height),
            textcoords="axes fraction",
            color=colour_of(index),
            fontweight="bold",
            linespacing=1.15,
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": colour_of(index),
                "lw": 0.7,
                "alpha": 0.6,
                "shrinkA": 2,
                "shrinkB": 5,
                "relpos": (0, 0.5),
            },
        )


def short(text: str, length: int) -> str:
    """Cut a text to a length."""
    return text if len(text) <= length else text[: length - 1] + "…"


def svg_of(figure: Figure, ident: str) -> str:
    """Render a figure as an SVG element that HTML can hold beside others."""
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
