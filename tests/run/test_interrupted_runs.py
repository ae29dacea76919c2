"""Runs that are killed, or that meet a full disk, end with the numbers of an undisturbed run."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import yaml
from click.testing import CliRunner

import pyjuice_bridge as pj
from pyjuice_bridge.cli.main import main

CONFIGS = {"hclt": tiny_runs.hclt_config, "patches": tiny_runs.patch_config}

KILLED_AT_A_RENAME = """
    import os, signal, sys
    from pathlib import Path
    import pyjuice_bridge as pj

    left = int(sys.argv[3])
    rename = Path.replace

    def count():
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(self, target):
        count()
        return rename(self, target)

    Path.replace = replace
    pj.run(sys.argv[1], out=sys.argv[2])
"""


def config_file(folder: Path, kind: str) -> Path:
    """A config whose images come from a file, as a command line run has them."""
    np.save(folder / "images.npy", tiny_runs.images())
    values = CONFIGS[kind](data={"name": str(folder / "images.npy")})
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def killed(config: Path, out: Path, renames: int) -> int:
    """Run in a process that is killed in the middle of its n-th write; its exit status."""
    code = textwrap.dedent(KILLED_AT_A_RENAME)
    command = [sys.executable, "-c", code, str(config), str(out), str(renames)]
    return subprocess.run(command, check=False, capture_output=True).returncode


@pytest.mark.parametrize(("kind", "moments"), [("hclt", (6, 11, 17)), ("patches", (9, 21))])
def test_killed_runs_end_with_the_same_numbers(
    tmp_path: Path, kind: str, moments: tuple[int, ...]
) -> None:
    config = config_file(tmp_path, kind)
    straight = pj.run(config, out=tmp_path / "straight" / "run")
    out = tmp_path / "killed" / "run"
    for renames in moments:
        assert killed(config, out, renames) == -signal.SIGKILL
        assert not (out / "results.json").exists()
    resumed = pj.run(config, out=out)
    assert resumed.reused
    assert tiny_runs.numbers(out) == tiny_runs.numbers(straight.path)
    assert tiny_runs.curve(out) == tiny_runs.curve(straight.path)
    assert (out / "bound.json").read_text() == (straight.path / "bound.json").read_text()
    assert list((out.parent / "artifacts").rglob("*.tmp")) == []


def test_training_goes_on_after_its_last_whole_pass(tmp_path: Path) -> None:
    config = config_file(tmp_path, "hclt")
    out = tmp_path / "runs" / "run"

    class StopError(Exception):
        pass

    lines: list[str] = []

    class Console:
        is_terminal, quiet = False, False

        def print(self, line: str, **_: Any) -> None:
            lines.append(line)
            if line.startswith("Random start, pass 2"):
                raise StopError

    with pytest.raises(StopError):
        pj.run(config, out=out, console=Console())  # type: ignore[arg-type]
    folder = next((out.parent / "artifacts").glob("train-random-*"))
    assert (folder / "checkpoint.h5").exists() and not (folder / "done.json").exists()
    assert "StopError" in (out / "log.txt").read_text()
    straight = pj.run(config, out=tmp_path / "other" / "run")
    said = (out / "log.txt").read_text()
    pj.run(config, out=out)
    assert tiny_runs.numbers(out) == tiny_runs.numbers(straight.path)
    assert tiny_runs.curve(out) == tiny_runs.curve(straight.path)
    later = (out / "log.txt").read_text().removeprefix(said)
    assert later.count("resumed") == later.count("train Random start: resumed after pass 2\n") == 1
    assert "resumed" not in said + (straight.path / "log.txt").read_text()
    counting = [line for line in later.splitlines() if "(counting)" in line]
    assert len(counting) == 1 and counting[0].endswith("(reused)")
    assert "(reused)" not in said


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ("patches-*", "patch training: resumed after pass 1"),
        ("latent-*", "latent training: resumed after pass 1"),
        ("train-lvd-*", "train LVD: resumed after pass 5"),
    ],
)
def test_every_training_says_after_which_pass_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, line: str
) -> None:
    phase = {"epochs": 2, "batch_size": 16}
    train = {"epochs": 7, "batch_size": 32, "patch_training": phase, "latent_training": phase}
    config = tiny_runs.patch_config(train=train, arms=["lvd"])
    out, rename = tmp_path / "run", Path.replace

    def stopping(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if target.name == "checkpoint.h5" and target.parent.match(stage):
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        pj.run(config, images=tiny_runs.images(), out=out)
    monkeypatch.undo()
    pj.run(config, images=tiny_runs.images(), out=out)
    said = (out / "log.txt").read_text()
    assert said.count("resumed") == said.count(f"{line}\n") == 1


@pytest.mark.parametrize("writes", [3, 8, 14, 23])
def test_full_disk_and_then_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    config = config_file(tmp_path, "hclt")
    out = tmp_path / "runs" / "run"
    replace, left = Path.replace, [writes]

    def full(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises((OSError, pj.UserError), match="No space left"):
        pj.run(config, out=out)
    monkeypatch.undo()
    straight = pj.run(config, out=tmp_path / "other" / "run")
    pj.run(config, out=out)
    assert tiny_runs.numbers(out) == tiny_runs.numbers(straight.path)


SMALL_FILES_ONLY = """
    import resource, sys
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
    from pyjuice_bridge.cli.main import main
    main(["run", "-q", sys.argv[1], "--out", sys.argv[2]])
"""


@pytest.mark.parametrize("limit", [3000, 9000])
def test_file_size_limit_is_one_line_and_recoverable(tmp_path: Path, limit: int) -> None:
    config = config_file(tmp_path, "hclt")
    out = tmp_path / "runs" / "run"
    code = textwrap.dedent(SMALL_FILES_ONLY)
    command = [sys.executable, "-c", code, str(config), str(out), str(limit)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1, done
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("error: ")
    straight = pj.run(config, out=tmp_path / "other" / "run")
    pj.run(config, out=out)
    assert tiny_runs.numbers(out) == tiny_runs.numbers(straight.path)


def test_a_changed_model_leaves_the_stored_one_as_it_is(tmp_path: Path) -> None:
    config, out = config_file(tmp_path, "hclt"), tmp_path / "runs" / "run"
    first = pj.run(config, out=out)
    whole = {name: (out / name).read_bytes() for name in ("model.h5", "lvd.h5", "assignments.h5")}
    for name in whole:
        with (out / name).open("r+b") as file:
            file.write(b"changed")
    again = pj.run(config, out=out)
    assert set(again.reused) == {p.name for p in (out.parent / "artifacts").iterdir()}
    assert again.results[0]["test"] == first.results[0]["test"]
    assert {name: (out / name).read_bytes() for name in whole} == whole


def test_any_flipped_bit_of_what_is_stored_is_computed_again(tmp_path: Path) -> None:
    """One bit of one file of every stage, size and time of change restored."""
    config, out = config_file(tmp_path, "hclt"), tmp_path / "runs" / "run"
    pj.run(config, out=out)
    numbers, curve = tiny_runs.numbers(out), tiny_runs.curve(out)
    random = np.random.default_rng(0)
    for folder in sorted((out.parent / "artifacts").iterdir()):
        files = [p for p in sorted(folder.iterdir()) if p.name != "lock"]
        path = files[random.integers(len(files))]
        content, state = bytearray(path.read_bytes()), path.stat()
        content[random.integers(len(content))] ^= 1 << random.integers(8)
        path.write_bytes(content)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        again = pj.run(config, out=out)
        assert folder.name not in again.reused, path
        assert f"{folder.name}: {path.name} is damaged" in (out / "log.txt").read_text()
        assert tiny_runs.numbers(out) == numbers and tiny_runs.curve(out) == curve


def test_what_a_kill_leaves_in_the_folder_is_cleaned(tmp_path: Path) -> None:
    config, out = config_file(tmp_path, "hclt"), tmp_path / "runs" / "run"
    assert killed(config, out, 1) == -signal.SIGKILL
    (out / ".model.h5.0123abcd.tmp").write_text("half a model")
    assert list(out.glob(".*.tmp")) and (out / ".lock").exists()
    pj.run(config, out=out)
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_impossible_images_are_null_in_json(tmp_path: Path) -> None:
    """Without pseudocounts, a pixel value never seen has probability zero."""
    seen = tiny_runs.images(60).clip(0, 11)
    seen[-1] = 15
    others = seen[:20].copy()
    others[15:] = 14
    train = {"epochs": 3, "batch_size": 60, "optimizer": "full_em", "pseudocount": 0.0}
    out = tmp_path / "run"
    splits = {"train": seen, "valid": others, "test": others}
    result = pj.run(tiny_runs.hclt_config(train=train), images=splits, out=out)
    rows: dict[str, Any] = {}
    for path in (*out.glob("*.json"), *out.glob("artifacts/*/*.json")):
        rows[path.name] = json.loads(path.read_text(), parse_constant=pytest.fail)
    lines = (out / "metrics.jsonl").read_text().splitlines()
    curve = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    impossible = {"unit": "bits/dim", "value": None, "impossible": 5, "rows": 20}
    assert [row["test"] for row in rows["results.json"]] == [impossible] * 2
    assert rows["results.json"][0]["train"].keys() == {"unit", "value"}
    assert rows["results.json"][0]["train"]["value"] > 0
    assert [line["valid"] is None for line in curve if line["stage"] == "train"] == [True] * 3
    assert rows["bound.json"][-1] == {
        "stage": "fine-tune",
        "unit": "bits/dim",
        "bound": None,
        "marginal": None,
    }
    said = "5 of 20 images have probability 0"
    html = result.report.read_text()
    assert f"LVD has no figure on the test images of array: {said}." in html
    assert f"Random start on validation: {said}" in html
    log = out / "log.txt"
    for part in ("valid", "test"):
        assert log.read_text().count(f"lvd on {part}: {said}") == 1
    warning = "pseudocount is 0: 5 of 20 validation rows"
    assert log.read_text().index(warning) < log.read_text().index("pass 2 (fine-tune)")
    again = pj.run(tiny_runs.hclt_config(train=train), images=splits, out=out)
    assert again.results == result.results and "lvd" in repr(again)
    assert log.read_text().count(f"lvd on test: {said}") == 2


def test_commands_name_impossible_images(tmp_path: Path) -> None:
    train = {"epochs": 2, "batch_size": 60, "optimizer": "full_em", "pseudocount": 0.0}
    seen = tiny_runs.images(60).clip(0, 11)
    seen[-1] = 15
    others = seen[:20].copy()
    others[:3] = 14
    splits, out = {"train": seen, "valid": others, "test": others}, tmp_path / "run"
    pj.run(tiny_runs.hclt_config(train=train), images=splits, out=out, progress=False)
    np.save(tmp_path / "others.npy", others)
    said = "3 of 20 images have probability 0"
    runner = CliRunner()
    shown = " ".join(runner.invoke(main, ["show", str(out)]).output.split())
    assert f"LVD on test: {said}" in shown
    words = ["evaluate", str(out), str(tmp_path / "others.npy"), "--engine", "torch"]
    assert runner.invoke(main, words).output.strip().endswith(said)
    answer = json.loads(runner.invoke(main, [*words, "--json"]).output)
    assert (answer["value"], answer["impossible"], answer["rows"]) == (None, 3, 20)


def test_progress_is_on_standard_error_unless_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wanted in (True, False):
        out = tmp_path / f"{wanted}"
        pj.run(tiny_runs.hclt_config(), images=tiny_runs.images(), out=out, progress=wanted)
        captured = capsys.readouterr()
        assert captured.out == "" and ("LVD, pass 4" in captured.err) == wanted
        assert wanted or captured.err == ""


def test_a_backend_that_is_not_there_ends_no_run(tmp_path: Path) -> None:
    config, out = config_file(tmp_path, "hclt"), tmp_path / "run"
    pj.run(config, out=out, progress=False)
    (out / "report.html").unlink()
    code = (
        "import os, sys; from pathlib import Path\n"
        "from pyjuice_bridge.report.page import write_report\n"
        "write_report(Path(sys.argv[1]))\n"
        "assert os.environ['MPLBACKEND'] == 'module://not_there'\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(out)],
        env={**os.environ, "MPLBACKEND": "module://not_there"},
        check=True,
    )
    assert "<svg" in (out / "report.html").read_text()
