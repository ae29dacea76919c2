"""Search for the most probable values with the latents summed out (exactly, this is NP-hard)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.base import Engine

_VALUES = 1 << 26
"""Most values held at once in candidate rows."""


@dataclass(frozen=True)
class ApproximateMap:
    """An approximate answer to the (NP-hard) search for the most probable completion.

    Attributes:
        x: the completions, in the form of the evidence.
        log_p: float64 [N], their exact log p(x) in nats, of the circuit's codes.
        label: says that the search is approximate and what it tried.
    """

    x: NDArray[Any]
    log_p: NDArray[np.float64]
    label: str


def climb(
    engine: Engine,
    circuit: Circuit,
    searched: NDArray[np.bool_],
    starts: NDArray[np.int32],
    *,
    sweeps: int,
    root: int = 0,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Improve one searched variable after another, from each row's best start.

    Args:
        engine: runs the circuit.
        circuit: any.
        searched: bool [N, num_vars], the values to be searched for.
        starts: int32 [N, S, num_vars], completions of the evidence; -1 is summed out.
        sweeps: passes over the searched variables; stops early when a pass changes nothing.
        root: whose p(x).

    Returns:
        The completions int32 [N, num_vars] and their exact log p(x), float64 [N].
    """
    count = starts.shape[1]
    scores = engine.log_likelihood(circuit, starts.reshape(-1, starts.shape[2]))[:, root]
    scores = scores.reshape(-1, count)
    pick = scores.argmax(axis=1)
    best = np.take_along_axis(starts, pick[:, None, None], axis=1)[:, 0].astype(np.int32)
    log_p = np.take_along_axis(scores, pick[:, None], axis=1)[:, 0]
    searched = searched & (circuit.categories > 0)
    for _ in range(sweeps):
        before = best.copy()
        for variable in np.flatnonzero(searched.any(axis=0)):
            rows = np.flatnonzero(searched[:, variable])
            step = max(1, _VALUES // int(circuit.categories[variable] * circuit.num_vars))
            for first in range(0, len(rows), step):
                chunk = rows[first : first + step]
                best[chunk], log_p[chunk] = _move(
                    engine, circuit, best[chunk], log_p[chunk], int(variable), root
                )
        if np.array_equal(before, best):
            break
    return best, log_p


def _move(
    engine: Engine,
    circuit: Circuit,
    rows: NDArray[np.int32],
    log_p: NDArray[np.float64],
    variable: int,
    root: int,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Set ``variable`` to its most probable value in each row where that is better than now."""
    size = int(circuit.categories[variable])
    candidates = np.repeat(rows, size, axis=0)
    candidates[:, variable] = np.tile(np.arange(size), len(rows))
    scores = engine.log_likelihood(circuit, candidates)[:, root].reshape(-1, size)
    value = scores.argmax(axis=1)
    top = scores[np.arange(len(rows)), value]
    better = top > log_p
    out = rows.copy()
    out[better, variable] = value[better]
    return out, np.where(better, top, log_p)
