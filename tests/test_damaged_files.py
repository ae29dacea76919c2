"""Every mutation of a circuit, a checkpoint or a region graph ends in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import mutations
import pytest


@pytest.mark.parametrize(
    ("kind", "changed", "refused"),
    [
        ("circuit", 100, 700),
        ("variable text", 12, 1),
        ("anemone", 60, 300),
        ("region graph", 300, 1000),
    ],
)
def test_no_damage_ends_in_a_traceback_or_a_crash(kind: str, changed: int, refused: int) -> None:
    """What is read in spite of damage passed ``check``; the walk counts all else as it is told."""
    done = subprocess.run(
        [sys.executable, mutations.__file__, kind, str(changed)],
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) <= {"read", "refused"}, told
    assert told["refused"] >= refused
