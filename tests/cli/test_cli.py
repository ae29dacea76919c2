"""The command line: fast help, every command on a tiny run, one line for every mistake."""

import json
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
from pyjuice_bridge.cli.main import main
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.run.config import load_config
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
    assert "mnist5k" in invoke("data", "list").output


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

    monkeypatch.setattr("pyjuice_bridge.pipeline.images.starts", broken)
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

    monkeypatch.setattr("pyjuice_bridge.run.api.train_arm", interrupted)
    done = invoke("run", folder / "config.yaml", "--out", tmp_path / "run")
    assert done.exit_code == 130 and "continues" in done.stderr
    monkeypatch.undo()
    assert invoke("run", folder / "config.yaml", "--out", tmp_path / "run").exit_code == 0
