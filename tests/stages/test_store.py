"""Artifacts: finished or not, reused, repaired, locked and killed in the middle."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pyjuice_bridge import files
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.stages import store as store_module
from pyjuice_bridge.stages.progress import Reporter
from pyjuice_bridge.stages.store import Artifact, Store, fingerprint, remove, unused


def build_counter(calls: list[int]):
    def build(folder: Path):
        calls.append(1)
        files.write_array(folder / "a.npy", np.arange(5))
        return {"value": 7}

    return build


def heard() -> tuple[Callable[[], list[str]], Reporter]:
    """What a reporter has said, and the reporter."""
    output = io.StringIO()
    reporter = Reporter(Console(file=output, width=200))
    return lambda: output.getvalue().splitlines(), reporter


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


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "folder", "garbage", "list"])
def test_damaged_artifact_is_computed_again(tmp_path: Path, damage: str) -> None:
    calls: list[int] = []
    folder = Store(tmp_path).stage("s", 1, {}, build_counter(calls)).path
    array = folder / "a.npy"
    if damage == "truncate":
        array.write_bytes(b"x")
    elif damage == "flip":
        content, state = bytearray(array.read_bytes()), array.stat()
        content[-1] ^= 1
        array.write_bytes(content)
        os.utime(array, ns=(state.st_atime_ns, state.st_mtime_ns))
    elif damage in ("delete", "folder"):
        array.unlink()
        if damage == "folder":
            array.mkdir()
    else:
        (folder / "done.json").write_text("{" if damage == "garbage" else "[]")
    said, reporter = heard()
    again = Store(tmp_path, reporter=reporter).stage("s", 1, {}, build_counter(calls))
    file = "done.json" if damage in ("garbage", "list") else "a.npy"
    assert said() == [f"{again.id}: {file} is damaged or missing, computing it again"]
    assert len(calls) == 2 and not again.reused
    np.testing.assert_array_equal(np.load(folder / "a.npy"), np.arange(5))


def test_every_digit_of_the_note_counts(tmp_path: Path) -> None:
    """Change every character of ``done.json`` in turn."""
    info = {"seconds": 1.5, "value": 2.5}
    folder = Store(tmp_path).stage("s", 1, {"x": 1}, lambda folder: info).path
    whole = (folder / "done.json").read_text()
    for i, character in enumerate(whole):
        other = {"1": "2", " ": "x", "\n": "x"}.get(character, "1")
        (folder / "done.json").write_text(whole[:i] + other + whole[i + 1 :])
        again = Store(tmp_path).stage("s", 1, {"x": 1}, lambda folder: info)
        assert not again.reused and again.info == info, (i, character)
        (folder / "done.json").write_text(whole)


def test_stored_without_checksums_is_computed_again(tmp_path: Path) -> None:
    calls: list[int] = []
    done = Store(tmp_path).stage("s", 1, {}, build_counter(calls)).path / "done.json"
    info = {"seconds": 1.0, "value": 8}
    done.write_text(json.dumps({"inputs": {}, "files": {"a.npy": 168}, "info": info}))
    said, reporter = heard()
    again = Store(tmp_path, reporter=reporter).stage("s", 1, {}, build_counter(calls))
    assert said() == [f"{again.id}: stored without checksums, computing it again"]
    assert again.info["value"] == 7


def test_lineage_names_every_ancestor_once_and_parents_first(tmp_path: Path) -> None:
    def noting(seconds: float):
        return lambda folder: {"seconds": seconds}

    def grown(store: Store) -> Artifact:
        data = store.stage("data", 1, {}, noting(1.0))
        tree = store.stage("tree", 1, {}, noting(2.0), parents=[data])
        clusters = store.stage("clusters", 1, {}, noting(4.0), parents=[data])
        return store.stage("train-lvd", 1, {}, noting(8.0), parents=[tree, clusters])

    for made in (grown(Store(tmp_path)), grown(Store(tmp_path))):
        lineage = made.lineage()
        assert [a.stage for a in lineage] == ["data", "tree", "clusters", "train-lvd"]
        assert sum(a.seconds for a in lineage) == 15.0
    assert made.reused
    assert files.read_json(made.path / "done.json")["parents"] == [lineage[1].id, lineage[2].id]


def test_parents_are_part_of_the_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first, second = (store.stage("s", 1, {"x": x}, lambda folder: None) for x in (1, 2))
    children = [[], [first], [second], [first, second], [second, first]]
    names = {store.stage("t", 1, {}, lambda folder: None, parents=p).id for p in children}
    assert len(names) == len(children)


def test_seconds_of_every_attempt_count(tmp_path: Path) -> None:
    """Three attempts: one that fails, one that is killed between its notes, one that ends."""

    def attempt(folder: Path, fails: bool = True) -> None:
        time.sleep(0.05)
        if fails:
            raise UserError("no")

    with pytest.raises(UserError):
        Store(tmp_path).stage("s", 1, {}, attempt)
    note = next(tmp_path.glob("s-*")) / "spent.json"
    first = files.read_json(note)
    assert first >= 0.05
    files.write_json(note, first + 1000)
    made = Store(tmp_path).stage("s", 1, {}, lambda folder: attempt(folder, fails=False))
    assert 1000.1 <= made.seconds < 2000 and not note.exists()
    assert list(files.read_json(made.path / "done.json")["files"]) == []
    files.write_json(note, "nonsense")
    assert Store(tmp_path, fresh=True).stage("s", 1, {}, lambda folder: None).seconds < 1000


def test_seconds_are_noted_as_a_task_advances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_NOTE_SECONDS", 0.0)
    reporter = Reporter()
    seen: list[float] = []

    def build(folder: Path) -> None:
        with reporter.task("work") as tick:
            for done in range(3):
                tick(done, 3)
                seen.append(files.read_json(folder / "spent.json"))

    made = Store(tmp_path, reporter=reporter).stage("s", 1, {}, build)
    assert 0 < seen[0] < seen[1] < seen[2] <= made.seconds
    # Nothing is noted once the stage is over.
    with reporter.task("more") as tick:
        tick(1, 2)
    assert not (made.path / "spent.json").exists()


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), [1.0, -float("inf")]])
def test_numbers_that_json_lacks_are_kept(tmp_path: Path, value: Any) -> None:
    made = [Store(tmp_path).stage("s", 1, {}, lambda folder: {"value": value}) for _ in range(2)]
    assert [a.reused for a in made] == [False, True]
    for artifact in made:
        np.testing.assert_array_equal(artifact.info["value"], value)
    text = (made[0].path / "done.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_failed_build_leaves_nothing_finished(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        files.write_text(folder / "part", "kept for the next attempt")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        Store(tmp_path).stage("s", 1, {}, fail)

    def finish(folder: Path) -> dict:
        return {"part": (folder / "part").read_text()}

    assert Store(tmp_path).stage("s", 1, {}, finish).info["part"].startswith("kept")


WORKER = """
    import sys, time
    from pathlib import Path
    from rich.console import Console
    from pyjuice_bridge.stages.progress import Reporter
    from pyjuice_bridge.stages.store import Store

    def build(folder):
        (folder / "half").write_text("half")
        print("building", flush=True)
        if sys.argv[2] == "hang":
            time.sleep(60)
        time.sleep(0.5)
        return {}

    store = Store(Path(sys.argv[1]), reporter=Reporter(Console()))
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


def test_only_what_a_store_made_is_unused(tmp_path: Path) -> None:
    """Folders beside artifacts: like one by name or content, but made by somebody else."""
    runs, store = tmp_path, Store(tmp_path / "artifacts")
    made = store.stage("train-lvd", 1, {}, lambda folder: None)
    kept = store.stage("tree", 1, {}, lambda folder: None)
    damaged = store.stage("score", 1, {}, lambda folder: None)
    (damaged.path / "done.json").write_text("{")

    def fail(folder: Path) -> None:
        raise UserError("stopped")

    with pytest.raises(UserError):
        store.stage("clusters", 1, {}, fail)
    unfinished = next((tmp_path / "artifacts").glob("clusters-*"))
    (runs / "run").mkdir()
    files.write_json(runs / "run" / "artifacts.json", [kept.id])
    number = "0123456789abcdef"
    foreign = [
        "my-thesis",
        *(f"{x}-{number}" for x in ("notes", "Notes")),
        f"x-{number}0",
        "x-0123",
    ]
    for name in foreign:
        (store.root / name).mkdir()
        (store.root / name / "mine.txt").touch()
    for name, content in {"a": "{}", "b": "[1]", "c": '{"x": 1}'}.items():
        (store.root / f"{name}-{number}").mkdir()
        (store.root / f"{name}-{number}" / "done.json").write_text(content)
    (store.root / f"d-{number}").mkdir()
    (store.root / f"d-{number}" / "lock").write_text("of a canal")
    (store.root / f"e-{number}").symlink_to(made.path)
    (store.root / f"f-{number}").write_text("a file")
    assert set(unused(runs)) == {made.path, damaged.path, unfinished}
