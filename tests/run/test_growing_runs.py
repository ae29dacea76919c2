"""Runs with ``circuit.kind: growing``, from images to a composed model."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from tiny_runs import curve, images, numbers, patch_config

import pyjuice_bridge as pj
from pyjuice_bridge.circuit import hdf5
from pyjuice_bridge.circuit.types import Circuit, layer_params
from pyjuice_bridge.distill.counting import latent_circuit
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.engines.julia_environment import julia_state
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.runner.config import make_config


def growing_config(**changes: Any) -> dict[str, Any]:
    phase = {"epochs": 1, "batch_size": 16}
    circuit = {"kind": "growing", "clusters": 2, "heads": [2, 4], "width": 1, "patch": 3}
    train = {
        "epochs": 6,
        "batch_size": 32,
        "step_size": {"start": 0.1, "end": 0.01},
        "patch_training": phase,
        "latent_training": phase,
    }
    return patch_config(**{"circuit": circuit, "train": train, "arms": ["lvd"], **changes})


def run(out: Path, x: np.ndarray | None = None, **changes: Any) -> Path:
    return pj.run(growing_config(**changes), images=images() if x is None else x, out=out).path


def artifacts(run: Path, stage: str) -> list[Path]:
    """The artifacts of a stage that a run refers to."""
    names = json.loads((run / "artifacts.json").read_text())
    return [run.parent / "artifacts" / name for name in names if name.startswith(f"{stage}-")]


def circuit_of(run: Path) -> Circuit:
    (trained,) = artifacts(run, "train-lvd")
    return hdf5.load(trained / "circuit.h5")


def histories(run: Path) -> list[list[dict[str, Any]]]:
    notes = [json.loads((a / "done.json").read_text())["info"] for a in artifacts(run, "heads")]
    return sorted((note["history"] for note in notes), key=len)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("growing")
    return run(out / "run", arms=["lvd", "random", "hclt"])


def test_a_run_grows_and_says_how(done: Path) -> None:
    lines = histories(done)[-1]
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert [line["width"] for line in lines] == [1, 2, 4]
    assert lines[0]["heads"] <= 4 and lines[-1]["heads"] > lines[0]["heads"]
    for line in lines:
        assert line["reassigned_bits"] <= line["bits"] + 1e-6
        assert 0 < line["bits"] < 8
    assert lines[-1]["grew"] == 0 and lines[-1]["edges"] > lines[0]["edges"]
    rows = {row["model"]: row for row in json.loads((done / "results.json").read_text())}
    assert rows["lvd"]["passes"] == rows["random"]["passes"] == 6
    assert rows["lvd"]["test"]["value"] < rows["random"]["test"]["value"]


def test_the_bound_stays_below_the_marginal(done: Path) -> None:
    stages = json.loads((done / "bound.json").read_text())
    assert [each["stage"] for each in stages] == ["growing", "latent", "fine-tune"]
    assert all(each["bound"] >= each["marginal"] for each in stages)


def test_the_report_shows_rounds_and_heads(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert 'id="growing"' in page
    with np.load(done / "figures.npz") as figures:
        assert figures["growing/history"].shape[0] == 3
        assert figures["growing/means"].shape[2:] == (3, 3, 1)
        assert figures["growing/sizes"].sum() > 0


def test_one_head_all_along_is_a_patch_circuit(tmp_path: Path) -> None:
    """Without growth the circuit, its training and its figures are those of ``kind: patches``."""
    circuit = {"kind": "growing", "clusters": 2, "heads": [1, 1], "width": 2, "patch": 3}
    plain = {"kind": "patches", "latents": 2, "patch_latents": 2, "patch": 3}
    grown = circuit_of(run(tmp_path / "grown", circuit=circuit))
    patches = circuit_of(run(tmp_path / "plain", circuit=plain))
    for one, other in zip(grown.layers, patches.layers, strict=True):
        if layer_params(one) is not None:
            np.testing.assert_allclose(layer_params(one), layer_params(other), atol=2e-4)


def test_the_top_circuit_of_hard_labels_is_counting() -> None:
    """One-hot leaves: p(z) is the product of counted conditionals, and where EM stays."""
    z = np.random.default_rng(0).integers(0, 3, (40, 3)).astype(np.int32)
    parents = [-1, 0, 1]
    top = latent_circuit(z, 3, pseudocount=0, epsilon=0, parents=parents)
    pairs = [Counter(map(tuple, z[:, [v - 1, v]].tolist())) for v in (1, 2)]
    first = Counter(z[:, 0].tolist())
    for row in z[:10].tolist():
        expected = np.log(first[row[0]] / 40)
        for v, pair in zip((1, 2), pairs, strict=True):
            before = sum(n for (a, _), n in pair.items() if a == row[v - 1])
            expected += np.log(pair[row[v - 1], row[v]] / before)
        assert oracle.log_likelihood(top, row)[0] == pytest.approx(expected, abs=1e-5)
    options = FitOptions("full_em", epochs=1, pseudocount=0)
    trained = get_engine("torch", "cpu", precision="float64").fit(top, z, options).circuit
    for one, other in zip(top.layers, trained.layers, strict=True):
        if layer_params(one) is not None:
            np.testing.assert_allclose(layer_params(one), layer_params(other), atol=1e-6)


def test_a_seed_gives_one_circuit_interrupted_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole" / "run")
    replace, left = Path.replace, [0]

    def stopping(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    broken = tmp_path / "broken" / "run"
    stops = 0
    while True:
        left[0] = 8 + 6 * stops
        monkeypatch.setattr(Path, "replace", stopping)
        try:
            run(broken)
            break
        except KeyboardInterrupt:
            stops += 1
        finally:
            monkeypatch.undo()
    assert stops > 2
    assert numbers(broken) == numbers(whole) and curve(broken) == curve(whole)
    assert histories(broken) == histories(whole)
    figures = [np.load(path / "figures.npz") for path in (broken, whole)]
    for name in figures[0].files:
        np.testing.assert_array_equal(figures[0][name], figures[1][name], err_msg=name)


def test_julia_grows_the_same_twice(tmp_path: Path) -> None:
    state = julia_state()
    if not state.usable:
        pytest.skip(f"Julia {state.reason}")
    once, twice = (run(tmp_path / name / "run", engine="julia") for name in ("once", "twice"))
    assert numbers(once) == numbers(twice) and histories(once) == histories(twice)
    lines = histories(once)[-1]
    assert [line["width"] for line in lines] == [1, 2, 4]
    assert lines[-1]["bits"] < lines[0]["bits"]


def test_clusters_without_patches_and_of_one_patch(tmp_path: Path) -> None:
    """All images alike but one patch of one image: features in two points, four clusters."""
    x = np.zeros((30, 6, 6, 1), np.uint8)
    x[:, 3:, 3:] = 9
    circuit = {"kind": "growing", "clusters": 4, "heads": [2, 3], "width": 1, "patch": 3}
    model = circuit_of(run(tmp_path / "run", x, circuit=circuit))
    log_p = get_engine("torch", "cpu").log_likelihood(model, x[:1].reshape(1, -1))
    assert np.isfinite(log_p).all()


def test_frozen_patch_circuits_stay(tmp_path: Path) -> None:
    circuit = {"kind": "growing", "clusters": 2, "heads": [1, 2], "width": 2, "patch": 3}
    tuned = circuit_of(run(tmp_path / "tuned", circuit=circuit))
    fixed_run = run(tmp_path / "frozen", circuit={**circuit, "frozen": True})
    frozen = circuit_of(fixed_run)
    last = max(artifacts(fixed_run, "heads"), key=lambda a: (a / "figures.npz").exists())
    grown = hdf5.load(last / "circuit.h5")
    moved = 0.0
    for before, kept, other in zip(grown.layers, frozen.layers, tuned.layers, strict=False):
        if layer_params(before) is not None:
            np.testing.assert_array_equal(layer_params(before), layer_params(kept))
            moved = max(moved, float(np.abs(layer_params(before) - layer_params(other)).max()))
    assert moved > 1e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": [3, 2]}, "'heads' are those at the start and in the end"),
        ({"heads": [2]}, "heads"),
        ({"width": 512, "heads": [1, 4]}, "doubled 3 times"),
    ],
)
def test_what_cannot_grow_is_refused(changes: dict[str, Any], words: str) -> None:
    circuit = {**growing_config()["circuit"], **changes}
    with pytest.raises(UserError, match=words):
        make_config(growing_config(circuit=circuit))


def test_rounds_count_as_passes() -> None:
    train = {**growing_config()["train"], "epochs": 4}
    with pytest.raises(UserError, match="already take 4 of the passes"):
        make_config(growing_config(train=train))
    teacher = {"kind": "file", "assignments": "z.npz"}
    with pytest.raises(UserError, match="are cluster ids"):
        make_config(growing_config(teacher=teacher))
