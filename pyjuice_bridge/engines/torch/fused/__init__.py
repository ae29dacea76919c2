"""The passes and M-steps with compiled kernels, for float32 on CPUs.

``threads`` runs kernels, ``rows``, ``products`` and ``sums`` are kernels, ``layout`` says which
layers they take, ``jobs`` tells them where buffers are, ``passes`` and ``steps`` use them.
"""

from pyjuice_bridge.engines.torch.fused.passes import FusedUpward, downward, upward
from pyjuice_bridge.engines.torch.fused.steps import applies, step_inputs, step_sums

__all__ = ["FusedUpward", "applies", "downward", "step_inputs", "step_sums", "upward"]
