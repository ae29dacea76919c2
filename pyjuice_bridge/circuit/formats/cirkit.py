"""Export to cirkit (``libcirkit``), which compiles symbolic circuits to PyTorch.

cirkit has no file of its own: ``to_cirkit`` returns the symbolic circuit, with a layer for every
block; its compiler folds those that are alike.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit, InputLayer, ProductLayer, SumLayer
from pyjuice_bridge.errors import UserError


def to_cirkit(circuit: Circuit) -> Any:
    """Return a circuit as ``cirkit.symbolic.circuit.Circuit``, with the same probabilities.

    Blocks that share parameters get a copy each, so an HMM is one of a given length.

    Raises:
        UserError: cirkit is not installed, or a sum mixes blocks of different widths, for which it
            has no layer.
    """
    try:
        from cirkit.symbolic import layers as kinds
        from cirkit.symbolic.circuit import Circuit as Symbolic
        from cirkit.symbolic.initializers import ConstantTensorInitializer
        from cirkit.symbolic.parameters import Parameter, TensorParameter
        from cirkit.utils.scope import Scope
    except ImportError:
        raise UserError("to_cirkit needs cirkit: pip install libcirkit") from None

    below: dict[Any, list[Any]] = {}

    def fixed(values: NDArray[Any]) -> Any:
        start = ConstantTensorInitializer(np.ascontiguousarray(values))
        return Parameter.from_input(TensorParameter(*values.shape, initializer=start))

    def leaf(layer: InputLayer, variable: int, group: int) -> list[Any]:
        made = kinds.CategoricalLayer(
            Scope([variable]),
            layer.width,
            num_categories=layer.categories,
            probs=fixed(layer.params[group]),
        )
        below[made] = []
        return [made]

    def product(layer: ProductLayer, families: list[list[Any]]) -> list[Any]:
        parts = [part for family in families for part in family]
        if layer.kind == "concat" or len(families) == 1:
            return parts
        if len(parts) > len(families):
            raise UserError("cirkit: a product of listed blocks has no layer there.")
        kind = kinds.HadamardLayer if layer.kind == "hadamard" else kinds.KroneckerLayer
        made = kind(parts[0].num_output_units, len(parts))
        below[made] = parts
        return [made]

    def mix(layer: SumLayer, groups: list[int], families: list[list[Any]]) -> list[Any]:
        parts = [part for family in families for part in family]
        width = parts[0].num_output_units
        if any(part.num_output_units != width for part in parts):
            raise UserError("cirkit: a sum of blocks of different widths has no layer there.")
        weight = fixed(np.concatenate([layer.weights[group] for group in groups], axis=1))
        made = kinds.SumLayer(width, layer.width, len(parts), weight=weight)
        below[made] = parts
        return [made]

    blocks: list[list[Any]] = []
    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            pairs = zip(layer.variables.tolist(), layer.groups.tolist(), strict=True)
            blocks += [leaf(layer, variable, group) for variable, group in pairs]
            continue
        spans = list(pairwise(layer.offsets.tolist()))
        children = [[blocks[c] for c in layer.children[start:end].tolist()] for start, end in spans]
        if isinstance(layer, ProductLayer):
            blocks += [product(layer, families) for families in children]
        else:
            groups = [layer.groups[start:end].tolist() for start, end in spans]
            blocks += [mix(layer, own, each) for own, each in zip(groups, children, strict=True)]
    roots = [blocks[root] for root in circuit.roots.tolist()]
    if any(len(root) > 1 for root in roots):
        raise UserError("cirkit: a root that lists blocks has no layer there.")
    inner = {made: parts for made, parts in below.items() if parts}
    return Symbolic(list(below), inner, [root[0] for root in roots])
