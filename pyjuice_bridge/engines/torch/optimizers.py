"""What optimisers do after a batch; ``anemone``, which has a memory, is in ``fit``."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyjuice_bridge.engines.torch.em import m_step
from pyjuice_bridge.engines.torch.program import Params, Program

Step = Callable[[Program, Params, Params, torch.Tensor, float], None]
"""Takes the program, parameters, counts, η and the pseudocount, as ``m_step`` does."""

STEPS: dict[str, Step] = {
    "full_em": m_step,
    "mini_em": m_step,
}
