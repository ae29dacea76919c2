"""``data list`` and ``data get``."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def data() -> None:
    """List the data sets known by name, or get one."""


@data.command("list")
def list_sets() -> None:
    """Name the sets that 'data.name' accepts, with what is known about them."""
    from pyjuice_bridge.data.catalogue import SETS
    from pyjuice_bridge.data.files import cache_dir

    for domain, paths in _PATHS.items():
        for entry in SETS.values():
            if entry.domain == domain:
                known = entry.published
                size = "x".join(map(str, known.get("shape", ())))
                size = f"{known['columns']:,} columns" if "columns" in known else size
                rows = f"{known['train']:,} train" if "train" in known else ""
                there = "here" if is_here(cache_dir() / entry.folder) else "not here"
                about = f"{entry.about:<42.42}"
                click.echo(f"{entry.name:<16} {about} {size:>13} {rows:>17}  {there}")
        click.echo(f"A path also works for {domain}: {paths}.\n")


@data.command()
@click.argument("name")
@click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="Put it into ROOT/NAME; default: the cache, where runs look for it.",
)
def get(name: str, root: Path | None) -> None:
    """Obtain the set NAME and check it; what is there already is kept."""
    from pyjuice_bridge.data import get_dataset

    click.echo(f"{name} is in {get_dataset(name, root)}")


_PATHS = {
    "images": "a folder of pictures, a .npy or an .npz file",
    "text": "text files, WikiText .tokens, .raw or parquet, or a folder of them",
    "table": "a .csv, .data, .npy, .npz or .parquet file, or a folder of them",
}


def is_here(folder: Path) -> bool:
    """Return whether a set's folder holds something."""
    return folder.is_dir() and any(folder.iterdir())
