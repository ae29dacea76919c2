"""What a matrix product may round its factors to: ``tf32`` (10 bits) and ``bf16`` (7 bits).

Parameters, values and counts stay float32, and so do the sums inside a product; only the factors
are rounded on their way into the hardware's matrix units.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pyjuice_bridge.engines import Precision
from pyjuice_bridge.errors import UserError

DTYPES = {"float64": torch.float64}
"""Precisions whose numbers are not float32."""
_UNITS = {"tf32": "cuda", "bf16": "cpu"}
"""The device whose matrix units take such factors in place of float32."""


def dtype_of(precision: Precision) -> torch.dtype:
    """What parameters, values and counts are held in."""
    return DTYPES.get(precision, torch.float32)


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse what the device cannot do.

    Raises:
        UserError: it has no matrix units for such factors.
    """
    if precision not in _UNITS:
        return
    if device.type != _UNITS[precision]:
        kind = {"cuda": "a CUDA device", "cpu": "a CPU"}[_UNITS[precision]]
        raise UserError(f"precision: {precision!r} needs {kind}; set 'float32'.")
    with matrix_products(precision, device):
        factor = torch.full((1, 64, 64), 1 + 2**-12, device=device)
        rounds = bool((torch.bmm(factor, factor) == 64).any())
    if not rounds:
        raise UserError(
            f"precision: this {device.type.upper()} has no matrix units for {precision!r}; "
            "set 'float32'."
        )


def rounds_factors() -> bool:
    """Whether products of float32 matrices on the CPU round their factors now."""
    backend: Any = torch.backends.mkldnn
    return bool(backend.matmul.fp32_precision == "bf16")


@contextmanager
def matrix_products(precision: Precision, device: torch.device) -> Iterator[None]:
    """PyTorch's setting for the products of float32 matrices, for as long as it lasts."""
    backend: Any = torch.backends.mkldnn if device.type == "cpu" else torch.backends.cuda
    if precision not in _UNITS:
        yield
        return
    before = backend.matmul.fp32_precision
    backend.matmul.fp32_precision = precision
    try:
        yield
    finally:
        backend.matmul.fp32_precision = before
