"""The state of a training between two epochs, as an HDF5 file written atomically.

Arrays are laid out as in the circuit's layers.  A file is read as a circuit file is: nothing in it
is believed, and what is no state of the training at hand ends in one sentence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.circuit.h5_files import (
    atomic_h5,
    members,
    open_checked,
    place,
    read_array,
    read_attribute,
    write_array,
    write_attribute,
)
from pyjuice_bridge.circuit.types import Circuit, layer_params
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.engines.base import Epoch, FitOptions
from pyjuice_bridge.engines.torch.backward import new_counts
from pyjuice_bridge.engines.torch.candidates import Candidates
from pyjuice_bridge.engines.torch.program import (
    InputPlan,
    Params,
    Program,
    in_layers,
    to_device,
)
from pyjuice_bridge.errors import UserError

_FORMAT = "juice-bridge-checkpoint"
_VERSION = 2
_COLUMNS = ("step_size", "train", "valid", "seconds")
"""Of ``/history``; ``valid`` is NaN without a validation set."""
_ROUNDING = 1e-3
"""How far above 0 the log of a probability may be rounded."""


@dataclass
class State:
    """All that training changes; a checkpoint is this, written out."""

    params: Params
    momentum: Params | None = None
    momentum_rows: torch.Tensor | None = None
    """float64 [1, roots]: the rows that ``momentum`` averages, averaged with the same weights."""
    steps: int = 0
    history: list[Epoch] = field(default_factory=list)
    best: Params | None = None
    candidates: Candidates | None = None

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the best validation score, the first of equal ones; None without scores."""
        scores = [e.valid for e in self.history]
        if not scores or scores[0] is None:
            return None
        return int(np.argmax([-math.inf if s is None or math.isnan(s) else s for s in scores]))


@dataclass(frozen=True)
class Training:
    """What a state belongs to.

    Attributes:
        key: identifies the training (see ``resume.training_key``).
        circuit: where it began.
        program: the circuit, compiled.
        options: how it is trained.
        batches: mini-batches per epoch.
        validates: whether there is a validation set.
        candidates: of latent values, unless all are evaluated in every pass.
    """

    key: str
    circuit: Circuit
    program: Program
    options: FitOptions
    batches: int
    validates: bool
    candidates: Candidates | None = None


def write(path: Path, state: State, training: Training) -> None:
    """Write ``state``, in place of an earlier one."""
    program = training.program
    with atomic_h5(path) as file:
        facts: dict[str, str | int] = {"format": _FORMAT, "version": _VERSION, "key": training.key}
        for name, value in {**facts, "steps": state.steps}.items():
            write_attribute(file, name, value)
        write_array(file, "history", _table(state.history))
        _write_params(file, "params", program, state.params)
        if state.momentum is not None and state.momentum_rows is not None:
            _write_params(file, "momentum", program, state.momentum)
            write_array(file, "momentum_rows", state.momentum_rows.cpu().numpy())
        if state.candidates is not None:
            write_array(file, "candidates", state.candidates.known.numpy())
        if state.best is not None and state.best_epoch != len(state.history) - 1:
            _write_params(file, "best", program, state.best)


def read(path: Path, training: Training) -> State:
    """Read what ``write`` wrote.

    Raises:
        UserError: the file is damaged, or belongs to another training.
    """
    try:
        with open_checked(path, _FORMAT, _VERSION) as file:
            if read_attribute(file, "key", str) != training.key:
                raise UserError(
                    f"{path} belongs to another training (other data, circuit or options)"
                )
            return _state(file, training)
    except UserError as error:
        sentence = f"{str(error).rstrip('.')}; delete it to start afresh."
        raise UserError(sentence) from error


def _state(file: h5py.File, training: Training) -> State:
    history = _history(file, training)
    steps = read_attribute(file, "steps", int)
    if steps != len(history) * training.batches:
        raise UserError(
            f"{place(file)}: steps is {steps}, but {len(history)} epochs of {training.batches} "
            "batches are done"
        )
    state = State(_params(file, "params", training), steps=steps, history=history)
    state.candidates = _candidates(file, training)
    if training.options.optimizer == "anemone":
        state.momentum = _momentum(file, training)
        shape = (1, len(training.circuit.roots))
        rows = _checked(file, "momentum_rows", 2, np.dtype(np.float64), shape)
        state.momentum_rows = torch.from_numpy(rows).to(training.program.device)
    best = state.best_epoch
    if best == len(history) - 1:
        state.best = [None if p is None else p.clone() for p in state.params]
    elif best is not None:
        state.best = _params(file, "best", training)
    return state


def _table(history: list[Epoch]) -> NDArray[np.float64]:
    lines = [
        (e.step_size, e.train, math.nan if e.valid is None else e.valid, e.seconds) for e in history
    ]
    return np.array(lines, np.float64).reshape(len(lines), len(_COLUMNS))


def _history(file: h5py.File, training: Training) -> list[Epoch]:
    table = read_array(file, "history", "float", 2)
    most = training.options.epochs
    good = table.shape[1] == len(_COLUMNS) and 1 <= len(table) <= most
    if not good or table.dtype != np.float64:
        raise UserError(
            f"{place(file, 'history')}: is {table.dtype} {list(table.shape)}, must be float64 "
            f"[1 … {most}, {len(_COLUMNS)}]"
        )
    step_size, train, valid, seconds = table.T
    sound = (step_size > 0) & (step_size <= 1) & (train < _ROUNDING) & (seconds >= 0)
    sound &= (valid < _ROUNDING) if training.validates else np.isnan(valid)
    if not sound.all():
        row = int(np.argmin(sound))
        raise UserError(f"{place(file, 'history')}: row {row} is no epoch: {table[row].tolist()}")
    return [
        Epoch(number, step, score, held_out if training.validates else None, time)
        for number, (step, score, held_out, time) in enumerate(table.tolist())
    ]


def _write_params(file: h5py.File, name: str, program: Program, tensors: Params) -> None:
    group = file.create_group(name)
    for layer, array in enumerate(in_layers(program, tensors)):
        if array is not None:
            write_array(group, str(layer), array)


def _params(file: h5py.File, name: str, training: Training) -> Params:
    """Read parameters, which must make a circuit, onto the device."""
    arrays = _arrays(file, name, training, tuple(range(len(training.circuit.layers))))
    circuit = training.circuit.with_layer_params(arrays)
    check(circuit, place(file, name))
    return to_device(circuit, training.program.device, training.program.dtype)


def _momentum(file: h5py.File, training: Training) -> Params:
    program, options = training.program, training.options
    layers = range(len(training.circuit.layers))
    free = tuple(layer for layer in layers if layer not in options.frozen)
    arrays = _arrays(file, "momentum", training, free)
    momentum = new_counts(
        program, to_device(training.circuit, program.device, program.dtype), options.frozen
    )
    for plan, tensor, array in zip(program.layers, momentum, arrays, strict=True):
        if tensor is not None and array is not None:
            counts = torch.from_numpy(array)
            if isinstance(plan, InputPlan):
                tensor[:, 1:] = counts.transpose(1, 2)
            else:
                tensor.copy_(counts)
    return momentum


def _candidates(file: h5py.File, training: Training) -> Candidates | None:
    fresh = training.candidates
    if fresh is None:
        return None
    known = read_array(file, "candidates", "int32", 3)
    if known.shape != tuple(fresh.known.shape):
        raise UserError(
            f"{place(file, 'candidates')}: is {list(known.shape)}, must be "
            f"{list(fresh.known.shape)}"
        )
    if known.min() < 0 or known.max() >= fresh.values:
        raise UserError(f"{place(file, 'candidates')}: must hold numbers below {fresh.values}")
    return replace(fresh, known=torch.from_numpy(known))


def _arrays(
    file: h5py.File, name: str, training: Training, layers: tuple[int, ...]
) -> list[NDArray[Any] | None]:
    """Read an array for each of the layers that has parameters of its own."""
    names = members(file, name)
    dtype = np.dtype(str(training.program.dtype).removeprefix("torch."))
    found: list[NDArray[Any] | None] = []
    for index, layer in enumerate(training.circuit.layers):
        own = layer_params(layer) if index in layers else None
        if own is None:
            found.append(None)
            continue
        found.append(_checked(file, f"{name}/{index}", 3, dtype, own.shape))
    wanted = {str(index) for index, array in enumerate(found) if array is not None}
    if set(names) != wanted:
        raise UserError(f"{place(file, name)}: must hold the layers {', '.join(sorted(wanted))}")
    return found


def _checked(
    file: h5py.File, name: str, ndim: int, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Read an array of finite numbers from 0 on, of one type and shape."""
    array = read_array(file, name, "float", ndim)
    if array.dtype != dtype or array.shape != shape:
        raise UserError(
            f"{place(file, name)}: is {array.dtype} {list(array.shape)}, must be {dtype} "
            f"{list(shape)}"
        )
    if not (np.isfinite(array) & (array >= 0)).all():
        raise UserError(f"{place(file, name)}: must hold finite numbers from 0 on")
    return array
