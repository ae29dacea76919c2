"""Checks of a config that several kinds of circuits share; each raises ValueError."""

from __future__ import annotations

from pyjuice_bridge.config.settings import Settings

_PHASES = {
    "patch_training": ("patches", "growing"),
    "latent_training": ("patches", "growing"),
    "candidates": ("patches", "growing"),
    "observed": ("region_graph",),
}
"""What of ``train`` belongs to some kinds of circuits alone."""


def refuse_phases(config: Settings) -> None:
    """Refuse what of ``train`` only other kinds of circuits have."""
    for name, owners in _PHASES.items():
        if config.circuit.kind not in owners and getattr(config.train, name) is not None:
            raise ValueError(
                f"'train.{name}' belongs to 'circuit.kind: {' or '.join(owners)}' only"
            )


def default_ring(config: Settings, ring: int) -> None:
    """Set the context of a teacher of raw pixels, unless the config does."""
    if getattr(config.teacher, "ring", ring) is None:
        config.teacher.ring = ring  # type: ignore[attr-defined]


def check_counted(config: Settings) -> None:
    """Check what holds wherever counting is the distillation."""
    refuse_phases(config)
    if config.train.epochs < 2 and "lvd" in (config.arms or []):
        raise ValueError("'train.epochs' is 1, but counting is one pass; use at least 2")


def pool(config: Settings, why: str) -> None:
    """Have all positions share their clusters, the only choice for kinds that share parameters."""
    if config.cluster.scope == "position":
        raise ValueError(f"'cluster.scope: position' has no {why}; use 'pooled'")
    config.cluster.scope = "pooled"
