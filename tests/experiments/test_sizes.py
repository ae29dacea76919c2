"""experiments/sizes.py: what is drawn, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from scripts import script

from pyjuice_bridge.errors import UserError

sizes = script("sizes")


def run(folder: Path, parameters: int, lvd: float, random: float) -> Path:
    folder.mkdir()
    lines = [
        {"model": arm, "parameters": parameters, "test": {"value": value, "unit": "bits/dim"}}
        for arm, value in (("lvd", lvd), ("random", random))
    ]
    (folder / "results.json").write_text(json.dumps(lines))
    return folder


def test_points_are_collected_by_arm_and_size(tmp_path: Path) -> None:
    runs = [run(tmp_path / "b", 2000, 1.5, 1.75), run(tmp_path / "a", 1000, 2.0, 2.25)]
    points, unit = sizes.points_of(runs)
    assert unit == "bits/dim"
    assert list(points.values()) == [[(1000, 2.0), (2000, 1.5)], [(1000, 2.25), (2000, 1.75)]]
    sizes.draw(points, unit, "sizes", tmp_path / "sizes.png")
    with Image.open(tmp_path / "sizes.png") as image:
        assert image.size == (900, 510)


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no results"):
        sizes.points_of([tmp_path])
