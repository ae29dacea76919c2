"""Latent circuits above patches: quad trees whose larger regions have latent variables too."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_runs

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.region_circuit import latent_regions, region_circuit
from pyjuice_bridge.circuit.region_rectangles import quad_tree
from pyjuice_bridge.cluster.assignments import Assignments
from pyjuice_bridge.distill.above import QuadTree
from pyjuice_bridge.distill.latents import LatentValues
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.runner.config import make_config
from pyjuice_bridge.runner.plan import make_plan

EXACT = TorchEngine(precision="float64")


class _Artifact:
    """Stands where a run's artifact is, which nothing here reads."""


def config(**changes: Any) -> dict[str, Any]:
    circuit = {"kind": "patches", "patch": 2, "latents": 3, "patch_latents": 2}
    phase = {"epochs": 2, "batch_size": 16, "step_size": {"start": 0.5, "end": 0.1}}
    train = {
        "epochs": 8,
        "batch_size": 32,
        "step_size": {"start": 0.2, "end": 0.05},
        "patch_training": phase,
        "latent_training": phase,
    }
    values = {"circuit": {**circuit, "above": "quad_tree"}, "train": train, **changes}
    return tiny_runs.patch_config(**values)


def test_both_arms_run_and_the_plan_knows_their_size(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", tiny_runs.images())
    values = config(arms=["lvd", "random"], data={"name": str(tmp_path / "images.npy")})
    run = pj.run(values, out=tmp_path / "runs" / "run", progress=False)
    lvd, random = run.results
    assert lvd["parameters"] == random["parameters"] and lvd["passes"] == random["passes"] == 8
    planned = {arm.arm: arm.parameters for arm in make_plan(make_config(values)).arms}
    assert planned["lvd"] == lvd["parameters"]
    assert lvd["train"]["value"] < random["train"]["value"]
    again = pj.run(values, out=run.path, progress=False)
    assert tiny_runs.numbers(again.path) == tiny_runs.numbers(run.path)


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_counts_are_frequencies_of_neighbouring_scales(epsilon: float) -> None:
    rng = np.random.default_rng(0)
    graph = quad_tree((2, 2, 1))
    ids = rng.integers(0, 3, (50, len(graph.scopes))).astype(np.int32)
    z = np.empty((50, 4), np.int32)
    for region, scope in enumerate(graph.scopes):
        if len(scope) == 1:
            z[:, scope[0]] = ids[:, region]
    found = LatentValues({"train": ids}, _Artifact())  # type: ignore[arg-type]
    run = SimpleNamespace(engine=EXACT)
    above = QuadTree(run, graph, 3, found)  # type: ignore[arg-type]
    circuit = above.counted(z, 3, 0.0, epsilon)
    assert circuit.num_parameters == region_circuit(graph, 3, 3).num_parameters
    top = ids[:, 0]
    log_p = np.log(np.bincount(top, minlength=3) / 50)[top]
    for region, scope in enumerate(graph.scopes):
        if len(scope) > 1:
            continue
        joint = np.zeros((3, 3))
        np.add.at(joint, (top, ids[:, region]), 1)
        log_p += np.log(joint / joint.sum(1, keepdims=True))[top, ids[:, region]]
        log_p += np.log(1 - epsilon + epsilon / 3)
    evidence = {"z": ids[:, latent_regions(graph)]}
    np.testing.assert_allclose(EXACT.log_likelihood(circuit, z, evidence)[:, 0], log_p, rtol=1e-6)


def test_leaf_regions_have_the_ids_of_patches(tmp_path: Path) -> None:
    run = pj.run(
        config(arms=["lvd"]), images=tiny_runs.images(), out=tmp_path / "r" / "run", progress=False
    )
    found = Assignments.load(run.path / "assignments.h5")
    assert found.positions == 9 and found.clusters == 3
    assert len(run.model.circuit.latents["z"]) == 9
