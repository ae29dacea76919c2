"""Files are replaced whole or not at all, and nothing but a file is replaced."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyjuice_bridge import files
from pyjuice_bridge.errors import UserError


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_only_regular_files_are_replaced(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "target", tmp_path / "out"
    if kind.endswith("link"):
        path.symlink_to(target)
        if kind == "link":
            target.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    before = path.lstat()
    with pytest.raises(UserError, match="out cannot be written: it is not a regular file"):
        files.write_text(path, "new")
    after = path.lstat()
    assert (before.st_mode, before.st_ino) == (after.st_mode, after.st_ino)
    assert target.exists() == (kind == "link")
    assert kind != "link" or target.read_text() == "mine"


def test_devices_are_left_alone() -> None:
    for name in ("/dev/null", "/dev/full"):
        before = Path(name).stat()
        with pytest.raises(UserError, match="not a regular file"):
            files.write_bytes(Path(name), b"x")
        assert Path(name).stat().st_rdev == before.st_rdev


def test_a_copy_is_no_link(tmp_path: Path) -> None:
    original, copy = tmp_path / "a", tmp_path / "b"
    original.write_bytes(b"x" * 10_000_000)
    files.copy_file(original, copy)
    assert copy.read_bytes() == original.read_bytes()
    with copy.open("r+b") as file:
        file.write(b"changed")
    assert original.read_bytes() == b"x" * 10_000_000


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_stays_json(tmp_path: Path, value: float) -> None:
    path = tmp_path / "x"
    for write, content in ((files.write_json, [value]), (files.write_jsonl, [{"a": value}])):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(path, content)  # type: ignore[operator]
        assert not path.exists()
    rows: list[dict[str, Any]] = [{"a": value, "b": [1.5, (value, "x")], "c": None}]
    files.write_jsonl(path, files.finite(rows))
    assert json.loads(path.read_text()) == {"a": None, "b": [1.5, [None, "x"]], "c": None}


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        files.write_text(tmp_path / "gone" / "x.json", "")
    assert caught.value.filename == str(tmp_path / "gone" / "x.json")


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    mine = [".a.json.tmp", "a.0123abcd.tmp", ".a.0123abcz.tmp", "x"]
    theirs = [".a.json.0123abcd.tmp", "deep/.b.npy.ffffffff.tmp"]
    (tmp_path / "deep").mkdir()
    for name in mine + theirs:
        (tmp_path / name).touch()
    with pytest.raises(RuntimeError), files.replacing(tmp_path / "new") as temporary:
        temporary.touch()
        (tmp_path / "kept").hardlink_to(temporary)
        temporary.with_name("seen").write_text(temporary.name)
        raise RuntimeError
    # What a kill leaves has the very name that is looked for.
    (tmp_path / "kept").rename(tmp_path / (tmp_path / "seen").read_text())
    files.remove_leftovers(tmp_path)
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {*mine, "seen"}


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


def test_arrays_read_back(tmp_path: Path) -> None:
    files.write_arrays(tmp_path / "a.npz", {"x/y": np.arange(3)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["x/y"], [0, 1, 2])
