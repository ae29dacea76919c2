"""A tiny GPT-2 distilled into an HMM: better than a random start, and good for steering."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from teachers.tiny_text_models import BOS, WORDS, save_bert, save_gpt2

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.formats.ctrlg import load_ctrlg
from pyjuice_bridge.circuit.hmm import Hmm, random_hmm
from pyjuice_bridge.distill.language import with_end_state
from pyjuice_bridge.domains.written import fill_up, one_end
from pyjuice_bridge.engines.base import FitOptions, Schedule
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.query.text import TextModel
from pyjuice_bridge.runner.language import Sampling, distill_language_model
from pyjuice_bridge.teachers.text_sample import sample_sequences

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)
END, LENGTH, STATES, SEQUENCES, EPOCHS = 3, 10, 12, 1500, 4


def distill(source: Any, out: Path, **changes: Any) -> TextModel:
    settings = {"sequences": SEQUENCES, "length": LENGTH, "epochs": EPOCHS, "engine": "torch"}
    states = changes.pop("states", STATES)
    return distill_language_model(source, states, out=out, **{**settings, **changes})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpt2")
    return save_gpt2(path, limit=16, vocabulary=30, eos=END, scale=0.35)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def model(source: Path, runs: Path) -> TextModel:
    return distill(source, runs / "writer", ctrlg=True)


def drawn(source: Path, folder: Path, n: int, seed: int) -> np.ndarray:
    """Sequences of the model, int32 [n, LENGTH], -1 after their end."""
    text = sample_sequences(source, n, LENGTH, folder, seed=seed)
    lengths = np.diff(text.documents)
    x = np.full((n, LENGTH), -1, np.int32)
    x[np.arange(LENGTH) < lengths[:, None]] = text.tokens
    return x


def test_better_than_a_random_start_of_equal_size(
    model: TextModel, source: Path, tmp_path: Path
) -> None:
    train = drawn(source, tmp_path / "train", SEQUENCES, 0)
    held_out = drawn(source, tmp_path / "held-out", 500, 1)
    assert (held_out == -1).any() and (held_out[:, -1] >= 0).any()
    options = FitOptions(epochs=EPOCHS + 1, batch_size=256, step_size=Schedule(0.2, 0.01))
    valid = SEQUENCES // 10
    start = random_hmm(STATES, 30, 0).circuit(LENGTH)
    found = TorchEngine().fit(
        start, fill_up(train[:-valid], END), options, valid=fill_up(train[-valid:], END)
    )
    random = TextModel(with_end_state(Hmm.of(found.circuit), END), TorchEngine())
    assert model.perplexity(held_out) < 0.97 * random.perplexity(held_out)
    # No model of one distribution for all places comes as close.
    counts = np.bincount(train[train >= 0], minlength=30) / (train >= 0).sum()
    alone = np.exp(-np.log(counts[held_out[held_out >= 0]]).mean())
    assert model.perplexity(held_out) < alone


def test_the_probability_of_an_end_is_the_language_models(
    model: TextModel, source: Path, tmp_path: Path
) -> None:
    """A text that ends is as probable as its beginning filled up, and as often as sampled."""
    x = drawn(source, tmp_path, 2000, 7)
    np.testing.assert_allclose(
        model.log_likelihood(x), model.log_likelihood(fill_up(x, END)), atol=1e-4
    )
    share = (x == END).any(1).mean()
    constraint = pj.Constraint.all_of([], LENGTH, eos=END, max_length=LENGTH - 1)
    found = float(model.phrase_probability([[]], constraint)[0])
    assert abs(found - share) < 0.05


def test_a_phrase_appears_in_every_sample(model: TextModel, source: Path) -> None:
    from transformers import AutoModelForCausalLM

    constraint = pj.Constraint.all_of([[7, 8, 9], [20]], LENGTH, eos=END)
    processor = model.processor(constraint, prompt_length=1, skip=1)
    torch.manual_seed(0)
    found = AutoModelForCausalLM.from_pretrained(source).generate(
        torch.tensor([[BOS]]),
        attention_mask=torch.ones(1, 1),
        do_sample=True,
        max_new_tokens=LENGTH,
        num_return_sequences=40,
        logits_processor=[processor],
        pad_token_id=END,
    )
    texts = [tuple(row[1:].tolist()) for row in found]
    assert len(set(texts)) > 20
    for text in texts:
        text = text[: text.index(END)] if END in text else text
        assert (7, 8, 9) in zip(text, text[1:], text[2:], strict=False) and 20 in text


def test_files(model: TextModel, runs: Path) -> None:
    again = TextModel.of(pj.load(runs / "writer", engine="torch"))
    for name in ("initial", "transition", "emission"):
        np.testing.assert_array_equal(getattr(again.hmm, name), getattr(model.hmm, name))
    assert model.hmm.emission[-1, END] == model.hmm.transition[-1, -1] == 1
    assert not model.hmm.emission[:-1, END].any()
    hmm, end = load_ctrlg(runs / "writer" / "ctrlg")
    assert end == END
    np.testing.assert_allclose(hmm.emission, model.hmm.emission, atol=1e-6)
    np.testing.assert_allclose(hmm.transition, model.hmm.transition, atol=1e-6)
    np.testing.assert_allclose(hmm.initial, model.hmm.initial, atol=1e-6)


def test_again_reuses_and_continues(model: TextModel, source: Path, runs: Path) -> None:
    before = sorted(path.name for path in (runs / "artifacts").iterdir())
    again = distill(source, runs / "writer", ctrlg=True)
    np.testing.assert_array_equal(again.hmm.emission, model.hmm.emission)
    more = sorted(path.name for path in (runs / "artifacts").iterdir())
    assert more == before
    longer = distill(source, runs / "longer", epochs=EPOCHS + 1)
    assert longer.hmm.states == STATES
    after = sorted(path.name for path in (runs / "artifacts").iterdir())
    new = {name.rpartition("-")[0] for name in set(after) - set(before)}
    assert set(before) < set(after) and new == {"train-lvd", "score", "examples"}
    ledger = json.loads((runs / "longer" / "artifacts.json").read_text())
    assert set(ledger) <= set(after)
    assert "(reused)" in (runs / "writer" / "log.txt").read_text()


def test_an_interruption_is_taken_up(
    model: TextModel, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = TorchEngine.fit

    def stop(*args: Any, on_epoch: Any, **more: Any) -> Any:
        def twice(epoch: Any) -> None:
            on_epoch(epoch)
            if epoch.epoch == 2:
                raise KeyboardInterrupt

        return fit(*args, on_epoch=twice, **more)

    monkeypatch.setattr(TorchEngine, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        distill(source, tmp_path / "writer")
    assert not (tmp_path / "writer" / "model.h5").exists()
    monkeypatch.setattr(TorchEngine, "fit", fit)
    again = distill(source, tmp_path / "writer")
    np.testing.assert_array_equal(again.hmm.emission, model.hmm.emission)
    log = (tmp_path / "writer" / "log.txt").read_text()
    assert "resumed" in log and "stopped: interrupted" in log


def test_a_model_without_an_end_and_with_a_tokenizer(tmp_path: Path) -> None:
    save_bert(tmp_path / "words")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "words" / name).unlink()
    save_gpt2(tmp_path / "words", limit=16)
    model = distill(tmp_path / "words", tmp_path / "out", states=4, sequences=60, length=6)
    assert model.hmm.transition[-1, -1] < 1
    assert model.ids(["cat", "##s"]) == [WORDS.index("cat"), WORDS.index("##s")]
    opened = pj.load(tmp_path / "out", engine="torch")
    assert len(opened.sample(2)) == 2
    filled = opened.text.infill("the [MASK] sat")[0]  # A drawn piece may continue the word.
    assert filled.startswith("the") and filled.endswith("sat")
    with pytest.raises(pj.UserError, match=r"give sampling\.end"):
        distill(tmp_path / "words", tmp_path / "other", ctrlg=True)
    ended = distill(
        tmp_path / "words",
        tmp_path / "ended",
        states=4,
        sequences=60,
        length=6,
        sampling=Sampling(prompt=[5], end=6),
        ctrlg=True,
    )
    assert ended.hmm.emission[-1, 6] == 1
    assert all("cat" not in text for text in pj.load(tmp_path / "ended").sample(20))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": 1}, "'circuit.states' is 1, but must be at least 2"),
        ({"length": 1}, "'data.length' is 1, but must be at least 2"),
        ({"length": 40}, "reads 16 tokens at once"),
        ({"sequences": 30, "states": 300}, "cannot fill 299 clusters"),
        ({"pseudocount": -1}, "'circuit.pseudocount' is -1, but must be more than 0"),
        ({"smoothing": 2}, "'circuit.smoothing' is 2, but must be less than 1"),
        ({"sampling": Sampling(end=30)}, "'data.end' must be an id of the model, 0 … 29, got 30"),
    ],
)
def test_refusals(source: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(pj.UserError, match=message):
        distill(source, tmp_path / "out", **changes)


def test_what_cannot_be_distilled(source: Path, tmp_path: Path) -> None:
    with pytest.raises(pj.UserError, match="looks ahead"):
        distill(save_bert(tmp_path / "bert"), tmp_path / "out")
    with pytest.raises(pj.UserError, match="give a causal model"):
        distill(3, tmp_path / "out")


def test_rows_of_the_end() -> None:
    hmm = with_end_state(random_hmm(3, 4, 0), 1)
    np.testing.assert_allclose(hmm.emission.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(hmm.transition.sum(1), 1, rtol=1e-6)
    assert hmm.emission[:, 1].tolist() == [0, 0, 1]
    only = Hmm(np.ones(2) / 2, np.ones((2, 2)) / 2, np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert with_end_state(only, 1).emission.tolist() == [[1, 0], [0, 1]]
    assert one_end(np.array([[1, 2, -1]]), [5, 2]).tolist() == [[1, 5, -1]]
