"""``show``, ``compare`` and ``clean``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyjuice_bridge.cli.options import JSON
from pyjuice_bridge.errors import UserError

if TYPE_CHECKING:
    from pyjuice_bridge.circuit.types import Circuit
    from pyjuice_bridge.cluster.assignments import Assignments


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@JSON
def show(path: Path, as_json: bool) -> None:
    """Describe a run, a folder of runs, a model or assignments.

    PATH is a run's folder or one of several runs, a model file or an assignments file.
    """
    if path.is_dir():
        if not (path / "config.yaml").exists():
            _show_runs(path, as_json)
        else:
            _show_run(path, as_json)
        return
    from pyjuice_bridge.circuit.h5_files import format_of
    from pyjuice_bridge.circuit.hdf5 import load
    from pyjuice_bridge.cli.tables import make_console
    from pyjuice_bridge.cluster.assignments import FORMAT, Assignments

    if format_of(path) == FORMAT:
        values = _assignments(Assignments.load(path))
        lines = _assignments_lines(values)
    else:
        circuit = load(path)
        values = _circuit(circuit)
        lines = [repr(circuit), *_circuit_lines(values)]
    if as_json:
        _print_json(values)
        return
    console = make_console()
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _show_runs(folder: Path, as_json: bool) -> None:
    """Describe every run in a folder."""
    from pyjuice_bridge.cli.tables import make_console, runs_table

    runs = sorted(config.parent for config in folder.glob("*/config.yaml"))
    if not runs:
        raise UserError(f"{folder} holds no config.yaml, so it is not a run's folder")
    if as_json:
        from pyjuice_bridge.files import read_json

        result_files = {run.name: run / "results.json" for run in runs}
        _print_json({name: read_json(path) for name, path in result_files.items() if path.exists()})
        return
    make_console().print(runs_table(folder, runs))


def _show_run(path: Path, as_json: bool) -> None:
    from pyjuice_bridge.cli.tables import make_console, results_table
    from pyjuice_bridge.files import read_json
    from pyjuice_bridge.report.run_dir import read_run
    from pyjuice_bridge.report.words import outcome

    run = read_run(path)
    report = path / "report.html"
    if as_json:
        rows = read_json(path / "results.json") if run.results else []
        place = str(report) if report.exists() else None
        _print_json({"name": run.name, "results": rows, "report": place})
        return
    console = make_console()
    console.print(results_table(run))
    console.print(outcome(run.results, run.dataset), highlight=False)
    if report.exists():
        console.print(f"report: {report}", soft_wrap=True, highlight=False)


def _circuit(circuit: Circuit) -> dict[str, Any]:
    layers = []
    for layer, width in zip(circuit.layers, circuit.widths, strict=True):
        name = type(layer).__name__.removesuffix("Layer").lower()
        kind = f" {layer.kind}" if name == "product" else ""  # type: ignore[union-attr]
        layers.append({"kind": f"{name}{kind}", "blocks": layer.num_blocks, "nodes": width})
    return {
        "variables": circuit.num_vars,
        "parameters": circuit.num_parameters,
        "roots": len(circuit.roots),
        "layers": layers,
        "latents": {name: len(blocks) for name, blocks in circuit.latents.items()},
        "meta": dict(circuit.meta),
    }


def _circuit_lines(values: dict[str, Any]) -> list[str]:
    lines = ["layers, as number of blocks × nodes in each:"]
    lines += [f"  {n['kind']}: {n['blocks']:,} × {n['nodes']}" for n in values["layers"]]
    lines += [f"latents {name}: {count}" for name, count in values["latents"].items()]
    return lines + [f"{key}: {value}" for key, value in values["meta"].items()]


def _assignments(found: Assignments) -> dict[str, Any]:
    import numpy as np

    splits = {}
    for split, z in found.z.items():
        counts = np.bincount(z.ravel(), minlength=found.clusters)
        shares = counts[counts > 0] / max(1, counts.sum())
        splits[split] = {
            "rows": len(z),
            "used": len(shares),
            "entropy": -float((shares * np.log2(shares)).sum()),
        }
    return {
        "clusters": found.clusters,
        "positions": found.positions,
        "splits": splits,
        "centroids": None if found.centroids is None else list(found.centroids.shape),
        "attributes": dict(found.attributes),
    }


def _assignments_lines(values: dict[str, Any]) -> list[str]:
    clusters = values["clusters"]
    lines = [f"assignments: {clusters} clusters, {values['positions']} positions"]
    for split, facts in values["splits"].items():
        used = f"{facts['used']} of {clusters} values used"
        entropy = f"entropy {facts['entropy']:.2f} bits"
        lines.append(f"  {split}: {facts['rows']:,} rows, {used}, {entropy}")
    if values["centroids"]:
        lines.append(f"  centroids: {'×'.join(map(str, values['centroids']))}")
    return lines + [f"{key}: {value}" for key, value in values["attributes"].items()]


def _print_json(value: Any) -> None:
    from pyjuice_bridge.files import finite

    click.echo(json.dumps(finite(value), indent=1))


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@JSON
def compare(runs: tuple[Path, ...], as_json: bool) -> None:
    """Compare runs over their seeds.

    A line is an arm of one config: the mean ± standard deviation of the RUNS that differ in their
    seed alone, time the mean.
    """
    from dataclasses import asdict

    from pyjuice_bridge.cli.tables import compare_rows, make_console
    from pyjuice_bridge.report.compare import compare_table

    rows = compare_table(runs)
    if not as_json:
        make_console().print(compare_rows(rows))
        return
    values = []
    for row in rows:
        runs_of_row = [str(run) for run in row.runs]
        values.append({**asdict(row), "runs": runs_of_row, "unit": row.measure.unit})
        del values[-1]["measure"]
    _print_json(values)


@click.command()
@click.argument(
    "folder", type=click.Path(path_type=Path), default=Path("runs"), metavar="[RUNS_FOLDER]"
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(folder: Path, yes: bool) -> None:
    """Delete stored stages that no run needs.

    Those in RUNS_FOLDER (default: runs) that no run there refers to.  A stage is referred to as
    soon as a run starts on it, and no longer once the run's folder is deleted or its config has
    changed.
    """
    from pyjuice_bridge.report.words import bytes_text
    from pyjuice_bridge.stages.store import remove, unused

    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    unused_stages = unused(folder)
    if not unused_stages:
        click.echo("nothing to delete")
        return
    sizes = {p: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in unused_stages}
    for path, size in sizes.items():
        click.echo(f"{path}  {bytes_text(size)}")
    total = bytes_text(sum(sizes.values()))
    if not yes and not click.confirm(f"delete these {len(unused_stages)} folders ({total})?"):
        click.echo("nothing deleted")
        return
    busy = [path for path in unused_stages if not remove(path)]
    for path in busy:
        click.echo(f"kept {path}: a process is working on it")
    click.echo(f"deleted {len(unused_stages) - len(busy)} folders")
