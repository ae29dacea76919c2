"""The command line on text: every command on a tiny run, one line where there is no meaning."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_text
import yaml
from click.testing import CliRunner, Result

import pyjuice_bridge as pj
from pyjuice_bridge.cli.main import main
from pyjuice_bridge.data.text_readers import own
from pyjuice_bridge.runner.config import load_config


def invoke(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a config, its texts, and two finished runs of different seeds."""
    base = tmp_path_factory.mktemp("cli-text")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        (base / "texts.txt").write_text("\n\n".join(tiny_text.documents(40)))
        (base / "other.txt").write_text("\n\n".join(tiny_text.documents(5, seed=7)))
        data = {"kind": "text", "name": str(base / "texts.txt"), "window": 6, "tokens": "words"}
        config = tiny_text.config(tiny_text.save_bert(base / "bert"), data=data)
        (base / "config.yaml").write_text(yaml.safe_dump(config))
        for seed in (0, 1):
            words = ("--set", f"seed={seed}", "--out", base / f"r/{seed}")
            done = invoke("run", base / "config.yaml", *words)
            assert done.exit_code == 0, done.output
        assert "LVD, 5 states" in done.output and "perplexity" in done.output
        assert "bits" not in done.output
        yield base


def results(folder: Path, seed: int = 0) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / f"r/{seed}/results.json").read_text())
    return rows


def test_plan_runs_nothing(folder: Path) -> None:
    done = invoke("run", folder / "config.yaml", "--plan", "--out", folder / "r/plan")
    assert done.exit_code == 0, done.output
    for row in results(folder):
        assert f"{row['parameters']:,}" in done.output
    said = " ".join(done.output.split())
    assert "windows of 6 at a stride of 6" in said and "fits a GPU of 8 GiB" in said
    assert not (folder / "r/plan").exists()


def test_show_and_compare(folder: Path) -> None:
    done = invoke("show", folder / "r/0")
    assert f"{results(folder)[0]['test']['value']:.2f}" in done.output
    assert "on the test windows of" in " ".join(done.output.split())
    assert "hmm" in invoke("show", folder / "r/0/model.h5").output
    assert "assignments: " in invoke("show", folder / "r/0/assignments.h5").output
    table = invoke("compare", folder / "r/0", folder / "r/1").output
    assert "perplexity, mean ± sd" in table and table.count("LVD, ") == 2
    means = [
        sum(r["test"]["value"] for r in pair) / 2
        for pair in zip(results(folder), results(folder, 1), strict=True)
    ]
    assert all(f"{mean:.2f} ± " in table for mean in means)


def test_a_text_shorter_than_a_window_is_one_window(folder: Path) -> None:
    (folder / "short.txt").write_text("the cat sat")
    (folder / "nothing.txt").write_text("")
    opened = pj.load(folder / "r/0").text
    ids = opened.vocabulary.stream("short", own_text(folder)).tokens[None]
    expected = opened.perplexity(ids)
    done = invoke("evaluate", folder / "r/0", folder / "short.txt")
    assert done.output.startswith(f"perplexity {expected:.2f} on 1 window of 4 words of ")
    done = invoke("evaluate", folder / "r/0", folder / "nothing.txt")
    assert done.exit_code == 1
    assert done.output == "error: nothing: there is not a single token in the text.\n"


def own_text(folder: Path) -> Any:
    return own(folder / "short.txt").parts["all"]


def test_what_does_not_fit_into_memory_is_said(folder: Path, monkeypatch: Any) -> None:
    def much(*_: Any, **__: Any) -> None:
        raise MemoryError("Unable to allocate 4 TiB")

    monkeypatch.setattr("pyjuice_bridge.runner.plan.make_plan", much)
    done = invoke("run", folder / "config.yaml", "--plan")
    said = "there is not enough memory (Unable to allocate 4 TiB); make the circuit smaller"
    assert done.exit_code == 1 and done.output == f"error: {said}\n"


def test_evaluate_repeats_the_figures_of_the_run(folder: Path) -> None:
    for row in results(folder):
        name = f"{row['model']}-{row['sweep']['circuit.states']}.h5"
        for split in ("train", "valid", "test"):
            words = ("evaluate", folder / "r/0" / name, folder / "texts.txt", "--split", split)
            said = invoke(*words).output
            count = row["windows"][split]
            figure = f"perplexity {row[split]['value']:.2f} on {count:,} windows of 6 words"
            assert said.startswith(f"{figure} of the {split} split of ")
            assert said.endswith("(stride 6, no context across windows)\n")


def test_json_says_what_was_measured(folder: Path) -> None:
    words = ("evaluate", folder / "r/0", folder / "texts.txt", "--json", "--engine", "torch")
    found = json.loads(invoke(*words).output)
    best = min(
        (row for row in results(folder) if row["model"] == "lvd"),
        key=lambda row: float(row["valid"]["value"]),
    )
    assert found["value"] == pytest.approx(best["test"]["value"], rel=1e-5)
    expected = {"unit": "perplexity", "split": "test", "rows": best["windows"]["test"]}
    assert {key: found[key] for key in expected} == expected


def test_evaluate_takes_all_of_another_text(folder: Path) -> None:
    opened = pj.load(folder / "r/0").text
    ids = opened.vocabulary.encode((folder / "other.txt").read_text())
    assert len(ids) > 30 and (ids > 0).all()
    done = invoke("evaluate", folder / "r/0", folder / "other.txt", "--limit", 2)
    value = opened.perplexity(ids[:12].reshape(2, 6))
    assert f"perplexity {value:.2f} on 2 windows of 6 words" in done.output
    assert "split" not in done.output


def test_sample_and_infill_print_texts(folder: Path) -> None:
    done = invoke("sample", folder / "r/0", "--n", 3, "--seed", 1, "--engine", "torch")
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all(len(line.split()) == 6 for line in lines)
    assert done.stderr == "seed 1, torch on cpu\n"
    other = [invoke("sample", folder / "r/0", "--n", 3).stdout for _ in range(2)]
    assert other[0] != other[1]
    ids = folder / "samples.npy"
    assert invoke("sample", folder / "r/0", "--n", 3, "--seed", 1, "--out", ids).exit_code == 0
    words = pj.load(folder / "r/0").text.vocabulary
    assert [words.decode(row) for row in np.load(ids, allow_pickle=False)] == lines
    out = folder / "samples.txt"
    assert invoke("sample", folder / "r/0", "--n", 3, "--seed", 1, "--out", out).exit_code == 0
    assert out.read_text().splitlines() == lines
    filled = invoke("infill", folder / "r/0", "the cat [MASK] the [MASK]", "--n", 2).stdout
    first, second, best = filled.splitlines()
    assert first.startswith("the cat ") and len(second.split()) == 5
    assert best.startswith("Viterbi: the cat ")


MISTAKES = [
    (("inpaint", "{run}", "--data", "{texts}"), "does not model images"),
    (("infill", "{run}", "the cat"), "no gap"),
    (("infill", "{images}", "the [MASK]"), "does not model text"),
    (("evaluate", "{run}", "{other}", "--split", "test"), "has no test split"),
    (("evaluate", "{run}", "nowhere.txt"), "There is no text or path nowhere.txt"),
    (("sample", "{run}", "--out", "{run}"), "is not a regular file"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_are_one_line(folder: Path, words: tuple[str, ...], message: str) -> None:
    from pyjuice_bridge.circuit import hdf5
    from pyjuice_bridge.circuit.hclt import hclt

    hdf5.save(hclt([-1, 0], 2, 2, seed=0), folder / "images.h5")
    places = {
        "run": folder / "r/0",
        "texts": folder / "texts.txt",
        "other": folder / "other.txt",
        "images": folder / "images.h5",
    }
    done = invoke(*(word.format(**places) for word in words))
    assert done.exit_code == 1
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_init_text_is_a_config_with_the_defaults_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    assert invoke("init", "text", "--out", path).exit_code == 0
    config = load_config(path)
    assert config.circuit.kind == "hmm" and config.data.kind == "text"
    text = path.read_text()
    shown = [
        line.removeprefix("  # ").removeprefix("# ").split("#")[0].rstrip()
        for line in text.splitlines()
        if "#" in line and ":" in line.split("#")[1]
    ]
    assert "stride: 32" in shown and "scale: unit" in shown
    for section in ("data", "teacher"):
        names = set(type(getattr(config, section)).model_fields)
        assert all(f"{name}: " in text for name in names)
