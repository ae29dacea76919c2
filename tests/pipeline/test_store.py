"""Artifacts: finished or not, reused, repaired, locked and killed in the middle."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from pyjuice_bridge.pipeline import files
from pyjuice_bridge.pipeline.store import Store, fingerprint, remove


def build_counter(calls: list[int]):
    def build(folder: Path):
        calls.append(1)
        files.write_array(folder / "a.npy", np.arange(5))
        return {"value": 7}

    return build


def test_second_request_reuses(tmp_path: Path) -> None:
    calls: list[int] = []
    first = Store(tmp_path).stage("s", 1, {"x": 1}, build_counter(calls))
    second = Store(tmp_path).stage("s", 1, {"x": 1}, build_counter(calls))
    assert not first.reused and second.reused and len(calls) == 1
    assert second.info["value"] == 7 and second.seconds == first.seconds > 0
    assert first.id == f"s-{fingerprint({'version': 1, 'inputs': {'x': 1}})}"


@pytest.mark.parametrize(("version", "inputs"), [(2, {"x": 1}), (1, {"x": 2}), (1, {"y": 1})])
def test_anything_different_is_another_artifact(tmp_path: Path, version: int, inputs: dict) -> None:
    calls: list[int] = []
    store = Store(tmp_path)
    store.stage("s", 1, {"x": 1}, build_counter(calls))
    store.stage("s", version, inputs, build_counter(calls))
    assert len(calls) == 2


def test_fresh_computes_once_per_run(tmp_path: Path) -> None:
    calls: list[int] = []
    Store(tmp_path).stage("s", 1, {}, build_counter(calls))
    store = Store(tmp_path, fresh=True)
    assert not store.stage("s", 1, {}, build_counter(calls)).reused
    store.stage("s", 1, {}, build_counter(calls))
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["truncate", "delete", "garbage", "list"])
def test_damaged_artifact_is_computed_again(tmp_path: Path, damage: str) -> None:
    calls: list[int] = []
    said: list[str] = []
    folder = Store(tmp_path).stage("s", 1, {}, build_counter(calls)).path
    if damage == "truncate":
        (folder / "a.npy").write_bytes(b"x")
    elif damage == "delete":
        (folder / "a.npy").unlink()
    else:
        (folder / "done.json").write_text("{" if damage == "garbage" else "[]")
    again = Store(tmp_path, say=said.append).stage("s", 1, {}, build_counter(calls))
    assert len(calls) == 2 and not again.reused and "damaged" in said[0]
    np.testing.assert_array_equal(np.load(folder / "a.npy"), np.arange(5))


def test_failed_build_leaves_nothing_finished(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        files.write_text(folder / "part", "kept for the next attempt")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        Store(tmp_path).stage("s", 1, {}, fail)

    def finish(folder: Path) -> dict:
        return {"part": (folder / "part").read_text()}

    assert Store(tmp_path).stage("s", 1, {}, finish).info["part"].startswith("kept")


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"old": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_json(path, {"new": 1})
    assert files.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


WORKER = """
    import sys, time
    from pathlib import Path
    from pyjuice_bridge.pipeline.store import Store

    def build(folder):
        (folder / "half").write_text("half")
        print("building", flush=True)
        if sys.argv[2] == "hang":
            time.sleep(60)
        time.sleep(0.5)
        return {}

    store = Store(Path(sys.argv[1]), say=lambda line: print(line, flush=True))
    art = store.stage("s", 1, {}, build)
    print("reused" if art.reused else "built", flush=True)
"""


def worker(folder: Path, mode: str) -> subprocess.Popen:
    code = textwrap.dedent(WORKER)
    args = [sys.executable, "-c", code, str(folder), mode]
    return subprocess.Popen(args, stdout=subprocess.PIPE, text=True)


def test_two_processes_build_once(tmp_path: Path) -> None:
    first, second = worker(tmp_path, "short"), worker(tmp_path, "short")
    output = first.communicate()[0] + second.communicate()[0]
    assert output.count("building") == 1
    assert output.count("built") == 1 and output.count("reused") == 1


def test_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    first = worker(tmp_path, "hang")
    assert first.stdout is not None and first.stdout.readline() == "building\n"
    folder = next(tmp_path.glob("s-*"))
    assert (folder / "lock").read_text().strip() == str(first.pid)
    assert not remove(folder)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    output = worker(tmp_path, "short").communicate()[0]
    assert output.split() == ["building", "built"]
    assert remove(folder) and not folder.exists()


def test_inputs_must_be_plain_numbers() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"x": float("nan")})
    assert fingerprint({"a": 1, "b": [1.5]}) == fingerprint({"b": [1.5], "a": 1})
