"""M-steps with compiled kernels: parameters pass through the cache once."""

from __future__ import annotations

import torch

from pyjuice_bridge.engines.torch.fused import sums
from pyjuice_bridge.engines.torch.fused.threads import Job

_TASK_VALUES = 2**14
_COLUMNS = 64


def applies(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are kernels for numbers of this type on this device."""
    return device.type == "cpu" and dtype == torch.float32


def step_sums(
    theta: torch.Tensor, count: torch.Tensor, step_size: float, pseudocount: float
) -> None:
    """The M-step of a sum layer whose rows stand alone, in place; counts become zero."""
    width = theta.shape[2]
    rows, chunk = theta.numel() // width, max(1, _TASK_VALUES // width)
    Job(
        sums.sum_step,
        sums.SUM_STEP,
        -(-rows // chunk),
        rows=rows,
        width=width,
        chunk=chunk,
        theta=theta.data_ptr(),
        count=count.data_ptr(),
        step_size=step_size,
        pseudocount=pseudocount,
    ).run()


def step_inputs(
    theta: torch.Tensor, count: torch.Tensor, step_size: float, pseudocount: float
) -> None:
    """The M-step of an input layer's table, in place; counts become zero."""
    groups, rows, width = theta.shape
    columns = min(width, _COLUMNS)
    Job(
        sums.input_step,
        sums.INPUT_STEP,
        groups * -(-width // columns),
        groups=groups,
        categories=rows - 1,
        width=width,
        columns=columns,
        theta=theta.data_ptr(),
        count=count.data_ptr(),
        step_size=step_size,
        pseudocount=pseudocount,
    ).run()
