"""``show``, ``compare`` and ``clean``."""

from __future__ import annotations

from pathlib import Path

import click

from pyjuice_bridge.errors import UserError


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def show(path: Path) -> None:
    """Describe a run, a model or assignments.

    PATH is a run's folder, a model file or an assignments file.
    """
    from pyjuice_bridge.cli.tables import make_console, results_table

    console = make_console()
    if path.is_dir():
        from pyjuice_bridge.report.run_dir import read_run
        from pyjuice_bridge.report.words import outcome

        if not (path / "config.yaml").exists():
            raise UserError(f"{path} holds no config.yaml, so it is not a run's folder")
        run = read_run(path)
        console.print(results_table(path))
        console.print(outcome(run.results, run.dataset), highlight=False)
        if (path / "report.html").exists():
            console.print(f"report: {path / 'report.html'}", soft_wrap=True, highlight=False)
        return
    for line in _describe_file(path):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _describe_file(path: Path) -> list[str]:
    from pyjuice_bridge.circuit.h5_files import format_of
    from pyjuice_bridge.circuit.hdf5 import load
    from pyjuice_bridge.cluster.assignments import FORMAT

    if format_of(path) == FORMAT:
        return _describe_assignments(path)
    circuit = load(path)
    lines = [repr(circuit), "layers, as number of blocks × nodes in each:"]
    for layer, width in zip(circuit.layers, circuit.widths, strict=True):
        name = type(layer).__name__.removesuffix("Layer").lower()
        kind = f" {layer.kind}" if name == "product" else ""  # type: ignore[union-attr]
        lines.append(f"  {name}{kind}: {layer.num_blocks:,} × {width}")
    lines += [f"latents {name}: {len(blocks)}" for name, blocks in circuit.latents.items()]
    return lines + [f"{key}: {value}" for key, value in circuit.meta.items()]


def _describe_assignments(path: Path) -> list[str]:
    import numpy as np

    from pyjuice_bridge.cluster.assignments import Assignments

    found = Assignments.load(path)
    lines = [f"assignments: {found.clusters} clusters, {found.positions} positions"]
    for split, z in found.z.items():
        counts = np.bincount(z.ravel(), minlength=found.clusters)
        shares = counts[counts > 0] / max(1, counts.sum())
        used = f"{len(shares)} of {found.clusters} values used"
        entropy = -float((shares * np.log2(shares)).sum())
        lines.append(f"  {split}: {len(z):,} rows, {used}, entropy {entropy:.2f} bits")
    if found.centroids is not None:
        lines.append(f"  centroids: {'×'.join(map(str, found.centroids.shape))}")
    return lines + [f"{key}: {value}" for key, value in found.attributes.items()]


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
def compare(runs: tuple[Path, ...]) -> None:
    """Compare runs over their seeds.

    A line is an arm of one config: the mean ± standard deviation of the RUNS that differ in their
    seed alone, time the mean.
    """
    from pyjuice_bridge.cli.tables import compare_rows, make_console
    from pyjuice_bridge.report.compare import compare_table

    make_console().print(compare_rows(compare_table(runs)))


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
    found = unused(folder)
    if not found:
        click.echo("nothing to delete")
        return
    sizes = {p: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in found}
    for path, size in sizes.items():
        click.echo(f"{path}  {bytes_text(size)}")
    total = bytes_text(sum(sizes.values()))
    if not yes and not click.confirm(f"delete these {len(found)} folders ({total})?"):
        click.echo("nothing deleted")
        return
    kept = [path for path in found if not remove(path)]
    for path in kept:
        click.echo(f"kept {path}: a process is working on it")
    click.echo(f"deleted {len(found) - len(kept)} folders")
