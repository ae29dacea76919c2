"""docs/extending.md: every example is performed on a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
MOST_FILES = 3
BLOCK = re.compile(r"^```(\w+)(?: ([^\n:]+): (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def perform(package: Path, action: str, file: str, text: str) -> None:
    """Write a new file, or put lines beside the one that is named."""
    path = package / file
    if action == "new file":
        assert not path.exists()
        path.write_text(text)
        return
    assert action == "line in"
    anchor, where, added = re.fullmatch(r"(.*?\n)---( before)?\n(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    old = path.read_text()
    assert old.count(anchor) == 1, f"{file} has {old.count(anchor)} times: {anchor}"
    path.write_text(old.replace(anchor, added + anchor if where else anchor + added))


def test_every_example_works_and_touches_few_files(tmp_path: Path) -> None:
    package = tmp_path / "copy" / "pyjuice_bridge"
    shutil.copytree(ROOT / "pyjuice_bridge", package, ignore=shutil.ignore_patterns("__pycache__"))
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(sections) >= 5
    code = []
    for section in sections:
        touched = set()
        for language, action, file, text in BLOCK.findall(section):
            if file:
                perform(package, action, file, text)
                touched.add(file)
            else:
                assert language == "python"
                code.append(text)
        assert 1 <= len(touched) <= MOST_FILES, section.splitlines()[0]
    script = tmp_path / "examples.py"
    script.write_text("\n".join(code))
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
