"""Write report.html: one file that shows a run and needs nothing but a browser."""

import html
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pyjuice_bridge.config.sweep import short_name, words_of
from pyjuice_bridge.files import write_text
from pyjuice_bridge.report import words
from pyjuice_bridge.report.images import HIDDEN_COLOUR
from pyjuice_bridge.report.learners import growing_view, teacher_view
from pyjuice_bridge.report.pictures import Gallery
from pyjuice_bridge.report.run_dir import SPLITS, ArmResult, Run, StageBound, read_run
from pyjuice_bridge.report.table import table_view
from pyjuice_bridge.report.text import text_view

_FIRST_FACTS = (
    "command",
    "seed",
    "date",
    "machine",
    "processor",
    "threads",
    "processes",
    "versions",
    "python",
    "torch",
    "dataset",
    "fingerprint",
)


@dataclass(frozen=True)
class Fact:
    """A line of provenance: one value, or one per arm where they differ."""

    name: str
    values: tuple[tuple[str, str], ...]
    """(arm name or empty, value)."""


@dataclass(frozen=True)
class Sweep:
    """The figures of a sweep on a split, drawn against every field of numbers."""

    split: str
    charts: tuple[tuple[str, str], ...]
    """(field, drawing)."""
    several: bool
    """Whether more than one field is varied."""


@dataclass(frozen=True)
class Curves:
    """The two drawings of the learning curves at one point of a sweep."""

    point: str
    seconds: str
    passes: str
    cropped: bool
    last: tuple[tuple[str, str], ...]
    """(arm name, last validation figure), the drawings in words."""


@dataclass(frozen=True)
class Bounds:
    """The stages of LVD at one point of a sweep, and their drawing."""

    point: str
    stages: tuple[StageBound, ...]
    svg: str


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run directory from whatever files of the run are there.

    The page holds its pictures and styles, loads nothing and runs no script.

    Args:
        run_dir: a directory with any of config.yaml, results.json, metrics.jsonl, bound.json
            and figures.npz.

    Returns:
        The path of the page; an older page is replaced at once, never half written.

    Raises:
        UserError: no such directory, or one of its files is damaged.
    """
    target = run_dir / "report.html"
    write_text(target, _render(read_run(run_dir)))
    return target


def results_html(run_dir: Path) -> str:
    """Return the results of a run as an HTML table, for notebooks."""
    run = read_run(run_dir)
    best = _best(run.results)
    heads = "".join(f"<th>{name}</th>" for name in ("", "parameters", *SPLITS, "time"))
    rows = []
    for result in run.results:
        size = "–" if result.parameters is None else f"{result.parameters:,}"
        cells = [html.escape(words.arm_name(result.arm, result.point)), size]
        for split in SPLITS:
            value = result.values[split]
            text = result.measure.text(value)
            is_best = value is not None and value == best.get(split)
            cells.append(f"<b>{text}</b>" if is_best else text)
        cells.append(words.seconds_text(result.seconds))
        rows.append("".join(f"<td>{cell}</td>" for cell in cells))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    said = html.escape(words.outcome(run.results, run.dataset))
    return (
        f"<div><b>{html.escape(run.name)}</b>, {html.escape(run.measure.unit)}"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
        f"{said}<br><code>{html.escape(str(run_dir / 'report.html'))}</code></div>"
    )


@contextmanager
def _drawing_to_files() -> Iterator[None]:
    """Import matplotlib without the backend that MPLBACKEND names, which may not be there."""
    named = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named


def _render(run: Run) -> str:
    # Both take noticeable time to import, and only a report that is written needs them.
    import jinja2
    from markupsafe import Markup

    with _drawing_to_files():
        from pyjuice_bridge.report.charts import ARM_COLOURS

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    gallery = Gallery(run.figures, run.path / "figures.npz")
    arms = _arms(run, gallery)
    return environment.get_template("report.html").render(
        run=run,
        words=words,
        splits=SPLITS,
        outcome=words.outcome(run.results, run.dataset),
        best=_best(run.results),
        colour={arm: i % ARM_COLOURS for i, arm in enumerate(arms)},
        seeds=sorted({r.seed for r in run.results if r.seed is not None}),
        accuracy=any(r.accuracy for r in run.results),
        sweep=_sweep(run, arms),
        curves=[found for i in range(len(run.points)) if (found := _curves(run, arms, i))],
        bounds=[stages for i in range(len(run.points)) if (stages := _bounds(run, i))],
        safe=Markup,
        config=_config(run),
        facts=_provenance(run.results),
        **_VIEWS.get(run.domain, _images)(run, arms),
    )


def _config(run: Run) -> str:
    """Return the config without what is not set; as it is if it holds something else."""
    if not run.config:
        return run.config_text
    return yaml.safe_dump(_set(run.config), sort_keys=False, allow_unicode=True)


def _set(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _set(inner) for key, inner in value.items() if inner is not None}
    return value


def _images(run: Run, arms: Sequence[str]) -> dict[str, Any]:
    """Return what the page shows of a run on images alone."""
    gallery = Gallery(run.figures, run.path / "figures.npz")
    return {
        "kind": "images",
        "definition": "",
        "samples": gallery.samples(arms),
        "inpaintings": gallery.inpaintings(arms),
        "clusters": gallery.clusters(),
        "teacher": teacher_view(gallery),
        "growing": growing_view(gallery),
        "white": gallery.white,
        "hidden": "#{:02x}{:02x}{:02x}".format(*HIDDEN_COLOUR),
    }


_VIEWS: Mapping[str, Callable[[Run, Sequence[str]], dict[str, Any]]] = {
    "images": _images,
    "text": text_view,
    "written": text_view,
    "table": table_view,
}


def _arms(run: Run, gallery: Gallery) -> list[str]:
    """List every arm that the run mentions; its index decides its colour."""
    named = [r.arm for r in run.results] + [e.arm for e in run.epochs] + gallery.arms()
    usual = ("lvd", "random", "hclt", "start")
    return [a for a in usual if a in named] + [a for a in dict.fromkeys(named) if a not in usual]


def _sweep(run: Run, arms: Sequence[str]) -> Sweep | None:
    """Draw the figures of a sweep against every field whose values are numbers."""
    from pyjuice_bridge.report.curves import sweep_chart

    point = run.points[0]
    measured = (s for s in reversed(SPLITS) if any(r.values[s] is not None for r in run.results))
    split = next(measured, None)
    if split is None:
        return None
    drawn = tuple(
        (short_name(name, point), chart)
        for i, name in enumerate(point)
        if (chart := sweep_chart(run.results, arms, run.measure, split, name, ident=f"sweep-{i}"))
    )
    return Sweep(split, drawn, several=len(point) > 1) if drawn else None


def _curves(run: Run, arms: Sequence[str], number: int) -> Curves | None:
    from pyjuice_bridge.report.curves import learning_curves

    point = run.points[number]
    epochs = [e for e in run.epochs if e.point == point]
    last = {e.arm: e.valid for e in epochs if e.valid is not None}
    if not last:
        return None
    drawn = {
        against: learning_curves(
            epochs, arms, run.measure, against=against, ident=f"{against}-{number}"
        )
        for against in ("seconds", "passes")
    }
    seconds, cropped = drawn["seconds"]
    described = tuple((words.arm_name(arm), run.measure.text(v)) for arm, v in last.items())
    return Curves(words_of(point), seconds, drawn["passes"][0], cropped, described)


def _bounds(run: Run, number: int) -> Bounds | None:
    from pyjuice_bridge.report.curves import bound_chart

    point = run.points[number]
    stages = tuple(b for b in run.bounds if b.point == point)
    if not stages:
        return None
    chart = bound_chart(stages, run.measure, ident=f"bound-{number}")
    return Bounds(words_of(point), stages, chart)


def _best(results: Sequence[ArmResult]) -> Mapping[str, float]:
    """Find the lowest figure of each split that several arms have."""
    figures = {s: [r.values[s] for r in results if r.values[s] is not None] for s in SPLITS}
    return {s: min(f for f in v if f is not None) for s, v in figures.items() if len(v) > 1}


def _provenance(results: Sequence[ArmResult]) -> tuple[Fact, ...]:
    rows = [(words.arm_name(r.arm, r.point), dict(r.extra) | {"seed": r.seed}) for r in results]
    names = dict.fromkeys(name for _, row in rows for name in row)
    ordered = [n for n in _FIRST_FACTS if n in names]
    ordered += [n for n in names if n not in _FIRST_FACTS]
    facts = []
    for name in ordered:
        values = [(arm, _plain(row[name])) for arm, row in rows if name in row]
        if len({value for _, value in values}) == 1:
            values = [("", values[0][1])]
        facts.append(Fact(words.spoken(name), tuple(values)))
    return tuple(facts)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, str):
        return value
    return "–" if value is None else json.dumps(value, ensure_ascii=False)
