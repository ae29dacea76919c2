"""The M-step of EM, on expected counts: for training loops of one's own.

``engine.fit`` takes the same steps, of counts that never leave its device::

    for rows in batches:
        counts = engine.expected_counts(circuit, rows)
        circuit = engine.m_step(circuit, counts, step_size=0.1)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from pyjuice_bridge.circuit.ties import leads
from pyjuice_bridge.circuit.types import Circuit, InputLayer, SumLayer, layer_params
from pyjuice_bridge.engines.base import Counts, FitOptions, check_options
from pyjuice_bridge.engines.evidence import check_circuit
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.numbers import MOST_PSEUDOCOUNT, real


def m_step(
    circuit: Circuit,
    counts: Counts,
    *,
    step_size: float = 1.0,
    pseudocount: float = 0.1,
    frozen: tuple[int, ...] = (),
) -> Circuit:
    """Return the circuit after one step: θ ← (1 - η)·θ + η·normalise(counts + c/#siblings).

    A row without counts stays as it is.  Leaves that are not categorical follow their family
    (``circuit.families.base``).

    Args:
        circuit: what the counts were taken of; it stays as it is.
        counts: from ``engine.expected_counts``.
        step_size: η; 1 is the step of full-batch EM.
        pseudocount: c, added to the counts of a row, shared evenly by its entries.
        frozen: indices of layers whose parameters stay as they are.

    Raises:
        UserError: the counts are not the circuit's, or an option is out of range.
    """
    check_circuit(circuit)
    check_options(circuit, FitOptions(frozen=frozen))
    step = real("step_size", step_size, Interval(gt=0, le=1))
    smooth = real("pseudocount", pseudocount, Interval(ge=0, le=MOST_PSEUDOCOUNT))
    given = _checked(circuit, counts)
    params: list[NDArray[Any] | None] = []
    for index, (layer, count) in enumerate(zip(circuit.layers, given, strict=True)):
        theta = layer_params(layer)
        if theta is None or count is None or index in frozen:
            params.append(theta)
            continue
        if isinstance(layer, InputLayer):
            count = layer.family.pooled(count)
        total, siblings = _row_totals(layer, count.astype(np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            fresh = (count + smooth / siblings) / (total + smooth)
        moved = (1 - step) * theta.astype(np.float64) + step * fresh
        if isinstance(layer, InputLayer):
            moved = layer.family.projected(moved, theta)
        precision = np.result_type(theta, count)
        params.append(np.where(total > 0, moved, theta).astype(precision))
    return circuit.with_layer_params(params)


def _row_totals(
    layer: Any, count: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64] | int]:
    """Sum each row of counts over all edges of its block, and count its entries; broadcastable."""
    rows = count.sum(2, keepdims=True)
    if isinstance(layer, InputLayer) or len(layer.children) == layer.num_blocks:
        return rows, count.shape[2]
    assert isinstance(layer, SumLayer)
    lead = leads(layer)
    total = np.zeros_like(rows)
    np.add.at(total, lead, rows)
    edges = np.bincount(lead, minlength=len(count))
    return total[lead], edges[lead][:, None, None] * count.shape[2]


def _checked(circuit: Circuit, counts: Counts) -> tuple[NDArray[Any] | None, ...]:
    if not isinstance(counts, Counts) or len(counts.layers) != len(circuit.layers):
        raise UserError("counts must be what expected_counts returned for this circuit.")
    for index, (layer, count) in enumerate(zip(circuit.layers, counts.layers, strict=True)):
        theta = layer_params(layer)
        if (theta is None) != (count is None) or (
            theta is not None and count is not None and theta.shape != np.shape(count)
        ):
            raise UserError(f"counts: layer {index} has other counts than the circuit parameters.")
        if count is not None and not (np.isfinite(count) & (np.asarray(count) >= 0)).all():
            raise UserError(f"counts: layer {index} must hold finite numbers from 0 on.")
    return counts.layers
