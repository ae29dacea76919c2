"""What identifies a training: the order of its rows, and the key of its checkpoint."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.base import FitOptions, Latents


def row_order(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    """Return the order in which an epoch takes its rows, the same for every engine."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def training_key(
    engine: str,
    precision: str,
    circuit: Circuit,
    x: NDArray[Any],
    options: FitOptions,
    *,
    weights: NDArray[Any] | None = None,
    latents: Latents | None = None,
    valid: NDArray[Any] | None = None,
) -> str:
    """Hash everything a training depends on, so that a checkpoint resumes only its own."""
    digest = hashlib.sha256(json.dumps(options.key, sort_keys=True).encode())
    digest.update(f"{engine} {precision}".encode())
    extra = {f"latents {name}": np.asarray(v) for name, v in (latents or {}).items()}
    given = {"weights": weights, "valid": valid}
    extra |= {name: np.asarray(v) for name, v in given.items() if v is not None}
    named: list[tuple[str, Any]] = [("roots", circuit.roots), ("x", np.asarray(x))]
    named += sorted(extra.items())
    for layer in circuit.layers:
        named += [(f"{type(layer).__name__}.{name}", value) for name, value in vars(layer).items()]
    for name, value in named:
        if not isinstance(value, np.ndarray):
            digest.update(f"{name}{value}".encode())
            continue
        digest.update(f"{name}{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()
