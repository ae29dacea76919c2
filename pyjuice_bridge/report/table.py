"""What the report shows of a run on a table, from table.json and the pictures of figures.npz."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import read_json
from pyjuice_bridge.report.pictures import matrices
from pyjuice_bridge.report.run_dir import Run


@dataclass(frozen=True)
class Value:
    """A value of a column: its frequency in the data and its probability under every arm."""

    label: str
    data: float
    arms: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Column:
    """A column; ``off`` is by arm the share of rows that would have to change to agree."""

    name: str
    values: tuple[Value, ...]
    off: tuple[tuple[str, float], ...]


def read_columns(path: Path) -> tuple[tuple[Column, ...], int]:
    """Read table.json: the columns shown and how many there are; nothing where there is none.

    Raises:
        UserError: it is damaged.
    """
    try:
        content = read_json(path)
        return tuple(_column(each) for each in content["columns"]), int(content["of"])
    except FileNotFoundError:
        return (), 0
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); run again to rewrite it.") from error


def _column(each: Mapping[str, Any]) -> Column:
    arms = {str(arm): [float(p) for p in values] for arm, values in each["arms"].items()}
    values = tuple(
        Value(str(label), float(seen), tuple((arm, p[i]) for arm, p in arms.items()))
        for i, (label, seen) in enumerate(zip(each["values"], each["data"], strict=True))
    )
    off = tuple((str(arm), float(share)) for arm, share in each["off"].items())
    return Column(str(each["name"]), values, off)


def table_view(run: Run, arms: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows of a run on a table alone."""
    columns, of = read_columns(run.path / "table.json")
    shown = [arm for arm in arms if any(arm == name for c in columns for name, _ in c.off)]
    return {
        "kind": "table",
        "definition": "",
        "columns": columns,
        "column_arms": shown,
        "columns_in_all": of,
        "dependence": matrices(run.figures, "dependence", run.path / "figures.npz"),
    }
