"""Maximum-likelihood parameters of an HMM whose states are observed: counting.

With every state known, log p(x, z) falls apart into one categorical distribution per row, and the
maximum is the relative frequency (Liu, Zhang & Van den Broeck, *Scaling Up Probabilistic Circuits
by Latent Variable Distillation*, ICLR 2023, section 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.circuit.types import MISSING
from pyjuice_bridge.errors import UserError

_ENTRIES = 1 << 22
"""Tokens, or table entries, worked on at once."""


def count_hmm(
    x: NDArray[Any], z: NDArray[Any], states: int, vocabulary: int, pseudocount: float
) -> Hmm:
    """The HMM with initial, transition and emission rows set to smoothed relative frequencies.

    Every window is a text of its own: the first state is that of position 0, and transitions are
    the adjacent pairs inside windows.

    Args:
        x: int [N, T], token ids, -1 where missing: no emission is counted there.
        z: int [N, T], the state of every position, -1 where there is none (in a window's tail):
            nothing that involves it is counted.
        states: H.
        vocabulary: V.
        pseudocount: added to every row, shared evenly by its entries.

    Returns:
        Float32 parameters.  A row that no data reaches is uniform.

    Raises:
        UserError: the arrays do not fit each other, or hold ids out of range.
    """
    x, z = np.asarray(x), np.asarray(z)
    for name, array in (("x", x), ("z", z)):
        if array.ndim != 2 or array.dtype.kind not in "iu":
            raise UserError(f"{name} must be an integer array of shape [windows, positions].")
    if x.shape != z.shape or not x.size:
        raise UserError(
            f"x has the shape {list(x.shape)} and z {list(z.shape)}; they must be the same "
            "windows, at least one."
        )
    if pseudocount < 0:
        raise UserError("pseudocount must be at least 0.")
    initial = np.zeros((1, states), np.int32)
    transition = np.zeros((states, states), np.int32)
    emission = np.zeros((states, vocabulary), np.int32)
    step = max(1, _ENTRIES // x.shape[1])
    for start in range(0, len(x), step):
        tokens = _in_range(x[start : start + step], vocabulary, "x", start)
        hidden = _in_range(z[start : start + step], states, "z", start)
        _add(initial, np.zeros_like(hidden[:, 0]), hidden[:, 0])
        _add(transition, hidden[:, :-1], hidden[:, 1:])
        _add(emission, hidden, tokens)
    rows = [_normalised(table, pseudocount) for table in (initial, transition, emission)]
    return Hmm(rows[0][0], rows[1], rows[2])


def interpolate(hmm: Hmm, x: NDArray[Any], z: NDArray[Any], share: float) -> Hmm:
    """Rows mixed with overall frequencies: (1 - share)·row + share·frequencies of all states.

    Counted rows are near zero wherever a state was never seen with a token, and EM, which
    multiplies, brings such an entry back slowly.  Mixed with the frequencies of tokens (emission)
    and of states (transition), a state can move away from what the teacher said (Jelinek-Mercer
    smoothing: Jelinek & Mercer, 1980).

    Args:
        hmm: counted from ``x`` and ``z``.
        x: int [N, T], token ids, -1 where missing.
        z: int [N, T], states, -1 where there is none.
        share: from 0 (as counted) to 1.

    Raises:
        UserError: a share outside 0 … 1, or no token or state at all.
    """
    if not 0 <= share <= 1:
        raise UserError(f"the share of the frequencies must be from 0 to 1, got {share}.")
    tables = []
    for row, values, name in ((hmm.transition, z, "z"), (hmm.emission, x, "x")):
        values = np.asarray(values)
        counts = np.bincount(values[values != MISSING], minlength=row.shape[1])
        if not counts.sum():
            raise UserError(f"{name} holds missing values only.")
        mixed = row * np.float32(1 - share)
        mixed += (share * counts / counts.sum()).astype(np.float32)
        tables.append(mixed)
    return Hmm(hmm.initial, *tables)


def _in_range(values: NDArray[Any], size: int, name: str, start: int) -> NDArray[np.int64]:
    bad = (values < MISSING) | (values >= size)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"{name}: window {start + row}, position {column} is {values[row, column]}; values "
            f"must be 0 … {size - 1}, or -1 where missing."
        )
    return values.astype(np.int64)


def _add(counts: NDArray[np.int32], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
    """One more at every pair of row and column that are both there."""
    both = (rows != MISSING) & (columns != MISSING)
    pairs = rows[both] * counts.shape[1] + columns[both]
    np.add.at(counts.reshape(-1), pairs, np.int32(1))


def _normalised(counts: NDArray[np.int32], pseudocount: float) -> NDArray[np.float32]:
    out = np.empty(counts.shape, np.float32)
    size = counts.shape[1]
    step = max(1, _ENTRIES // size)
    for start in range(0, len(counts), step):
        smoothed = counts[start : start + step] + pseudocount / size
        total = smoothed.sum(axis=1, keepdims=True)
        smoothed[total[:, 0] == 0] = 1 / size
        out[start : start + step] = smoothed / np.where(total > 0, total, 1.0)
    return out
