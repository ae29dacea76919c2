"""The table of the binary sets: the size is chosen on validation, scores are in nats."""

import math
from pathlib import Path
from typing import Any

from scripts import script

from pyjuice_bridge.data.catalogue import names_of
from pyjuice_bridge.runner.config import make_config

binary_sets = script("binary_sets")


def row(arm: str, latents: int, valid: float, test: float) -> dict[str, Any]:
    return {
        "model": arm,
        "latents": latents,
        "valid": {"value": valid, "unit": "bits/row"},
        "test": {"value": test, "unit": "bits/row"},
    }


def test_the_size_is_the_best_on_validation() -> None:
    rows = [row("lvd", 4, 9.0, 8.0), row("lvd", 16, 8.5, 8.75), row("random", 4, 1.0, 1.0)]
    assert binary_sets.best(rows, "lvd") is rows[1]


def test_the_table_is_in_nats_and_has_means() -> None:
    found = {
        "nltcs": [row("lvd", 4, 9.0, 1 / math.log(2)), row("random", 4, 9.0, 2 / math.log(2))],
        "plants": [row("lvd", 16, 9.0, 3 / math.log(2)), row("random", 4, 9.0, 4 / math.log(2))],
    }
    lines = binary_sets.table(found).splitlines()
    assert lines[2:] == [
        "| nltcs | -1.000 | 4 | -2.000 | 4 |",
        "| plants | -3.000 | 16 | -4.000 | 4 |",
        "| mean of 2 | -2.000 |  | -3.000 |  |",
    ]


def test_every_set_has_a_config_that_is_valid() -> None:
    names = names_of("table")
    assert len(names) == 20
    for name in names:
        made = make_config(binary_sets.config(name, Path("here"), 16, 0), name)
        assert made.arms == ["lvd", "random"]
