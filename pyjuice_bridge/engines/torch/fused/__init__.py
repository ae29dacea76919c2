"""The passes and M-steps with compiled kernels, for CPUs.

``memory`` and ``gemm`` are what kernels are written in, ``threads`` compiles and runs them.
``upward``, ``products``, ``rows`` and ``sums`` are kernels of the upward pass, ``flows`` of the
downward pass, ``steps`` of M-steps.  ``trees`` finds the parts that ``banks`` evaluates depth
first, with the kernels of ``segments`` (on ``lanes``, ``vectors``, ``losses``, ``exact``) and
``roots``.  ``layout`` says which layers they take; ``buffers``, ``work`` and ``jobs`` (with
``product_jobs`` and ``sum_jobs``) tell them where numbers are; ``passes`` uses them.
"""

from pyjuice_bridge.engines.torch.fused.passes import (
    FusedUpward,
    Trees,
    cut_of,
    downward,
    upward,
)
from pyjuice_bridge.engines.torch.fused.steps import Step, applies, step_inputs, step_sums

__all__ = [
    "FusedUpward",
    "Step",
    "Trees",
    "applies",
    "cut_of",
    "downward",
    "step_inputs",
    "step_sums",
    "upward",
]
