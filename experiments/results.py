"""Tables for RESULTS.md from the folders of finished runs.

    python experiments/results.py runs/mnist-0 runs/mnist-1 runs/mnist-2

One table per data set (the two releases of ImageNet32 are two sets); runs that differ in nothing
but the seed are averaged.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pyjuice_bridge.config.sweep import words_of
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.report.compare import ComparedArm, Spread, compare_table
from pyjuice_bridge.report.run_dir import SPLITS, ArmResult, Epoch, Run, read_run
from pyjuice_bridge.report.words import arm_name, bytes_text

NONE = "–"
_PER = {
    "per pixel": "Per pixel: parameters per training pixel (images × height × width).",
    "per token": "Per token: parameters per training token.",
}
_FACTS = ("machine", "device", "threads", "python", "torch", "date")


def render(run_dirs: Iterable[Path]) -> str:
    """The markdown of all tables, in the order in which the data sets first appear.

    Raises:
        UserError: a run is unfinished or damaged, or two share settings and seed.
    """
    sets: dict[str, list[Run]] = {}
    for run in (read_run(path) for path in dict.fromkeys(p.resolve() for p in run_dirs)):
        sets.setdefault(_set_of(run), []).append(run)
    return "\n\n".join(_section(title, runs) for title, runs in sets.items())


def _set_of(run: Run) -> str:
    """Name of a run's data set, with its release where there are several."""
    variant = next((r.extra["variant"] for r in run.results if r.extra.get("variant")), None)
    name = run.dataset or run.name
    return name if variant is None else f"{name} ({variant})"


def _section(title: str, runs: Sequence[Run]) -> str:
    rows = compare_table([run.path for run in runs])
    results = [result for run in runs for result in run.results]
    labels = list(dict.fromkeys(row.label for row in rows))
    per = "per token" if any("tokens" in r.extra for r in results) else "per pixel"
    head = ["arm", "parameters", per, *SPLITS, "seconds", "peak memory", "seeds"]
    if len(labels) > 1:
        head.insert(0, "run")
    lines = [_line(head), _line(["---"] + ["---:"] * (len(head) - 1))]
    for row in rows:
        first = [str(1 + labels.index(row.label))] if len(labels) > 1 else []
        lines.append(_line([*first, *_cells(row, _rows_of(row, runs))]))
    notes = [
        f"Splits in {rows[0].measure.unit}, mean ± standard deviation over the seeds.",
        _PER[per],
    ]
    coding = [c for c in _distinct("colour", results).split(", ") if c not in ("", "rgb")]
    notes += [f"Colour coding: {', '.join(coding)}."] if coding else []
    notes += [f"Run {i}: {label}." for i, label in enumerate(labels, 1) if len(labels) > 1]
    parts = [f"### {title}", "\n".join(lines), " ".join(notes), _equal_seconds(runs)]
    return "\n\n".join([*filter(None, parts), _provenance(results)])


def _equal_seconds(runs: Sequence[Run]) -> str:
    """Every arm's best score on validation until the quickest one ended; "" without two arms."""
    rows: list[tuple[str, float, dict[str, str]]] = []
    for run in runs:
        for point in run.points:
            curves: dict[str, list[Epoch]] = {}
            for epoch in run.epochs:
                if epoch.point == point and epoch.valid is not None:
                    curves.setdefault(epoch.arm, []).append(epoch)
            if len(curves) > 1:
                end = min(curve[-1].total_seconds for curve in curves.values())
                cells = {arm: _best_until(end, curve, run) for arm, curve in curves.items()}
                name = ", ".join([run.path.name, *filter(None, [words_of(point)])])
                rows.append((name, end, cells))
    if not rows:
        return ""
    arms = list(dict.fromkeys(arm for _, _, cells in rows for arm in cells))
    lines = [
        "At equal seconds, teacher and clustering included: the best score on validation until the "
        "quickest arm ended (the others still have a larger step size then).\n",
        _line(["run", "seconds", *map(arm_name, arms)]),
        _line(["---"] + ["---:"] * (1 + len(arms))),
    ]
    for name, end, cells in rows:
        lines.append(_line([name, f"{end:,.0f}", *(cells.get(arm, NONE) for arm in arms)]))
    return "\n".join(lines)


def _best_until(end: float, curve: Sequence[Epoch], run: Run) -> str:
    scores = [e.valid for e in curve if e.total_seconds <= end and e.valid is not None]
    return f"{min(scores):,.{run.measure.digits}f}" if scores else NONE


def _rows_of(row: ComparedArm, runs: Sequence[Run]) -> list[ArmResult]:
    wanted = set(row.runs)
    every = (r for run in runs if run.path in wanted for r in run.results)
    return [r for r in every if (r.arm, r.point) == (row.arm, row.point)]


def _cells(row: ComparedArm, results: Sequence[ArmResult]) -> list[str]:
    share = {_per_value(result) for result in results}
    each = share.pop() if len(share) == 1 else None
    return [
        arm_name(row.arm, row.point),
        NONE if row.parameters is None else f"{row.parameters:,}",
        NONE if each is None else f"{each:.3g}",
        *(_spread(row.values[split], row.measure.digits) for split in SPLITS),
        _spread(row.seconds, 0),
        bytes_text(row.peak_memory_bytes),
        ", ".join(map(str, row.seeds)),
    ]


def _per_value(result: ArmResult) -> float | None:
    """Parameters per training pixel or token."""
    tokens = result.extra.get("tokens")
    if result.parameters is not None and isinstance(tokens, Mapping):
        return result.parameters / int(tokens["train"])
    images, shape = result.extra.get("images"), result.extra.get("shape")
    if result.parameters is None or not isinstance(images, Mapping) or not shape:
        return None
    height, width, _ = shape
    return result.parameters / (int(images["train"]) * int(height) * int(width))


def _spread(value: Spread | None, digits: int) -> str:
    if value is None:
        return NONE
    mean = f"{value.mean:,.{digits}f}"
    return mean if value.sd is None else f"{mean} ± {value.sd:,.{digits}f}"


def _provenance(results: Sequence[ArmResult]) -> str:
    """Commands, machine, versions, date and data of a table, each value once."""
    seen = {name: _distinct(name, results) for name in _FACTS}
    facts = "; ".join(f"{name} {values}" for name, values in seen.items() if values)
    prints = dict.fromkeys(str(r.extra.get("fingerprint", ""))[:12] for r in results)
    data = ", ".join(f"`{text}`" for text in prints if text) or "not recorded"
    commands = dict.fromkeys(str(r.extra["command"]) for r in results if r.extra.get("command"))
    first = f"Made with {facts}; fingerprints of the data, split by seed: {data}."
    return "\n".join([first, "", *(f"    {command}" for command in commands)])


def _distinct(name: str, results: Sequence[ArmResult]) -> str:
    values = [r.device if name == "device" else r.extra.get(name) for r in results]
    return ", ".join(dict.fromkeys(str(v) for v in values if v is not None))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(words: Sequence[str]) -> int:
    """``RUN_DIR …``; returns the exit status."""
    if not words or words[0].startswith("-"):
        print("usage: python experiments/results.py RUN_DIR …", file=sys.stderr)
        return 2
    try:
        print(render(map(Path, words)))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
