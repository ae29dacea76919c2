"""The arm ``start``: training that continues from a circuit that is there already."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyjuice_bridge.circuit.digest import digest
from pyjuice_bridge.circuit.formats import read_circuit
from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.circuit.size import size_of
from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.distill.base import Initialisation
from pyjuice_bridge.distill.registry import KINDS
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.errors import UserError, shown

ARM = "start"
OBJECT = "object"
"""``train.start`` where the circuit is handed over from Python."""


def warm_start(context: Context) -> Initialisation:
    """Begin with the circuit of ``train.start``.

    Raises:
        UserError: there is none, or it does not fit the data or the config's circuit.
    """
    named = context.config.train.start
    if (named == OBJECT) != (context.start is not None):
        raise UserError("'train.start: object' belongs to run(config, start=…) from Python")
    circuit = context.start if context.start is not None else _read(Path(str(named)))
    circuit = _fitting(context, circuit, "start" if named == OBJECT else str(named))
    key = {"start": digest(circuit)}
    return Initialisation(ARM, key, lambda: circuit, ())


def circuit_of(start: object) -> Circuit:
    """Return the circuit of what was handed over as a start.

    Raises:
        UserError: it has none.
    """
    circuit = getattr(start, "circuit", start)
    if not isinstance(circuit, Circuit):
        raise UserError(
            f"start is {shown(start)}, must be a circuit, a model, a file or a run's folder."
        )
    return circuit


def _read(path: Path) -> Circuit:
    """Read a circuit from a file, or a run's folder."""
    path = path.expanduser()
    model = path / "model.h5"
    return read_circuit(model if model.is_file() else path)


def _fitting(context: Context, circuit: Circuit, name: str) -> Circuit:
    """Return the circuit, an HMM of the data's length; refuse one that does not fit."""
    section, data = context.config.circuit, context.data
    kind, sizes = KINDS[section.kind], data.categories
    if kind.name == "hmm":
        circuit = Hmm.of(circuit).circuit(len(sizes))
    if len(circuit.roots) != 1:
        raise UserError(
            f"train.start: {name} has {len(circuit.roots)} roots; give a circuit of one"
        )
    if not np.array_equal(circuit.categories, sizes):
        raise UserError(
            f"train.start: {name} models {_variables(circuit.categories)}, but {data.name} has "
            f"{_variables(sizes)}"
        )
    wanted = size_of(kind.structure(section, "random", data.shape)).parameters
    components = getattr(section, "mixture", None)
    wanted = wanted if components is None else components * (wanted + 1)
    if kind.fixed and circuit.num_parameters != wanted:
        raise UserError(
            f"train.start: {name} has {circuit.num_parameters:,} parameters, but 'circuit' "
            f"describes one of {wanted:,}; set 'circuit' to that of its run"
        )
    return circuit


def _variables(categories: IntArray) -> str:
    low, high = int(categories.min()), int(categories.max())
    values = f"{low}" if low == high else f"{low} to {high}"
    return f"{len(categories):,} variables of {values} values"
