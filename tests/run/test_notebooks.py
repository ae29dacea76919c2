"""What notebooks show: short representations, tables of results, errors in one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.data import load_dataset, load_text
from pyjuice_bridge.data.table import load_table
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import FitOptions


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("notebook") / "run"
    config = tiny_runs.hclt_config(name="notebook")
    return pj.run(config, images=tiny_runs.images(), out=out, progress=False)


def test_results_as_a_table(result: Any) -> None:
    page = result._repr_html_()
    assert page.count("<tr>") == 3
    for row in result.results:
        assert f"{row['test']['value']:.4f}" in page
        assert f"{row['parameters']:,}" in page
    best = min(row["test"]["value"] for row in result.results)
    assert f"<b>{best:.4f}</b>" in page
    assert str(result.report) in page


def test_results_as_a_data_frame(result: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = result.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["model"].tolist() == ["lvd", "random"]
    assert frame["test"].tolist() == [row["test"]["value"] for row in result.results]
    assert frame["unit"].tolist() == ["bits/dim", "bits/dim"]


def test_without_pandas_one_sentence(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(pj.UserError, match="pip install pandas"):
        result.to_pandas()


def test_an_error_is_one_sentence_in_notebooks() -> None:
    with pytest.raises(pj.UserError) as caught:
        pj.run({"name": "x", "data": {"nam": "digits"}})
    (line,) = caught.value._render_traceback_()
    assert line == f"UserError: {caught.value}"
    assert "nam" in line


def test_representations_are_short(tmp_path: Path) -> None:
    engine = get_engine("torch", "cpu")
    circuit = hclt([-1, 0], 2, [3, 2], seed=0)
    rows = np.zeros((9, 2), np.int64)
    images = load_dataset(tiny_runs.images())
    table = load_table(rows)
    fitted = engine.fit(circuit, rows, FitOptions(epochs=2), valid=rows)
    text = load_text(["a b c"] * 30, tokenizer="words")
    shown = {
        repr(engine): "TorchEngine(cpu, float32)",
        repr(images): "train",
        repr(table): "rows)",
        repr(text): "documents)",
        repr(fitted): f"2 passes, last train {fitted.history[-1].train:.4f}",
        repr(engine.expected_counts(circuit, rows)): "log-likelihood",
    }
    for representation, part in shown.items():
        assert part in representation
        assert len(representation) < 200
        assert "\n" not in representation
