"""Mixtures and products of whole circuits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.types import (
    Circuit,
    InputLayer,
    IntArray,
    Layer,
    ProductLayer,
    SumLayer,
)
from pyjuice_bridge.errors import UserError, shown


def mixture(
    circuits: Sequence[Circuit], weights: ArrayLike | None = None, *, latent: str = "component"
) -> Circuit:
    """Build the circuit of Σ_k weights[k] · p_k(x).

    Args:
        circuits: over the same variables, one root each.
        weights: probabilities [circuits]; uniform by default.
        latent: what the choice of a component is called.

    Returns:
        A circuit with one root.  ``latents[latent]`` has one position, whose value k means that
        ``circuits[k]`` was chosen: its posterior is Bayes' rule.

    Raises:
        UserError: circuits or weights are not as described.
    """
    _check_parts(circuits, "mixture")
    first = circuits[0]
    for k, circuit in enumerate(circuits):
        if not np.array_equal(circuit.categories, first.categories):
            raise UserError(
                f"mixture: circuits 0 and {k} differ in their variables or the values of these."
            )
    layers, roots, _ = _joined(circuits)
    total = sum(layer.num_blocks for layer in layers)
    count, dtype = len(circuits), _precision(layers)
    row = _probabilities(weights, count).astype(dtype)
    heads = ProductLayer("concat", _i32([0, count]), roots)
    top = SumLayer(_i32([0, 1]), _i32([total]), _i32([0]), row[None, None])
    meta = {**_shared_meta(circuits), "structure": "mixture", "components": count}
    return Circuit(
        first.num_vars, (*layers, heads, top), _i32([total + 1]), {latent: _i32([total])}, meta
    )


def product(circuits: Sequence[Circuit]) -> Circuit:
    """Build the circuit of Π_k p_k(x_k): the variables of all circuits, independent of each other.

    Args:
        circuits: one root each; the variables of circuit k come after those of circuit k - 1.

    Returns:
        A circuit with one root.  Latents keep their names, numbered (``z0``, ``z1``) where several
        circuits use one.

    Raises:
        UserError: a circuit has several roots, or there is none.
    """
    _check_parts(circuits, "product")
    firsts = np.cumsum([0] + [circuit.num_vars for circuit in circuits])
    moved = [_on_variables(c, int(v)) for c, v in zip(circuits, firsts[:-1], strict=True)]
    layers, roots, places = _joined(moved)
    total = sum(layer.num_blocks for layer in layers)
    root = ProductLayer("hadamard", _i32([0, len(circuits)]), roots)
    uses = Counter(name for circuit in circuits for name in circuit.latents)
    latents = {
        name if uses[name] == 1 else f"{name}{k}": places[k][blocks]
        for k, circuit in enumerate(circuits)
        for name, blocks in circuit.latents.items()
    }
    meta: dict[str, str | int | float] = {"structure": "product", "factors": len(circuits)}
    return Circuit(int(firsts[-1]), (*layers, root), _i32([total]), latents, meta)


def _check_parts(circuits: Sequence[Circuit], what: str) -> None:
    if not len(circuits):
        raise UserError(f"{what}: expected at least one circuit, got none.")
    for k, circuit in enumerate(circuits):
        if not isinstance(circuit, Circuit):
            raise UserError(f"{what}: entry {k} is {shown(circuit)}, must be a Circuit.")
        if len(circuit.roots) != 1:
            raise UserError(
                f"{what}: circuit {k} has {len(circuit.roots)} roots; choose one with "
                "Model.select(root)."
            )


def _probabilities(weights: ArrayLike | None, count: int) -> NDArray[np.float64]:
    if weights is None:
        return np.full(count, 1 / count)
    try:
        row = np.asarray(weights, np.float64)
    except (TypeError, ValueError):
        raise UserError(f"weights is {shown(weights)}, must be a list of probabilities.") from None
    if row.shape != (count,) or not (row >= 0).all() or not abs(row.sum() - 1) <= 1e-6:
        raise UserError(f"weights: expected {count} probabilities that sum to one.")
    scaled: NDArray[np.float64] = row / row.sum()
    return scaled


def _joined(circuits: Sequence[Circuit]) -> tuple[list[Layer], IntArray, list[IntArray]]:
    """Put circuits into one list of layers, which share nothing.

    Circuits whose layers agree in kind and width are joined layer by layer, so that an engine runs
    them together; others follow each other.

    Returns:
        The layers, the root of every circuit, and by circuit the new number of every block.
    """
    forms = [_form(circuit) for circuit in circuits]
    if all(form == forms[0] for form in forms):
        plan = [[(k, i) for k in range(len(circuits))] for i in range(len(forms[0]))]
    else:
        plan = [[(k, i)] for k, form in enumerate(forms) for i in range(len(form))]
    blocks: list[IntArray] = [np.empty(circuit.num_blocks, np.int32) for circuit in circuits]
    place: dict[tuple[int, int], tuple[int, int]] = {}
    layers: list[Layer] = []
    start = 0
    for members in plan:
        parts, groups = [], 0
        for k, i in members:
            circuit = circuits[k]
            layer = circuit.layers[i]
            end = start + layer.num_blocks
            blocks[k][circuit.starts[i] : circuit.starts[i + 1]] = np.arange(start, end)
            start = end
            first = groups
            if isinstance(layer, SumLayer) and layer.tied_to is not None:
                owner, first = place[k, layer.tied_to]
                layer = replace(layer, tied_to=owner)
            place[k, i] = (len(layers), first)
            parts.append(_moved(layer, blocks[k], first))
            groups += 0 if isinstance(layer, ProductLayer) else len(_params(layer))
        layers.append(_stacked(parts, layers))
    return layers, np.concatenate([blocks[k][c.roots] for k, c in enumerate(circuits)]), blocks


def _form(circuit: Circuit) -> list[tuple[object, ...]]:
    """Describe what layers must have in common to be joined."""
    forms: list[tuple[object, ...]] = []
    for layer, width in zip(circuit.layers, circuit.widths, strict=True):
        if isinstance(layer, ProductLayer):
            forms.append((layer.kind, width))
        else:
            own = layer.family if isinstance(layer, InputLayer) else layer.tied_to
            forms.append((type(layer), own, _params(layer).shape[1:], _params(layer).dtype))
    return forms


def _params(layer: InputLayer | SumLayer) -> NDArray[Any]:
    return layer.params if isinstance(layer, InputLayer) else layer.weights


def _moved(layer: Layer, blocks: IntArray, groups: int) -> Layer:
    """Return a layer with children and groups renumbered."""
    if isinstance(layer, InputLayer):
        return replace(layer, groups=layer.groups + np.int32(groups))
    children = blocks[layer.children]
    if isinstance(layer, ProductLayer):
        return replace(layer, children=children)
    return replace(layer, children=children, groups=layer.groups + np.int32(groups))


def _stacked(parts: Sequence[Any], layers: Sequence[Layer]) -> Layer:
    """Return the blocks of several layers as one, given the layers before it."""
    layer = parts[0]
    if isinstance(layer, InputLayer):
        return replace(
            layer,
            variables=np.concatenate([part.variables for part in parts]),
            groups=np.concatenate([part.groups for part in parts]),
            params=np.concatenate([part.params for part in parts]),
        )
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    children = np.concatenate([part.children for part in parts])
    if isinstance(layer, ProductLayer):
        return replace(layer, offsets=offsets, children=children)
    groups = np.concatenate([part.groups for part in parts])
    if layer.tied_to is None:
        weights = np.concatenate([part.weights for part in parts])
    else:
        owner = layers[layer.tied_to]
        assert isinstance(owner, SumLayer)
        weights = owner.weights
    return SumLayer(offsets, children, groups, weights, layer.tied_to)


def _on_variables(circuit: Circuit, first: int) -> Circuit:
    """Return a circuit that reads the variables from ``first`` on."""
    layers = [
        replace(layer, variables=layer.variables + np.int32(first))
        if isinstance(layer, InputLayer)
        else layer
        for layer in circuit.layers
    ]
    return replace(circuit, num_vars=first + circuit.num_vars, layers=tuple(layers))


def _precision(layers: Sequence[Layer]) -> np.dtype[Any]:
    return np.result_type(
        *(_params(layer) for layer in layers if not isinstance(layer, ProductLayer))
    )


def _shared_meta(circuits: Sequence[Circuit]) -> dict[str, str | int | float]:
    """Return the entries that all circuits agree on."""
    return {
        name: value
        for name, value in circuits[0].meta.items()
        if all(circuit.meta.get(name) == value for circuit in circuits)
    }


def _i32(values: list[int]) -> IntArray:
    return np.array(values, np.int32)
