"""Predicted sizes and times of HMMs against models that are really built."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_text
from pyjuice_bridge.pipeline.sizes import hmm_parameters, hmm_work
from pyjuice_bridge.run.plan_text import _pass_seconds

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.types import InputLayer
from pyjuice_bridge.engines.base import Epoch
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.run.config import make_config
from pyjuice_bridge.run.plan import make_plan


@pytest.mark.parametrize(("states", "vocabulary", "length"), [(2, 3, 2), (4, 7, 5)])
def test_hmm_sizes(states: int, vocabulary: int, length: int) -> None:
    circuit = random_hmm(states, vocabulary, 0).circuit(length)
    assert hmm_parameters(vocabulary, states) == circuit.num_parameters
    work = hmm_work(length, states)
    inner = [layer for layer in circuit.layers if not isinstance(layer, InputLayer)]
    assert work.blocks == sum(layer.num_blocks for layer in inner)
    assert work.activations == states * work.blocks


def test_plan_of_a_text_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "x.txt").write_text("\n\n".join(tiny_text.documents(20)))
    data = {"kind": "text", "name": str(tmp_path / "x.txt"), "window": 6, "tokens": "words"}
    config = tiny_text.config(tmp_path, data=data, arms=["random"])
    plan = make_plan(make_config(config))
    assert not (tmp_path / "runs").exists()
    run = pj.run(config, out=tmp_path / "runs" / "x")
    assert [(a.states, a.parameters) for a in plan.arms] == [
        (r["states"], r["parameters"]) for r in run.results
    ]
    row = run.results[0]
    assert f"{row['tokens']['train']:,} training tokens of {row['vocabulary']:,}" in plan.note
    assert f"in {row['windows']['train']:,} windows of 6" in plan.note
    for arm in plan.arms:
        assert arm.passes == 3 and arm.seconds > 0
        known = 3 * 4 * arm.parameters + 4 * 6 * row["windows"]["train"]
        assert known < arm.memory_bytes < known + 16 * 10_000


def test_wikitext_needs_no_files() -> None:
    data = {"kind": "text", "name": "wikitext2", "tokens": "words", "stride": 1, "vocabulary": 50}
    values = {"name": "x", "data": data, "circuit": {"states": 2}, "train": {"batch_size": 8}}
    plan = make_plan(make_config(values))
    assert "2,088,628 training tokens of 50 kinds in 2,088,597 windows of 32" in plan.note
    assert [arm.parameters for arm in plan.arms] == [2 + 4 + 100] * 2
    few = {**data, "limit": 9}
    with pytest.raises(UserError, match=r"'data\.limit' is 9, less than one window of 32"):
        make_plan(make_config({**values, "data": few}))


def test_seconds_of_a_pass_are_those_of_its_steps() -> None:
    """With an engine that needs 1 ms per position of a row and 2 s per step besides."""

    class Fake:
        device = "cpu"

        def fit(self, circuit: Any, x: Any, options: Any) -> Any:
            history = [Epoch(0, 0.1, 0.0, None, 9.0), Epoch(1, 0.1, 0.0, None, 2 + x.size * 1e-3)]
            return SimpleNamespace(history=history)

    seconds = _pass_seconds(Fake(), 5, 3, rows=1000, batch=300, window=32)  # type: ignore[arg-type]
    assert seconds == pytest.approx(1000 * 32 * 1e-3 + 4 * 2)
