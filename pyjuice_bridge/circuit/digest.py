"""What a circuit is named by: a hash of all that it computes with."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from pyjuice_bridge.circuit.types import Circuit


def digest(circuit: Circuit) -> str:
    """Return the SHA-256 of a circuit's layers, roots and latents, whatever file it came from."""
    listed: list[tuple[str, Any]] = [("num_vars", circuit.num_vars), ("roots", circuit.roots)]
    listed += sorted(circuit.latents.items())
    for layer in circuit.layers:
        listed += [(type(layer).__name__, ""), *vars(layer).items()]
    found = hashlib.sha256()
    for name, value in listed:
        if isinstance(value, np.ndarray):
            found.update(f"{name} {value.dtype} {value.shape};".encode())
            found.update(np.ascontiguousarray(value).data)
        else:
            found.update(f"{name} {value};".encode())
    return found.hexdigest()
