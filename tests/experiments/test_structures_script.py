"""experiments/structures.py: structures of one size, and lines that say what they ended at."""

from __future__ import annotations

from typing import Any

import pytest
from scripts import script

from pyjuice_bridge.circuit.size import size_of
from pyjuice_bridge.distill.registry import KINDS
from pyjuice_bridge.domains.registry import DOMAINS
from pyjuice_bridge.runner.config import make_config

structures = script("structures")


@pytest.mark.parametrize("name", list(structures.CIRCUITS))
def test_every_structure_has_about_the_size_asked_for(name: str) -> None:
    values = structures.sized(structures.config(name, {"name": "mnist"}, 8, 0.3, 3), 4_000_000)
    config = make_config(values)
    shape = DOMAINS["images"].shape(config)
    circuit = KINDS[config.circuit.kind].structure(config.circuit, "random", shape)
    assert size_of(circuit).parameters == pytest.approx(4_000_000, rel=0.15)
    assert (config.train.epochs, config.seed) == (8, 3)
    assert "random" in (config.arms or [])


def test_lines_average_over_seeds_at_the_step_that_validation_prefers() -> None:
    row: dict[str, Any] = {"model": "random", "parameters": 1234, "peak_memory_bytes": 2**30}

    def rows(valid: float) -> list[dict[str, Any]]:
        return [
            row
            | {"seconds": 10 * n, "train": {"value": n + 0.5}, "test": {"value": n + 0.25}}
            | {"valid": {"value": valid}}
            for n in (1, 3)
        ]

    assert structures.lines("hclt", 8, {0.1: rows(2.0), 0.3: rows(1.5), 1.0: rows(1.75)}) == [
        "| hclt | random start | 8 | 1,234 | 0.3 | 2.5000 ± 1.4142 | 1.5000 ± 0.0000 "
        "| 2.2500 ± 1.4142 | 20 | 1.00 |"
    ]
