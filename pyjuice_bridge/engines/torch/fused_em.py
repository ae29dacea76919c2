"""M-steps with compiled kernels, for float32 on CPUs: parameters pass through the cache once."""

from __future__ import annotations

import numpy as np
import torch

from pyjuice_bridge.engines.torch import kernels
from pyjuice_bridge.engines.torch.threads import run

_TASK_VALUES = 2**14
_COLUMNS = 64


def step_sums(
    theta: torch.Tensor, count: torch.Tensor, step_size: float, pseudocount: float
) -> None:
    """The M-step of a sum layer whose rows stand alone, in place; counts become zero."""
    width = theta.shape[2]
    rows = theta.numel() // width
    frame = np.zeros(1, kernels.SUM_STEP)
    chunk = max(1, _TASK_VALUES // width)
    frame["rows"], frame["width"], frame["chunk"] = rows, width, chunk
    frame["tasks"] = -(-rows // chunk)
    frame["theta"], frame["count"] = theta.data_ptr(), count.data_ptr()
    frame["step_size"], frame["pseudocount"] = step_size, pseudocount
    run(kernels.sum_step, frame)


def step_inputs(
    theta: torch.Tensor, count: torch.Tensor, step_size: float, pseudocount: float
) -> None:
    """The M-step of an input layer's table, in place; counts become zero."""
    groups, rows, width = theta.shape
    frame = np.zeros(1, kernels.INPUT_STEP)
    columns = min(width, _COLUMNS)
    frame["groups"], frame["categories"], frame["width"] = groups, rows - 1, width
    frame["columns"], frame["tasks"] = columns, groups * -(-width // columns)
    frame["theta"], frame["count"] = theta.data_ptr(), count.data_ptr()
    frame["step_size"], frame["pseudocount"] = step_size, pseudocount
    run(kernels.input_step, frame)
