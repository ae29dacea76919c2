"""Patch circuits for all clusters at once, and the whole-image circuit they are glued into.

A *bundle* holds one HCLT over the D variables of a patch per cluster, all with the same tree and in
the same layers: K disjoint copies of the variables, K roots.  Gluing replaces the leaf "Z_i = j" of
a latent circuit over the positions by the j-th patch circuit reading the pixels of patch i (Liu,
Zhang & Van den Broeck, *Scaling Up Probabilistic Circuits by Latent Variable Distillation*, ICLR
2023, section 4); the parameters of a patch circuit are shared by all positions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.hclt import ranges, tree_copies
from pyjuice_bridge.circuit.types import (
    Circuit,
    InputLayer,
    IntArray,
    Layer,
    ProductLayer,
    SumLayer,
)
from pyjuice_bridge.errors import UserError


def patch_bundle(
    parents: ArrayLike,
    clusters: int,
    latents: int,
    categories: ArrayLike,
    *,
    seed: int | None = None,
) -> Circuit:
    """Build one HCLT per cluster over disjoint copies of the patch variables.

    Args:
        parents: int [D], the tree over the variables of one patch, -1 at the root.
        clusters: number of patch circuits, K.
        latents: values of every hidden variable.
        categories: values of every patch variable: one number, or int [D].
        seed: of Dirichlet(1) rows; None leaves uniform rows that take no memory.

    Returns:
        A circuit over ``K * D`` variables; root j is cluster j and reads
        ``j * D .. j * D + D - 1``.

    Raises:
        UserError: an argument is not as described.
    """
    circuit, _ = tree_copies(parents, clusters, latents, categories, seed=seed)
    meta: dict[str, str | int | float] = {
        "structure": "patch bundle",
        "clusters": int(clusters),
        "latent_states": int(latents),
    }
    return replace(circuit, meta=meta)


def glue(latent: Circuit, bundle: Circuit, patch_variables: ArrayLike) -> Circuit:
    """Build the circuit of whole images, Σ_z p_latent(z) Π_i p_bundle(x_patch(i); root z_i).

    Args:
        latent: one root, one input layer with one block per position over K categories (p(Z | H)).
        bundle: K roots over copies of the D patch variables, as :func:`patch_bundle` lays them
            out; several may share a copy.
        patch_variables: int [positions, D], the image variable behind each patch variable; every
            image variable exactly once.

    Returns:
        A circuit over ``positions * D`` variables.  The bundle's parameters are shared by the
        positions; block b of the bundle becomes one block per position, next to each other in the
        order of the latent circuit's input blocks.  ``latents["z"]`` lists, by position, the block
        of width K that puts the K heads together.

    Raises:
        UserError: the three do not fit together.
    """
    places = np.asarray(patch_variables)
    leaf = _check(latent, bundle, places)
    positions, size = places.shape
    layers = [_spread(layer, places[leaf.variables], size) for layer in bundle.layers]
    heads = np.arange(positions)[:, None] + bundle.roots * positions
    first = bundle.num_blocks * positions
    offsets = np.arange(positions + 1, dtype=np.int32)
    concat = ProductLayer("concat", offsets * len(bundle.roots), heads.ravel().astype(np.int32))
    blocks = first + offsets[:-1]
    mixed = SumLayer(offsets, blocks.astype(np.int32), leaf.groups, leaf.params)
    rest = [_shifted(layer, first + positions) for layer in latent.layers[1:]]
    by_position = np.empty(positions, np.int32)
    by_position[leaf.variables] = blocks
    return Circuit(
        positions * size,
        (*layers, concat, mixed, *rest),
        (latent.roots + (first + positions)).astype(np.int32),
        {"z": by_position},
        {**bundle.meta, "structure": "glued patches", "positions": positions},
    )


def _check(latent: Circuit, bundle: Circuit, places: NDArray[np.int_]) -> InputLayer:
    """Check that the parts fit and return the input layer of ``latent``."""
    heads = len(bundle.roots)
    if places.ndim != 2 or places.dtype.kind not in "iu" or places.size == 0:
        raise UserError("patch_variables must be an integer array of shape [positions, variables].")
    if not np.array_equal(np.sort(places, axis=None), np.arange(places.size)):
        raise UserError(
            f"patch_variables must hold every image variable 0..{places.size - 1} exactly once."
        )
    found = _scope_size(bundle)
    if found != places.shape[1]:
        raise UserError(
            f"patch_variables has {places.shape[1]} variables per patch, but the bundle's roots "
            f"read {found}."
        )
    leaves = [layer for layer in latent.layers if isinstance(layer, InputLayer)]
    leaf = latent.layers[0]
    if (
        len(leaves) != 1
        or not isinstance(leaf, InputLayer)
        or len(latent.roots) != 1
        or not np.array_equal(np.sort(leaf.variables), np.arange(len(places)))
    ):
        raise UserError(
            f"The latent circuit must have one root and one input block for each of the "
            f"{len(places)} positions, all in its first layer."
        )
    if leaf.categories != heads:
        raise UserError(
            f"The latent circuit has {leaf.categories} values per position, but the bundle has "
            f"{heads} roots."
        )
    return leaf


def _scope_size(bundle: Circuit) -> int:
    """Count the variables that the first root reads."""
    sizes = np.zeros(bundle.num_blocks, np.int64)
    for layer, start in zip(bundle.layers, bundle.starts[:-1], strict=True):
        here = slice(start, start + layer.num_blocks)
        if isinstance(layer, InputLayer):
            sizes[here] = 1
        elif isinstance(layer, ProductLayer) and layer.kind != "concat":
            sizes[here] = np.add.reduceat(sizes[layer.children], layer.offsets[:-1])
        else:
            sizes[here] = sizes[layer.children[layer.offsets[:-1]]]
    return int(sizes[bundle.roots[0]])


def _spread(layer: Layer, places: NDArray[np.int_], size: int) -> Layer:
    """Copy every block for each position (rows of ``places``), positions fastest."""
    copies = len(places)
    if isinstance(layer, InputLayer):
        variables = places[:, layer.variables % size].T.ravel()
        groups = np.repeat(layer.groups, copies)
        return replace(layer, variables=variables.astype(np.int32), groups=groups)
    counts = np.repeat(np.diff(layer.offsets), copies)
    edges = ranges(np.repeat(layer.offsets[:-1], copies), counts)
    position = np.repeat(np.tile(np.arange(copies), layer.num_blocks), counts)
    children = (layer.children[edges] * copies + position).astype(np.int32)
    offsets: IntArray = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    if isinstance(layer, ProductLayer):
        return replace(layer, offsets=offsets, children=children)
    return replace(layer, offsets=offsets, children=children, groups=layer.groups[edges])


def _shifted(layer: Layer, by: int) -> Layer:
    """Return the layer with all its children moved by ``by`` blocks."""
    if isinstance(layer, InputLayer):
        return layer
    return replace(layer, children=(layer.children + by).astype(np.int32))
