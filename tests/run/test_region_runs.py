"""Runs of circuits over region graphs from a config, with latents at every scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import yaml

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.region_graph import random_region_graph
from pyjuice_bridge.circuit.region_rectangles import quad_tree
from pyjuice_bridge.cluster.assignments import Assignments
from pyjuice_bridge.distill.region_features import (
    GatheredPixels,
    JoinedTokens,
    MeanTokens,
    RegionFeatures,
    region_features,
)
from pyjuice_bridge.report.run_dir import read_run
from pyjuice_bridge.runner.config import load_config, make_config
from pyjuice_bridge.runner.plan import make_plan
from pyjuice_bridge.teachers.base import ArrayEmbeddings
from pyjuice_bridge.teachers.pixels import PixelWindows

REGIONS = len(quad_tree((6, 6, 1)).scopes)


def config(circuit: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    section = {"kind": "region_graph", "latents": 3, **(circuit or {})}
    return tiny_runs.hclt_config(circuit=section, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    values = config(arms=["lvd", "random", "hclt"])
    out = tmp_path_factory.mktemp("regions") / "first"
    return pj.run(values, images=tiny_runs.images(), out=out)


def test_the_distilled_start_is_better_at_equal_passes(finished: Any) -> None:
    lvd, random, plain = finished.results
    assert [row["model"] for row in finished.results] == ["lvd", "random", "hclt"]
    assert {row["passes"] for row in finished.results} == {4}
    assert lvd["parameters"] == random["parameters"]
    assert abs(plain["parameters"] / lvd["parameters"] - 1) < 0.2
    for split in ("train", "valid", "test"):
        assert lvd[split]["value"] < random[split]["value"]
    first = tiny_runs.curve(finished.path)[0]
    assert first[1] == "counting" and first[2] == 1


def test_run_folder_holds_a_value_for_every_region(finished: Any) -> None:
    run = read_run(finished.path)
    assert [result.arm for result in run.results] == ["lvd", "random", "hclt"]
    found = Assignments.load(finished.path / "assignments.h5")
    assert found.clusters == 3 and found.positions == REGIONS
    images = pj.data.load_dataset(tiny_runs.images(), seed=0)
    assert found.z["train"].shape == (len(images.train), REGIONS)
    circuit = finished.model.circuit
    assert circuit.meta["structure"] == "region graph" and len(circuit.latents["z"]) == REGIONS
    bounds = json.loads((finished.path / "bound.json").read_text())
    assert bounds and all(each["bound"] >= each["marginal"] - 1e-9 for each in bounds)
    page = finished.report.read_text()
    assert "Distilled" in page or "LVD" in page


def test_plan_has_the_sizes_of_the_run(finished: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", tiny_runs.images())
    values = config(arms=["lvd", "hclt"], data={"name": str(tmp_path / "images.npy")})
    sizes = {arm.arm: arm.parameters for arm in make_plan(make_config(values)).arms}
    run = {row["model"]: row["parameters"] for row in finished.results}
    assert sizes == {"lvd": run["lvd"], "hclt": run["hclt"]}


GRAPHS: list[dict[str, Any]] = [
    {"graph": "quad_tree", "splits": 2, "share": 3},
    {"graph": "quad_tree", "scales": [{"pixels": 9, "latents": 5}, {"pixels": 2, "latents": 2}]},
    {"graph": "quad_graph"},
    {"graph": "poon_domingos", "steps": [3]},
    {"graph": "random", "depth": 2, "replicas": 2, "layer": "tucker"},
    {"graph": "quad_tree", "splits": 2, "layer": "tucker"},
    {"graph": "chow_liu"},
    {"graph": "chain"},
]


@pytest.mark.parametrize("circuit", GRAPHS, ids=lambda c: "-".join(map(str, c.values())))
def test_every_graph_runs_and_distillation_helps(circuit: dict[str, Any], tmp_path: Path) -> None:
    values = config(circuit, arms=["lvd", "random"], train={"epochs": 3, "batch_size": 32})
    run = pj.run(values, images=tiny_runs.images(), out=tmp_path / "runs" / "run", progress=False)
    lvd, random = run.results
    assert lvd["parameters"] == random["parameters"]
    assert lvd["train"]["value"] < random["train"]["value"]


def test_stages_observe_the_latents_of_large_regions(tmp_path: Path) -> None:
    phases = [{"pixels": 4, "epochs": 1, "batch_size": 32}, {"pixels": 36, "epochs": 2}]
    train = {"epochs": 5, "batch_size": 32, "observed": phases}
    values = config(arms=["lvd", "random"], train=train)
    run = pj.run(values, images=tiny_runs.images(), out=tmp_path / "runs" / "run", progress=False)
    assert [row["passes"] for row in run.results] == [5, 5]
    curve = [line for line in tiny_runs.curve(run.path) if line[0] == "lvd"]
    stages = [(line[1], line[3]) for line in curve]
    assert stages == [("counting", 1), ("4 pixels", 2), ("36 pixels", 4), ("fine-tune", 5)]
    assert run.results[0]["train"]["value"] < run.results[1]["train"]["value"]
    bounds = json.loads((run.path / "bound.json").read_text())
    gaps = [each["bound"] - each["marginal"] for each in bounds[:3]]
    # The fewer latents are observed, the less is lost.
    assert gaps[0] > gaps[1] > gaps[2] > 0
    again = pj.run(values, images=tiny_runs.images(), out=run.path, progress=False)
    assert any(name.startswith("observed-4") for name in again.reused)
    assert tiny_runs.numbers(again.path) == tiny_runs.numbers(run.path)


def test_scales_set_how_many_values_large_regions_have(tmp_path: Path) -> None:
    scales = [{"pixels": 36, "latents": 6}, {"pixels": 4, "latents": 2}]
    values = config({"scales": scales}, arms=["lvd"], train={"epochs": 2, "batch_size": 32})
    run = pj.run(values, images=tiny_runs.images(), out=tmp_path / "runs" / "run", progress=False)
    graph = quad_tree((6, 6, 1))
    wanted = [{36: 6, 9: 2, 4: 2, 2: 3, 1: 3}[len(scope)] for scope in graph.scopes]
    circuit = run.model.circuit
    assert [circuit.widths[circuit.layer_of(int(b))] for b in circuit.latents["z"]] == wanted
    z = Assignments.load(run.path / "assignments.h5").z["train"]
    assert (z.max(axis=0) < wanted).all() and z[:, 0].max() == 5


def test_a_file_and_a_table_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hidden = rng.integers(0, 3, 200)
    rows = (hidden[:, None] + (rng.random((200, 6)) < 0.1)) % 3
    path = tmp_path / "graph.json"
    path.write_text(random_region_graph(6, 2, 2, seed=0).to_json())
    values = config({"graph": "file", "path": str(path)}, data={"kind": "table", "name": "array"})
    values |= {"teacher": {"kind": "columns"}, "arms": ["lvd", "random"]}
    run = pj.run(values, table=rows, out=tmp_path / "runs" / "run", progress=False)
    assert run.results[0]["train"]["value"] < run.results[1]["train"]["value"]


def test_own_cluster_ids_are_what_is_counted(tmp_path: Path) -> None:
    images = pj.data.load_dataset(tiny_runs.images(), seed=0)
    rng = np.random.default_rng(0)
    for split in ("train", "valid", "test"):
        rows = len(getattr(images, split))
        np.save(tmp_path / f"{split}.npy", rng.integers(0, 3, (rows, REGIONS)))
    teacher = {"kind": "file", "assignments": str(tmp_path)}
    values = config(arms=["lvd"], teacher=teacher, train={"epochs": 2})
    run = pj.run(values, images=tiny_runs.images(), out=tmp_path / "runs" / "run", progress=False)
    given = np.load(tmp_path / "train.npy")
    found = Assignments.load(run.path / "assignments.h5").z["train"]
    np.testing.assert_array_equal(found, given)


CONFIGS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"graph": "quad_graph", "splits": 2}, {}, "'splits' belongs to 'graph: quad_tree' only"),
    ({"graph": "random", "steps": [2]}, {}, "'steps' belongs to 'graph: poon_domingos' only"),
    ({"graph": "file"}, {}, "'graph: file' needs 'path'"),
    ({"layer": "tucker"}, {}, "needs partitions into two regions; use 'splits: 2'"),
    ({"graph": "chain", "layer": "tucker"}, {}, "needs partitions into two regions"),
    ({"graph": "quad_graph", "layer": "tucker", "share": 2}, {}, "'share' belongs to 'layer: cp'"),
    (
        {"graph": "quad_graph", "layer": "tucker", "scales": [{"pixels": 2, "latents": 2}]},
        {},
        "'scales' belong to 'layer: cp' only",
    ),
    ({"graph": "quad_graph", "layer": "tucker", "latents": 300}, {}, "use at most 256"),
    ({"graph": "hexagons"}, {}, "'circuit.graph'"),
    ({}, {"train": {"latent_training": {"epochs": 1}}}, "'train.latent_training' belongs to"),
    ({}, {"train": {"epochs": 1}}, "'train.epochs' is 1, but counting is one pass"),
    (
        {},
        {"train": {"epochs": 4, "observed": [{"pixels": 4, "epochs": 3}]}},
        "'train.epochs' is 4, but counting and 'train.observed' already take 4",
    ),
    (
        {"kind": "hclt"},
        {"train": {"epochs": 4, "observed": [{"pixels": 4, "epochs": 1}]}},
        "'train.observed' belongs to 'circuit.kind: region_graph' only",
    ),
    (
        {},
        {"data": {"kind": "table", "name": "x"}, "teacher": {"kind": "columns"}},
        "'circuit.graph: quad_tree' is for images",
    ),
]


@pytest.mark.parametrize(("circuit", "changes", "message"), CONFIGS)
def test_a_wrong_config_is_one_sentence(
    circuit: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(pj.UserError) as caught:
        make_config(config(circuit, **changes))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("circuit", GRAPHS, ids=lambda c: "-".join(map(str, c.values())))
def test_a_resolved_config_is_a_config(tmp_path: Path, circuit: dict[str, Any]) -> None:
    checked = make_config(config(circuit))
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(checked.model_dump()))
    assert load_config(tmp_path / "again.yaml") == checked


# Features ------------------------------------------------------------------------------------


class _Run:
    """As much of a run as features need."""

    def __init__(self, images: np.ndarray, sides: tuple[int, int, int], **teacher: Any) -> None:
        from types import SimpleNamespace as Part

        section = make_config(config(teacher={"kind": "pixels", **teacher})).teacher
        self.config = Part(teacher=section)
        self.data = Part(
            shape=Part(sides=sides), samples=Part(splits={"train": images}, key="images")
        )


def windows(images: np.ndarray, **teacher: Any) -> tuple[Any, RegionFeatures]:
    sides = images.shape[1:]
    graph = quad_tree(sides)
    return graph, region_features(_Run(images, sides, **teacher), graph, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("teacher", [{"ring": 2}, {"ring": 0}, {"ring": 2, "sigma": 1.5}])
def test_windows_of_pixels_are_those_of_the_teacher_of_pixels(teacher: dict[str, Any]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), np.uint8)
    graph, features = windows(images, **teacher)
    expected = PixelWindows(images, patch=1, **teacher).read(slice(None), slice(None))
    seen = 0
    for group in features.groups(np.zeros(len(graph.scopes), np.int64)):
        found = group.embeddings["train"].read(slice(None), slice(None))
        assert found.shape == group.embeddings["train"].shape
        for position, region in enumerate(group.regions):
            scope = graph.scopes[region]
            if len(scope) == 3:
                np.testing.assert_allclose(
                    found[:, position], expected[:, scope[0] // 3], rtol=1e-5
                )
                seen += 1
    assert seen == 20


def test_a_window_of_a_large_region_holds_its_pixels_and_the_ring() -> None:
    images = np.random.default_rng(0).integers(1, 256, (3, 4, 4, 1), np.uint8)
    graph, features = windows(images, ring=1)
    for group in features.groups(np.zeros(len(graph.scopes), np.int64)):
        part = group.embeddings["train"].read(slice(0, 1), np.array([2]))[0, 0]
        if len(graph.scopes[group.regions[0]]) == 16:
            padded = np.pad(images[2, :, :, 0], 1) / 255
            np.testing.assert_allclose(part, padded.ravel(), rtol=1e-6)
            return
    raise AssertionError("no group holds the whole image")


def test_groups_keep_labels_and_shapes_apart() -> None:
    images = np.zeros((2, 4, 6, 1), np.uint8)
    graph, features = windows(images, ring=1)
    labels = np.arange(len(graph.scopes)) % 2
    groups = features.groups(labels)
    assert sorted(np.concatenate([g.regions for g in groups])) == list(range(len(graph.scopes)))
    for group in groups:
        assert len(set(labels[group.regions])) == 1
        assert len({len(graph.scopes[r]) for r in group.regions}) == 1


def test_gathered_joined_and_mean_vectors() -> None:
    rng = np.random.default_rng(0)
    tokens = ArrayEmbeddings(rng.random((4, 6, 2), np.float32))
    everything = tokens.read(slice(None), slice(None))
    shares = np.array([[0, 0.5, 0.5, 0, 0, 0], [0, 0, 0, 0, 0, 1]], np.float32)
    means = MeanTokens(tokens, shares)
    assert means.shape == (4, 2, 2)
    expected = np.stack([everything[:, 1:3].mean(axis=1), everything[:, 5]], axis=1)
    np.testing.assert_allclose(means.read(slice(None), slice(None)), expected, rtol=1e-6)
    np.testing.assert_allclose(means.read(slice(1, 2), np.array([3, 0])), expected[[3, 0], 1:])
    joined = JoinedTokens(tokens, np.array([[5, 0]]))
    assert joined.shape == (4, 1, 4)
    np.testing.assert_array_equal(
        joined.read(slice(None), slice(1, 3))[:, 0],
        np.concatenate([everything[1:3, 5], everything[1:3, 0]], axis=1),
    )
    images = rng.integers(0, 256, (2, 1, 2, 1), np.uint8)
    gathered = GatheredPixels(images, np.array([[1, -1]]), np.array([0.5, 2], np.float32))
    np.testing.assert_array_equal(
        gathered.read(slice(None), slice(None))[:, 0], [[x / 2, 0] for x in images[:, 0, 1, 0]]
    )


def test_tokens_of_patches_describe_large_regions(tmp_path: Path) -> None:
    """A teacher of 3 x 3 patches: quarters of 6 x 6 are patches, the whole is their mean."""
    images = tiny_runs.images()

    class Patches:
        def embed(self, samples: np.ndarray) -> np.ndarray:
            tiles = samples.reshape(len(samples), 2, 3, 2, 3, 1).swapaxes(2, 3)
            return tiles.reshape(len(samples), 4, 9).astype(np.float32)

    values = config({"patch": 3}, arms=["lvd"], teacher={"kind": "object"}, train={"epochs": 2})
    run = pj.run(
        values, images=images, teacher=Patches(), out=tmp_path / "runs" / "run", progress=False
    )
    dataset = pj.data.load_dataset(images, seed=0)
    z = Assignments.load(run.path / "assignments.h5").z["train"]
    graph = quad_tree((6, 6, 1))
    whole = Patches().embed(dataset.train).mean(axis=1)
    quarter = Patches().embed(dataset.train)[:, 0]
    scope = tuple(r * 6 + c for r in range(3) for c in range(3))
    for region, vectors in ((graph.root, whole), (graph.scopes.index(scope), quarter)):
        centres = np.stack([vectors[z[:, region] == k].mean(axis=0) for k in range(3)])
        nearest = ((vectors[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == z[:, region]).mean() > 0.95
