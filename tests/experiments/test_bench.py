"""The benchmark's quick form, and what it must refuse to say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from circuits import CIRCUITS, random_rows

from pyjuice_bridge.circuit.types import layer_params
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import FitOptions, Schedule

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from experiments.bench import cases, contest, fits, suite, table  # noqa: E402
from experiments.bench.contestants import OURS, Entry  # noqa: E402
from experiments.bench.peers.reference import Peer as Reference  # noqa: E402

QUICK = ("--quick", "--threads", "1", "--peers", "ours, torch", "naive", "Ctrl-G")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """What a quick run prints, and its JSON."""
    out = tmp_path_factory.mktemp("bench") / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "experiments.bench", *QUICK, "--out", str(out)],
        cwd=ROOT,
        env=os.environ | {"CTRLG": str(out.parent / "nothing")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def test_every_case_is_measured_and_agrees(run: tuple[str, dict[str, Any]]) -> None:
    _, document = run
    expected = {case.name: case for case in suite.cases(quick=True, cuda=False)}
    assert [case["case"] for case in document["cases"]] == list(expected)
    for case in document["cases"]:
        work = expected[case["case"]].work
        peers = {row["peer"]: row for row in case["peers"]}
        assert {OURS.name} <= {name for name, row in peers.items() if not row["notes"]}
        for row in peers.values():
            if "all" in row["notes"]:
                assert not row["times"] and not row["deviation"]
                continue
            assert set(row["times"]) == set(work)
            assert set(row["deviation"]) == {"forward", *work}
            assert max(row["deviation"].values()) < 1e-4
            for kind in work:
                summary = row["seconds"][kind]
                assert 0 < summary["min"] <= summary["median"] <= max(row["times"][kind])
            assert row["memory"]["process"] > 10_000_000
            assert all(seconds >= 0 for seconds in row["start_up"].values())
        assert min(case["mm"]["float32"]) > 1e8


def test_the_baseline_runs_with_denormals_and_without(run: tuple[str, dict[str, Any]]) -> None:
    last = run[1]["cases"][-1]
    assert last["case"] == suite.BASELINE
    timed = {row["peer"] for row in last["peers"] if row["times"].get("epoch")}
    assert timed - {"ours, torch bf16"} == {OURS.name, "naive torch", "naive torch, denormals kept"}


def test_the_tables_say_what_was_not_measured(run: tuple[str, dict[str, Any]]) -> None:
    text, document = run
    assert any(line.startswith("Ctrl-G: ") for line in document["not_measured"])
    assert any("CUDA" in line for line in document["not_measured"])
    for line in document["not_measured"]:
        assert f"- {line}" in text
    rows = [cells for cells in _rows(text) if cells[4] != "–"]
    assert all(0 <= float(cells[7].rstrip("%")) <= 100 for cells in rows)
    assert {float(cells[5]) for cells in rows if cells[1] == OURS.name} == {1.0}


def _rows(text: str) -> list[list[str]]:
    """The cells of the lines of the cases' tables: [1] who, [4] EM, [5] its ratio, [7] of mm."""
    lines = [line.split("|") for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return [c for c in cells if len(c) == 14 and c[1] not in ("", "---")]


def test_lines_through_times(run: tuple[str, dict[str, Any]]) -> None:
    found = run[1]["fits"]
    assert [fit["unit"] for fit in found] == ["samples", "variables", "K²"]
    assert all(len(fit["milliseconds"]) == len(fit["sizes"]) == 4 for fit in found)
    line = fits.Series("samples", (1, 2, 4), ())
    exact = fits.fit("x", line, [5.0, 7.0, 11.0])
    assert (exact.fixed, exact.per_unit, exact.r2) == pytest.approx((3.0, 2.0, 1.0))
    assert fits.fit("x", line, [5.0, 5.5, 5.0]).r2 < 0.1


@pytest.mark.parametrize("name", CIRCUITS)
def test_the_reference_is_right(name: str) -> None:
    """Against plain evaluation, and the engine in float64."""
    circuit = CIRCUITS[name]()
    x = random_rows(circuit, 6, 1, 0.0)
    problem = cases.Problem("any", circuit, x, 6)
    reference = Reference(problem, "cpu", {})
    expected = [oracle.log_likelihood(circuit, row) for row in x]
    np.testing.assert_allclose(reference.log_likelihood(x), expected, rtol=1e-12)
    reference.step(x, 0.3, 0.1)
    options = FitOptions(epochs=1, step_size=Schedule(0.3, kind="constant"), pseudocount=0.1)
    fitted = get_engine("torch", "cpu", precision="float64").fit(circuit, x, options).circuit
    for layer, found in zip(fitted.layers, reference.params, strict=True):
        if found is not None:
            np.testing.assert_allclose(found, layer_params(layer), atol=1e-9)


def test_wrong_numbers_get_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that does one step too many, and one that dies, are named but not timed."""
    case = suite.cases(quick=True, cuda=False)[0]
    settings = contest.Settings(1, rounds=1, seconds=0.01, pause=0.0)
    strict = Entry(OURS.name, "torch_engine", tolerance=1e-20)
    result = contest.run(case, [strict], settings)
    assert not any(result.peers[0].times.values())
    assert set(result.peers[0].notes) == {"all", "em", "epoch"}
    assert "differs by" in table.case_table(result)
    monkeypatch.setenv("CTRLG", "/nowhere")
    unknown = Entry("Ctrl-G", "ctrlg", families=("hmm",))
    monkeypatch.setattr(Entry, "absent", lambda self, device: "")
    result = contest.run(case, [unknown], settings)
    assert "CTRLG names no folder" in result.peers[0].notes["all"]
    assert not result.peers[0].times


def test_flops_of_an_hmm() -> None:
    problem = cases.hmm_problem(5, 2, length=4, vocabulary=3, batches=1)
    assert cases.dense_flops(problem.circuit) == 6 * (3 * 5 * 5 + 5)
    assert cases.parameters(problem.circuit) == 5 + 25 + 15
    assert cases.nodes(problem.circuit) == 4 * 5 + 4 * 5 + 3 * 5 + 1


def test_drawn_images_are_sparse_and_repeat() -> None:
    images = cases.strokes(1500, 12, 16)
    assert images.dtype == np.uint8 and images.max() == 15
    assert 0.05 < (images > 0).mean() < 0.6
    np.testing.assert_array_equal(images[:1024], cases.strokes(1024, 12, 16))
