"""The command line: fast help, every command on a tiny run, one line for every mistake."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import yaml
from click.testing import CliRunner, Result
from PIL import Image

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.cli.main import main
from pyjuice_bridge.codecs import TableCodec
from pyjuice_bridge.data.catalogue import SETS
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.runner.config import load_config
from pyjuice_bridge.teachers.efficientnet import EfficientNetTeacher

COMMANDS = (
    "run",
    "init",
    "doctor",
    "show",
    "compare",
    "evaluate",
    "sample",
    "inpaint",
    "infill",
    "data",
    "clean",
)


def invoke(*words: Any) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, its images, and two finished runs of different seeds."""
    base = tmp_path_factory.mktemp("cli")
    np.save(base / "images.npy", tiny_runs.images())
    config = tiny_runs.hclt_config(data={"name": str(base / "images.npy")})
    (base / "config.yaml").write_text(yaml.safe_dump(config))
    for seed in (0, 1):
        done = invoke(
            "run", base / "config.yaml", "--set", f"seed={seed}", "--out", base / f"r/{seed}"
        )
        assert done.exit_code == 0, done.output
    return base


def test_help_is_complete_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pyjuice_bridge.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'h5py', 'pydantic', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(','.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout
        assert "Options:" in invoke(command, "--help").output


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, pyjuice_bridge as pj; dir(pj); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(pj.__all__) <= set(dir(pj))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pj.nothing


def test_run_ends_with_a_table_and_the_report(folder: Path) -> None:
    done = invoke("run", folder / "config.yaml", "--out", folder / "r/0")
    assert "Random start" in done.output and "reused" in done.output
    assert f"report: {folder / 'r/0' / 'report.html'}" in done.output
    assert (folder / "r/0/report.html").exists()


def test_plan_runs_nothing_and_counts_parameters(folder: Path) -> None:
    done = invoke("run", folder / "config.yaml", "--plan", "--out", folder / "planned")
    results = json.loads((folder / "r/0/results.json").read_text())
    assert f"{results[0]['parameters']:,}" in done.output
    assert not (folder / "planned").exists()


@pytest.mark.parametrize("name", ["imagenet32", "imagenet64"])
def test_plan_needs_no_data_for_known_sets(folder: Path, name: str) -> None:
    patch = 4 if name == "imagenet32" else 8
    changes = [f"data.name={name}", "circuit.kind=patches", f"circuit.patch={patch}"]
    words = [word for change in [*changes, "train.epochs=10"] for word in ("--set", change)]
    config = folder / "plan.yaml"
    config.write_text("name: x\ndata: {name: digits}\n")
    done = invoke("run", config, *words, "--plan")
    assert done.exit_code == 0 and "GiB" in done.output


def test_init_writes_a_config_that_checks(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    assert invoke("init", "image", "--out", path).exit_code == 0
    assert load_config(path).circuit.kind == "hclt"
    assert path.read_text() == invoke("init", "image").output
    again = invoke("init", "image", "--out", path)
    assert again.exit_code == 1 and "is there already" in again.output


def test_every_commented_default_of_init_is_the_default(tmp_path: Path) -> None:
    lines = invoke("init", "image").output.splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    (tmp_path / "bare.yaml").write_text(text)
    tops = [line for line in lines if line.startswith("# ") and ": " in line and "#" in line[2:]]
    plain = [line[2:] for line in tops if line.split(":")[0][2:] in ("seed", "engine", "device")]
    (tmp_path / "full.yaml").write_text(text + "\n" + "\n".join(plain))
    assert len(plain) == 3
    assert load_config(tmp_path / "full.yaml") == load_config(tmp_path / "bare.yaml")


def test_show_run_model_and_assignments(folder: Path) -> None:
    run = invoke("show", folder / "r/0").output
    assert "LVD" in run and "report" in run
    model = invoke("show", folder / "r/0/model.h5").output
    assert "36 variables" in model and "arm: lvd" in model
    assert "3 clusters, 36 positions" in invoke("show", folder / "r/0/assignments.h5").output


def test_compare_averages_over_seeds(folder: Path) -> None:
    done = invoke("compare", folder / "r/0", folder / "r/1").output
    values = [
        json.loads((folder / f"r/{seed}/results.json").read_text())[0]["test"]["value"]
        for seed in (0, 1)
    ]
    assert f"{np.mean(values):.4f}"[:6] in done and "±" in done


def test_evaluate_repeats_the_figure_of_the_run(folder: Path) -> None:
    for seed in (0, 1):
        done = invoke("evaluate", folder / f"r/{seed}", folder / "images.npy")
        results = json.loads((folder / f"r/{seed}/results.json").read_text())
        assert f"{results[0]['test']['value']:.4f} bits/dim" in done.output


def test_evaluate_scores_the_splits_of_the_run(folder: Path, tmp_path: Path) -> None:
    limits = ("--set", "data.valid=30", "--set", "data.limit=20", "--set", "seed=3")
    assert invoke("run", folder / "config.yaml", *limits, "--out", tmp_path / "r").exit_code == 0
    rows = json.loads((tmp_path / "r/results.json").read_text())
    moved = tmp_path / "elsewhere.npy"
    moved.write_bytes((folder / "images.npy").read_bytes())
    for split, count in (("train", 20), ("valid", 20), ("test", 12)):
        for row, model in zip(rows, ("lvd.h5", "random.h5"), strict=True):
            done = invoke("evaluate", tmp_path / "r" / model, moved, "--split", split)
            figure = f"{row[split]['value']:.4f} bits/dim on {count} {split} images"
            assert figure in done.output
    bare = tmp_path / "bare.h5"
    bare.write_bytes((tmp_path / "r/model.h5").read_bytes())
    for words in (("evaluate", bare), ("inpaint", bare, "--data")):
        refused = invoke(*words, folder / "images.npy", "--split", "valid")
        assert refused.exit_code == 1 and "own splits" in refused.stderr
    assert invoke("evaluate", bare, folder / "images.npy").exit_code == 0


def test_evaluate_takes_all_of_other_images_without_a_test_split(
    folder: Path, tmp_path: Path
) -> None:
    x = tiny_runs.images(35, seed=5)
    np.save(tmp_path / "other.npy", x)
    np.savez(tmp_path / "parts.npz", train=x[:20], valid=x[20:])
    np.savez(tmp_path / "tested.npz", train=x[:20], test=x[20:])
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(x):
        Image.fromarray(image[..., 0]).save(tmp_path / f"pictures/{i:02}.png")
    model = pj.load(folder / "r/0")
    bits = f"{model.bits_per_dim(x):.4f} bits/dim on all 35 images"
    for name in ("other.npy", "parts.npz", "pictures"):
        for run in (folder / "r/0", folder / "r/0/random.h5"):
            done = invoke("evaluate", run, tmp_path / name)
            assert "on all 35 images" in done.output
        assert bits in invoke("evaluate", folder / "r/0", tmp_path / name).output
    some = invoke("evaluate", folder / "r/0", tmp_path / "other.npy", "--limit", 3)
    assert f"{model.bits_per_dim(x[:3]):.4f} bits/dim on 3 of the 35 images" in some.output
    tested = invoke("evaluate", folder / "r/0", tmp_path / "tested.npz")
    assert f"{model.bits_per_dim(x[20:]):.4f} bits/dim on 15 test images" in tested.output
    refused = invoke("evaluate", folder / "r/0", tmp_path / "other.npy", "--split", "test")
    assert refused.exit_code == 1 and "leave out --split" in refused.stderr


def test_sample_and_inpaint_write_pictures(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.png"
    assert invoke("sample", folder / "r/0", "--n", 5, "--out", out).exit_code == 0
    assert Image.open(out).size[0] > Image.open(out).size[1]
    words = ("--data", folder / "images.npy", "--n", 3, "--mask", "squares")
    done = invoke("inpaint", folder / "r/0/model.h5", *words, "--out", tmp_path / "i.png")
    assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "i.png").size[0] == Image.open(tmp_path / "i.png").size[1]


def test_doctor_and_data_list_name_what_is_there() -> None:
    doctor = invoke("doctor").output
    for word in ("python", "torch", "memory", "julia", "transformers"):
        assert word in doctor
    assert doctor.split()[1] == pj.__version__ == invoke("--version").output.split()[-1]
    assert "mnist5k" in invoke("data", "list").output


def test_doctor_names_the_data_sets_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("digits", "brown", "nltcs"):
        folder = tmp_path / "pyjuice_bridge" / "data" / SETS[name].folder
        folder.mkdir(parents=True)
        (folder / "part").touch()
    line = next(x for x in invoke("doctor").output.splitlines() if x.startswith("data sets"))
    assert {"digits", "brown", "nltcs"} <= set(re.findall(r"\w+", line))
    assert "mnist5k" not in re.findall(r"\w+", line.partition(" in ")[0])


def test_doctor_finds_the_teacher_that_runs_find() -> None:
    line = next(x for x in invoke("doctor").output.splitlines() if "teacher efficientnet" in x)
    try:
        EfficientNetTeacher(patch=2)
    except UserError:
        assert "not installed" in line
    else:
        assert "not installed" not in line


def test_clean_keeps_what_runs_refer_to(folder: Path) -> None:
    store = folder / "r/artifacts"
    before = {p.name for p in store.iterdir()}
    words = ("run", folder / "config.yaml", "--out", folder / "r/2")
    invoke(*words, "--set", "train.pseudocount=0.9")
    extra = {p.name for p in store.iterdir()} - before
    assert extra and invoke("clean", folder / "r", "--yes").output == "nothing to delete\n"
    for path in (folder / "r/2").iterdir():
        path.unlink()
    asked = CliRunner().invoke(main, ["clean", str(folder / "r")], input="n\n")
    assert "nothing deleted" in asked.output and extra <= {p.name for p in store.iterdir()}
    done = invoke("clean", folder / "r", "--yes")
    assert f"deleted {len(extra)} folders" in done.output
    assert {p.name for p in store.iterdir()} == before


MISTAKES = [
    (("run", "none.yaml"), "none.yaml: no such file"),
    (("run", "{config}", "--set", "train.epoch=3"), "did you mean 'epochs'?"),
    (("run", "{config}", "-q", "--set", "data.name=mnst"), "did you mean mnist"),
    (("show", "none.h5"), "none.h5"),
    (("show", "."), "not a run's folder"),
    (("evaluate", "none.h5", "digits"), "none.h5"),
    (("sample", "{config}"), "config.yaml"),
    (("sample", "{run}", "--out", "x.jpg"), "ends in .png"),
    (("compare", "none"), "none"),
    (("data", "get", "mnst"), "did you mean mnist"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=lambda v: " ".join(v)[:30])
def test_mistakes_are_one_line_on_stderr(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"{config}": str(folder / "config.yaml"), "{run}": str(folder / "r/0")}
    given = [places.get(word, word) for word in words]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 1 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


def test_unexpected_errors_leave_their_traceback_in_the_log(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr("pyjuice_bridge.runner.api.train_arm", broken)
    done = invoke("run", folder / "config.yaml", "-q", "--out", tmp_path / "run")
    log = tmp_path / "run/log.txt"
    assert done.exit_code == 1 and len(done.stderr.splitlines()) == 1
    assert "ZeroDivisionError: by design" in done.stderr and str(log) in done.stderr
    assert "Traceback" in log.read_text()


def test_interrupt_says_that_the_run_can_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyjuice_bridge.runner.api.train_arm", interrupted)
    done = invoke("run", folder / "config.yaml", "--out", tmp_path / "run")
    assert done.exit_code == 130 and "continues" in done.stderr
    monkeypatch.undo()
    assert invoke("run", folder / "config.yaml", "--out", tmp_path / "run").exit_code == 0


def test_json_of_show_evaluate_and_compare(folder: Path) -> None:
    rows = json.loads((folder / "r/0/results.json").read_text())
    run = json.loads(invoke("show", folder / "r/0", "--json").output)
    assert run["results"] == rows and run["report"] == str(folder / "r/0/report.html")
    model = json.loads(invoke("show", folder / "r/0/model.h5", "--json").output)
    circuit = pj.load(folder / "r/0").circuit
    assert model["variables"] == 36 and model["parameters"] == circuit.num_parameters
    assert model["meta"]["domain"] == "images" and len(model["layers"]) == len(circuit.layers)
    clusters = json.loads(invoke("show", folder / "r/0/assignments.h5", "--json").output)
    assert (clusters["clusters"], clusters["positions"]) == (3, 36)
    words = ("evaluate", folder / "r/0", folder / "images.npy", "--engine", "torch", "--json")
    found = json.loads(invoke(*words).output)
    assert found["value"] == pytest.approx(rows[0]["test"]["value"], rel=1e-6)
    expected = {"unit": "bits/dim", "split": "test", "rows": 12, "engine": "torch"}
    assert {key: found[key] for key in expected} == expected
    (first, *_) = json.loads(invoke("compare", folder / "r/0", folder / "r/1", "--json").output)
    values = [
        json.loads((folder / f"r/{seed}/results.json").read_text())[0]["test"]["value"]
        for seed in (0, 1)
    ]
    assert first["values"]["test"]["mean"] == pytest.approx(np.mean(values))
    assert first["unit"] == "bits/dim" and len(first["runs"]) == 2


def test_evaluate_of_the_impossible_is_json(folder: Path, tmp_path: Path) -> None:
    """Infinite bits are JSON's null, not a word that JSON does not have."""
    model = pj.load(folder / "r/0")
    leaves, *others = model.circuit.layers
    params = np.zeros_like(leaves.params)  # type: ignore[union-attr]
    params[..., 0] = 1.0
    changed = model.circuit.with_layer_params([params, *[None] * len(others)])
    pj.Model(changed, model.engine).save(tmp_path / "model.h5")
    np.save(tmp_path / "other.npy", tiny_runs.images(9, seed=3))
    done = invoke("evaluate", tmp_path / "model.h5", tmp_path / "other.npy", "--json")
    assert json.loads(done.output)["value"] is None


def test_the_engine_can_be_chosen_and_is_named(folder: Path, tmp_path: Path) -> None:
    choice = ("--engine", "torch", "--device", "cpu")
    done = invoke("evaluate", folder / "r/0", folder / "images.npy", *choice)
    assert done.output.endswith(", by torch on cpu\n")
    out = tmp_path / "s.png"
    done = invoke("sample", folder / "r/0", "--out", out, "--seed", 7, *choice)
    assert done.output == f"wrote {out} (seed 7, torch on cpu)\n"
    words = ("--data", folder / "images.npy", "--out", tmp_path / "i.png", *choice)
    done = invoke("inpaint", folder / "r/0", *words)
    assert "torch on cpu" in done.output


def test_pictures_differ_unless_they_have_a_seed(folder: Path, tmp_path: Path) -> None:
    def picture(*words: Any) -> bytes:
        out = tmp_path / "picture.png"
        assert invoke(*words, "--out", out).exit_code == 0
        return out.read_bytes()

    for words in (
        ("sample", folder / "r/0"),
        ("inpaint", folder / "r/0", "--data", folder / "images.npy", "--n", 2),
    ):
        assert picture(*words) != picture(*words)
        assert picture(*words, "--seed", 3) == picture(*words, "--seed", 3)
    done = invoke("sample", folder / "r/0", "--out", tmp_path / "a.png")
    number = done.output.split("seed ")[1].split(",")[0]
    assert picture("sample", folder / "r/0", "--seed", number) == (tmp_path / "a.png").read_bytes()


def test_inpaint_picks_images_from_the_whole_set(folder: Path, tmp_path: Path) -> None:
    """The first row of the picture holds other images than the first ones of the split."""
    rows = set()
    for seed in range(6):
        words = ("--data", folder / "images.npy", "--n", 1, "--seed", seed)
        out = tmp_path / f"{seed}.png"
        assert invoke("inpaint", folder / "r/0", *words, "--out", out).exit_code == 0
        picture = np.asarray(Image.open(out).convert("L"))
        rows.add(picture[: len(picture) // 3].tobytes())
    assert len(rows) > 3


def test_samples_of_any_number_as_an_array(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn in parts of ten; the first part is what one call draws from the seed."""
    monkeypatch.setattr("pyjuice_bridge.cli.samples._VALUES", 360)
    out = tmp_path / "s.npy"
    words = ("sample", folder / "r/0", "--engine", "torch", "--seed", 5, "--out", out)
    assert invoke(*words, "--n", 25).exit_code == 0
    drawn = np.load(out, allow_pickle=False)
    assert drawn.shape == (25, 6, 6, 1) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(
        drawn[:10], pj.load(folder / "r/0", engine="torch").sample(10, seed=5)
    )
    assert len(np.unique(drawn.reshape(25, -1), axis=0)) > 20
    assert invoke(*words, "--n", 25).exit_code == 0
    np.testing.assert_array_equal(np.load(out, allow_pickle=False), drawn)
    many = invoke("sample", folder / "r/0", "--n", 10_001, "--out", tmp_path / "s.png")
    assert many.exit_code == 1 and "at most 10,000 images" in many.stderr
    assert "ends in .npy" in many.stderr and not (tmp_path / "s.png").exists()
    for n in (10**23, 0, -1):
        refused = invoke("sample", folder / "r/0", "--n", n, "--out", out)
        assert refused.exit_code == 2 and "Traceback" not in refused.output


def test_samples_of_a_table_are_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyjuice_bridge.cli.samples._VALUES", 6)
    circuit = hclt([-1, 0], 2, [2, 3], seed=0)
    codec = TableCodec(circuit.categories, ("sick", "colour"), {"colour": ("red", "a,b", "c")})
    pj.Model(circuit, codec=codec).save(tmp_path / "table.h5")
    done = invoke("sample", tmp_path / "table.h5", "--n", 40, "--seed", 1)
    head, *rows = list(csv.reader(done.stdout.splitlines()))
    assert head == ["sick", "colour"] and len(rows) == 40
    assert {row[0] for row in rows} == {"0", "1"} and {row[1] for row in rows} == {
        "red",
        "a,b",
        "c",
    }
    out = tmp_path / "rows.csv"
    done = invoke("sample", tmp_path / "table.h5", "--n", 40, "--seed", 1, "--out", out)
    assert list(csv.reader(out.read_text().splitlines())) == [head, *rows]
    array = tmp_path / "rows.npy"
    invoke("sample", tmp_path / "table.h5", "--n", 40, "--seed", 1, "--out", array)
    assert np.load(array, allow_pickle=False)["colour"].tolist() == [row[1] for row in rows]
    pj.Model(circuit).save(tmp_path / "plain.h5")
    lines = invoke("sample", tmp_path / "plain.h5", "--n", 2).stdout.splitlines()
    assert len(lines) == 2 and all(len(line.split(",")) == 2 for line in lines)
    model = pj.load(tmp_path / "table.h5")
    bits = model.evaluate({"sick": [int(row[0]) for row in rows], "colour": [r[1] for r in rows]})
    said = f"{bits:.4f} bits/row ({bits * np.log(2):.4f} nats) on all 40 rows of {out}, by "
    assert invoke("evaluate", tmp_path / "table.h5", out).output.startswith(said)


def test_evaluate_scores_the_splits_of_a_run_on_a_table(tmp_path: Path) -> None:
    """Those of the run; other tables in the model's own codes, a missing cell summed out."""
    rng = np.random.default_rng(0)
    a = rng.integers(0, 2, 300)
    table = np.stack([a, a ^ (rng.random(300) < 0.1), rng.integers(0, 3, 300)], axis=1)
    words = np.array(["red", "green", "blue"])
    lines = [f"{x},{y},{words[z]}" for x, y, z in table.tolist()]
    (tmp_path / "t.csv").write_text("\n".join(["sick,cough,sky", *lines]))
    config = {
        "name": "table",
        "data": {"kind": "table", "name": str(tmp_path / "t.csv")},
        "circuit": {"kind": "hclt", "latents": 2},
        "arms": ["random"],
        "train": {"epochs": 2},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "r/0"
    assert invoke("run", tmp_path / "config.yaml", "--out", run).exit_code == 0
    (row,) = json.loads((run / "results.json").read_text())
    for split in ("train", "valid", "test"):
        done = invoke("evaluate", run, tmp_path / "t.csv", "--split", split)
        figure = f"{row[split]['value']:.4f} bits/row"
        assert figure in done.output and f"{row['rows'][split]} {split} rows" in done.output
    (tmp_path / "other.csv").write_text("sick,cough,sky\n1,,green\n0,1,blue\n")
    model = pj.load(run)
    bits = model.evaluate({"sick": [1, 0], "cough": [-1, 1], "sky": ["green", "blue"]})
    done = invoke("evaluate", run, tmp_path / "other.csv")
    assert f"{bits:.4f} bits/row" in done.output and "all 2 rows" in done.output
    (tmp_path / "wrong.csv").write_text("sick,cough,sky\n1,0,pink\n")
    bare = tmp_path / "bare.h5"
    bare.write_bytes((run / "model.h5").read_bytes())
    for mistake, message in (
        (("evaluate", run, tmp_path / "wrong.csv"), "'pink'"),
        (("evaluate", run, tmp_path / "other.csv", "--split", "test"), "leave out --split"),
        (("evaluate", bare, tmp_path / "t.csv", "--split", "train"), "own splits"),
    ):
        refused = invoke(*mistake)
        assert refused.exit_code == 1 and message in refused.stderr
