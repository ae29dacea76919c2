"""What the machine is, and how fast it multiplies matrices."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median

import torch

from pyjuice_bridge.engines.julia_environment import julia_state

Rates = dict[str, list[float]]
"""Flops per second of ``torch.mm``, by precision."""


def facts(threads: int, device: str) -> dict[str, str | int]:
    """For the record of a run."""
    state = julia_state()
    return {
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
        "cores": os.cpu_count() or 1,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "julia": str(state.version) if state.usable else f"no: {state.reason}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


_MM_SECONDS = 0.6
"""The first half is for warming up: after a pause a processor, or a host, is slow for a while."""


def multiply(device: str) -> dict[str, float]:
    """Flops per second of large square products, by precision: float32 alone on a CPU."""
    if device == "cpu":
        return {"float32": _rate(1536, torch.float32, device)}
    rates = {}
    for name, dtype, allow in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bf16", torch.bfloat16, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = allow
        rates[name] = _rate(8192, dtype, device)
    torch.backends.cuda.matmul.allow_tf32 = False
    return rates


def _rate(size: int, dtype: torch.dtype, device: str) -> float:
    a, b = (torch.rand(size, size, dtype=dtype, device=device) for _ in range(2))
    out = torch.empty_like(a)
    seconds: list[float] = []
    while len(seconds) < 4 or sum(seconds) < _MM_SECONDS:
        seconds.append(_seconds(lambda: torch.mm(a, b, out=out), device))
    return float(2 * size**3 / median(seconds[len(seconds) // 2 :]))


def _seconds(run: Callable[[], object], device: str) -> float:
    began = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123
            names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
