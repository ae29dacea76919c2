"""docs/julia.md: its Python runs, its links lead somewhere, the tree it shows is that of the run.

Its Julia is run by julia/test/test_page.jl.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pyjuice_bridge.circuit.chow_liu import chow_liu_tree
from pyjuice_bridge.data import load_dataset

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "julia.md"


def test_the_python_of_the_page_writes_rows_for_julia(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert blocks
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    with h5py.File("digits.h5") as file:
        for split in ("train", "test"):
            rows = file[split][()]
            assert rows.dtype == np.uint8 and rows.shape[1] == 64 and rows.max() == 16


def test_the_tree_of_the_page_is_that_of_the_digits() -> None:
    """Both the drawing on the page and the tree with which the Julia test makes its model."""
    digits = load_dataset("digits")
    parents = chow_liu_tree(digits.train.reshape(len(digits.train), -1), 17)
    program = (ROOT / "julia" / "test" / "test_page.jl").read_text("utf-8")
    numbers = re.findall(r"\d+", "".join(re.findall(r'^ +"([\d ]+)"', program, re.M)))
    assert [int(number) - 1 for number in numbers] == parents.tolist()
    drawn = re.findall(r"^([│├└─ ]*)row (\d), column (\d)$", PAGE.read_text("utf-8"), re.M)
    assert len(drawn) == 12
    above: list[int] = []
    for lines, row, column in drawn:
        pixel = (int(row) - 1) * 8 + int(column) - 1
        del above[len(lines) // 3 :]
        assert parents[pixel] == (above[-1] if above else -1)
        above.append(pixel)


def test_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)\s#]+)", PAGE.read_text("utf-8"))
    local = [link for link in links if not link.startswith("https://")]
    assert local
    for link in local:
        assert (PAGE.parent / link).exists(), link
