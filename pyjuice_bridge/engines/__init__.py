"""What runs a circuit.  Importing this package loads no engine; ``get_engine`` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.errors import UserError

EngineName = Literal["auto", "torch", "julia"]
DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "float64"]

ENGINES = ("auto", "torch", "julia")
DEVICES = ("auto", "cpu", "cuda")

_NO_JULIA = "this version ships the torch engine only"


@dataclass(frozen=True)
class EngineChoice:
    """Which engine and device a request comes down to, and why (one line for the log)."""

    name: str
    device: str
    reason: str


def choose_engine(name: str = "auto", device: str = "auto") -> EngineChoice:
    """Resolve ``auto``; raises ``UserError`` for what is unknown or not usable here."""
    if name not in ENGINES:
        raise UserError(f"engine: {name!r} is not one of {', '.join(ENGINES)}.")
    if device not in DEVICES:
        raise UserError(f"device: {device!r} is not one of {', '.join(DEVICES)}.")
    if name == "julia":
        raise UserError(f"engine: 'julia' cannot be used, {_NO_JULIA}; set engine to 'torch'.")
    chosen, where = _torch_device(device)
    why = "asked for" if name == "torch" else _NO_JULIA
    return EngineChoice("torch", chosen, f"engine torch ({why}) on {chosen} ({where})")


def get_engine(
    name: str = "auto", device: str = "auto", *, precision: Precision = "float32"
) -> Engine:
    """The engine called ``name`` on ``device``; loads PyTorch only now.

    ``auto`` takes Julia where it is ready to use and torch otherwise; ``choose_engine`` gives the
    same decision with its reason.  ``precision`` is that of the engine's arithmetic; results are
    float64 in any case.
    """
    choice = choose_engine(name, device)
    from pyjuice_bridge.engines.torch import TorchEngine

    return TorchEngine(device=choice.device, precision=precision)


def _torch_device(device: str) -> tuple[str, str]:
    import torch

    if device == "cpu":
        return "cpu", "asked for"
    if torch.cuda.is_available():
        return "cuda", "asked for" if device == "cuda" else "a CUDA device is there"
    if device == "cuda":
        raise UserError("device: 'cuda' was asked for but PyTorch sees no CUDA device; set 'cpu'.")
    return "cpu", "no CUDA device"
