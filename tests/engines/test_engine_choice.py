"""Which engine a name and a device come down to."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pyjuice_bridge.engines import choose_engine, get_engine
from pyjuice_bridge.errors import UserError


def test_the_line_names_engine_and_device() -> None:
    choice = choose_engine("torch")
    assert choice.name == "torch"
    assert choice.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert "torch" in choice.reason and choice.device in choice.reason


def test_the_engine_runs_where_it_was_asked_to() -> None:
    engine = get_engine("torch", "cpu")
    assert (engine.name, engine.device) == ("torch", "cpu")


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [("jax", "auto", "engine"), ("torch", "tpu", "device")],
)
def test_what_cannot_be_had_is_refused(name: str, device: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_engine(name, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused() -> None:
    with pytest.raises(UserError, match="no CUDA device"):
        get_engine("torch", "cuda")


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, pyjuice_bridge.engines; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
