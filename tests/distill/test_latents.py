"""One way from a teacher to latent values: of images and text, from objects, files and networks."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import tiny_text

from pyjuice_bridge.cluster import Assignments, cluster_embeddings
from pyjuice_bridge.data import load_text, windows
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.runner.api import run as run_config
from pyjuice_bridge.teachers import ArrayEmbeddings, store

needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)
WINDOW, STATES = 6, 3


class Rest:
    """A text teacher of one's own: how often each of the first words comes in the rest of a window.

    What it returns after a window's end is nonsense, and does not matter.
    """

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.calls = 0

    def embed(self, tokens: np.ndarray) -> np.ndarray:
        assert tokens.dtype == np.int32 and tokens.shape[1] == WINDOW
        self.seen |= set(tokens.ravel().tolist())
        self.calls += 1
        counts = (tokens[..., None] == np.arange(8)).astype(np.float32)
        rest = np.cumsum(counts[:, ::-1], 1)[:, ::-1].copy()
        rest[tokens < 0] = np.nan
        return rest


class Lengths:
    """Reads the strings behind the ids."""

    def embed(self, tokens: np.ndarray, vocabulary: list[str]) -> np.ndarray:
        sizes = np.array([len(word) for word in vocabulary], np.float32)
        return sizes[tokens][..., None] + np.arange(2, dtype=np.float32)


def text_config(**changes: Any) -> dict[str, Any]:
    data = {"kind": "text", "name": "strings", "window": WINDOW, "tokens": "words"}
    own = {"data": data, "teacher": {"kind": "object"}, "sweep": {"circuit.states": [STATES]}}
    return tiny_text.config(Path("none"), **{**own, "arms": ["lvd"], **changes})


def joined(value: bool) -> dict[str, Any]:
    return {**text_config()["data"], "joined": value, "stride": 4}


@pytest.mark.parametrize("whole", [True, False])
def test_a_text_teacher_of_ones_own(tmp_path: Path, whole: bool) -> None:
    config = text_config(data=joined(whole))
    teacher = Rest()
    run = run_config(config, text=tiny_text.splits(), teacher=teacher, out=tmp_path / "run")
    assert (-1 in teacher.seen) is not whole

    text = load_text(tiny_text.splits(), tokenizer="words")
    cuts = {s: windows(getattr(text, s), WINDOW, 4, joined=whole) for s in ("train", "valid")}
    features = {
        split: ArrayEmbeddings(np.nan_to_num(Rest().embed(np.array(cut.x))), lengths=cut.lengths)
        for split, cut in cuts.items()
    }
    expected = cluster_embeddings(
        features, STATES, scope="pooled", iterations=5, points_per_centroid=256
    )
    found = Assignments.load(run.path / "assignments.h5")
    for split, cut in cuts.items():
        there = cut.x >= 0
        np.testing.assert_array_equal(found.z[split][there], expected.z[split][there])

    calls = teacher.calls
    again = run_config(config, text=tiny_text.splits(), teacher=teacher, out=tmp_path / "run")
    assert teacher.calls == calls + 1  # the probe that names it
    assert {name.rpartition("-")[0] for name in again.reused} >= {"embed", "clusters", "counting"}


def test_text_embeddings_and_ids_from_files_give_the_same_run(tmp_path: Path) -> None:
    config = text_config(data=joined(False))
    run = run_config(config, text=tiny_text.splits(), teacher=Rest(), out=tmp_path / "runs" / "own")
    z = Assignments.load(run.path / "assignments.h5").z
    text = load_text(tiny_text.splits(), tokenizer="words")
    for folder in ("embeddings", "assignments"):
        (tmp_path / folder).mkdir()
    for split in ("train", "valid"):
        x = np.array(windows(getattr(text, split), WINDOW, 4, joined=False).x)
        vectors = np.nan_to_num(Rest().embed(x)).astype(np.float16)
        np.save(tmp_path / "embeddings" / f"{split}.npy", vectors)
        np.save(tmp_path / "assignments" / f"{split}.npy", np.where(x >= 0, z[split], -1))
    for name in ("embeddings", "assignments"):
        section = {"kind": "file", name: str(tmp_path / name)}
        other = run_config(
            {**config, "teacher": section}, text=tiny_text.splits(), out=tmp_path / "runs" / name
        )
        assert other.results[0]["test"] == run.results[0]["test"]
    ids = np.load(tmp_path / "assignments" / "valid.npy")
    ids[0, 0] = -1
    np.save(tmp_path / "assignments" / "valid.npy", ids)
    with pytest.raises(UserError, match="gives -1 for positions of valid windows that count"):
        run_config(
            {**config, "teacher": section}, text=tiny_text.splits(), out=tmp_path / "runs" / "less"
        )


@needs_transformers
def test_pieces_of_a_named_tokenizer(tmp_path: Path) -> None:
    bert = tiny_text.save_bert(tmp_path / "bert")
    data = {**text_config()["data"], "tokens": "pieces"}
    config = text_config(data=data, teacher={"kind": "object", "tokenizer": str(bert)})
    run = run_config(config, text=tiny_text.splits(), teacher=Lengths(), out=tmp_path / "run")
    text = load_text(tiny_text.splits(), tokenizer=str(bert))
    assert run.results[0]["vocabulary"] == len(text.vocabulary)
    assert run.results[0]["token"] == "word pieces"
    rows = len(windows(text.train, WINDOW, WINDOW).x)
    assert Assignments.load(run.path / "assignments.h5").z["train"].shape == (rows, WINDOW)


def test_the_vocabulary_is_given_to_teachers_that_ask(tmp_path: Path) -> None:
    run = run_config(
        text_config(), text=tiny_text.splits(), teacher=Lengths(), out=tmp_path / "run"
    )
    text = load_text(tiny_text.splits(), tokenizer="words")
    sizes = np.array([len(word) for word in text.vocabulary])
    x = windows(text.train, WINDOW, WINDOW).x
    z = Assignments.load(run.path / "assignments.h5").z["train"]
    for size in np.unique(sizes[x]):
        assert len(np.unique(z[sizes[x] == size])) == 1  # words of one length share a cluster


class Fails:
    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def embed(self, tokens: np.ndarray) -> Any:
        return self.answer(tokens)


ANSWERS: list[tuple[Any, str]] = [
    (lambda x: np.zeros(x.shape, np.float32), "must return floats"),
    (lambda x: np.zeros((len(x), 2, 3), np.float32), r"\[N, T, dim\] for token ids"),
    (lambda x: np.zeros((*x.shape, 0), np.float32), "must return floats"),
    (lambda x: np.zeros((*x.shape, 3), np.int64), "must return floats"),
    (lambda x: np.full((*x.shape, 3), np.inf), "NaN or infinite"),
]


@pytest.mark.parametrize(("answer", "message"), ANSWERS)
def test_what_a_text_teacher_may_not_return(tmp_path: Path, answer: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_config(
            text_config(), text=tiny_text.splits(), teacher=Fails(answer), out=tmp_path / "run"
        )


def test_an_object_that_is_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"object has no method embed\(windows int32 \[N, T\]\)"):
        run_config(text_config(), text=tiny_text.splits(), teacher=object(), out=tmp_path / "run")
    with pytest.raises(UserError, match="belongs to run"):
        run_config(text_config(), text=tiny_text.splits(), out=tmp_path / "other")


class Killed(Rest):
    """Stops after so many calls."""

    def __init__(self, stop: int) -> None:
        super().__init__()
        self.stop = stop

    def describe(self) -> dict[str, str]:
        return {"kind": "rest"}

    def embed(self, tokens: np.ndarray) -> np.ndarray:
        if self.calls >= self.stop:
            raise KeyboardInterrupt
        return super().embed(tokens)


def test_an_interrupted_embedding_continues_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_BLOCK_FLOATS", 10 * WINDOW * 8)
    text = tiny_text.splits()
    undisturbed = Killed(1000)
    whole = run_config(text_config(), text=text, teacher=undisturbed, out=tmp_path / "a" / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_config(text_config(), text=text, teacher=Killed(5), out=tmp_path / "b" / "part")
    rest = Killed(1000)
    part = run_config(text_config(), text=text, teacher=rest, out=tmp_path / "b" / "part")
    assert rest.calls == undisturbed.calls - 5  # one of the five was the first row, for its shape
    np.testing.assert_array_equal(
        Assignments.load(part.path / "assignments.h5").z["train"],
        Assignments.load(whole.path / "assignments.h5").z["train"],
    )
    assert part.results[0]["test"] == whole.results[0]["test"]


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images_for_two_clusters(tmp_path: Path, count: int) -> None:
    one = tiny_runs.images(count)
    data = {"train": one, "valid": tiny_runs.images(3), "test": tiny_runs.images(3)}
    config = tiny_runs.hclt_config(arms=["lvd"], circuit={"kind": "hclt", "latents": 3})
    with pytest.raises(UserError, match="cannot fill 3 clusters") as caught:
        run_config(config, images=data, out=tmp_path / "run")
    said = str(caught.value)
    assert said.endswith("train on more images")
    assert ("set 'circuit.latents' to at most 2" in said) is (count == 2)
    assert "at most 1" not in said
