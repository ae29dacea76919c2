"""What parent and worker hand each other: a folder of HDF5 files per request."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.digest import digest
from pyjuice_bridge.circuit.h5_files import atomic_h5, write_array, write_attribute
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.julia_watch import IN_MEMORY, locked_folder

_MARGIN = 1 << 24

Facts = Mapping[str, str | int | float | None]


@dataclass(frozen=True)
class Request:
    """A question to the worker.

    Attributes:
        do: what to do; ``julia/src/serve.jl`` lists what can be asked.
        facts: settings, None where one is not given.
        arrays: by name, a ``/`` in it making a group; None where one is not given.
        circuits: by name, written into the folder.
        subject: the circuit of a question to the engine, named by its ``key``.  The worker keeps
            the last one, so it is written only if it is another.
    """

    do: str
    facts: Facts
    arrays: Mapping[str, NDArray[Any] | None]
    circuits: Mapping[str, Circuit] = field(default_factory=dict)
    subject: Circuit | None = None

    @cached_property
    def key(self) -> str | None:
        """A hash of everything in the subject."""
        return None if self.subject is None else digest(self.subject)

    @property
    def bytes(self) -> int:
        """About how much is written."""
        arrays = [a for a in self.arrays.values() if a is not None]
        for circuit in filter(None, (*self.circuits.values(), self.subject)):
            arrays += [v for layer in circuit.layers for v in vars(layer).values()]
        return sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))

    def write(self, folder: Path) -> None:
        """Write ``request.h5``, and ``<name>.h5`` for every circuit but the subject."""
        for name, circuit in self.circuits.items():
            hdf5.save(circuit, folder / f"{name}.h5")
        with atomic_h5(folder / "request.h5") as file:
            facts = {"do": self.do, "circuit_key": self.key, **self.facts}
            for name, fact in facts.items():
                if fact is not None:
                    write_attribute(file, name, fact)
            for name, array in self.arrays.items():
                if array is not None:
                    write_array(file, name, array)

    def write_subject(self, folder: Path) -> None:
        """Write the subject as ``circuit.h5``."""
        assert self.subject is not None
        hdf5.save(self.subject, folder / "circuit.h5")


@dataclass(frozen=True)
class Answer:
    """What the worker left: arrays and numbers by name, and a circuit if one was asked for."""

    arrays: Mapping[str, NDArray[Any]]
    facts: Mapping[str, Any]
    circuit: Circuit | None

    @classmethod
    def read(cls, folder: Path) -> Answer:
        """Read ``answer.h5`` and ``made.h5``, where they are."""
        arrays: dict[str, NDArray[Any]] = {}
        facts: dict[str, Any] = {}
        if (folder / "answer.h5").exists():
            with h5py.File(folder / "answer.h5") as file:
                facts.update(file.attrs)
                file.visititems(lambda name, item: _collect(arrays, name, item))
        made = folder / "made.h5"
        return cls(arrays, facts, hdf5.load(made) if made.exists() else None)


def _collect(arrays: dict[str, NDArray[Any]], name: str, item: object) -> None:
    if isinstance(item, h5py.Dataset):
        arrays[name] = item[()]


@contextmanager
def exchange_folder(size: int) -> Iterator[Path]:
    """Make a private folder, in memory if there is ample room for ``size`` bytes."""
    roomy = (
        IN_MEMORY.is_dir()
        and os.access(IN_MEMORY, os.W_OK)
        and shutil.disk_usage(IN_MEMORY).free > 4 * size + _MARGIN
    )
    with locked_folder(IN_MEMORY if roomy else Path(tempfile.gettempdir())) as folder:
        yield folder
