"""Runs that grow during training, against the engine's trainings and what is between them."""

from pathlib import Path
from typing import Any

import pytest
import tiny_runs

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.digest import digest
from pyjuice_bridge.circuit.doubling import double, narrow
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import FitOptions, Schedule
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.runner.config import make_config

TRAIN = {"epochs": 5, "batch_size": 32, "step_size": {"start": 0.3, "end": 0.1}}
GROW = {"rounds": 1, "prune": 0.25, "noise": 0.3}


def config(**changes: Any) -> dict[str, Any]:
    own = {"circuit": {"kind": "hclt", "latents": 4}, "train": {**TRAIN, "grow": GROW}}
    return tiny_runs.hclt_config(**{**own, **changes})


def test_a_run_grows_between_two_trainings(tmp_path: Path) -> None:
    """Two passes from the start that a run without growing has, then three from the grown one."""
    images, engine = tiny_runs.images(), get_engine("torch", "cpu")
    brief = {**TRAIN, "epochs": 2}
    first = pj.run(config(arms=["random"], train=brief), images=images, out=tmp_path / "first")
    grown = pj.run(config(arms=["lvd", "random"]), images=images, out=tmp_path / "grown")
    data = load_dataset(images)
    x, valid = (getattr(data, s).reshape(len(getattr(data, s)), -1) for s in ("train", "valid"))
    before = first.model.circuit
    counts = engine.expected_counts(before, x).layers
    start = double(narrow(before, counts, 0.25), noise=0.3, seed=0)
    options = FitOptions(epochs=3, batch_size=32, step_size=Schedule(0.3, 0.1))
    expected = engine.fit(start, x, options, valid=valid).circuit
    found = pj.load(grown.path / "random.h5").circuit
    assert found.widths[0] == 6
    assert digest(found) == digest(expected)
    rows = {row["model"]: row for row in grown.results}
    assert [rows[arm]["passes"] for arm in ("lvd", "random")] == [5, 5]
    assert rows["random"]["parameters"] == found.num_parameters
    again = pj.run(config(arms=["lvd", "random"]), images=images, out=tmp_path / "again")
    assert sum(name.startswith(("train", "double")) for name in again.reused) == 6
    assert tiny_runs.numbers(again.path) == tiny_runs.numbers(grown.path)


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"train": {"epochs": 3, "grow": {"rounds": 3}}}, "'train.grow.rounds: 3' needs at least 4"),
    ({"train": {**TRAIN, "grow": {"prune": 1.0}}}, r"train\.grow\.prune"),
    (
        {
            "circuit": {"kind": "growing", "clusters": 2, "frozen": True},
            "train": {"epochs": 20, "grow": {}},
        },
        "'circuit.frozen: true'",
    ),
]


def test_circuits_of_kronecker_products_are_refused_at_once(tmp_path: Path) -> None:
    circuit = {"kind": "rat_spn", "depth": 2, "sums": 3}
    with pytest.raises(UserError, match="rat_spn' with these layers have no blocks"):
        pj.run(config(circuit=circuit), images=tiny_runs.images(), out=tmp_path / "run")


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_what_cannot_be_grown_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_config(config(**changes))
