"""Where Julia is looked for, what it is given, and that looking never downloads anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from pyjuice_bridge.cli.main import main
from pyjuice_bridge.engines import choose_engine, julia_environment
from pyjuice_bridge.engines.julia.process import worker_environment
from pyjuice_bridge.engines.julia_environment import JuliaState, julia_state
from pyjuice_bridge.errors import UserError

ROOT = Path(__file__).parents[2]
ALL = dict.fromkeys(julia_environment.PACKAGES, "1.2.3")

JULIA = """#!/bin/sh
if [ "$1" = --version ]; then echo "julia version 1.10.6"; exit; fi
for last; do :; done
case "$last" in
    *libjulia*) printf '/lib/libjulia.so\\0/bin' ;;
    *) echo "$last" > "$(dirname "$0")/asked" ;;
esac
"""
"""Answers what juliapkg asks a Julia, and notes down the last other program it was given."""

NO_NETWORK = """
import os, socket

def refuse(*arguments):
    with open(os.environ["CALLS"], "a") as file:
        print(arguments, file=file)
    raise OSError("there is no network")

socket.socket.connect = socket.getaddrinfo = refuse
"""

Julia = Callable[..., Path]


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings, no program called julia, and a place for juliapkg that is not there."""
    for name in [name for name in os.environ if "JULIA" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHON_JULIAPKG_PROJECT", str(tmp_path / "project"))
    return tmp_path


@pytest.fixture
def julia(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Julia:
    """Makes a program and a project that holds packages, and points juliacall at them."""

    def make(packages: dict[str, str], *, direct: bool = True) -> Path:
        program, project = bare / "julia", bare / "project"
        program.write_text(JULIA)
        program.chmod(0o755)
        project.mkdir()
        entries = [f'[[deps.{name}]]\nversion = "{v}"\n' for name, v in packages.items()]
        (project / "Manifest.toml").write_text('manifest_format = "2.0"\n' + "\n".join(entries))
        if direct:
            monkeypatch.setenv("PYTHON_JULIACALL_EXE", str(program))
            monkeypatch.setenv("PYTHON_JULIACALL_PROJECT", str(project))
        else:
            monkeypatch.setenv("PYTHON_JULIAPKG_EXE", str(program))
        return program

    return make


def test_without_julia_auto_takes_torch_and_says_why(bare: Path) -> None:
    assert not julia_state().usable
    choice = choose_engine("auto", "cpu")
    assert choice.name == "torch"
    assert "Julia is not set up" in choice.reason and "julia setup" in choice.reason
    with pytest.raises(UserError, match="julia setup"):
        choose_engine("julia")
    assert not (bare / "project").exists()
    config = bare / "config.yaml"
    config.write_text("name: tiny\ndata: {name: digits}\n")
    out = str(bare / "run")
    done = CliRunner().invoke(main, ["run", str(config), "--engine", "julia", "--out", out])
    assert done.exit_code == 1 and "julia setup" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_auto_and_doctor_never_download(bare: Path) -> None:
    """Any look at the network, in whatever Python process, would be noted down."""
    (bare / "sitecustomize.py").write_text(NO_NETWORK)
    calls = bare / "calls"
    environment = {**os.environ, "PYTHONPATH": str(bare), "CALLS": str(calls)}
    code = """
        from click.testing import CliRunner
        from pyjuice_bridge.cli.main import main
        from pyjuice_bridge.engines import choose_engine, get_engine
        print(choose_engine("auto", "cpu").reason)
        print(get_engine("auto", "cpu").name)
        print(CliRunner().invoke(main, ["doctor"]).output)
        import socket
        try:
            socket.create_connection(("localhost", 9))
        except OSError:
            print("and the network is refused")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "Julia is not set up" in done.stdout and "refused" in done.stdout
    assert calls.read_text().count("\n") == 1 and "9" in calls.read_text()


def test_a_julia_with_the_packages_is_taken(julia: Julia) -> None:
    program = julia(ALL)
    state = julia_state()
    assert state.usable and state.version == "1.10.6" and state.packages == ALL
    assert state.executable == str(program)
    choice = choose_engine("auto", "cpu")
    assert choice.name == "julia" and choice.device == "cpu"
    assert choice.reason == "engine julia (it is ready to use) on cpu (asked for)"
    assert choose_engine("torch", "cpu").name == "torch"


def test_a_julia_without_our_package_is_not(julia: Julia) -> None:
    julia({"PythonCall": "0.9"})
    state = julia_state()
    assert not state.usable and "lacks JuiceBridge" in state.reason
    assert "JuiceBridge" in choose_engine("auto", "cpu").reason


def test_half_a_setting_is_refused(julia: Julia, monkeypatch: pytest.MonkeyPatch) -> None:
    julia(ALL)
    monkeypatch.delenv("PYTHON_JULIACALL_PROJECT")
    assert "must be set together" in julia_state().reason


def test_what_juliapkg_has_set_up_is_taken(
    julia: Julia, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """juliapkg itself, offline, with a program that answers like Julia."""
    julia(ALL, direct=False)
    assert "is not set up" in julia_state().reason
    monkeypatch.setenv("PYTHON_JULIAPKG_OFFLINE", "yes")
    julia_environment.setup()
    loaded = (bare / "asked").read_text()
    assert all(name in loaded for name in ALL)
    state = julia_state()
    assert state.usable and state.project == str(bare / "project")


def test_setup_leaves_a_project_of_yours_alone(
    julia: Julia, capfd: pytest.CaptureFixture[str]
) -> None:
    program = julia({"PythonCall": "0.9"})
    with pytest.raises(UserError, match="could not be set up"):
        julia_environment.setup()
    assert "lacks JuiceBridge" in capfd.readouterr().err
    assert not (program.parent / "asked").exists()


def test_gpu_only_where_driver_and_package_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    packages = dict.fromkeys(ALL, "1")
    both = JuliaState(usable=True, packages=packages, gpu="a card")
    lacking = JuliaState(usable=True, packages={"HDF5": "1"}, gpu="a card")
    for state, device in ((both, "cuda"), (lacking, "cpu")):
        monkeypatch.setattr("pyjuice_bridge.engines.julia_state", lambda state=state: state)
        assert choose_engine("julia", "auto").device == device
    with pytest.raises(UserError, match="CUDA package"):
        choose_engine("julia", "cuda")


def test_settings_are_respected(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = worker_environment()
    assert plain["PYTHON_JULIACALL_THREADS"] == "auto"
    assert plain["PYTHON_JULIACALL_HANDLE_SIGNALS"] == "yes"
    assert plain["PYTHON_JULIAPKG_OFFLINE"] == "yes"
    monkeypatch.setenv("JULIA_NUM_THREADS", "3")
    assert worker_environment()["PYTHON_JULIACALL_THREADS"] == "3"
    monkeypatch.setenv("PYTHON_JULIACALL_THREADS", "2")
    monkeypatch.setenv("PYTHON_JULIACALL_HANDLE_SIGNALS", "no")
    monkeypatch.setenv("PYTHON_JULIACALL_OPTIMIZE", "1")
    given = worker_environment()
    assert given["PYTHON_JULIACALL_THREADS"] == "2"
    assert given["PYTHON_JULIACALL_HANDLE_SIGNALS"] == "no"
    assert given["PYTHON_JULIACALL_OPTIMIZE"] == "1"
    monkeypatch.setitem(sys._xoptions, "juliacall-threads", "5")
    assert "-Xjuliacall-threads=5" in julia_environment.command("-m", "module")


def test_doctor_tells_of_julia(julia: Julia) -> None:
    julia({**ALL, "JuiceBridge": "0.1.0"})
    output = CliRunner().invoke(main, ["doctor"]).output
    for words in ("1.10.6", "JuiceBridge 0.1.0", "julia threads", "julia gpu"):
        assert words in output


def test_importing_loads_no_juliacall() -> None:
    code = (
        "import sys, pyjuice_bridge.engines, pyjuice_bridge.engines.julia, "
        "pyjuice_bridge.cli.main; sys.exit('juliacall' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


NOISE = """
    import os, sys
    from pyjuice_bridge.engines.julia_worker import _own_pipes
    requests, answers = _own_pipes()
    print("noise from Python", flush=True)
    os.write(1, b"noise from a library")
    assert sys.stdin.read() == "" and requests.readline() == "request"
    answers.write("answer")
"""


def test_what_others_print_does_not_disturb() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(NOISE)],
        input="request",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "answer" and done.stderr.count("noise") == 2


def test_a_checkout_finds_the_julia_package() -> None:
    assert julia_environment.source() == ROOT / "julia"
    links = [path for path in (ROOT / "pyjuice_bridge").rglob("*") if path.is_symlink()]
    assert links == []


def test_juliapkg_and_the_julia_package_admit_the_same_versions() -> None:
    compat = pytest.importorskip("juliapkg.compat").Compat
    asked = json.loads((ROOT / "pyjuice_bridge" / "juliapkg.json").read_text())["julia"]
    project = tomllib.loads((ROOT / "julia" / "Project.toml").read_text())
    assert compat.parse(asked) == compat.parse(project["compat"]["julia"])
    assert str(compat.parse(asked)) == "^1.10"


def test_a_wheel_carries_the_julia_package(tmp_path: Path) -> None:
    pytest.importorskip("setuptools")
    copy, out = tmp_path / "source", tmp_path / "wheels"
    leave = shutil.ignore_patterns("__pycache__")
    for name in ("pyjuice_bridge", "julia"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=leave)
    for name in ("setup.py", "MANIFEST.in", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*pip, "-w", str(out), str(copy)], check=True, capture_output=True)
    wheel = zipfile.ZipFile(next(out.glob("*.whl")))
    packages = json.loads(wheel.read("pyjuice_bridge/juliapkg.json"))["packages"]
    assert set(packages) == {*julia_environment.NEEDED, "HDF5"}
    bridge = packages["JuiceBridge"]
    inside = f"pyjuice_bridge/{bridge['path']}"
    project = tomllib.loads(wheel.read(f"{inside}/Project.toml").decode())
    assert (project["name"], project["uuid"]) == ("JuiceBridge", bridge["uuid"])
    julia = ROOT / "julia"
    sources = {path for part in ("src", "ext") for path in (julia / part).rglob("*.jl")}
    expected = {f"{inside}/{path.relative_to(julia)}" for path in sources}
    assert expected <= set(wheel.namelist())
    assert not [name for name in wheel.namelist() if name.startswith(f"{inside}/test")]
    unpacked = tmp_path / "unpacked"
    wheel.extractall(unpacked)
    code = "from pyjuice_bridge.engines import julia_environment as e; print(e.source())"
    place = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(place.stdout.strip()) == unpacked / inside
