"""Whole runs on text: what they write, whether it is right, what is reused, resuming."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import tiny_text

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.hmm import Hmm, random_hmm
from pyjuice_bridge.cluster.assignments import Assignments
from pyjuice_bridge.data import load_text, windows
from pyjuice_bridge.distill.counting import count_parameters
from pyjuice_bridge.distill.hmm import interpolate
from pyjuice_bridge.domains.text_examples import picture, state_shares
from pyjuice_bridge.report.run_dir import read_run
from pyjuice_bridge.runner.splits import stream_for
from pyjuice_bridge.teachers.text import TextTeacher
from pyjuice_bridge.teachers.text_features import SuffixFeatures
from pyjuice_bridge.teachers.text_scale import UnitStates, mean_state

ARMS = [("lvd", 3), ("random", 3), ("lvd", 5), ("random", 5)]
FILES = {
    "config.yaml",
    "results.json",
    "metrics.jsonl",
    "bound.json",
    "figures.npz",
    "text.json",
    "tokens.json",
    "assignments.h5",
    "model.h5",
    *(f"{arm}-{states}.h5" for arm, states in ARMS),
    "report.html",
    "log.txt",
    "artifacts.json",
}


def size(row: dict[str, Any]) -> int:
    """The number of states of a line of the run's files."""
    return int(row["sweep"]["circuit.states"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        tiny_text.save_bert(folder / "bert")
        yield folder


@pytest.fixture(scope="module")
def finished(home: Path) -> Any:
    config = tiny_text.config(home / "bert")
    return pj.run(config, text=tiny_text.splits(), out=home / "runs" / "first")


def test_run_folder_is_complete(finished: Any) -> None:
    assert {p.name for p in finished.path.iterdir()} == FILES
    run = read_run(finished.path)
    assert [(r.arm, r.point["circuit.states"]) for r in run.results] == ARMS
    assert (
        run.points == [{"circuit.states": 3}, {"circuit.states": 5}]
        and run.measure.unit == "perplexity"
    )
    rows = finished.results
    assert all(r["passes"] == 3 and r["token"] == "word pieces" for r in rows)
    assert [r["parameters"] for r in rows] == [n + n * n + n * 19 for _, n in ARMS]


def test_perplexities_are_those_of_the_saved_models(finished: Any, home: Path) -> None:
    data = load_text(tiny_text.splits(), tokenizer=str(home / "bert"))
    for row in finished.results:
        model = pj.load(finished.path / f"{row['model']}-{size(row)}.h5")
        for split in ("train", "valid", "test"):
            x = windows(getattr(data, split), 6, 6).x
            nats = -model.log_likelihood(x).sum() / x.size
            assert row[split]["unit"] == "perplexity"
            assert row[split]["value"] == pytest.approx(math.exp(nats), rel=1e-6)


def test_best_model_is_chosen_on_validation(finished: Any) -> None:
    lvd = [r for r in finished.results if r["model"] == "lvd"]
    best = min(lvd, key=lambda r: r["valid"]["value"])
    hmm = Hmm.of(pj.load(finished.path).circuit)
    assert hmm.states == size(best)
    assert Assignments.load(finished.path / "assignments.h5").clusters == size(best)


def test_counting_starts_from_clusters_of_suffix_means(finished: Any, home: Path) -> None:
    data = load_text(tiny_text.splits(), tokenizer=str(home / "bert"))
    cut = windows(data.train, 6, 6)
    states = TextTeacher(home / "bert").store(
        data.train.tokens, home / "states", documents=data.train.documents
    )
    unit = UnitStates(states, mean_state(states))
    features = SuffixFeatures(unit, cut.starts, 6).read(slice(None), slice(None))
    found = Assignments.load(finished.path / "assignments.h5")
    assert found.centroids is not None
    distance = ((features[:, :, None] - found.centroids[0]) ** 2).sum(-1)
    np.testing.assert_array_equal(found.z["train"], distance.argmin(-1))
    start = random_hmm(found.clusters, 19, None).circuit(6)
    hmm = Hmm.of(count_parameters(start, cut.x, found.z["train"], pseudocount=0.1))
    hmm = interpolate(hmm, cut.x, found.z["train"], 0.1)
    counted = [
        Hmm.of(pj.load(path / "circuit.h5").circuit)
        for path in (home / "runs" / "artifacts").glob("counting-*")
    ]
    (same,) = (each for each in counted if each.states == found.clusters)
    np.testing.assert_array_equal(same.transition, hmm.transition)
    np.testing.assert_array_equal(same.emission, hmm.emission)


def test_bound_and_curves_are_per_size(finished: Any) -> None:
    rows = json.loads((finished.path / "bound.json").read_text())
    assert [(size(r), r["stage"]) for r in rows] == [
        (n, stage) for n in (3, 5) for stage in ("counting", "fine-tune")
    ]
    assert all(r["bound"] >= r["marginal"] and r["unit"] == "perplexity" for r in rows)
    lines = [json.loads(x) for x in (finished.path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["arm"], size(r), r["passes"]) for r in lines] == [
        (arm, n, i) for arm, n in ARMS for i in (1, 2, 3)
    ]
    for row in finished.results:
        own = [x for x in lines if (x["arm"], size(x)) == (row["model"], size(row))]
        assert own[-1]["total_seconds"] == pytest.approx(row["seconds"])
    spent = [r["stage_seconds"]["states"] for r in finished.results if r["model"] == "lvd"]
    assert spent[0] == spent[1] > 0


def test_examples_keep_what_was_not_hidden(finished: Any) -> None:
    found = json.loads((finished.path / "text.json").read_text())
    assert list(found["arms"]) == ["lvd", "random"]
    assert all(len(arm["samples"]) == 3 for arm in found["arms"].values())
    for arm in found["arms"].values():
        shares = [state["share"] for state in arm["states"]]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
        assert all(len(state["likely"]) == len(state["typical"]) == 6 for state in arm["states"])
    assert len(found["infill"]) == 2
    for gap in found["infill"]:
        assert set(gap["answers"]) == {"lvd", "random"}


def test_second_run_reuses_everything_and_a_fresh_one_has_equal_numbers(
    finished: Any, home: Path
) -> None:
    config = tiny_text.config(home / "bert")
    again = pj.run(config, text=tiny_text.splits(), out=finished.path)
    names = json.loads((again.path / "artifacts.json").read_text())
    assert sorted(again.reused) == names
    numbers, curve = tiny_runs.numbers(finished.path), tiny_runs.curve(finished.path)
    out = home / "runs" / "fresh"
    fresh = pj.run(config, text=tiny_text.splits(), out=out, fresh=True)
    assert fresh.reused == ()
    assert tiny_runs.numbers(out) == numbers and tiny_runs.curve(out) == curve


def test_sizes_share_the_states_and_other_sizes_add_to_them(finished: Any, home: Path) -> None:
    config = tiny_text.config(home / "bert", sweep={"circuit.states": [5, 4]})
    more = pj.run(config, text=tiny_text.splits(), out=home / "runs" / "more")
    names = json.loads((more.path / "artifacts.json").read_text())
    new = {name.rpartition("-")[0] for name in set(names) - set(more.reused)} - {"examples"}
    assert new == {"clusters", "counting", "train-lvd", "train-random", "score"}
    assert sum(name.startswith("states-") for name in names) == 1
    wanted = {(r["model"], size(r)): r["test"] for r in finished.results}
    for row in more.results[:2]:
        assert row["test"] == wanted[row["model"], 5]


@pytest.mark.parametrize("stage", ["states-*/train", "clusters-*", "train-random-*"])
def test_stopped_runs_continue_to_the_same_numbers(
    finished: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    config = tiny_text.config(home / "bert")
    out, rename = tmp_path / "runs" / "run", Path.replace

    def stopping(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if target.parent.match(stage) and target.name != "spent.json":
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        pj.run(config, text=tiny_text.splits(), out=out)
    monkeypatch.undo()
    pj.run(config, text=tiny_text.splits(), out=out)
    assert tiny_runs.numbers(out) == tiny_runs.numbers(finished.path)
    assert tiny_runs.curve(out) == tiny_runs.curve(finished.path)


def test_documents_apart_and_words(home: Path) -> None:
    data = {"kind": "text", "name": "strings", "window": 6, "stride": 4, "joined": False}
    config = tiny_text.config(home / "bert", data={**data, "tokens": "words", "vocabulary": 8})
    run = pj.run(config, text=tiny_text.splits(), out=home / "runs" / "words", sweep=None)
    assert [r["model"] for r in run.results] == ["lvd", "random"]
    row = run.results[0]
    assert (row["token"], row["vocabulary"], row["joined"]) == ("words", 8, False)
    z = Assignments.load(run.path / "assignments.h5").z["train"]
    text = load_text(tiny_text.splits(), tokenizer="words", vocabulary=8)
    cut = windows(text.train, 6, 4, joined=False)
    assert (cut.x < 0).any() and z.shape == cut.x.shape
    opened = pj.load(run.path)
    rows = opened.codec.windows(text.train)
    assert len(rows) == len(cut)
    value = opened.text.perplexity(rows)
    assert value == pytest.approx(row["train"]["value"], rel=1e-6)
    rows = json.loads((run.path / "bound.json").read_text())
    assert all(r["bound"] >= r["marginal"] for r in rows)


def test_random_arm_needs_no_teacher_to_read(home: Path) -> None:
    config = tiny_text.config(home / "bert", arms=["random"], sweep={"circuit.states": [3]})
    run = pj.run(config, text=tiny_text.splits(), out=home / "runs" / "random", seed=1)
    names = json.loads((run.path / "artifacts.json").read_text())
    assert {name.rpartition("-")[0] for name in names} == {"train-random", "score", "examples"}
    assert not (run.path / "assignments.h5").exists()


def test_texts_of_one_s_own_are_scored_and_filled_in(finished: Any, home: Path) -> None:
    opened = pj.load(finished.path)
    text = opened.text
    (home / "other.txt").write_text("\n\n".join(tiny_text.documents(6, seed=5)))
    stream, name = stream_for(finished.path, text.vocabulary, str(home / "other.txt"), None)
    assert name == "" and stream.document_count == 6
    rows = opened.codec.windows(stream)[:4]
    value, count = text.perplexity(rows), len(rows)
    x = windows(stream, 6, 6).x[:4]
    nats = -pj.load(finished.path).log_likelihood(x).sum() / x.size
    assert (count, value) == (4, pytest.approx(math.exp(nats), rel=1e-6))
    filled = text.infill("the cat [MASK] the dog", 4, seed=1)
    assert len(filled) == 4 and all(line.startswith("the cat") for line in filled)
    assert text.viterbi("the cat [MASK]")[0].startswith("the cat")
    assert len(opened.sample(2)) == 2
    with pytest.raises(pj.UserError, match=r"no gap; write \[MASK\]"):
        text.infill("the cat")
    with pytest.raises(pj.UserError, match="leave out --split"):
        stream_for(finished.path, text.vocabulary, str(home / "other.txt"), "test")
    lonely = home / "lonely.h5"
    lonely.write_bytes((finished.path / "model.h5").read_bytes())
    with pytest.raises(pj.UserError, match=r"tokens\.json is missing"):
        pj.load(lonely).text.infill("the [MASK]")


MISTAKES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"sweep": {"circuit.states": [900]}}, {}, "hold 378 tokens, which cannot fill 900 clusters"),
    (
        {"data": {"kind": "text", "name": "s", "window": 99}},
        {},
        "strings, test split: .* do not fit",
    ),
    ({"teacher": {"kind": "text", "features": "prefix"}}, {}, "looks at both sides"),
    ({"teacher": {"kind": "text", "layer": 7}}, {}, "not 7"),
    ({}, {"text": {"train": "abc"}}, "list of strings"),
    (
        {},
        {"images": np.zeros((9, 2, 2), np.uint8), "text": None},
        "passed to run need 'data.kind: images'",
    ),
    ({"data": {"name": "digits"}}, {}, "passed to run need 'data.kind: text'"),
]


@pytest.mark.parametrize(("changes", "arguments", "message"), MISTAKES)
def test_mistakes_are_one_sentence(
    home: Path, tmp_path: Path, changes: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    config = tiny_text.config(home / "bert", **changes)
    config["teacher"] = {"source": str(home / "bert"), **config["teacher"]}
    with pytest.raises(pj.UserError, match=message) as caught:
        pj.run(config, out=tmp_path / "run", **{"text": tiny_text.splits(), **arguments})
    assert "\n" not in str(caught.value)


def test_picture_of_transitions_puts_groups_of_states_together() -> None:
    group = np.array([0, 1, 0, 1, 1, 0])
    stay = np.where(group[:, None] == group, 0.32, 0.01)
    hmm = Hmm(np.full(6, 1 / 6), stay / stay.sum(1, keepdims=True), np.full((6, 2), 0.5))
    np.testing.assert_allclose(state_shares(hmm, 5), 1 / 6, atol=1e-12)
    drawn = picture(hmm, 5)
    dark = drawn < drawn.mean()
    assert dark[:3, :3].all() and dark[3:, 3:].all()
    assert not dark[:3, 3:].any() and not dark[3:, :3].any()
    big = np.random.default_rng(0).dirichlet(np.ones(600), 600)
    assert picture(Hmm(big[0], big, np.full((600, 2), 0.5)), 4).shape == (300, 300)
