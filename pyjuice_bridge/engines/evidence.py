"""Check what an engine is asked, or say in one sentence what does not fit the circuit."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from annotated_types import Interval
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge import processes
from pyjuice_bridge.circuit.types import MISSING, Circuit
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.engines.base import FitOptions, Latents
from pyjuice_bridge.errors import UserError, shown
from pyjuice_bridge.numbers import SEEDS, whole

_SAMPLES = Interval(ge=0, lt=2**31)

_checked: WeakSet[Circuit] = WeakSet()
"""Circuits that are known to be valid; their arrays are not expected to change."""

logger = logging.getLogger(__name__)


def check_circuit(circuit: Circuit) -> None:
    """Check a circuit that an engine is given, once.

    Raises:
        UserError: it is not valid; engines follow its indices without looking.
    """
    if not isinstance(circuit, Circuit):
        raise UserError(f"circuit is {type(circuit).__name__}, must be a Circuit.")
    if circuit not in _checked:
        check(circuit)
        _checked.add(circuit)


def check_rows(circuit: Circuit, x: ArrayLike, name: str = "x") -> NDArray[Any]:
    """Return ``x`` as an integer array [N, num_vars], -1 where a value is missing or masked.

    Raises:
        UserError: names the array and its first bad value, or what is wrong with the circuit.
    """
    check_circuit(circuit)
    rows = _array(x, name)
    if rows.ndim != 2 or rows.shape[1] != circuit.num_vars:
        raise UserError(f"{name}: expected shape [N, {circuit.num_vars}], got {list(rows.shape)}.")
    if not np.issubdtype(rows.dtype, np.integer):
        raise UserError(
            f"{name}: expected integers, with -1 where a value is missing, got {rows.dtype}."
        )
    if isinstance(x, np.ma.MaskedArray):
        rows = np.where(np.ma.getmaskarray(x), MISSING, rows.astype(np.int64))
    if not len(rows):
        return rows
    limit = circuit.categories
    wrong = ((rows.min(0) < MISSING) | (rows.max(0) >= limit)) & (limit > 0)
    if wrong.any():
        variable = int(np.argmax(wrong))
        column = rows[:, variable]
        row = int(np.argmax((column < MISSING) | (column >= limit[variable])))
        raise UserError(
            f"{name}: row {row}, variable {variable} is {column[row]}; values must be "
            f"0 … {limit[variable] - 1}, or -1 where missing."
        )
    return rows


def check_valid(circuit: Circuit, valid: ArrayLike | None) -> NDArray[Any] | None:
    """Return the rows of a validation set, None without one.

    Raises:
        UserError: as ``check_rows``, or there is no row.
    """
    if valid is None:
        return None
    rows = check_rows(circuit, valid, "valid")
    if not len(rows):
        raise UserError("valid has no rows; leave it out to train without a validation set.")
    return rows


def check_latents(circuit: Circuit, latents: Latents | None, rows: int) -> Latents:
    """Return latent evidence as arrays whose names, shapes and values fit the circuit.

    Raises:
        UserError: names the latents that do not fit, and what was expected.
    """
    arrays = {}
    if latents is not None and not isinstance(latents, Mapping):
        raise UserError(f"latents is {shown(latents)}, must map the names of latents to arrays.")
    for name, values in (latents or {}).items():
        if name not in circuit.latents:
            known = ", ".join(circuit.latents) or "none"
            raise UserError(f"The circuit has no latent {name!r}; it has: {known}.")
        arrays[name] = given = _array(values, f"Latents {name!r}")
        blocks = circuit.latents[name]
        widths = np.array([circuit.widths[circuit.layer_of(int(b))] for b in blocks])
        soft = np.issubdtype(given.dtype, np.floating)
        if not soft and not np.issubdtype(given.dtype, np.integer):
            raise UserError(
                f"Latents {name!r} must hold whole states or weights, got {given.dtype}."
            )
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
    return arrays


def check_weights(circuit: Circuit, weights: ArrayLike | None, rows: int) -> NDArray[np.float64]:
    """Return weights of rows as float64 [rows, roots] (default one), for training and counting.

    Raises:
        UserError: there are no rows, or the weights have another shape or are no weights.
    """
    if not rows:
        raise UserError("x has no rows; training and counting need at least one.")
    shape = (rows, len(circuit.roots))
    array = np.ones(shape) if weights is None else _array(weights, "weights")
    if array.dtype.kind not in "biuf":
        raise UserError(f"weights must be numbers, got {array.dtype}.")
    array = array.astype(np.float64, copy=False)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or array.shape[0] != rows or array.shape[1] not in (1, shape[1]):
        raise UserError(f"weights have shape {list(array.shape)}, expected {list(shape)}.")
    if not np.isfinite(array).all() or (array < 0).any() or not array.any():
        raise UserError("weights must be finite, not negative and not all zero.")
    return np.broadcast_to(array, shape)


def check_draws(n: Any, seed: Any) -> tuple[int, int]:
    """Return how many samples to draw, and the seed, as Python's integers.

    Raises:
        UserError: one is no whole number, or out of range.
    """
    return whole("n", n, _SAMPLES), whole("seed", seed, SEEDS)


def checkpoint_path(checkpoint: Any) -> Path | None:
    """Return where a training's checkpoint is, None where it has none.

    Raises:
        UserError: it is no path, or names a folder.
    """
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, str | PathLike) or isinstance(os.fspath(checkpoint), bytes):
        raise UserError(f"checkpoint is {checkpoint!r}, must be the path of a file.")
    path = Path(checkpoint)
    if path.is_dir() or not str(checkpoint):
        raise UserError(f"checkpoint: {path} is a folder; name a file in it.")
    return path


def check_root(circuit: Circuit, root: Any) -> int:
    """Return the number of a root as Python's integer.

    Raises:
        UserError: the circuit is not valid or has no such root.
    """
    check_circuit(circuit)
    return whole("root", root, Interval(ge=0, le=len(circuit.roots) - 1))


def unseen_rows(x: NDArray[Any], valid: NDArray[Any]) -> int:
    """Count the rows of ``valid`` with a value that no row of ``x`` has at its place.

    Without pseudocounts such rows end with probability 0.  Missing values are no values.
    """
    unseen = np.zeros(len(valid), bool)
    for variable in range(x.shape[1]):
        column = valid[:, variable]
        unseen |= (column != MISSING) & ~np.isin(column, np.unique(x[:, variable]))
    return int(unseen.sum())


def warn_of_unseen(options: FitOptions, x: NDArray[Any], valid: NDArray[Any] | None) -> None:
    """Warn before a training without pseudocounts of validation rows that it makes impossible."""
    if valid is None or options.pseudocount > 0 or not options.epochs or not processes.speaks():
        return
    count = unseen_rows(x, valid)
    if count:
        logger.warning(
            "pseudocount is 0: %d of %d validation rows hold a value that no training row has "
            "there, and may end with probability 0; set a pseudocount above 0.",
            count,
            len(valid),
        )


def _array(values: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{name} cannot be made an array ({reason}).") from error
