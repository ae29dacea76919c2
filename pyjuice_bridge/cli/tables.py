"""Tables of runs for the terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from pyjuice_bridge.cli.streams import OutputClosedError
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.measure import Measure
from pyjuice_bridge.report.compare import ComparedArm, Spread
from pyjuice_bridge.report.run_dir import SPLITS, Run, read_run
from pyjuice_bridge.report.words import arm_name, bytes_text, impossible, percent, seconds_text

if TYPE_CHECKING:
    from pyjuice_bridge.runner.plan import Plan


_WIDE = 200
_TEXTS = ("arm", "config", "run", "data", "state")


class _Output(Console):
    """A console that says by an exception that its reader has gone."""

    def on_broken_pipe(self) -> None:
        raise OutputClosedError


def make_console(*, stderr: bool = False) -> Console:
    """Create a console; lines are not wrapped where the output is not a terminal."""
    console = _Output(stderr=stderr)
    return console if console.is_terminal else _Output(stderr=stderr, width=_WIDE, soft_wrap=True)


def results_table(run: Run) -> Table:
    """Tabulate the final figures of a run, one arm per line."""
    known = any(result.accuracy for result in run.results)
    accuracy = ["accuracy"] if known else []
    columns = ["arm", "parameters", *SPLITS, *accuracy, "time", "peak memory"]
    table = _table(f"{run.name}: {run.measure.unit}", columns)
    for result in run.results:
        figures = [result.measure.text(result.values[split]) for split in SPLITS]
        size = "–" if result.parameters is None else f"{result.parameters:,}"
        if known:
            figures.append(percent(result.accuracy.get("test")))
        spent = [seconds_text(result.seconds), bytes_text(result.peak_memory_bytes)]
        table.add_row(arm_name(result.arm, result.point), size, *figures, *spent)
    table.caption = "\n".join(line for result in run.results for line in impossible(result)) or None
    return table


def runs_table(folder: Path, runs: Sequence[Path]) -> Table:
    """Tabulate the runs of a folder, one arm per line: the figure on test, or the error."""
    table = _table(str(folder), ["run", "data", "arm", "test", "time", "state"])
    for path in runs:
        try:
            run = read_run(path)
        except UserError as error:
            said = str(error).replace(f"{path}{os.sep}", "")
            table.add_row(path.name, "–", "–", "–", "–", said)
            continue
        if not run.results:
            table.add_row(path.name, run.dataset or "–", "–", "–", "–", "unfinished")
        for result in run.results:
            name = arm_name(result.arm, result.point)
            figure = result.measure.phrase(result.values["test"])
            spent = seconds_text(result.seconds)
            table.add_row(path.name, run.dataset or "–", name, figure, spent, "finished")
    return table


def compare_rows(rows: Sequence[ComparedArm]) -> Table:
    """Tabulate mean ± standard deviation of every arm over the seeds."""
    units = ", ".join(dict.fromkeys(row.measure.unit for row in rows))
    table = _table(f"{units}, mean ± sd", ["config", "arm", "seeds", "parameters", *SPLITS, "time"])
    labels = list(dict.fromkeys(row.label for row in rows))
    table.caption = "\n".join(f"{i}: {label}" for i, label in enumerate(labels, 1))
    for row in rows:
        size = "–" if row.parameters is None else f"{row.parameters:,}"
        figures = [_spread(row.values[split], row.measure) for split in SPLITS]
        spent = seconds_text(row.seconds.mean) if row.seconds else "–"
        table.add_row(
            str(1 + labels.index(row.label)),
            arm_name(row.arm, row.point),
            str(len(row.runs)),
            size,
            *figures,
            spent,
        )
    return table


def plan_table(plan: Plan) -> Table:
    """Tabulate a run's parameters, memory and predicted time."""
    columns = ["arm", "parameters", "passes", "memory", "teacher and clusters", "passes of EM"]
    table = _table(f"plan of {plan.name}", columns)
    for arm in plan.arms:
        memory = bytes_text(arm.memory_bytes)
        times = ["?" if s is None else seconds_text(s) for s in (arm.latent_seconds, arm.seconds)]
        name = arm_name(arm.arm, arm.point)
        table.add_row(name, f"{arm.parameters:,}", str(arm.passes), memory, *times)
    table.caption = plan.note
    return table


def _spread(value: Spread | None, measure: Measure) -> str:
    if value is None:
        return "–"
    return measure.text(value.mean) + ("" if value.sd is None else f" ± {measure.text(value.sd)}")


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in columns:
        justify: Literal["left", "right"] = "left" if column in _TEXTS else "right"
        table.add_column(column, justify=justify, overflow="fold")
    return table
