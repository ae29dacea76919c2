"""The upward pass with the same operations whatever the numbers are, for GPUs.

``forward.Upward`` looks at numbers to leave work out.  On a GPU each look waits for everything
before it, and work with a look in it cannot be recorded (see ``recording``).  So here factors are
multiplied in float64, where they do not underflow, and bounds of what was lost are always there.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pyjuice_bridge.engines.torch.forward import Upward
from pyjuice_bridge.engines.torch.program import ProductPlan
from pyjuice_bridge.engines.torch.values import Activations

_LIFT, _LIFT_OF_ALL = 60, 1000
"""The exponent to which rows of products are raised, and the most that all factors of a product
may have together, so that float64 holds it.  With the largest value at 2^60, numbers down to 1e-56
of it have a place in float32."""
_FACTORS = 6
"""So many float32 numbers that are not zero have a product in float64 that is not zero."""


class SteadyUpward(Upward):
    """One upward pass over one batch, in float32."""

    def run(self) -> Activations:
        arities = [_most_factors(p) for p in self.program.layers if isinstance(p, ProductPlan)]
        self._lift = min(_LIFT, _LIFT_OF_ALL // max(arities, default=1))
        return super().run()

    def _hadamard(self, layer: int, plan: ProductPlan) -> None:
        tile = self.workspace.tile(self.program, layer, self.act.batch)
        product = torch.empty(tile.shape, device=tile.device, dtype=torch.float64)
        scale, loss = self._multiply_factors(plan, product)
        mask = self.evidence_on(layer)
        if mask is not None:
            product.mul_(mask)
        top = product.amax(-1)
        product.div_(torch.where(top > 0, top, 1.0)[..., None]).mul_(2.0**self._lift)
        exact_zeros = _most_factors(plan) <= _FACTORS
        least = torch.where(product > 0, product, torch.inf) if exact_zeros else product
        low = least.amin(-1) < self.tiny
        log_top = top.log()
        inherited = None
        if loss is not None:
            inherited = loss.relative_to(log_top).mul_(2.0**self._lift)
        self._add_error(layer, inherited, low, self.tiny)
        self.act.tiles[layer] = tile.copy_(product)
        self.act.scales[layer] = scale.add_(log_top).sub_(self._lift * math.log(2))

    def _add_error(
        self,
        layer: int,
        inherited: torch.Tensor | None,
        low: torch.Tensor,
        loss: torch.Tensor | float,
    ) -> None:
        own = torch.where(low, loss, 0.0).double()
        self.act.errors[layer] = own if inherited is None else inherited + own

    def _any_faint(self, layer: int, weights: torch.Tensor) -> bool:
        return True


def _most_factors(plan: ProductPlan) -> int:
    return int(np.diff(plan.edges.offsets).max())
