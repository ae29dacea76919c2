"""Circuits in files: the package's own, and other programs' (``docs/formats.md``)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.formats.ctrlg import CONFIG, WEIGHTS, load_ctrlg, save_ctrlg
from pyjuice_bridge.circuit.formats.juice import is_juice, read_juice, write_juice
from pyjuice_bridge.circuit.formats.pyjuice import is_pickle, read_pyjuice, write_pyjuice
from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.errors import UserError

__all__ = ["FORMATS", "Format", "is_ctrlg", "read_circuit", "write_circuit"]

Format = Literal["hdf5", "pyjuice", "juice", "ctrlg"]
FORMATS: tuple[Format, ...] = get_args(Format)
_WINDOW = 32
"""Positions of the circuit of a model of Ctrl-G, which has no length of its own."""


def is_ctrlg(path: Path) -> bool:
    """Tell whether a folder holds a model of Ctrl-G."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def read_circuit(path: Path | str) -> Circuit:
    """Read a circuit from any file that is recognised by its content.

    A folder of Ctrl-G becomes the circuit of a text of 32 tokens that may end.

    Raises:
        UserError: the file is none of these, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        hmm, end = load_ctrlg(path)
        circuit = hmm.circuit(_WINDOW)
        meta = {**circuit.meta, "domain": "text", "token": "tokens", "end": end}
        return replace(circuit, meta=meta)
    if path.is_file():
        if is_pickle(path):
            return read_pyjuice(path)
        if is_juice(path):
            return read_juice(path)
    return hdf5.load(path)


def write_circuit(circuit: Circuit, path: Path | str, form: Format) -> None:
    """Write a circuit as a file of another program, or as the package's own.

    Args:
        circuit: what is written.
        path: the file; of ``ctrlg`` a folder.
        form: one of ``FORMATS``.

    Raises:
        UserError: the format cannot hold the circuit, or the file cannot be written.
    """
    if form not in FORMATS:
        raise UserError(f"format: {form!r} is not one of {', '.join(FORMATS)}.")
    if form == "ctrlg":
        end = circuit.meta.get("end")
        if not isinstance(end, int):
            raise UserError(
                f"{path}: Ctrl-G's models end in a token of their own, which this circuit does not "
                "name; distill a language model that ends its texts."
            )
        save_ctrlg(Hmm.of(circuit), path, eos_token_id=end)
        return
    {"hdf5": hdf5.save, "pyjuice": write_pyjuice, "juice": write_juice}[form](circuit, path)
