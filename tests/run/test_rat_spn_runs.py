"""Runs of RAT-SPNs from a config: a random start against an HCLT of equal size, without latents."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import yaml
from click.testing import CliRunner

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.rat_spn import rat_spn
from pyjuice_bridge.circuit.region_graph import RegionGraph, random_region_graph
from pyjuice_bridge.circuit.types import layer_params
from pyjuice_bridge.cli.main import main
from pyjuice_bridge.report.run_dir import read_run
from pyjuice_bridge.runner.config import load_config, make_config
from pyjuice_bridge.runner.plan import make_plan

VARIABLES = 36
FILES = {
    "config.yaml",
    "results.json",
    "metrics.jsonl",
    "bound.json",
    "figures.npz",
    "model.h5",
    "random.h5",
    "hclt.h5",
    "report.html",
    "log.txt",
    "artifacts.json",
}


def config(**circuit: Any) -> dict[str, Any]:
    """A config whose teacher is never asked: it could only be handed over."""
    section = {"kind": "rat_spn", "depth": 2, "replicas": 3, "sums": 3, **circuit}
    return tiny_runs.hclt_config(
        circuit=section, teacher={"kind": "object"}, train={"epochs": 3, "batch_size": 32}, seed=1
    )


def halves(variables: int) -> RegionGraph:
    """One partition of everything into two leaves."""
    half = variables // 2
    everything = tuple(range(variables))
    return RegionGraph(variables, (everything, everything[:half], everything[half:]), ((0, 1, 2),))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("rat_spn") / "first"
    return pj.run(config(), images=tiny_runs.images(), out=out)


def test_run_folder_is_complete_and_holds_no_latents(finished: Any) -> None:
    assert {path.name for path in finished.path.iterdir()} == FILES
    run = read_run(finished.path)
    assert [result.arm for result in run.results] == ["random", "hclt"]
    names = json.loads((finished.path / "artifacts.json").read_text())
    stages = sorted(name.rpartition("-")[0] for name in names)
    assert stages == ["figures", "score", "score", "train-hclt", "train-random", "tree"]
    assert json.loads((finished.path / "bound.json").read_text()) == []
    page = finished.report.read_text()
    assert len(page) > 10_000 and "Random start" in page and "HCLT" in page
    with np.load(finished.path / "figures.npz", allow_pickle=False) as figures:
        assert figures["samples/random"].shape == (4, 6, 6, 1)
        assert not any(name.startswith("clusters") for name in figures)


def test_every_arm_gets_the_same_passes_and_is_scored_as_saved(finished: Any) -> None:
    dataset = pj.data.load_dataset(tiny_runs.images(), seed=1)
    for row in finished.results:
        assert row["passes"] == 3
        model = pj.load(finished.path / f"{row['model']}.h5")
        assert row["parameters"] == model.circuit.num_parameters
        for split in ("train", "valid", "test"):
            bits = model.bits_per_dim(getattr(dataset, split))
            assert row[split]["value"] == pytest.approx(bits, rel=1e-6)
    lines = tiny_runs.curve(finished.path)
    for arm in ("random", "hclt"):
        train = [line[5] for line in lines if line[0] == arm]
        assert len(train) == 3 and train[-1] < train[0]


def test_arms_are_of_equal_size_within_a_state(finished: Any) -> None:
    random, plain = (pj.load(finished.path / f"{arm}.h5").circuit for arm in ("random", "hclt"))
    assert random.meta["structure"] == "rat-spn" and plain.meta["structure"] == "hclt"
    width = int(plain.meta["latent_states"])
    chain = np.arange(-1, VARIABLES - 1)
    gaps = {
        k: abs(hclt(chain, k, plain.categories).num_parameters - random.num_parameters)
        for k in (width - 1, width, width + 1)
        if k >= 2
    }
    assert gaps[width] == min(gaps.values())
    assert abs(plain.num_parameters - random.num_parameters) == gaps[width]


def test_the_graph_is_drawn_by_the_seed_of_the_run(finished: Any) -> None:
    found = pj.load(finished.path / "random.h5").circuit
    graph = random_region_graph(VARIABLES, 2, 3, seed=1)
    expected = rat_spn(graph, 3, 3, found.categories)
    for ours, theirs in zip(found.layers, expected.layers, strict=True):
        names = ("offsets", "children") if hasattr(ours, "offsets") else ("variables", "groups")
        for name in names:
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_second_run_reuses_everything(finished: Any) -> None:
    again = pj.run(config(), images=tiny_runs.images(), out=finished.path)
    assert sorted(again.reused) == json.loads((finished.path / "artifacts.json").read_text())


def test_a_stopped_run_continues_to_the_same_numbers(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = tmp_path / "runs" / "run", Path.replace

    def stopping(self: Path, target: Path) -> Path:
        moved = rename(self, target)
        if target.name == "checkpoint.h5" and target.parent.match("train-random-*"):
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        pj.run(config(), images=tiny_runs.images(), out=out)
    monkeypatch.undo()
    pj.run(config(), images=tiny_runs.images(), out=out)
    assert "train Random start: resumed after pass 1\n" in (out / "log.txt").read_text()
    assert tiny_runs.numbers(out) == tiny_runs.numbers(finished.path)
    assert tiny_runs.curve(out) == tiny_runs.curve(finished.path)


def test_a_graph_file_is_what_is_trained(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text(halves(VARIABLES).to_json())
    section = {"kind": "rat_spn", "graph": str(path), "sums": 4, "inputs": 2}
    values = {**config(), "circuit": section, "arms": ["random"]}
    run = pj.run(values, images=tiny_runs.images(), out=tmp_path / "runs" / "run")
    circuit = run.model.circuit
    # Two leaf regions of width 2, their 4 products, one mixture of those at the top.
    assert circuit.num_parameters == VARIABLES * 2 * circuit.categories[0] + 4
    before = rat_spn(halves(VARIABLES), 4, 2, circuit.categories, seed=1)
    assert not np.array_equal(layer_params(before.layers[0]), layer_params(circuit.layers[0]))
    # Another graph of the same name is another circuit.
    path.write_text(random_region_graph(VARIABLES, 1, 2, seed=0).to_json())
    other = pj.run(values, images=tiny_runs.images(), out=tmp_path / "runs" / "run")
    assert other.reused == ()
    assert other.model.circuit.num_parameters == 2 * (circuit.num_parameters - 4) + 8


def test_plan_has_the_sizes_of_the_run(finished: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", tiny_runs.images())
    values = {**config(), "data": {"name": str(tmp_path / "images.npy")}}
    plan = make_plan(make_config(values))
    assert [(arm.arm, arm.parameters, arm.passes) for arm in plan.arms] == [
        (row["model"], row["parameters"], 3) for row in finished.results
    ]
    assert all(arm.seconds > 0 for arm in plan.arms)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    done = CliRunner().invoke(main, ["run", str(tmp_path / "config.yaml"), "--plan"])
    assert done.exit_code == 0 and f"{plan.arms[0].parameters:,}" in done.output
    assert not (tmp_path / "runs").exists()


def test_plan_reads_a_graph_file(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", tiny_runs.images())
    (tmp_path / "graph.json").write_text(halves(VARIABLES).to_json())
    section = {"kind": "rat_spn", "graph": str(tmp_path / "graph.json"), "sums": 2}
    data = {"name": str(tmp_path / "images.npy")}
    plan = make_plan(make_config({**config(), "data": data, "circuit": section}))
    levels = int(tiny_runs.images().max()) + 1
    assert plan.arms[0].parameters in {VARIABLES * 2 * size + 4 for size in (levels, 256)}


def mixed_widths() -> str:
    """A leaf region beside one with partitions: of different widths unless inputs equal sums."""
    everything = tuple(range(VARIABLES))
    scopes = (everything, everything[:1], everything[1:], everything[1:2], everything[2:])
    scopes = (*scopes, everything[:18], everything[18:])
    return RegionGraph(VARIABLES, scopes, ((0, 1, 2), (2, 3, 4), (0, 5, 6))).to_json()


GRAPHS: list[tuple[str | None, dict[str, Any], str]] = [
    (None, {}, r"graph\.json: cannot be read"),
    ("{", {}, r"graph\.json: is not JSON text"),
    ("{}", {}, r"graph\.json: "),
    (halves(10).to_json(), {}, "is a region graph of 10 variables, but the data have 36"),
    (mixed_widths(), {"inputs": 2}, "partitions of different widths; use inputs equal to sums"),
]


@pytest.mark.parametrize(("text", "circuit", "message"), GRAPHS)
@pytest.mark.parametrize("arm", ["random", "hclt"])
def test_a_wrong_graph_is_one_sentence(
    tmp_path: Path, text: str | None, circuit: dict[str, Any], message: str, arm: str
) -> None:
    path = tmp_path / "graph.json"
    if text is not None:
        path.write_text(text)
    section = {"kind": "rat_spn", "graph": str(path), "sums": 3, **circuit}
    values = {**config(), "circuit": section, "arms": [arm]}
    with pytest.raises(pj.UserError, match=message) as caught:
        pj.run(values, images=tiny_runs.images(), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "results.json").exists()


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"circuit": {"kind": "rat_spn", "graph": "g.json", "depth": 2}}, "either 'graph' or 'depth'"),
    ({"circuit": {"kind": "rat_spn", "sums": 300}}, "'circuit.sums'"),
    (
        {"arms": ["lvd"]},
        "the arm 'lvd' belongs to 'circuit.kind: hclt, patches, growing, region_graph or hmm' only",
    ),
    ({"train": {"latent_training": {"epochs": 1}}}, "'train.latent_training' belongs to"),
]


@pytest.mark.parametrize(("changes", "message"), CONFIGS)
def test_a_wrong_config_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(pj.UserError) as caught:
        make_config({**config(), **changes})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("circuit", [{}, {"graph": "g.json", "depth": None, "replicas": None}])
def test_a_resolved_config_is_a_config(tmp_path: Path, circuit: dict[str, Any]) -> None:
    """A run's folder is asked for its splits by the config.yaml that it holds."""
    checked = make_config(config(**circuit))
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(checked.model_dump()))
    assert load_config(tmp_path / "again.yaml") == checked


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config()))
    assert load_config(path).circuit.inputs == 3
    assert load_config(path, ["circuit.inputs=5"]).circuit.inputs == 5
    plain = make_config({**config(), "circuit": {"kind": "rat_spn"}}).circuit
    assert (plain.depth, plain.replicas, plain.sums, plain.inputs) == (4, 10, 10, 10)
