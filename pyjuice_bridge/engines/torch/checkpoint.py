"""The state of a training between two epochs, as an HDF5 file written atomically."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import torch

from pyjuice_bridge.circuit.h5_files import atomic_h5, open_checked, read_attribute, write_attribute
from pyjuice_bridge.engines.base import Epoch
from pyjuice_bridge.engines.torch.program import Params, Program
from pyjuice_bridge.errors import UserError

if TYPE_CHECKING:
    from pyjuice_bridge.engines.torch.fit import State

_FORMAT = "juice-bridge-checkpoint"
_VERSION = 1


def write(path: Path, state: State, key: str) -> None:
    """Write ``state``; ``key`` identifies the training it belongs to."""
    with atomic_h5(path) as file:
        history = json.dumps([asdict(epoch) for epoch in state.history])
        facts: dict[str, str | int] = {
            "format": _FORMAT,
            "version": _VERSION,
            "key": key,
            "steps": state.steps,
        }
        for name, value in {**facts, "history": history}.items():
            write_attribute(file, name, value)
        _write_tensors(file, "params", state.params)
        if state.momentum is not None:
            _write_tensors(file, "momentum", state.momentum)
        if state.momentum_rows is not None:
            file.create_dataset("momentum_rows", data=state.momentum_rows.cpu().numpy())
        if state.best is not None and state.best_epoch != len(state.history) - 1:
            _write_tensors(file, "best", state.best)


def read(path: Path, program: Program, key: str) -> State:
    """Read what ``write`` wrote.

    Raises:
        UserError: the file is damaged, or belongs to another training.
    """
    from pyjuice_bridge.engines.torch.fit import State

    with open_checked(path, _FORMAT, _VERSION) as file:
        if read_attribute(file, "key", str) != key:
            raise UserError(
                f"{path} belongs to another training (other data, circuit or options); "
                "delete it to start afresh."
            )
        params = _read_tensors(file, "params", program)
        assert params is not None
        history = [Epoch(**line) for line in json.loads(read_attribute(file, "history", str))]
        state = State(
            params=params,
            momentum=_read_tensors(file, "momentum", program),
            momentum_rows=torch.from_numpy(file["momentum_rows"][()]).to(program.device)
            if "momentum_rows" in file
            else None,
            steps=read_attribute(file, "steps", int),
            history=history,
            best=_read_tensors(file, "best", program),
        )
    if state.best is None and state.best_epoch is not None:
        state.best = [None if p is None else p.clone() for p in state.params]
    return state


def _write_tensors(file: h5py.File, name: str, tensors: Params) -> None:
    group = file.create_group(name)
    for layer, tensor in enumerate(tensors):
        if tensor is not None:
            group.create_dataset(str(layer), data=tensor.cpu().numpy())


def _read_tensors(file: h5py.File, name: str, program: Program) -> Params | None:
    if name not in file:
        return None
    group = file[name]
    return [
        torch.from_numpy(group[str(layer)][()]).to(program.device, program.dtype)
        if str(layer) in group
        else None
        for layer in range(len(program.layers))
    ]
