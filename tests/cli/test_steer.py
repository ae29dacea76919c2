"""``steer`` from a run on what a tiny GPT-2 writes to texts that hold phrases."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from teachers.tiny_text_models import VOCABULARY, save_bert, save_gpt2

import pyjuice_bridge as pj
from pyjuice_bridge.cli.main import main

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)
END, LENGTH = 3, 10


def invoke(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with a tokenizer, another one without, and an HMM of what the first one writes."""
    from transformers import BertTokenizerFast

    base = tmp_path_factory.mktemp("steer")
    gpt2 = save_gpt2(base / "gpt2", limit=LENGTH + 5, eos=END, scale=0.35)
    BertTokenizerFast.from_pretrained(save_bert(base / "bert")).save_pretrained(gpt2)
    save_gpt2(base / "mute", limit=LENGTH + 5, eos=END)
    config = {
        "name": "writer",
        "data": {"kind": "written", "name": str(gpt2), "sequences": 60, "length": LENGTH},
        "circuit": {"states": 4},
        "train": {"epochs": 2},
        "arms": ["lvd"],
        "engine": "torch",
        "device": "cpu",
    }
    pj.run(config, out=base / "run", progress=False)
    return base


def test_every_text_holds_the_phrases(home: Path) -> None:
    phrases = ("--phrase", "the cat", "--phrase", "dog sat")
    words = ("steer", home / "run", "the a", *phrases, "--tokens", LENGTH, "--seed", 1)
    answer = json.loads(invoke(*words, "--n", 5, "--json").stdout)
    assert len(answer["texts"]) == 5 and answer["seed"] == 1 and answer["prompt"] == "the a"
    for each in answer["texts"]:
        assert "the cat" in each["text"] and "dog sat" in each["text"]
        assert len(each["tokens"]) <= LENGTH and END not in each["tokens"]
    hmm = pj.load(home / "run").text
    constraint = pj.Constraint.all_of(hmm.phrases(["the cat", "dog sat"]), LENGTH, eos=END)
    chance = hmm.phrase_probability(["the a"], constraint)[0]
    assert answer["chance"] == pytest.approx(chance, rel=1e-5)
    lines = invoke(*words, "--n", 5)
    assert lines.stdout.splitlines() == [each["text"] for each in answer["texts"]]
    assert lines.stderr == f"seed 1; by itself {100 * chance:.3g} % of the texts would do\n"
    half = json.loads(invoke(*words, "--bf16", "--json").stdout)
    assert half["chance"] == pytest.approx(chance, rel=0.02)
    assert all("the cat" in each["text"] for each in half["texts"])


def test_beams_lengths_any_phrase_and_the_model_alone(home: Path) -> None:
    words = ("steer", home / "run", "--tokens", LENGTH, "--json", "--seed", 0)
    any_of = ("--phrase", "cat cat", "--phrase", "dog dog", "--any")
    for how in (("--beams", 3), ("--beams", 3, "--sample")):
        found = json.loads(invoke(*words, *any_of, *how, "--n", 2, "--at-most", 6).stdout)
        for each in found["texts"]:
            assert ("cat cat" in each["text"]) or ("dog dog" in each["text"])
            assert len(each["tokens"]) <= 6
    alone = json.loads(invoke(*words, *any_of, "--alpha", 0, "--n", 20).stdout)
    held = ["cat cat" in each["text"] or "dog dog" in each["text"] for each in alone["texts"]]
    assert not all(held)
    long = json.loads(invoke(*words, "--at-least", LENGTH).stdout)
    assert all(len(each["tokens"]) == LENGTH for each in long["texts"]) and long["chance"] < 1


def test_an_hmm_file_is_steered_with_a_named_model(home: Path) -> None:
    words = ("steer", home / "run" / "lvd.h5", "--phrase", "dog", "--tokens", 4, "--n", 1)
    done = invoke(*words, "--model", home / "gpt2")
    assert done.exit_code == 0 and "dog" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--beams", 2, "--n", 3), "--n 3 texts need as many --beams; there are 2"),
        (("--sample",), "--sample belongs to --beams"),
        (("--tokens", 40), "reads 15 tokens at once, too few for PROMPT and --tokens, 41 together"),
        (("--phrase", ""), "phrases: '' is empty"),
        (("--phrase", "the cat", "--tokens", 1), "cannot occur within 1 tokens"),
        (("--model", "nowhere"), "nowhere"),
        (("--at-least", 5, "--at-most", 4), "min_length ≤ max_length"),
    ],
)
def test_mistakes_are_one_sentence(home: Path, words: tuple[Any, ...], said: str) -> None:
    done = invoke("steer", home / "run", *words)
    assert done.exit_code == 1 and said in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_models_that_do_not_belong_together(home: Path, tmp_path: Path) -> None:
    done = invoke("steer", home / "run", "--model", home / "mute", "--tokens", 4, "--n", 1)
    # Without a tokenizer of its own the HMM's strings are taken; the ids are the same.
    assert done.exit_code == 0
    lonely = tmp_path / "hmm.h5"
    lonely.write_bytes((home / "run" / "model.h5").read_bytes())
    assert "give --model" in invoke("steer", lonely).stderr
    mute = invoke("steer", lonely, "--model", home / "mute")
    assert "has no tokenizer, which PROMPT and phrases are read with" in mute.stderr
    assert invoke("steer", lonely, "the", "--model", home / "gpt2", "--tokens", 4).exit_code == 0
    assert len(pj.load(home / "run").text.vocabulary) == VOCABULARY
