"""``convert``: a circuit from one program's file to another's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pyjuice_bridge.errors import UserError

if TYPE_CHECKING:
    from pyjuice_bridge.circuit.formats import Format

FORMATS = ("hdf5", "pyjuice", "juice", "ctrlg")
"""Those of ``circuit.formats``, which takes long to load."""


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "form",
    type=click.Choice(FORMATS),
    help="What OUT is to be; hdf5 where it ends in .h5.",
)
def convert(model: Path, out: Path, form: Format | None) -> None:
    """Convert MODEL to another program's format.

    MODEL is a run's folder, a file of this program, PyJuice or Juice, or a folder of Ctrl-G; what
    it is shows from its content.
    """
    from pyjuice_bridge.circuit.formats import read_circuit, write_circuit

    if form is None:
        if out.suffix != ".h5":
            raise UserError(f"{out}: say what it is to be with --to {', '.join(FORMATS)}.")
        form = "hdf5"
    source = model / "model.h5" if (model / "model.h5").is_file() else model
    circuit = read_circuit(source)
    write_circuit(circuit, out, form)
    structure = circuit.meta.get("structure", "circuit")
    click.echo(f"{out}: {structure} of {circuit.num_vars:,} variables, {form}")
