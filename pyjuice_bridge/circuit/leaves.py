"""Leaves of a family for circuits that builders made with categorical ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.families.base import Family
from pyjuice_bridge.circuit.initialise import is_uniform
from pyjuice_bridge.circuit.types import Circuit, FloatArray, InputLayer, Layer

_PROJECTIONS = 25
"""Until a row fits counts that it did not start from."""


def with_leaves(circuit: Circuit, family: Family, *, seed: int | None = None) -> Circuit:
    """Copy a circuit, its leaves being of ``family``.

    Args:
        circuit: any circuit; its sum layers stay as they are.
        family: such as ``Smooth(bandwidth=0.3)``.
        seed: draws random rows; without it every row becomes the family's best for the old one,
            and uniform rows stay as they are (of a structure without numbers).
    """
    rng = None if seed is None else np.random.default_rng([seed, 1])
    return replace(circuit, layers=tuple(_of_family(a, family, rng) for a in circuit.layers))


def _of_family(layer: Layer, family: Family, rng: np.random.Generator | None) -> Layer:
    if not isinstance(layer, InputLayer) or layer.family == family:
        return layer
    params = layer.params
    if rng is not None:
        params = family.rows(rng, params.shape).astype(params.dtype)
    elif family.constrained and not is_uniform(params):
        params = fitted_rows(family, params.astype(np.float64), params, 0.0)
    return replace(layer, params=params, family=family)


def fitted_rows(
    family: Family, counts: NDArray[Any], old: FloatArray, pseudocount: float
) -> FloatArray:
    """Estimate rows from counts, as one full M-step does that is repeated until it settles.

    Args:
        family: of the rows.
        counts: [..., categories].
        old: rows of that shape, which stay where there are neither counts nor pseudocounts.
        pseudocount: added to every row, shared evenly by its values.

    Returns:
        Rows in the precision of ``old``.
    """
    smoothed = family.pooled(counts) + pseudocount / counts.shape[-1]
    total = smoothed.sum(-1, keepdims=True)
    seen = total > 0
    target = np.where(seen, smoothed / np.where(seen, total, 1.0), old)
    rows = target
    if family.constrained:
        rows = family.projected(target, target)
        for _ in range(_PROJECTIONS - 1):
            rows = family.projected(target, rows)
    return np.asarray(np.where(seen, rows, old), old.dtype)
