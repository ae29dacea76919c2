"""Runs that continue from a circuit: the same numbers as the engine's own training from it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs

import pyjuice_bridge as pj
from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.digest import digest
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import FitOptions, Schedule

TRAIN = {"epochs": 2, "batch_size": 32, "step_size": {"start": 0.3, "end": 0.1}}


def config(**changes: Any) -> dict[str, Any]:
    return tiny_runs.hclt_config(**{"train": TRAIN, **changes})


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("start") / "first"
    return pj.run(config(arms=["random"]), images=tiny_runs.images(), out=out)


def test_a_start_is_where_training_begins(first: Any) -> None:
    images, out = tiny_runs.images(), first.path.parent / "second"
    second = pj.run(config(train={**TRAIN, "start": str(first.path)}), images=images, out=out)
    (row,) = second.results
    before, engine = first.model.circuit, get_engine("torch", "cpu")
    assert (row["model"], row["start"], row["passes"]) == ("start", digest(before), 2)
    data = load_dataset(images)
    rows = {s: getattr(data, s).reshape(len(getattr(data, s)), -1) for s in ("train", "valid")}
    options = FitOptions(epochs=2, batch_size=32, step_size=Schedule(0.3, 0.1))
    fitted = engine.fit(before, rows["train"], options, valid=rows["valid"])
    nats = engine.log_likelihood(fitted.circuit, rows["valid"]).mean()
    bits = -nats / np.log(2) / rows["valid"].shape[1]
    assert row["valid"]["value"] == pytest.approx(bits, rel=1e-6)
    assert row["valid"]["value"] < first.results[0]["valid"]["value"]

    # The same circuit by another way is the same stage; another circuit is another one.
    again = pj.run(config(), images=images, out=first.path.parent / "third", start=first.model)
    assert any(name.startswith("train-start-") for name in again.reused)
    assert again.results[0]["valid"] == row["valid"]
    other = pj.run(config(), images=images, out=first.path.parent / "fourth", start=out)
    assert not any(name.startswith("train-start-") for name in other.reused)
    assert other.results[0]["start"] == digest(second.model.circuit) != row["start"]


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"circuit": {"latents": 2}}, r"has \S+ parameters, but 'circuit' describes one of \S+; set"),
    ({"images": tiny_runs.images(side=4)}, "models 36 variables of 256 values, but array has 16"),
    ({"arms": ["lvd"]}, r"the arm 'start' begins with 'train\.start'; give both, or neither"),
    ({"start": 3}, "start is 3, must be a circuit, a model, a file or a run's folder"),
    ({"start": "nowhere.h5"}, r"nowhere\.h5"),
    ({"start": "object"}, r"belongs to run\(config, start=…\) from Python"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_a_start_that_does_not_fit_is_one_sentence(
    first: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    given = {"start": first.path, "images": tiny_runs.images(), **changes}
    with pytest.raises(pj.UserError, match=message) as caught:
        pj.run(config(), out=tmp_path / "run", **given)
    assert "\n" not in str(caught.value)


def test_the_arm_needs_its_start(tmp_path: Path) -> None:
    with pytest.raises(pj.UserError, match=r"the arm 'start' begins with 'train\.start'"):
        pj.make_config(config(arms=["start"]))
    both = pj.make_config(config(arms=["random", "start"], train={**TRAIN, "start": "x.h5"}))
    assert both.arms == ["random", "start"]


def test_an_hmm_starts_at_any_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    initial, *transition = rng.dirichlet(np.ones(2), 3)
    hmm = pj.Hmm(initial, np.array(transition), rng.dirichlet(np.ones(3), 2))
    hdf5.save(hmm.circuit(4), tmp_path / "hmm.h5")
    table = rng.integers(0, 3, (60, 6))
    done = pj.run(
        {
            "name": "hmm",
            "data": {"kind": "table", "name": "array"},
            "circuit": {"kind": "hmm", "states": 2},
            "train": {"epochs": 1},
            "engine": "torch",
        },
        table=table,
        out=tmp_path / "run",
        start=tmp_path / "hmm.h5",
    )
    assert done.results[0]["start"] == digest(hmm.circuit(6))
