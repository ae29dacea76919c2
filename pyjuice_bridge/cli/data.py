"""``data list`` and ``data get``."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def data() -> None:
    """List the sets of images and text, or get one."""


@data.command("list")
def list_sets() -> None:
    """Name the sets that 'data.name' accepts, with what is known about them."""
    from pyjuice_bridge.data import names
    from pyjuice_bridge.data.files import cache_dir
    from pyjuice_bridge.data.shapes import SHAPES
    from pyjuice_bridge.data.text_corpora import CORPORA

    for name in names():
        known = SHAPES.get(name)
        size = f"{'×'.join(map(str, known.shape)):>8}  {known.train:>9,} train" if known else ""
        click.echo(f"{name:<16} {size:<26} {_here(cache_dir() / name)}")
    click.echo("A path also works: a folder of pictures, a .npy or an .npz file.\n")
    for name, corpus in CORPORA.items():
        click.echo(f"{name:<16} {corpus.about:<39} {_here(cache_dir() / name)}")
    click.echo("A path also works: text files, WikiText .tokens, .raw or parquet, or a folder.")


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


def _here(folder: Path) -> str:
    return "here" if folder.is_dir() and any(folder.iterdir()) else "not here"
