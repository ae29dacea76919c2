"""The passes and M-steps with compiled kernels, for CPUs.

``memory`` and ``gemm`` are what kernels are written in, ``threads`` compiles and runs them;
``rows``, ``products``, ``flows``, ``sums`` and ``steps`` are kernels.  ``layout`` says which
layers they take, ``buffers`` and ``jobs`` tell them where numbers are, ``passes`` uses them.
"""

from pyjuice_bridge.engines.torch.fused.passes import FusedUpward, downward, upward
from pyjuice_bridge.engines.torch.fused.steps import applies, step_inputs, step_sums

__all__ = ["FusedUpward", "applies", "downward", "step_inputs", "step_sums", "upward"]
