"""docs/queries.md says what the queries do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.query.table import answers, page, structures

PAGE = Path(__file__).parents[2] / "docs" / "queries.md"


def test_the_page_is_up_to_date() -> None:
    written = PAGE.read_text(encoding="utf-8")
    if written != page(get_engine("torch", "cpu")):
        pytest.fail("docs/queries.md: run `python -m pyjuice_bridge.query.table docs/queries.md`.")


def test_single_models_answer_everything() -> None:
    table = answers(get_engine("torch", "cpu"))
    for name, circuit in structures().items():
        assert ("one root" in table[name].values()) == (len(circuit.roots) > 1)
    assert set(table["HCLT"].values()) == {"exact", "approximate", "no HMM"}
    assert set(table["HMM"].values()) == {"exact", "approximate", "no images"}
    texts = {name for name in table if table[name]["text.infill"] == "exact"}
    assert texts == {"HMM"}
