"""The configs of text: WikiText-2 runs on a few lines in its true formats, and fits a GPU."""

import json
from pathlib import Path

import pytest
import tiny_text
from scripts import EXPERIMENTS

import pyjuice_bridge as pj
from pyjuice_bridge.runner.config import load_config
from pyjuice_bridge.runner.plan import make_plan

SMALL = (
    "cluster.iterations=3",
    "cluster.restarts=1",
    "sweep.circuit.states=[2, 3]",
    "train.epochs=3",
    "train.batch_size=64",
    "data.limit=150",
    "report={samples: 1, inpaint: 1}",
)


def articles(count: int, seed: int) -> str:
    """Articles as in the files: a title between empty lines, then paragraphs of words."""
    texts = tiny_text.documents(count, seed)
    return " \n" + "".join(
        f" = cat {i} = \n \n {text} . \n the <unk> @-@ sat . \n \n" for i, text in enumerate(texts)
    )


def write_lines(folder: Path, ending: str) -> None:
    for seed, split in enumerate(("train", "valid", "test")):
        lines = articles(8 - 2 * seed, seed)
        text = lines if ending == "tokens" else lines.replace("<unk>", "cobra").replace("@-@", "-")
        (folder / f"wiki.{split}.{ending}").write_text(text)


def write_parquet(folder: Path, ending: str) -> None:
    """The hub's form: a row per line."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for seed, split in enumerate(("train", "validation", "test")):
        rows = articles(8 - 2 * seed, seed).splitlines(keepends=True)
        rows = ["" if row == " \n" else row for row in rows]
        name = f"{split}-00000-of-00001.parquet"
        parquet.write_table(pyarrow.table({"text": rows}), folder / name)


def test_wikitext2_from_file_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bert = tiny_text.save_bert(tmp_path / "bert")
    scores = {}
    for number, (write, ending) in enumerate(
        [(write_lines, "tokens"), (write_parquet, "tokens"), (write_lines, "raw")]
    ):
        root = tmp_path / f"files-{number}"
        root.mkdir()
        write(root, ending)
        changes = [*SMALL, f"data.root={root}", f"teacher.source={bert}"]
        config = load_config(EXPERIMENTS / "wikitext2.yaml", changes)
        done = pj.run(config, out=tmp_path / "runs" / str(number))
        rows = json.loads((done.path / "results.json").read_text())
        assert [(r["model"], r["sweep"]["circuit.states"]) for r in rows] == [
            (arm, n) for n in (2, 3) for arm in ("lvd", "random")
        ]
        for row in rows:
            assert (row["window"], row["stride"], row["variant"]) == (32, 1, ending)
            assert all(row["windows"][s] == row["tokens"][s] - 31 for s in row["windows"])
            assert 1 < row["test"]["value"] < 60
        assert (done.path / "report.html").stat().st_size > 0
        scores[number] = [row["test"] for row in rows]
    assert scores[0] == scores[1] != scores[2]


def test_the_paper_s_setting_fits_a_gpu() -> None:
    config = load_config(EXPERIMENTS / "wikitext2.yaml", ["sweep.circuit.states=[1250]"])
    (lvd, random) = make_plan(config).arms
    assert lvd.parameters == random.parameters == 1250 * (1 + 1250 + 30_522)
    assert lvd.memory_bytes < 8 * 2**30
    step = config.train.step_size
    assert (step.start, step.end, step.kind, step.switch) == (0.1, 0.01, "step", 0.8)
    assert config.data.kind == "text" and (config.data.window, config.data.stride) == (32, 1)


@pytest.mark.parametrize("name", ["wiki_hmm", "brown_hmm"])
def test_local_configs_compare_four_sizes(name: str) -> None:
    config = load_config(EXPERIMENTS / f"{name}.yaml")
    assert [own.circuit.states for _, own in config.points] == [128, 256, 512, 1024]
    assert config.arms == ["lvd", "random"]
    assert config.data.kind == "text" and config.data.stride == 32
