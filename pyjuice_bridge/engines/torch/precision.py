"""What a matrix product may round its factors to: ``tf32`` (10 bits) and ``bf16`` (7 bits).

Parameters, values and counts stay float32, and so do the sums inside a product; only the factors
are rounded on their way into the hardware's matrix units.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pyjuice_bridge.engines.base import Precision
from pyjuice_bridge.engines.torch.program import Program
from pyjuice_bridge.errors import UserError

DTYPES = {"float64": torch.float64}
"""Precisions whose numbers are not float32."""
_SETTINGS = {("tf32", "cuda"), ("bf16", "cpu")}
"""What PyTorch rounds by a setting; bf16 on CUDA has products of its own (see ``bmm``)."""
_FIRST_WITH_BF16 = (8, 0)
"""The CUDA capability from which on there are matrix units for bf16."""


def dtype_of(precision: Precision) -> torch.dtype:
    """Return what parameters, values and counts are held in."""
    return DTYPES.get(precision, torch.float32)


def factors_of(precision: Precision, device: torch.device) -> torch.dtype | None:
    """Return what ``bmm`` rounds factors to; None where nothing does, or a setting of PyTorch."""
    return torch.bfloat16 if (precision, device.type) == ("bf16", "cuda") else None


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse what the device cannot do.

    Raises:
        UserError: it has no matrix units for such factors.
    """
    if precision in ("float32", "float64"):
        return
    if precision == "tf32" and device.type != "cuda":
        raise UserError("precision: 'tf32' needs a CUDA device; set 'float32'.")
    if factors_of(precision, device) is not None:
        rounds = torch.cuda.get_device_capability(device) >= _FIRST_WITH_BF16
    else:
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
    if (precision, device.type) not in _SETTINGS:
        yield
        return
    before = backend.matmul.fp32_precision
    backend.matmul.fp32_precision = precision
    try:
        yield
    finally:
        backend.matmul.fp32_precision = before


def bmm(
    program: Program, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """``torch.bmm`` in the program's precision."""
    if program.factors is None:
        return torch.bmm(a, b, out=out)
    product = torch.bmm(a.to(program.factors), b.to(program.factors), out_dtype=a.dtype)
    return product if out is None else out.copy_(product)


def add_bmm(program: Program, total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """``total += bmm(a, b)``, in place."""
    if program.factors is None:
        total.baddbmm_(a, b)
    else:
        total += bmm(program, a, b)
