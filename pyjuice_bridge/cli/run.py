"""``run`` and ``init``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from pyjuice_bridge.errors import UserError


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="A.B=VALUE",
    help="Change a field of the config; may be given several times.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The run's folder; default: runs/<name>."
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "julia"]),
    help="What runs circuits; default: the config's, which is auto if not given.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Where; default: the config's, which is auto if not given.",
)
@click.option("--fresh", is_flag=True, help="Compute every stage anew, reuse nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Print results only, no progress.")
@click.option("-v", "--verbose", is_flag=True, help="Print what else goes to log.txt.")
@click.option(
    "--plan", is_flag=True, help="Show parameters, memory and predicted time; run nothing."
)
def run(
    config: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    engine: str | None,
    device: str | None,
    fresh: bool,
    quiet: bool,
    verbose: bool,
    plan: bool,
) -> None:
    """Run CONFIG from data to report.

    Progress goes to standard error, results to standard output.

    Finished stages are kept in 'artifacts' beside the run's folder and reused by every run that
    needs the same; a run that was stopped continues when started again.
    """
    from pyjuice_bridge import processes
    from pyjuice_bridge.cli.tables import make_console
    from pyjuice_bridge.runner.config import load_config

    changes = [*overrides]
    changes += [f"engine={engine}"] if engine else []
    changes += [f"device={device}"] if device else []
    checked = load_config(config, changes)
    console = make_console()
    console.quiet = not processes.leads()
    if plan:
        from pyjuice_bridge.cli.tables import plan_table
        from pyjuice_bridge.runner.plan import make_plan

        console.print(plan_table(make_plan(checked)))
        return
    from pyjuice_bridge.cli.tables import results_table
    from pyjuice_bridge.report.run_dir import read_run
    from pyjuice_bridge.runner.api import run as run_config

    progress = make_console(stderr=True)
    progress.quiet = quiet or console.quiet
    result = run_config(checked, out=out, fresh=fresh, console=progress, verbose=verbose)
    console.print(results_table(read_run(result.path)))
    console.print(f"report: {result.report}", soft_wrap=True, highlight=False)


@click.command()
@click.argument("kind", type=click.Choice(["image", "text", "table"]))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write to this file instead of the screen."
)
def init(kind: str, out: Path | None) -> None:
    """Write a commented config to start from."""
    text = resources.files("pyjuice_bridge.cli").joinpath(f"{kind}.yaml").read_text("utf-8")
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{out} is there already; choose another name or remove it") from None
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})") from None
    click.echo(f"wrote {out}; start it with: python -m pyjuice_bridge run {out}")
