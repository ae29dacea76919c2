"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from experiments.bench.contest import Result, Row
from experiments.bench.contestants import OURS
from experiments.bench.fits import Fit

NONE = "–"
_HEAD = (
    "",
    "forward, ms",
    "×",
    "EM step, ms",
    "×",
    "GFLOP/s",
    "of mm",
    "epoch, s",
    "×",
    "peak, MB",
    "start, s",
    "agrees to",
)
EXPLANATION = f"""\
Times are medians, the minimum in brackets; × is the time over that of {OURS.name}. GFLOP/s: 6·K·K
for every dense sum block and sample, over the median EM step; "of mm" is their share of the float32
`torch.mm` rate measured in the same turns. Peak memory is that of the process (on a GPU: of its
allocator) since the model was built. Start: process, imports, building and the first steps, with
whatever they compile. "Agrees to": the largest relative difference of any row's log-likelihood
from a reference (float64, log domain) at the start, after three full EM steps and after an
epoch of mini-batch EM; no time is given for what differs."""


def heading(facts: Mapping[str, str | int]) -> str:
    """The machine, and what the columns mean."""
    machine = "; ".join(f"{name} {value}" for name, value in facts.items())
    return f"## Benchmark\n\n{machine}.\n\n{EXPLANATION}"


def bullets(title: str, lines: Iterable[str]) -> str:
    """A heading over a list."""
    return "\n".join([f"### {title}", "", *(f"- {line}" for line in lines)])


def case_table(result: Result) -> str:
    """A heading, a row per peer that has times, and why the others have none."""
    head = f"batch {result.batch}, epoch of {result.rows:,} rows, {result.parameters:,} parameters"
    extra = "".join(f", {name}: {value}" for name, value in result.facts.items())
    rates = ", ".join(
        f"{name} mm {max(rates) / 1e9:,.0f} GFLOP/s" for name, rates in result.mm.items()
    )
    ours = next((row for row in result.peers if row.peer == OURS.name), None)
    lines = [f"### {result.case}", "", f"{head}{extra}; {rates}", ""]
    lines += [_line(_HEAD), _line(["---"] + ["---:"] * (len(_HEAD) - 1))]
    timed = [row for row in result.peers if any(row.times.values())]
    lines += [_line(_cells(row, ours, result)) for row in timed]
    notes = [note for row in result.peers for note in _notes(row)]
    return "\n".join([*lines, "", *notes] if notes else lines)


def _cells(row: Row, ours: Row | None, result: Result) -> list[str]:
    em = row.median("em")
    rate = result.flops * result.batch / em if em else None
    memory = row.memory.get("device", row.memory.get("process"))
    return [
        row.peer,
        *_time(row, ours, "forward", 1000),
        *_time(row, ours, "em", 1000),
        NONE if rate is None else f"{rate / 1e9:,.3g}",
        NONE if rate is None else f"{rate / result.rate:.1%}",
        *_time(row, ours, "epoch", 1),
        NONE if memory is None else f"{memory / 1e6:,.0f}",
        f"{sum(row.start_up.values()):.1f}",
        f"{max(row.deviation.values()):.0e}" if row.deviation else NONE,
    ]


def _time(row: Row, ours: Row | None, kind: str, scale: float) -> tuple[str, str]:
    middle, least = row.median(kind), row.best(kind)
    if middle is None or least is None:
        return NONE, NONE
    base = ours.median(kind) if ours is not None else None
    times = f"{scale * middle:,.3g} ({scale * least:,.3g})"
    return times, NONE if base is None else f"{middle / base:.2f}"


def _notes(row: Row) -> list[str]:
    return [
        f"- {row.peer}{'' if kind == 'all' else f', {kind}'}: {text.rstrip('.')}."
        for kind, text in row.notes.items()
    ]


def fit_table(fits: Iterable[Fit]) -> str:
    """The lines through times against sizes."""
    lines = [
        "### Time of an EM step against the size of the work",
        "",
        _line(["", "sizes", "times, ms", "ms per unit", "r²"]),
        _line(["---", "---", "---", "---:", "---:"]),
    ]
    for fit in fits:
        lines.append(
            _line(
                [
                    f"{fit.peer}, {fit.unit}",
                    ", ".join(f"{n:,}" for n in fit.sizes),
                    ", ".join(f"{ms:.3g}" for ms in fit.milliseconds),
                    f"{fit.per_unit:.3g}",
                    f"{fit.r2:.4f}",
                ]
            )
        )
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
