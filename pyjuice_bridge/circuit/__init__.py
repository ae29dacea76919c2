"""The circuit as data: its arrays, what makes them valid, and its file.

``types`` holds the data structure, ``check`` the rules, ``save`` and ``load`` the HDF5 file that
``docs/format.md`` specifies.  The other modules build structures.
"""

from pyjuice_bridge.circuit.hdf5 import load, save
from pyjuice_bridge.circuit.types import (
    MISSING,
    Circuit,
    InputLayer,
    Layer,
    ProductLayer,
    SumLayer,
    layer_params,
    with_params,
)
from pyjuice_bridge.circuit.validate import check

__all__ = [
    "MISSING",
    "Circuit",
    "InputLayer",
    "Layer",
    "ProductLayer",
    "SumLayer",
    "check",
    "layer_params",
    "load",
    "save",
    "with_params",
]
