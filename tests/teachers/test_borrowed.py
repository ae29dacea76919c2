"""A caller's own model is as before after every call, also after errors."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from tiny_text_models import save_gpt2
from torch import nn

from pyjuice_bridge import distill_language_model
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.public import borrowed
from pyjuice_bridge.teachers.text import TextTeacher
from pyjuice_bridge.teachers.text_sample import sample_sequences

needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)
TOKENS = np.arange(5, 25).astype(np.int32) % 20


def snapshot(model):
    """Everything that a caller may rely on: identity, values, gradients, flags."""
    leaves = {
        name: (id(leaf), leaf.data_ptr(), leaf.requires_grad, leaf.device, leaf.dtype)
        for name, leaf in model.named_parameters()
    }
    grads = {
        name: (id(leaf.grad), leaf.grad.data_ptr(), leaf.grad.device)
        for name, leaf in model.named_parameters()
        if leaf.grad is not None
    }
    buffers = {name: (id(each), each.device) for name, each in model.named_buffers()}
    return leaves, grads, buffers, {name: each.training for name, each in model.named_modules()}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.second.eval()
        self.first.bias.requires_grad_(False)
        self.first.weight.grad = torch.ones(3, 3)


def test_a_model_comes_back_from_another_device():
    model = Small()
    before, values = snapshot(model), [each.clone() for each in model.state_dict().values()]
    with pytest.raises(RuntimeError, match="inside"), borrowed(model, "meta"):
        assert {leaf.device.type for leaf in model.parameters()} == {"meta"}
        assert not any(module.training for module in model.modules())
        raise RuntimeError("inside")
    assert snapshot(model) == before
    for found, value in zip(model.state_dict().values(), values, strict=True):
        assert torch.equal(found, value)
    assert model.first.weight.grad.device.type == "cpu"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2")
    return save_gpt2(path, limit=32, vocabulary=20, eos=3, scale=0.35)


@pytest.fixture
def model(folder):
    """In training, partly frozen, with gradients and dropout."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).train()
    model.transformer.h[0].eval()
    model.transformer.wte.weight.requires_grad_(False)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    return model


def read(model, folder):
    teacher = TextTeacher(model)
    teacher.describe()
    teacher.store(TOKENS, folder)
    teacher.embed(np.array([[1, 2, -1]], np.int32))


def stop(*_):
    raise KeyboardInterrupt


SETTINGS = {"sequences": 40, "length": 6, "epochs": 1, "engine": "torch", "device": "cpu"}
CALLS = [
    (read, None),
    (lambda m, f: sample_sequences(m, 5, 4, f), None),
    (lambda m, f: distill_language_model(m, 3, out=f / "new", **SETTINGS), None),
    (lambda m, f: TextTeacher(m, layer=99), UserError),
    (lambda m, f: TextTeacher(m, precision="half"), UserError),
    (lambda m, f: TextTeacher(m).store(TOKENS + 90, f), UserError),
    (lambda m, f: TextTeacher(m).store(TOKENS, f, on_progress=stop), KeyboardInterrupt),
    (lambda m, f: sample_sequences(m, 5, 4, f, prompt=[99]), UserError),
    (lambda m, f: sample_sequences(m, 5, 4, f, on_progress=stop), KeyboardInterrupt),
    (lambda m, f: distill_language_model(m, 900, out=f / "new", **SETTINGS), UserError),
]


@needs_transformers
@pytest.mark.parametrize(("call", "error"), CALLS)
def test_a_language_model_is_as_before(model, tmp_path, call, error):
    before = snapshot(model)
    if error is None:
        call(model, tmp_path)
    else:
        with pytest.raises(error):
            call(model, tmp_path)
    assert snapshot(model) == before
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()


@needs_transformers
def test_a_model_in_training_gives_the_states_of_one_in_use(model, folder, tmp_path):
    found = TextTeacher(model, precision="float32").store(TOKENS, tmp_path / "own")
    expected = TextTeacher(folder, precision="float32").store(TOKENS, tmp_path / "loaded")
    every = np.arange(len(TOKENS))
    np.testing.assert_array_equal(found.gather(every), expected.gather(every))
    np.testing.assert_array_equal(found.start, expected.start)
