"""Runs over a grid of fields: every point is the run that has it in its config."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_runs

import pyjuice_bridge as pj
from pyjuice_bridge.report.run_dir import read_run

GRID = {"circuit.latents": [2, 3], "train.pseudocount": [0.01, 1.0]}
POINTS = [{"circuit.latents": n, "train.pseudocount": c} for n in (2, 3) for c in (0.01, 1.0)]
FIGURES = ("train", "valid", "test", "parameters", "passes")


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("sweep") / "grid"
    return pj.run(tiny_runs.hclt_config(), images=tiny_runs.images(), out=out, sweep=GRID)


def test_every_arm_is_trained_at_every_point(swept: Any) -> None:
    run = read_run(swept.path)
    assert [(r.point, r.arm) for r in run.results] == [
        (point, arm) for point in POINTS for arm in ("lvd", "random")
    ]
    assert run.points == POINTS
    models = {p.name for p in swept.path.glob("*.h5")} - {"model.h5", "assignments.h5"}
    assert models == {
        f"{arm}-{n}-{c}.h5" for arm in ("lvd", "random") for n in (2, 3) for c in (0.01, 1.0)
    }
    frame = swept.to_pandas()
    assert list(frame["circuit.latents"]) == [2] * 4 + [3] * 4
    best = min((r for r in swept.results if r["model"] == "lvd"), key=lambda r: r["valid"]["value"])
    name = "lvd-{circuit.latents}-{train.pseudocount}.h5"
    wanted = swept.path / name.replace("{circuit.latents}", str(best["sweep"]["circuit.latents"]))
    wanted = Path(
        str(wanted).replace("{train.pseudocount}", str(best["sweep"]["train.pseudocount"]))
    )
    assert (swept.path / "model.h5").read_bytes() == wanted.read_bytes()


def test_a_point_is_the_run_of_its_config(swept: Any, tmp_path: Path) -> None:
    point = POINTS[1]
    alone = pj.run(
        tiny_runs.hclt_config(),
        images=tiny_runs.images(),
        out=tmp_path / "alone",
        circuit={"latents": point["circuit.latents"]},
        train={"pseudocount": point["train.pseudocount"]},
    )
    assert alone.reused == ()
    for row in alone.results:
        same = [r for r in swept.results if (r["model"], r["sweep"]) == (row["model"], point)]
        assert [{k: r[k] for k in FIGURES} for r in same] == [{k: row[k] for k in FIGURES}]


def test_a_second_run_reuses_all_and_another_value_adds_to_it(swept: Any) -> None:
    again = pj.run(tiny_runs.hclt_config(), images=tiny_runs.images(), out=swept.path, sweep=GRID)
    assert len(again.reused) == len(json.loads((again.path / "artifacts.json").read_text()))
    assert again.results == swept.results
    more = pj.run(
        tiny_runs.hclt_config(),
        images=tiny_runs.images(),
        out=swept.path.parent / "more",
        sweep={"circuit": {"latents": [2]}, "train": {"pseudocount": [1.0, 0.5]}},
    )
    names = json.loads((more.path / "artifacts.json").read_text())
    new = [name.rpartition("-")[0] for name in set(names) - set(more.reused)]
    assert sorted(new) == ["figures", "score", "score", "train-lvd", "train-random"]


def test_report_and_tables_name_the_points(swept: Any) -> None:
    html = swept.report.read_text(encoding="utf-8")
    assert "Against latents" in html and "Against pseudocount" in html
    assert "LVD, 3 latents, pseudocount 0.01" in html
    assert "<h3>2 latents, pseudocount 1</h3>" in html
    assert "lvd-2-0.01" in repr(swept)


def test_kinds_of_teachers_and_lists_are_values_too(tmp_path: Path) -> None:
    result = pj.run(
        tiny_runs.hclt_config(arms=["lvd"]),
        images=tiny_runs.images(),
        out=tmp_path / "run",
        sweep={"teacher.ring": [0, 1], "train.step_size": [{"start": 0.3}, {"start": 0.1}]},
    )
    assert [row["sweep"]["train.step_size"]["start"] for row in result.results] == [0.3, 0.1] * 2
    assert len({row["test"]["value"] for row in result.results}) == 4
