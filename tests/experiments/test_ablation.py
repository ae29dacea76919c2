"""experiments/ablation.py: rows that differ in what their names say, at equal size and passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scripts import script

from pyjuice_bridge.runner.config import make_config
from pyjuice_bridge.runner.plan import make_plan

ablation = script("ablation")


def test_rows_have_names_and_valid_configs_of_their_own() -> None:
    rows = ablation.rows()
    assert len({row.name for row in rows}) == len(rows) == 12
    for row in rows:
        config = make_config(row.config({"name": "digits"}, 3))
        rounds = 3 if row.grows else 1
        assert config.train.patch_training is not None
        assert rounds * config.train.patch_training.epochs == 6 and config.train.epochs == 14
        assert config.circuit.frozen == row.frozen and config.seed == 3


def test_circuits_that_grow_end_as_large_as_those_that_do_not() -> None:
    plain, growing, _ = ablation.rows()[:3]
    sizes = set()
    for row in (plain, growing):
        values = row.config({"name": "digits"}, 0)
        values["circuit"]["patch"] = 2
        sizes.add(make_plan(make_config(values)).arms[0].parameters)
    assert len(sizes) == 1


def test_a_line_has_the_bits_of_the_teacher_and_of_the_circuit(tmp_path: Path) -> None:
    row = ablation.Row("VQ-VAE-2, independent decoder", True, False)
    result: dict[str, Any] = {
        split: {"value": value}
        for split, value in (("train", 1.25), ("valid", 1.5), ("test", 1.75))
    }
    result |= {"parameters": 12345, "seconds": 61.4}
    np.savez(tmp_path / "figures.npz", **{"teacher/figures": np.array([[2.0, 1.0], [2.5, 1.0]])})
    assert ablation.line(row, result, tmp_path) == (
        "| VQ-VAE-2, independent decoder | yes | yes | 12,345 | 2.5000 | 1.2500 | 1.5000 | 1.7500 "
        "| 61 |"
    )
