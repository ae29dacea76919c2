"""Draw test figures against the number of parameters, a line for each arm, from finished runs.

python experiments/sizes.py runs/small runs/medium runs/large --out docs/images/sizes.png
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.report.run_dir import ArmResult, read_run
from pyjuice_bridge.report.words import arm_name

Points = dict[str, list[tuple[int, float]]]


def points_of(runs: Iterable[Path]) -> tuple[Points, str]:
    """Collect (parameters, test figure) by arm, small circuits first, and the unit.

    Raises:
        UserError: a run is not finished, or two have different units.
    """
    found: Points = defaultdict(list)
    units = set()
    for path in runs:
        results = read_run(path).results
        if not results:
            raise UserError(f"{path} holds no results; give folders of finished runs")
        for result in results:
            units.add(result.unit)
            found[arm_name(result.arm)].append(_point(result, path))
    if len(units) > 1:
        raise UserError(f"the runs have different units: {', '.join(sorted(units))}")
    return {arm: sorted(points) for arm, points in found.items()}, units.pop()


def _point(result: ArmResult, path: Path) -> tuple[int, float]:
    value = result.values.get("test")
    if result.parameters is None or value is None:
        raise UserError(f"{path} has no test figure of {result.arm}")
    return result.parameters, value


def draw(points: Points, unit: str, title: str, out: Path) -> None:
    """Write the figure as PNG."""
    figure = Figure(figsize=(6, 3.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (arm, line) in enumerate(points.items()):
        beside = (0, -12) if number % 2 else (0, 6)
        sizes, values = zip(*line, strict=True)
        axes.plot(sizes, values, marker="o", label=arm)
        for size, value in line:
            axes.annotate(
                f"{value:.3f}", (size, value), xytext=beside, textcoords="offset points", size=7
            )
    axes.set_xscale("log")
    ticks = sorted({size for line in points.values() for size, _ in line})
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size / 1e6:.1f} M"))
    axes.set(xlabel="parameters", ylabel=f"test {unit}", title=title)
    axes.margins(0.1, 0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--title", default="")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    points, unit = points_of(given.runs)
    draw(points, unit, given.title, given.out)


if __name__ == "__main__":
    main()
