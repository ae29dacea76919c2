"""How many parameters a circuit has and how much work it is, without building it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from pyjuice_bridge.circuit.types import IntArray
from pyjuice_bridge.config import PatchCircuit


@dataclass(frozen=True)
class Work:
    """Of one image in one EM pass.

    Attributes:
        flops: of the three products of every sum block (forward, flow, counts).
        activations: values of product and sum blocks, kept between the two directions.
        blocks: product and sum blocks.
    """

    flops: float
    activations: int
    blocks: int


def hclt_work(categories: IntArray, latents: int) -> Work:
    """The work of an HCLT."""
    count = len(categories)
    return Work(6.0 * (count - 1) * latents**2, 2 * count * latents, 2 * count)


def glued_work(shape: tuple[int, int, int], section: PatchCircuit) -> Work:
    """The work of patch circuits under a latent circuit."""
    height, width, channels = shape
    positions = (height // section.patch) * (width // section.patch)
    copies, size = positions * section.latents, section.patch**2 * channels
    inside = 6.0 * copies * (size - 1) * section.patch_latents**2
    above = 6.0 * 2 * positions * section.latents**2
    values = 2 * copies * size * section.patch_latents + 4 * positions * section.latents
    return Work(inside + above, values, 2 * copies * size + 4 * positions)


def hclt_parameters(categories: IntArray, latents: int) -> int:
    """Parameters of an HCLT: leaves, one matrix per edge, one row at the root."""
    edges = len(categories) - 1
    return latents * int(categories.sum()) + edges * latents**2 + latents


def glued_parameters(
    shape: tuple[int, int, int], categories: IntArray, section: PatchCircuit
) -> int:
    """Parameters of patch circuits (shared by all positions) under a latent circuit."""
    height, width, channels = shape
    positions = (height // section.patch) * (width // section.patch)
    size = section.patch**2 * channels
    # Variable order is channel last, so the first `size` variables have a patch's categories.
    inside = hclt_parameters(categories[:size], section.patch_latents)
    clusters = section.latents
    above = (positions - 1) * clusters**2 + clusters + positions * clusters**2
    return clusters * inside + above


def equal_latents(parameters: int, categories: IntArray) -> int:
    """The width of the HCLT over ``categories`` whose size is nearest to ``parameters``."""
    edges, leaves = max(1, len(categories) - 1), int(categories.sum()) + 1
    low = max(2, (isqrt(leaves**2 + 4 * edges * parameters) - leaves) // (2 * edges))
    near = (low - 1, low, low + 1)
    return max(2, min(near, key=lambda k: abs(hclt_parameters(categories, k) - parameters)))


def hmm_parameters(vocabulary: int, states: int) -> int:
    """Parameters of a homogeneous HMM: first state, transitions, emissions."""
    return states + states**2 + states * vocabulary


def hmm_work(window: int, states: int) -> Work:
    """The work of an HMM on one window; emissions are looked up."""
    blocks = 2 * window
    return Work(6.0 * (window - 1) * states**2, blocks * states, blocks)
