"""Distributions of single variables, all in one pass, and what follows from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import MISSING, Circuit, InputLayer, layer_params
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.errors import UserError

_ENTRIES = 1 << 26
"""Most posteriors of leaves held at once."""


def variable_marginals(
    engine: Engine,
    circuit: Circuit,
    rows: NDArray[Any],
    variables: NDArray[np.int64],
    *,
    root: int = 0,
) -> NDArray[np.float64]:
    """Compute p(x_v = c | evidence) from the posteriors of the leaves of each variable.

    Args:
        engine: runs the circuit.
        circuit: any.
        rows: int [N, num_vars], the evidence, -1 where missing.
        variables: int64 [M], which ones.
        root: whose distribution.

    Returns:
        float64 [N, M, C], C the largest number of values; of an observed variable all mass is on
        its value.  Variables that the root does not read have zeros.

    Raises:
        UserError: a row has probability zero.
    """
    out = np.zeros((len(rows), len(variables), int(circuit.categories.max(initial=0))))
    place = np.full(circuit.num_vars, -1)
    place[variables] = np.arange(len(variables))
    for layer, first in zip(circuit.layers, circuit.starts, strict=False):
        if not isinstance(layer, InputLayer):
            continue
        leaves = np.flatnonzero(place[layer.variables] >= 0)
        if not len(leaves):
            continue
        step = max(1, _ENTRIES // (len(leaves) * layer.width))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            flows = _flows(engine, circuit, rows[part], leaves + first, root)
            for i, leaf in enumerate(leaves):
                table = layer.params[layer.groups[leaf]].astype(np.float64)
                out[part, place[layer.variables[leaf]], : layer.categories] += flows[:, i] @ table
    total = out.sum(-1, keepdims=True)
    out /= np.where(total > 0, total, 1.0)
    known = rows[:, variables]
    row, column = np.nonzero((known != MISSING) & (total[..., 0] > 0))
    out[row, column] = 0.0
    out[row, column, known[row, column]] = 1.0
    return out


def moments(marginals: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and variance of the codes, float64 [N, M] each."""
    codes = np.arange(marginals.shape[-1])
    mean: NDArray[np.float64] = marginals @ codes
    return mean, (marginals * (codes - mean[..., None]) ** 2).sum(-1)


def entropies(marginals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the entropy of each variable in nats, float64 [N, M]."""
    logs = np.log(marginals, out=np.zeros_like(marginals), where=marginals > 0)
    entropy: NDArray[np.float64] = -(marginals * logs).sum(-1)
    return entropy


def divergence(engine: Engine, p: Circuit, q: Circuit) -> float:
    """Return KL(p ‖ q) of variables and latents together, in nats.

    Of a row of which nothing is known, expected counts are how often each weight of a sum is used,
    and posteriors how often each leaf is.

    Raises:
        UserError: the circuits differ in more than their parameters.
    """
    if len(p.roots) != 1 or not _same_structure(p, q):
        raise UserError("other: the circuits must have one root and differ in parameters alone.")
    blank = np.full((1, p.num_vars), MISSING, np.int32)
    counts = engine.expected_counts(p, blank).layers
    total = 0.0
    for i, (mine, its) in enumerate(zip(p.layers, q.layers, strict=True)):
        a, b = layer_params(mine), layer_params(its)
        if a is None or b is None:
            continue
        if isinstance(mine, InputLayer):
            blocks = np.arange(p.starts[i], p.starts[i + 1])
            active = np.zeros(a.shape[:2])
            np.add.at(active, mine.groups, _flows(engine, p, blank, blocks, 0)[0])
            used = active[..., None] * a
        else:
            used = np.asarray(counts[i], np.float64)
        total += _expected_log_ratio(used, a, b)
    return max(total, 0.0)


def _flows(
    engine: Engine, circuit: Circuit, rows: NDArray[Any], leaves: NDArray[np.integer], root: int
) -> NDArray[np.float64]:
    """Return p(leaf active | evidence) of every node of blocks of leaves: [N, blocks, width]."""
    named = replace(circuit, latents={"leaf": leaves.astype(np.int32)})
    return engine.posteriors(named, rows, "leaf", root=root).astype(np.float64)


def _expected_log_ratio(used: NDArray[np.float64], a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return Σ used · log(a / b) over entries with used > 0."""
    seen = used > 0
    with np.errstate(divide="ignore"):
        logs = np.log(a[seen].astype(np.float64)) - np.log(b[seen].astype(np.float64))
    return float((used[seen] * logs).sum())


def _same_structure(p: Circuit, q: Circuit) -> bool:
    if p.num_vars != q.num_vars or len(p.layers) != len(q.layers):
        return False
    if not np.array_equal(p.roots, q.roots):
        return False
    for a, b in zip(p.layers, q.layers, strict=True):
        fields, others = vars(a), vars(b)
        if type(a) is not type(b) or any(
            _shape_of(k, fields[k]) != _shape_of(k, others[k]) for k in fields
        ):
            return False
    return True


def _shape_of(name: str, value: Any) -> Any:
    """Return the part of a field that two layers of one structure share."""
    if name in ("params", "weights"):
        return value.shape
    return value.tolist() if isinstance(value, np.ndarray) else value
