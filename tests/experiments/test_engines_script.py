"""The comparison of engines on tiny circuits, with whatever engines this machine has."""

import json
from pathlib import Path

import numpy as np
import pytest
from scripts import script

from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.julia_environment import julia_state
from pyjuice_bridge.errors import UserError

engines = script("engines")
TINY = {
    "hclt": lambda: engines.hclt_case(2, variables=5, batch=8),
    "hmm": lambda: engines.hmm_case(2048, length=2, vocabulary=7, batch=2),
    "bundle": lambda: engines.bundle_case(clusters=3, latents=2, size=4, batch=8),
}
NAMES = ["HCLT, K = 2", "HMM, H = 2048", "3 patch circuits, K = 2"]


def test_table_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "CASES", TINY)
    monkeypatch.setattr(engines, "MATRIX", 64)
    path = tmp_path / "figures.json"
    assert engines.main(["--repeats", "2", "--device", "cpu", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    used = ["torch", "julia"] if julia_state().usable else ["torch"]
    assert [name for name in found["start_seconds"] if "first" not in name] == used
    assert [(r["case"], r["engine"]) for r in found["rows"]] == [
        (n, e) for n in NAMES for e in used
    ]
    for row in found["rows"]:
        assert 0 < row["best"] <= row["median"] and row["gflops"] > 0 and row["first"] >= 0
    assert list(found["agreement"]) == (NAMES if len(used) > 1 else [])
    missing = " ".join(found["not_measured"])
    assert "CUDA" in missing and ("The Julia engine" in missing) == (len(used) == 1)
    printed = capsys.readouterr().out
    assert printed.count("| HCLT, K = 2 |") == len(used)
    assert "Not measured:" in printed and "Start: torch" in printed
    assert "machine" in printed


def test_operations_and_edges() -> None:
    """Every variable but the root has a K × K matrix; the root has K weights."""
    circuit = TINY["hclt"]().circuit
    assert engines.edges(circuit) == 4 * 2 * 2 + 2
    assert engines.flops(circuit) == 6 * engines.edges(circuit)


class _Wrong:
    """PyTorch with counts that are off by a factor."""

    def __init__(self, factor: float) -> None:
        self._torch, self._factor = get_engine("torch", "cpu"), factor

    def log_likelihood(self, circuit, x):  # type: ignore[no-untyped-def]
        return self._torch.log_likelihood(circuit, x)

    def expected_counts(self, circuit, x, weights):  # type: ignore[no-untyped-def]
        return self._torch.expected_counts(circuit, x, np.full(len(x), self._factor))


def test_disagreement_is_found() -> None:
    case = TINY["hclt"]()
    right = get_engine("torch", "cpu")
    worst = engines.disagreement(case, {"torch": right, "other": _Wrong(1.001)})
    assert worst["log_likelihood"] == 0
    assert worst["counts"] == pytest.approx(1e-3, rel=1e-2)
    worst = engines.disagreement(case, {"torch": right, "other": _Wrong(1.0)})
    assert worst["counts"] < 1e-6


def test_what_juice_cannot_train() -> None:
    assert engines._unfit_for_juice(TINY["bundle"]().circuit) == "has several roots"
    assert engines._unfit_for_juice(TINY["hclt"]().circuit) == ""


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert engines.main(["--only", "hmm-64", "--device", "cuda"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_juice_runs_up_to_where_it_needs_a_gpu() -> None:
    import torch

    state = julia_state()
    if not state.usable or "ProbabilisticCircuits" not in state.packages:
        pytest.skip("Juice.jl is not there")
    if torch.cuda.is_available():
        assert engines.time_juice(TINY["hclt"](), 2).engine == "Juice.jl"
    else:
        with pytest.raises(UserError, match=r"HCLT, K = 2: .*Juice's EM runs on CUDA only"):
            engines.time_juice(TINY["hclt"](), 2)
