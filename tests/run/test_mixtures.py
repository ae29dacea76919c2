"""Mixtures of circuits: components begin on the images of their clusters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs

import pyjuice_bridge as pj
from pyjuice_bridge.cluster.assignments import Assignments
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.runner.plan import make_plan

CIRCUIT = {"kind": "hclt", "latents": 2}


def config(**changes: Any) -> dict[str, Any]:
    train = {"epochs": 2, "batch_size": 32}
    return tiny_runs.hclt_config(circuit={**CIRCUIT, "mixture": 2}, train=train, **changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("mixtures") / "run"
    return pj.run(config(), images=tiny_runs.images(160), out=out)


def only(run: Any, stage: str) -> Path:
    (folder,) = (run.path.parent / "artifacts").glob(f"{stage}-*")
    return folder


def test_a_component_begins_as_the_kind_on_its_cluster(run: Any, tmp_path: Path) -> None:
    data = load_dataset(tiny_runs.images(160))
    z = Assignments.load(only(run, "components") / "assignments.h5").z
    pixels = {s: getattr(data, s).reshape(len(getattr(data, s)), -1).astype(float) for s in z}
    centres = np.stack([pixels["train"][z["train"][:, 0] == k].mean(0) for k in (0, 1)])
    away = ((pixels["valid"][:, None] - centres) ** 2).sum(2)
    assert (away.argmin(1) == z["valid"][:, 0]).mean() > 0.9

    start = pj.load(only(run, "mixture") / "circuit.h5")
    shares = np.bincount(z["train"][:, 0]) / len(z["train"])
    np.testing.assert_allclose(start.circuit.layers[-1].weights[0, 0], shares, rtol=1e-6)
    for k in (0, 1):
        part = {s: getattr(data, s)[z[s][:, 0] == k] for s in ("train", "valid")}
        plain = tiny_runs.hclt_config(circuit=CIRCUIT, arms=["lvd"], train={"epochs": 2})
        images = {**part, "test": data.test}
        alone = pj.run(plain, images=images, out=tmp_path / f"{k}" / "alone")
        counted = pj.load(only(alone, "counting") / "circuit.h5")
        known = np.full((len(data.test), 1), k)
        rows = data.test.reshape(len(data.test), -1)
        found = start.log_likelihood(rows, {"component": known}) - np.log(shares[k])
        np.testing.assert_allclose(found, counted.log_likelihood(rows), rtol=1e-4)


def test_passes_bounds_and_sizes_are_those_of_the_whole(run: Any) -> None:
    assert [row["passes"] for row in run.results] == [2, 2]
    data = {"name": "digits"}
    parameters = [
        make_plan(pj.make_config({"name": "x", "data": data, "circuit": circuit}))
        .arms[0]
        .parameters
        for circuit in (CIRCUIT, {**CIRCUIT, "mixture": 2})
    ]
    assert parameters[1] == 2 * parameters[0] + 2
    bounds = json.loads((run.path / "bound.json").read_text())
    assert [row["stage"] for row in bounds] == ["components"]
    assert bounds[0]["bound"] >= bounds[0]["marginal"] - 1e-6
    for row in run.results:
        model = pj.load(run.path / f"{row['model']}.h5")
        assert model.circuit.meta["components"] == 2
        shares = model.posteriors(tiny_runs.images(4))["component"]
        np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)


def test_what_cannot_be_divided() -> None:
    table = {"kind": "table", "name": "array"}
    with pytest.raises(pj.UserError, match=r"'circuit\.mixture' divides images by clusters, but"):
        pj.make_config({"name": "x", "data": table, "circuit": {"mixture": 2}})
    growing = {"kind": "growing", "frozen": True, "mixture": 2}
    with pytest.raises(pj.UserError, match=r"but 'circuit\.frozen' is true"):
        pj.make_config(tiny_runs.hclt_config(circuit=growing, train={}))
