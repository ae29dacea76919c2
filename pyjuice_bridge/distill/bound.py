"""The objective of distillation: Σ log p(x, z) ≤ Σ log p(x) (Liu et al., ICLR 2023, section 4)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.errors import UserError

_ROWS = 512
"""Whose posteriors are held together."""


def bound_and_marginal(
    engine: Engine, circuit: Circuit, x: NDArray[Any], z: NDArray[Any], *, latent: str = "z"
) -> tuple[float, float]:
    """Compute the means of log p(x, z) and log p(x) of root 0, in nats per row.

    Works for every circuit that names its latents: an HCLT whose variables each have their own
    latent, or a patch circuit glued under a latent circuit.

    Args:
        engine: runs the circuit.
        circuit: has the latents called ``latent``.
        x: int [N, num_vars], -1 where missing.
        z: int [N, positions], -1 where unobserved.
        latent: which of the circuit's latents ``z`` holds.

    Raises:
        UserError: the circuit has no such latents, or the shapes disagree.
    """
    if latent not in circuit.latents:
        names = ", ".join(sorted(circuit.latents)) or "none"
        raise UserError(f"latents: the circuit has no latents called {latent!r} (it has {names}).")
    expected = (len(x), len(circuit.latents[latent]))
    if z.shape != expected:
        raise UserError(f"z: expected shape {expected} for the latents {latent!r}, got {z.shape}.")
    if not len(x):
        raise UserError("x: the bound needs at least one row, got none.")
    joint = engine.log_likelihood(circuit, x, {latent: z})[:, 0]
    marginal = engine.log_likelihood(circuit, x)[:, 0]
    return float(np.mean(joint)), float(np.mean(marginal))


def likeliest_bound(
    engine: Engine, circuit: Circuit, x: NDArray[Any], count: int, *, latent: str = "z"
) -> float:
    """Compute the mean of log Σ p(x, z) over the ``count`` likeliest values of every latent.

    What it is below the mean of log p(x) is what an E-step over so many candidates leaves out.

    Args:
        engine: runs the circuit.
        circuit: has the latents called ``latent``.
        x: int [N, num_vars], -1 where missing.
        count: of values, by their posterior for the row.
        latent: a name among the circuit's latents.

    Returns:
        Nats per row, of root 0.
    """
    found = []
    for start in range(0, len(x), _ROWS):
        part = x[start : start + _ROWS]
        posteriors = engine.posteriors(circuit, part, latent)
        kept = np.argsort(-posteriors, axis=2)[:, :, :count]
        mask = np.zeros_like(posteriors)
        np.put_along_axis(mask, kept, 1.0, axis=2)
        found.append(engine.log_likelihood(circuit, part, {latent: mask})[:, 0])
    return float(np.concatenate(found).mean())
