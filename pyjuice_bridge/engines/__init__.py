"""What runs a circuit.  Importing this package loads no engine; ``get_engine`` does."""

from __future__ import annotations

from dataclasses import dataclass

from pyjuice_bridge.engines.base import Engine, Precision
from pyjuice_bridge.engines.julia_environment import JuliaState, julia_state
from pyjuice_bridge.errors import UserError

ENGINES = ("auto", "torch", "julia")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class EngineChoice:
    """Which engine and device a request comes down to, and why (one line for the log)."""

    name: str
    device: str
    reason: str


def choose_engine(name: str = "auto", device: str = "auto") -> EngineChoice:
    """Resolve ``auto``: Julia where it is ready to use on as good a device, torch otherwise.

    Looking for Julia downloads nothing.

    Raises:
        UserError: a name is unknown, or the engine or device cannot be used here.
    """
    if name not in ENGINES:
        raise UserError(f"engine: {name!r} is not one of {', '.join(ENGINES)}.")
    if device not in DEVICES:
        raise UserError(f"device: {device!r} is not one of {', '.join(DEVICES)}.")
    if name == "torch":
        return EngineChoice("torch", *_line("torch", "asked for", _torch_device(device)))
    state = julia_state()
    if name == "julia":
        if not state.usable:
            raise UserError(f"engine: Julia {state.reason}; or set engine to 'torch'.")
        return EngineChoice("julia", *_line("julia", "asked for", _julia_device(state, device)))
    reason = f"Julia {state.reason}"
    if state.usable:
        where = _julia_device(state, device, strict=False)
        if where[0] == "cuda" or device == "cpu" or _torch_device(device)[0] == "cpu":
            return EngineChoice("julia", *_line("julia", "it is ready to use", where))
        reason = f"Julia has {where[1]}"
    return EngineChoice("torch", *_line("torch", reason, _torch_device(device)))


def get_engine(
    name: str = "auto", device: str = "auto", *, precision: Precision = "float32"
) -> Engine:
    """Choose an engine as ``choose_engine`` does, and open it.

    Raises:
        UserError: the engine or device cannot be used here.
    """
    return open_engine(choose_engine(name, device), precision=precision)


def open_engine(choice: EngineChoice, *, precision: Precision = "float32") -> Engine:
    """Open a chosen engine; PyTorch is loaded only if it is the one.

    ``precision`` is that of the engine's arithmetic; results are float64 in any case.

    Raises:
        UserError: the engine has no such precision.
    """
    if choice.name == "julia":
        from pyjuice_bridge.engines.julia import JuliaEngine

        if precision not in ("float32", "float64"):
            raise UserError(f"precision: {precision!r} is for the engine 'torch'; set 'float32'.")
        return JuliaEngine(device=choice.device, precision=precision)
    from pyjuice_bridge.engines.torch import TorchEngine

    return TorchEngine(device=choice.device, precision=precision)


def _line(engine: str, why: str, where: tuple[str, str]) -> tuple[str, str]:
    """Return the device, and the reason for the choice in one line."""
    device, reason = where
    return device, f"engine {engine} ({why}) on {device} ({reason})"


def _torch_device(device: str) -> tuple[str, str]:
    import torch

    if device == "cpu":
        return "cpu", "asked for"
    if torch.cuda.is_available():
        return "cuda", "asked for" if device == "cuda" else "a CUDA device is there"
    if device == "cuda":
        raise UserError("device: 'cuda' is set, but PyTorch sees no CUDA device; set 'cpu'.")
    return "cpu", "no CUDA device"


def _julia_device(state: JuliaState, device: str, *, strict: bool = True) -> tuple[str, str]:
    """Return the device Julia would use; without ``strict``, the CPU if no GPU is usable."""
    if device == "cpu":
        return "cpu", "asked for"
    if state.gpu and "CUDA" in state.packages:
        return "cuda", "asked for" if device == "cuda" else f"{state.gpu} is there"
    lacking = "no CUDA device" if not state.gpu else "no CUDA package for the GPU"
    if device == "cuda" and strict:
        raise UserError(f"device: 'cuda' is set, but Julia has {lacking}; set 'cpu'.")
    return "cpu", lacking
