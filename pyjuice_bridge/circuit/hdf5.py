"""Circuits as HDF5 files, version 1 of the format that ``docs/format.md`` specifies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast, get_args

import h5py
import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.families.registry import family_of
from pyjuice_bridge.circuit.h5_files import (
    atomic_h5,
    members,
    open_checked,
    place,
    read_array,
    read_attribute,
    read_attributes,
    write_array,
    write_attribute,
)
from pyjuice_bridge.circuit.types import (
    Circuit,
    InputLayer,
    Layer,
    ProductKind,
    ProductLayer,
    SumLayer,
)
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.errors import UserError, shown

FORMAT = "juice-bridge-circuit"
VERSION = 1


def save(circuit: Circuit, path: Path | str) -> None:
    """Write ``circuit`` to ``path``, atomically; ``load`` returns it bit for bit.

    Raises:
        UserError: ``circuit`` does not pass ``check``, or the file cannot be written.
    """
    check(circuit, f"circuit for {path}")
    with atomic_h5(path) as file:
        write_attribute(file, "format", FORMAT)
        write_attribute(file, "version", VERSION)
        write_attribute(file, "num_vars", circuit.num_vars)
        layers = file.create_group("layers")
        for i, layer in enumerate(circuit.layers):
            _write_layer(layers.create_group(str(i)), layer)
        write_array(file, "roots", circuit.roots)
        latents = file.create_group("latents")
        for name, blocks in circuit.latents.items():
            write_array(latents, name, blocks)
        meta = file.create_group("meta")
        for name, value in circuit.meta.items():
            write_attribute(meta, name, value)


def load(path: Path | str) -> Circuit:
    """Read a circuit file.

    Raises:
        UserError: the file is not a valid circuit; the sentence names the file and the dataset.
    """
    with open_checked(path, FORMAT, VERSION) as file:
        num_vars = read_attribute(file, "num_vars", int)
        groups = members(file, "layers")
        if set(groups) != {str(i) for i in range(len(groups))}:
            raise UserError(f"{path}: /layers: must hold the groups 0, 1, 2 … without a gap.")
        layers: list[Layer] = []
        for i in range(len(groups)):
            layers.append(_read_layer(file, f"layers/{i}", layers))
        roots = read_array(file, "roots", "int32", 1)
        names = members(file, "latents") if "latents" in file else []
        latents = {name: read_array(file, f"latents/{name}", "int32", 1) for name in names}
        meta = read_attributes(file, "meta")
    circuit = Circuit(num_vars, tuple(layers), roots, latents, meta)
    check(circuit, str(path))
    return circuit


def _write_layer(group: h5py.Group, layer: Layer) -> None:
    if isinstance(layer, InputLayer):
        write_attribute(group, "kind", "input")
        for name, option in layer.family.model_dump().items():
            write_attribute(group, name, option)
        arrays = {"variables": layer.variables, "groups": layer.groups, "params": layer.params}
    elif isinstance(layer, ProductLayer):
        write_attribute(group, "kind", layer.kind)
        arrays = {"offsets": layer.offsets, "children": layer.children}
    else:
        write_attribute(group, "kind", "sum")
        arrays = {"offsets": layer.offsets, "children": layer.children, "groups": layer.groups}
        if layer.tied_to is None:
            arrays["weights"] = layer.weights
        else:
            write_attribute(group, "tied_to", layer.tied_to)
    for name, array in arrays.items():
        write_array(group, name, array)


def _read_layer(file: h5py.File, name: str, earlier: list[Layer]) -> Layer:
    members(file, name)
    kind = read_attribute(file[name], "kind", str)
    if kind not in (known := ("input", "sum", *get_args(ProductKind))):
        raise UserError(
            f"{place(file, name)}: kind {shown(kind)} is unknown, must be one of "
            f"{', '.join(known)}."
        )

    def ints(array: str) -> NDArray[np.int32]:
        return read_array(file, f"{name}/{array}", "int32", 1)

    def floats(array: str) -> NDArray[Any]:
        return read_array(file, f"{name}/{array}", "float", 3)

    if kind == "input":
        family = family_of(
            read_attribute(file[name], "family", str),
            read_attributes(file, name),
            place(file, name),
        )
        return InputLayer(ints("variables"), ints("groups"), floats("params"), family)
    if kind == "sum":
        arrays = ints("offsets"), ints("children"), ints("groups")
        if "tied_to" not in file[name].attrs:
            return SumLayer(*arrays, floats("weights"))
        owner = read_attribute(file[name], "tied_to", int)
        layer = earlier[owner] if 0 <= owner < len(earlier) else None
        if not isinstance(layer, SumLayer):
            raise UserError(
                f"{place(file, name)}: tied_to is {owner}, must be an earlier sum layer."
            )
        return SumLayer(*arrays, layer.weights, owner)
    return ProductLayer(cast(ProductKind, kind), ints("offsets"), ints("children"))
