"""Bounds on what underflow takes away (see ``forward``)."""

from __future__ import annotations

import torch

from pyjuice_bridge.engines.torch.program import Factor, Index

TOLERANCE = 1e-5
"""A sample is doubtful when underflow may have changed its probability by more than this share."""


class ProductLoss:
    """The error bound of a product: the product of (maximum + error) less that of the maxima."""

    def __init__(self, like: torch.Tensor) -> None:
        self._tops = torch.zeros_like(like)
        self._ratios = torch.zeros_like(like)

    def add(self, factor: Factor, value: torch.Tensor, error: torch.Tensor | None) -> None:
        top = value.amax(-1).double()
        add_at(self._tops, factor.target, top.log())
        if error is not None:
            ratio = torch.where(error > 0, error / top, 0.0)
            add_at(self._ratios, factor.target, ratio.log1p())

    def relative_to(self, log_top: torch.Tensor) -> torch.Tensor:
        """Return the bound on the scale of the product's own maximum."""
        bound = self._ratios.expm1() * (self._tops - log_top).exp()
        return torch.where(self._ratios > 0, _or_unknown(bound), 0.0)


def together(errors: torch.Tensor) -> torch.Tensor:
    """Return the error bound of a product of tiles with maximum one, theirs along the first axis.

    It is also one for a tile that lists the nodes of all of them.
    """
    return errors.log1p().sum(0).expm1()


def smallest(tile: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the least value of each (block, sample); zeros of the evidence ``mask`` are exact."""
    return (tile if mask is None else tile.masked_fill(mask == 0, 1.0)).amin(-1)


def raised(error: torch.Tensor, log_top: torch.Tensor) -> torch.Tensor:
    """Return an error bound after division by the tile's maximum; what is exact stays exact."""
    return torch.where(error > 0, error / log_top.exp(), 0.0)


def shifted(error: torch.Tensor, log_shift: torch.Tensor) -> torch.Tensor:
    """Return an error bound on another scale; infinity, where nothing is left, stays."""
    return torch.where(error > 0, _or_unknown(error * log_shift.exp()), 0.0)


def finite(logs: torch.Tensor) -> torch.Tensor:
    """Log-scales with zero in place of -inf, safe to subtract."""
    return torch.where(logs.isfinite(), logs, 0.0)


def _or_unknown(bound: torch.Tensor) -> torch.Tensor:
    return torch.where(bound.isnan(), torch.inf, bound)


def add_at(total: torch.Tensor, target: Index, part: torch.Tensor) -> None:
    """``total[target] += part``, in place."""
    if isinstance(target, slice):
        total[target] += part
    else:
        total.index_add_(0, target, part)
