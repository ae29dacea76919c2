"""Rows, weights and latent evidence that fit a circuit, or one sentence on what does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import MISSING, Circuit
from pyjuice_bridge.engines.base import Latents
from pyjuice_bridge.errors import UserError


def check_rows(circuit: Circuit, x: NDArray[Any], name: str = "x") -> NDArray[Any]:
    """``x`` as an integer array [N, num_vars], -1 where a value is missing.

    Raises:
        UserError: names the array and its first bad value.
    """
    x = np.asarray(x)
    if x.ndim != 2 or x.shape[1] != circuit.num_vars:
        raise UserError(f"{name}: expected shape [N, {circuit.num_vars}], got {list(x.shape)}.")
    if not np.issubdtype(x.dtype, np.integer):
        raise UserError(
            f"{name}: expected integers, with -1 where a value is missing, got {x.dtype}."
        )
    if not len(x):
        return x
    limit = circuit.categories
    wrong = ((x.min(0) < MISSING) | (x.max(0) >= limit)) & (limit > 0)
    if wrong.any():
        variable = int(np.argmax(wrong))
        column = x[:, variable]
        row = int(np.argmax((column < MISSING) | (column >= limit[variable])))
        raise UserError(
            f"{name}: row {row}, variable {variable} is {column[row]}; values must be "
            f"0 … {limit[variable] - 1}, or -1 where missing."
        )
    return x


def check_latents(circuit: Circuit, latents: Latents | None, rows: int) -> Latents:
    """Latent evidence whose names, shapes and values fit the circuit."""
    for name, values in (latents or {}).items():
        if name not in circuit.latents:
            known = ", ".join(circuit.latents) or "none"
            raise UserError(f"The circuit has no latent {name!r}; it has: {known}.")
        blocks = circuit.latents[name]
        widths = np.array([circuit.widths[circuit.layer_of(int(b))] for b in blocks])
        given = np.asarray(values)
        soft = np.issubdtype(given.dtype, np.floating)
        shape = (rows, len(blocks), *({int(w) for w in widths} if soft else ()))
        if given.shape != shape:
            raise UserError(
                f"Latents {name!r} have shape {list(given.shape)}, expected {list(shape)}."
            )
        if soft and not ((given >= 0) & (given <= 1)).all():
            raise UserError(f"Latents {name!r} must hold weights from 0 to 1.")
        if not soft and ((given < MISSING) | (given >= widths)).any():
            raise UserError(
                f"Latents {name!r} must hold states from 0 to {widths.max() - 1} (-1 = unknown)."
            )
    return latents or {}


def check_weights(circuit: Circuit, weights: NDArray[Any] | None, rows: int) -> NDArray[np.float64]:
    """Weights of rows as float64 [rows, roots] (default one), for training and counting."""
    if not rows:
        raise UserError("x has no rows; training and counting need at least one.")
    shape = (rows, len(circuit.roots))
    given = np.ones(shape) if weights is None else np.asarray(weights, np.float64)
    given = given[:, None] if given.ndim == 1 else given
    if given.ndim != 2 or given.shape[0] != rows or given.shape[1] not in (1, shape[1]):
        raise UserError(f"weights have shape {list(given.shape)}, expected {list(shape)}.")
    if not np.isfinite(given).all() or (given < 0).any() or not given.any():
        raise UserError("weights must be finite, not negative and not all zero.")
    return np.broadcast_to(given, shape)
