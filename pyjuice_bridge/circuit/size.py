"""How large a circuit is and how much work a pass over it takes, read off its structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pyjuice_bridge.circuit.types import Circuit, InputLayer, IntArray, SumLayer


@dataclass(frozen=True)
class Size:
    """The size of a circuit, and the work of one row in an EM pass.

    Attributes:
        parameters: entries of all parameter arrays, tied ones counted once.
        flops: of the three products of every sum block (upward, downward, counts).
        activations: values of product and sum blocks.
        blocks: product and sum blocks.
        widest: values of the layer with the most.
    """

    parameters: int
    flops: float
    activations: int
    blocks: int
    widest: int


def size_of(circuit: Circuit) -> Size:
    """Measure a circuit without allocating its parameters."""
    flops, activations, blocks, widest = 0.0, 0, 0, 0
    for layer, width in zip(circuit.layers, circuit.widths, strict=True):
        if isinstance(layer, InputLayer):
            continue
        blocks += layer.num_blocks
        activations += layer.num_blocks * width
        widest = max(widest, layer.num_blocks * width)
        if isinstance(layer, SumLayer):
            flops += 6.0 * len(layer.children) * width * layer.weights.shape[2]
    return Size(circuit.num_parameters, flops, activations, blocks, widest)


def nearest_width(build: Callable[[int], Circuit], parameters: int) -> int:
    """Find the width of at least 2 at which a structure's size is nearest to ``parameters``.

    Args:
        build: makes the structure of a width; its size grows with the width.
        parameters: the size looked for.
    """

    def off(width: int) -> int:
        return abs(build(width).num_parameters - parameters)

    low, high = 2, 4
    while build(high).num_parameters < parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if build(middle).num_parameters < parameters else (low, middle)
    return min((low, high), key=off)


def balanced_parents(count: int) -> IntArray:
    """Return the parents of a balanced binary tree, int32 [count], in place of a learnt one."""
    return ((np.arange(count) + 1) // 2 - 1).astype(np.int32)
