"""Ctrl-G's files: read what its own kind of module writes, and the other way round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyjuice_bridge.circuit.formats.ctrlg import load_ctrlg, save_ctrlg
from pyjuice_bridge.circuit.hmm import Hmm, random_hmm
from pyjuice_bridge.errors import UserError

safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")


def hub_module() -> Any:
    """A module of the same parameters and constructor, saved and loaded by huggingface_hub."""
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

    class Chain(torch.nn.Module, hub.PyTorchModelHubMixin):  # type: ignore[misc, name-defined]
        def __init__(self, hidden_states: int, vocab_size: int, eos_token_id: int) -> None:
            super().__init__()
            shapes = {
                "alpha_exp": (hidden_states, hidden_states),
                "beta": (hidden_states, vocab_size),
                "gamma": (hidden_states,),
            }
            for name, shape in shapes.items():
                setattr(self, name, torch.nn.Parameter(torch.zeros(shape), requires_grad=False))
            self.eos_token_id = eos_token_id

    return Chain


def same(a: Hmm, b: Hmm) -> None:
    for name in ("initial", "transition", "emission"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=2e-5, atol=1e-30)


def test_there_and_back(tmp_path: Path) -> None:
    hmm = random_hmm(5, 11, 0)
    save_ctrlg(hmm, tmp_path / "new" / "folder", eos_token_id=10)
    back, eos = load_ctrlg(tmp_path / "new" / "folder")
    same(hmm, back)
    assert eos == 10 and back.emission.dtype == np.float32


def test_the_hub_mixin_reads_what_is_written(tmp_path: Path) -> None:
    hmm = random_hmm(4, 7, 1)
    save_ctrlg(hmm, tmp_path, eos_token_id=3)
    module = hub_module().from_pretrained(tmp_path)
    assert module.eos_token_id == 3
    np.testing.assert_array_equal(module.alpha_exp.numpy(), hmm.transition)
    np.testing.assert_allclose(module.beta.logsumexp(1).numpy(), 0, atol=1e-6)
    np.testing.assert_allclose(module.beta.exp().numpy(), hmm.emission, rtol=1e-5)
    np.testing.assert_allclose(module.gamma.softmax(0).numpy(), hmm.initial, rtol=1e-5)


def test_what_the_hub_mixin_writes_is_read(tmp_path: Path) -> None:
    hmm = random_hmm(4, 7, 2)
    module = hub_module()(hidden_states=4, vocab_size=7, eos_token_id=6)
    module.alpha_exp.data = torch.tensor(hmm.transition)
    module.beta.data = torch.tensor(hmm.emission).log()
    module.gamma.data = torch.tensor(hmm.initial).log() + 150
    module.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"eos_token_id": 6, "hidden_states": 4, "vocab_size": 7}
    back, eos = load_ctrlg(tmp_path)
    same(hmm, back)
    assert eos == 6


def test_zeros_stay_zeros(tmp_path: Path) -> None:
    hmm = Hmm(np.array([1.0, 0.0]), np.array([[0.5, 0.5], [0.0, 1.0]]), np.eye(2, 3))
    save_ctrlg(hmm, tmp_path, eos_token_id=1)
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert file.metadata() == {"format": "pt"}
        assert np.isfinite(file.get_tensor("beta")).all()
    same(hmm, load_ctrlg(tmp_path)[0])


def test_broken_files_are_named(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        load_ctrlg(tmp_path)
    save_ctrlg(random_hmm(3, 4, 0), tmp_path, eos_token_id=0)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    good, arrays = config.read_text(), load_file(weights)

    def says(message: str) -> None:
        with pytest.raises(UserError, match=message):
            load_ctrlg(tmp_path)

    config.write_text("{")
    says("is not JSON")
    config.write_text(good.replace('"vocab_size": 4', '"vocab_size": "4"'))
    says("must hold the whole numbers")
    config.write_text(good.replace('"vocab_size": 4', '"vocab_size": 5'))
    says(r"beta has the shape \[3, 4\], but config.json says \[3, 5\]")
    config.write_text(good)
    save_file({**arrays, "beta": arrays["beta"] + 1}, weights)
    says(r"the rows of exp\(beta\) are not distributions")
    save_file({"beta": arrays["beta"]}, weights)
    says("there is no tensor 'alpha_exp'")
    weights.write_bytes(b"nonsense")
    says("is not a safetensors file")
    weights.unlink()
    says("is not there")
    with pytest.raises(UserError, match="eos_token_id: must be 0 … 3, got 4"):
        save_ctrlg(random_hmm(3, 4, 0), tmp_path, eos_token_id=4)
