"""Parameters of a structure: uniform rows that take no memory, or random ones.

Builders make structures; their rows are uniform until ``initialise`` draws them, so that the size
and work of a circuit can be read off it before any number exists (``size``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.rows import dirichlet_rows
from pyjuice_bridge.circuit.ties import first_edges
from pyjuice_bridge.circuit.types import (
    Circuit,
    FloatArray,
    InputLayer,
    ProductLayer,
    SumLayer,
)


def uniform_leaves(groups: int, width: int, categories: int) -> FloatArray:
    """Return uniform rows of leaves, float32 [groups, width, categories], without memory."""
    return np.broadcast_to(np.float32(1 / categories), (groups, width, categories))


def uniform_weights(edges: NDArray[np.int_], width: int, width_in: int) -> FloatArray:
    """Return uniform rows of a sum layer, float32 [groups, width, width_in], without memory.

    Args:
        edges: int [groups], the number of edges of the blocks that use each group.
        width: of the sum blocks.
        width_in: of their children.
    """
    each = (1 / (np.asarray(edges, np.float64) * width_in)).astype(np.float32)
    return np.broadcast_to(each[:, None, None], (len(each), width, width_in))


def is_uniform(rows: FloatArray) -> bool:
    """Tell whether all rows are uniform, as those of a structure without numbers are."""
    return not any(rows.strides) or bool((rows == rows.flat[0]).all())


def initialise(circuit: Circuit, seed: int) -> Circuit:
    """Draw every parameter row, float32; tied rows are drawn once.

    Rows of sums are Dirichlet(1), those of leaves what their family draws.

    Args:
        circuit: the structure; its parameters are not read.
        seed: equal seeds give equal rows.
    """
    rng = np.random.default_rng(seed)
    params: list[FloatArray | None] = []
    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            params.append(layer.family.rows(rng, layer.params.shape))
        elif isinstance(layer, ProductLayer) or layer.tied_to is not None:
            params.append(None)
        else:
            params.append(_weights(rng, layer))
    return circuit.with_layer_params(params)


def _weights(rng: np.random.Generator, layer: SumLayer) -> FloatArray:
    """Draw the rows of a sum layer; a row runs over all edges of its block."""
    groups, width, width_in = layer.weights.shape
    counts = np.diff(layer.offsets)
    if (counts == 1).all():
        return dirichlet_rows(rng, (groups, width, width_in))
    weights = np.empty((groups, width, width_in), np.float32)
    first = first_edges(layer)
    owners = np.unique(np.searchsorted(layer.offsets, first, side="right") - 1)
    for block in owners:
        own = layer.groups[layer.offsets[block] : layer.offsets[block + 1]]
        rows = dirichlet_rows(rng, (width, len(own) * width_in))
        weights[own] = rows.reshape(width, len(own), width_in).swapaxes(0, 1)
    return weights
