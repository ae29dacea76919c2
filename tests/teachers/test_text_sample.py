"""Sampled text against the model's own probabilities and states."""

from importlib.util import find_spec
from itertools import product

import numpy as np
import pytest
import torch
from tiny_text_models import BOS, save_bert, save_gpt2

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers import text_sample
from pyjuice_bridge.teachers.text_features import PrefixFeatures
from pyjuice_bridge.teachers.text_sample import sample_sequences

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)
END = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpt2")
    return save_gpt2(path, limit=8, vocabulary=4, eos=END, scale=0.25)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


def sample(model, n, length, path, **more):
    return sample_sequences(model, n, length, path, **{"precision": "float32", **more})


def rows(text):
    return [tuple(each) for each in np.split(text.tokens, text.documents[1:-1])]


def chances(model, sequence, prompt=(BOS,), temperature=1.0):
    """Log-probability of a sequence after a prompt."""
    ids = torch.tensor([[*prompt, *sequence]])
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0].double() / temperature
    steps = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(steps.gather(1, ids[0, len(prompt) :, None]).sum())


@pytest.mark.parametrize(("prompt", "temperature"), [(None, 1.0), ((1, 2), 0.7)])
def test_frequencies_are_the_models_probabilities(model, tmp_path, prompt, temperature):
    n = 4000
    more = {"prompt": prompt, "temperature": temperature, "batch": 512}
    text = sample(model, n, 2, tmp_path, seed=3, **more)
    possible = [(END,), *product(range(3), range(4))]
    p = np.exp([chances(model, s, prompt or (BOS,), temperature) for s in possible])
    assert abs(p.sum() - 1) < 1e-5
    found = rows(text)
    counts = np.array([found.count(s) for s in possible])
    assert counts.sum() == n
    rare = p * n < 5
    p, counts = (np.append(a[~rare], a[rare].sum()) for a in (p, counts))
    square = ((counts - n * p) ** 2 / np.maximum(n * p, 1e-9)).sum()
    assert square < 40  # 99.99 % point of chi-square with 12 degrees of freedom: 39.1


def test_prefix_states_are_those_it_was_sampled_from(model, tmp_path):
    text = sample(model, 40, 5, tmp_path, batch=16, layer=1)
    lengths = np.diff(text.documents)
    assert lengths.min() < 5 and lengths.max() == 5
    firsts = text.documents[:-1]
    features = PrefixFeatures(text.states, firsts, 5, lengths, documents=text.documents)
    vectors = features.read(slice(None), slice(None))
    for sequence, found in zip(rows(text), vectors, strict=True):
        ids = torch.tensor([[BOS, *sequence]])
        with torch.inference_mode():
            states = model(input_ids=ids, output_hidden_states=True).hidden_states[1][0]
        expected = states[: len(sequence)].numpy()
        np.testing.assert_allclose(found[: len(sequence)], expected, rtol=2e-3, atol=2e-3)


def test_sequences_end_where_the_model_ends_them(model, tmp_path):
    text = sample(model, 200, 6, tmp_path / "own", batch=64)
    for each in rows(text):
        assert END not in each[:-1] and (len(each) == 6 or each[-1] == END)
    other = sample(model, 200, 6, tmp_path / "other", batch=64, end=1)
    assert any(END in each[:-1] for each in rows(other))
    assert all(1 not in each[:-1] for each in rows(other))


def test_models_with_several_ends(folder, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.eos_token_id = [1, 2]
    for each in rows(sample(model, 100, 4, tmp_path)):
        assert not {1, 2} & set(each[:-1]) and (len(each) == 4 or each[-1] in (1, 2))


def test_a_low_temperature_takes_the_likeliest(model, tmp_path):
    found = rows(sample(model, 3, 4, tmp_path, temperature=1e-4, end=99))
    ids = [BOS]
    for _ in range(4):
        with torch.inference_mode():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert found == [tuple(ids[1:])] * 3


def test_resumed_with_the_same_result(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(text_sample, "_BLOCK", 16)
    whole = sample(folder, 50, 4, tmp_path / "whole", batch=8, seed=1)
    steps = []

    def stop(done, total):
        steps.append((done, total))
        if len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(folder, 50, 4, tmp_path / "part", batch=8, seed=1, on_progress=stop)
    assert len(list((tmp_path / "part").glob("sequences-*.npy"))) == 2
    damaged = tmp_path / "part" / "sequences-00001.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    again = sample(folder, 50, 4, tmp_path / "part", batch=8, seed=1, on_progress=stop)
    np.testing.assert_array_equal(again.tokens, whole.tokens)
    np.testing.assert_array_equal(again.documents, whole.documents)
    every = np.arange(len(whole.tokens))
    np.testing.assert_array_equal(again.states.gather(every), whole.states.gather(every))
    assert steps[-1] == (100, 100) and [done for done, _ in steps[2:6]] == [16, 32, 48, 50]

    other = sample(folder, 50, 4, tmp_path / "part", batch=8, seed=2)
    assert rows(other) != rows(whole)


def test_refusals(model, tmp_path):
    for wrong in ({"n": 0}, {"length": 0}, {"temperature": 0.0}, {"batch": 0}):
        settings = {"n": 2, "length": 2, **wrong}
        with pytest.raises(UserError, match=r"from 1|above 0"):
            sample(model, settings.pop("n"), settings.pop("length"), tmp_path, **settings)
    with pytest.raises(UserError, match="reads 8 tokens at once"):
        sample(model, 2, 8, tmp_path)
    with pytest.raises(UserError, match="ids of the prompt"):
        sample(model, 2, 2, tmp_path, prompt=[4])
    with pytest.raises(UserError, match="looks ahead"):
        sample(save_bert(tmp_path / "bert"), 2, 2, tmp_path)
