"""Output in any encoding, closed early, and commands that the system ends."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import torch
import yaml
from click.testing import CliRunner

from pyjuice_bridge.cli.failures import sentence
from pyjuice_bridge.cli.main import main
from pyjuice_bridge.cli.streams import PLAIN

PROGRAM = [sys.executable, "-m", "pyjuice_bridge"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose images come from a file."""
    folder = tmp_path_factory.mktemp("streams")
    np.save(folder / "images.npy", tiny_runs.images())
    values = tiny_runs.hclt_config(data={"name": str(folder / "images.npy")})
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder / "config.yaml"


def started(*words: Any, **options: Any) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*PROGRAM, *map(str, words)], text=True, **pipes)


EVERY_COMMAND = """
    import json, sys
    from pyjuice_bridge.cli.main import main
    for words in json.loads(sys.argv[1]):
        main(words, standalone_mode=False)
"""


@pytest.mark.parametrize("encoding", ["cp1251", "cp437", "ascii"])
def test_everything_is_printed_in_any_encoding(config: Path, tmp_path: Path, encoding: str) -> None:
    out = str(tmp_path / "r")
    commands = [
        ["data", "list"],
        ["--help"],
        ["run", "--help"],
        ["run", str(config), "--plan"],
        ["run", str(config), "--out", out],
        ["show", out],
        ["show", str(tmp_path)],
        ["show", f"{out}/assignments.h5"],
        ["compare", out],
        ["init", "text"],
        ["doctor"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(EVERY_COMMAND), json.dumps(commands)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Where an encoding is ASCII, click takes it for a mistake and prints UTF-8.
    printed = done.stdout.decode("utf-8" if encoding == "ascii" else encoding)
    expected = (
        "mnist5k",
        "Options:",
        "plan of tiny",
        "report: ",
        "finished",
        "3 clusters",
        "memory",
    )
    for part in expected:
        assert part in printed


def test_what_an_encoding_lacks_is_replaced_by_what_looks_like_it() -> None:
    text = "28×28 – 1.2 ± 0.1 … é \udcff 語"
    assert text.encode("ascii", PLAIN) == b"28x28 - 1.2 +- 0.1 ... e ? ?"
    assert text.encode("cp437", PLAIN).decode("cp437") == "28x28 - 1.2 ± 0.1 ... é ? ?"
    assert text.encode("utf-8", PLAIN).decode() == "28×28 – 1.2 ± 0.1 … é ? 語"


def test_progress_goes_to_stderr_and_results_to_stdout(config: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["run", str(config), "--out", str(tmp_path / "r")])
    assert done.exit_code == 0
    assert "pass 1" in done.stderr and "pass 1" not in done.stdout
    assert "report: " in done.stdout and "report: " not in done.stderr
    words = ["run", str(config), "--out", str(tmp_path / "r")]
    quiet = CliRunner().invoke(main, [*words, "--quiet"])
    assert quiet.stderr == "" and "report: " in quiet.stdout


def test_verbose_prints_what_else_goes_to_the_log(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by design")

    monkeypatch.setattr("pyjuice_bridge.runner.api.train_arm", broken)
    words = ["run", str(config), "--out", str(tmp_path / "r")]
    assert "Traceback" in CliRunner().invoke(main, [*words, "--verbose"]).stderr
    assert "Traceback" not in CliRunner().invoke(main, words).stderr


def test_colours_forced_on_a_file_start_no_live_line(config: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    done = subprocess.run(
        [*PROGRAM, "run", str(config), "--out", str(tmp_path / "r")],
        capture_output=True,
        env=environment,
        check=True,
    )
    # A live line moves the cursor and hides it.
    for code in (b"\x1b[?25l", b"\x1b[1A", b"\x1b[2K", b"\r"):
        assert code not in done.stderr + done.stdout


def test_a_closed_output_ends_quietly_after_the_run(config: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    process = started("run", config, "--out", tmp_path / "r", stdout=write)
    os.close(write)
    _, said = process.communicate()
    assert process.returncode == 141
    assert "error" not in said and "Traceback" not in said and "Broken" not in said
    assert json.loads((tmp_path / "r/results.json").read_text())
    # What reads the progress has gone, too: the run ends, and its log says why.
    read, write = os.pipe()
    os.close(read)
    ended = started("run", config, "--out", tmp_path / "s", stdout=write, stderr=write)
    os.close(write)
    ended.communicate()
    assert ended.returncode == 141
    assert "stopped: the output was closed" in (tmp_path / "s/log.txt").read_text()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signals_end_a_run_as_ctrl_c_does(config: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "r"
    many = ("--set", "train.epochs=100000")
    # A shell's background jobs ignore Ctrl-C, and so do their children.
    number = getattr(signal, name)
    heeding = lambda: signal.signal(number, signal.SIG_DFL)  # noqa: E731
    process = started("run", config, *many, "--out", out, preexec_fn=heeding)
    assert process.stderr is not None
    while "pass 3 " not in (line := process.stderr.readline()):
        assert line, "the run has ended"
    process.send_signal(number)
    _, said = process.communicate()
    last = said.splitlines()[-1]
    assert last == "interrupted; the same command continues where this one stopped"
    assert process.returncode == 128 + number
    reason = "interrupted" if name == "SIGINT" else f"told to end by {name}"
    assert f"stopped: {reason}\n" in (out / "log.txt").read_text()
    assert not list(out.rglob("*.tmp"))


def test_ignored_signals_stay_ignored(config: Path, tmp_path: Path) -> None:
    """As under nohup."""
    ignoring = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    process = started("run", config, "--out", tmp_path / "r", preexec_fn=ignoring)
    assert process.stderr is not None and process.stderr.readline()
    process.send_signal(signal.SIGHUP)
    process.communicate()
    assert process.returncode == 0


def test_two_configs_at_once_in_one_folder_take_turns(config: Path, tmp_path: Path) -> None:
    """Whichever is last, its figures stand under its config."""
    out = tmp_path / "r"
    latents = (3, 5)
    both = [started("run", config, "--set", f"circuit.latents={n}", "--out", out) for n in latents]
    said = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("r: waiting for process" in text for text in said) == 1
    kept = yaml.safe_load((out / "config.yaml").read_text())["circuit"]["latents"]
    row = json.loads((out / "results.json").read_text())[0]
    words = ["run", str(config), "-q", "--set", f"circuit.latents={kept}"]
    CliRunner().invoke(main, [*words, "--out", str(tmp_path / "s")])
    same = json.loads((tmp_path / "s/results.json").read_text())[0]
    assert row["parameters"] == same["parameters"] and row["test"] == same["test"]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 8
    assert not (out / ".lock").exists()


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        ("r", "is not there; if its folder was removed meanwhile"),
        ("artifacts", "there is no such file"),
    ],
)
def test_a_folder_removed_meanwhile_is_one_sentence(
    config: Path, tmp_path: Path, removed: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyjuice_bridge.runner import api

    train = api.train_arm

    def train_arm(*given: Any) -> Any:
        shutil.rmtree(tmp_path / removed)
        return train(*given)

    monkeypatch.setattr(api, "train_arm", train_arm)
    done = CliRunner().invoke(main, ["run", str(config), "-q", "--out", str(tmp_path / "r")])
    assert done.exit_code == 1 and len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr and ".tmp" not in done.stderr
    monkeypatch.undo()
    done = CliRunner().invoke(main, ["run", str(config), "-q", "--out", str(tmp_path / "r")])
    assert done.exit_code == 0


@pytest.mark.parametrize(
    ("name", "message"), [(b"r\xff", "is not UTF-8"), (b"artifacts", "the folder of stored stages")]
)
def test_names_that_are_not_utf_8_or_taken_are_refused(
    config: Path, tmp_path: Path, name: bytes, message: str
) -> None:
    out = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    done = CliRunner().invoke(main, ["run", str(config), "--out", out])
    assert done.exit_code == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


ERRORS = [
    (MemoryError("1 GiB"), "there is not enough memory (1 GiB)"),
    (torch.OutOfMemoryError("CUDA out of memory."), "there is not enough memory"),
    (OSError(30, "Read-only file system", "/c/x"), "/c/x cannot be used (read-only file system)"),
    (PermissionError(13, "Permission denied", "/c/x"), "/c/x cannot be used (permission denied)"),
    (OSError(28, "No space left on device", "/c/x"), "the disk is full at /c/x"),
    (OSError(12, "Cannot allocate memory"), "there is not enough memory"),
    (IsADirectoryError(21, "Is a directory", "/c/x"), "/c/x cannot be used (is a directory)"),
]


@pytest.mark.parametrize(("error", "words"), ERRORS, ids=lambda v: type(v).__name__)
def test_known_errors_are_one_sentence(error: Exception, words: str) -> None:
    said = sentence(error)
    assert said.startswith(words) and "\n" not in said and "unexpected" not in said


def test_too_large_a_tensor_is_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert sentence(caught.value).startswith("there is not enough memory")


def test_half_characters_are_one_sentence() -> None:
    with pytest.raises(UnicodeEncodeError) as caught:
        "\ud800".encode()
    assert "lone surrogate" in sentence(caught.value)


def test_details_are_in_a_file_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    target = tmp_path / "target"
    (tmp_path / "pyjuice_bridge-error.log").symlink_to(target)
    try:
        raise ZeroDivisionError("by design \ud800")
    except ZeroDivisionError as error:
        said = sentence(error)
    log = Path(said.rpartition(" ")[2])
    assert log.parent == tmp_path and "by design" in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert not target.exists()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert sentence(ZeroDivisionError("x")).endswith("there is no place for the details")


def test_commands_that_are_misspelt_are_guessed() -> None:
    for words, guess in ((["rnu"], "run"), (["data", "lst"], "list")):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 2 and f"Did you mean '{guess}'?" in done.stderr


def test_show_lists_the_runs_of_a_folder(config: Path, tmp_path: Path) -> None:
    for number in range(2):
        words = ["run", str(config), "-q", "--out", str(tmp_path / f"r{number}")]
        assert CliRunner().invoke(main, words).exit_code == 0
    (tmp_path / "r1/results.json").unlink()
    (tmp_path / "r2").mkdir()
    (tmp_path / "r2/config.yaml").write_text("a: [")
    lines = CliRunner().invoke(main, ["show", str(tmp_path)]).stdout.splitlines()
    row = json.loads((tmp_path / "r0/results.json").read_text())[0]
    first = next(line for line in lines if "r0" in line and "LVD" in line)
    assert f"{row['test']['value']:.4f} bits/dim" in first and "finished" in first
    assert any("r1" in line and "unfinished" in line for line in lines)
    assert any("r2" in line and "not valid YAML" in line for line in lines)
    assert not any("artifacts" in line for line in lines[1:])
