"""Bounds on what underflow takes away (see ``forward``)."""

from __future__ import annotations

import torch

from pyjuice_bridge.engines.torch.program import Factor, Index

TOLERANCE = 1e-5
"""A sample is doubtful when underflow may have changed its probability by more than this share."""


class ProductLoss:
    """The error bound of a product: Σ over factors of its error times the others' maxima."""

    def __init__(self, like: torch.Tensor) -> None:
        self._tops = torch.zeros_like(like)
        self._ratios = torch.zeros_like(like)

    def add(self, factor: Factor, value: torch.Tensor, error: torch.Tensor | None) -> None:
        top = value.amax(-1).double()
        add_at(self._tops, factor.target, top.log())
        if error is not None:
            add_at(self._ratios, factor.target, torch.where(error > 0, error / top, 0.0))

    def relative_to(self, log_top: torch.Tensor) -> torch.Tensor:
        """The bound on the scale of the product's own maximum."""
        bound = self._ratios * (self._tops - log_top).exp()
        return torch.where(self._ratios > 0, bound.nan_to_num(torch.inf), 0.0)


def raised(error: torch.Tensor, log_top: torch.Tensor) -> torch.Tensor:
    """An error bound after division by the tile's maximum; what is exact stays exact."""
    return torch.where(error > 0, error / log_top.exp(), 0.0)


def finite(logs: torch.Tensor) -> torch.Tensor:
    """Log-scales with zero in place of -inf, safe to subtract."""
    return torch.where(logs.isfinite(), logs, 0.0)


def add_at(total: torch.Tensor, target: Index, part: torch.Tensor) -> None:
    """``total[target] += part``, in place."""
    if isinstance(target, slice):
        total[target] += part
    else:
        total.index_add_(0, target, part)
