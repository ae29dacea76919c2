"""How many parameters a circuit has, without building it."""

from __future__ import annotations

from math import isqrt

from pyjuice_bridge.circuit.types import IntArray
from pyjuice_bridge.config import PatchCircuit


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
