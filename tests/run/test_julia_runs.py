"""Whole runs on the Julia engine: every stage it does, and what becomes of a run it dies in."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import tiny_text
from julia_program import narrow_pipe, skip_without_julia

import pyjuice_bridge as pj
from pyjuice_bridge.report.run_dir import read_run
from pyjuice_bridge.runner.api import RunResult

ENGINES = {
    "hclt": {
        "lvd": {"tree": "julia", "clusters": "python", "counting": "julia", "train": "julia"},
        "random": {"tree": "julia", "circuit": "julia", "train": "julia"},
    },
    "patches": {
        "lvd": {
            "tree": "julia",
            "clusters": "python",
            "patches": "julia",
            "latent": "julia",
            "train": "julia",
        },
        "random": {"tree": "julia", "circuit": "julia", "train": "julia"},
        "hclt": {"tree": "julia", "circuit": "julia", "train": "julia"},
    },
    "regions": {
        "lvd": {"clusters": "python", "counting": "julia", "train": "julia"},
        "random": {"circuit": "julia", "train": "julia"},
        "hclt": {"tree": "julia", "circuit": "julia", "train": "julia"},
    },
    "growing": {
        "lvd": {
            "tree": "julia",
            "clusters": "python",
            "heads": "julia",
            "grow": "julia",
            "latent": "julia",
            "train": "julia",
        },
    },
    "rat_spn": {"random": {"circuit": "julia", "train": "julia"}},
    "text": {
        "lvd": {"states": "python", "clusters": "python", "counting": "julia", "train": "julia"},
        "random": {"circuit": "julia", "train": "julia"},
    },
}


def graph_config(**changes: Any) -> dict[str, Any]:
    section = {"kind": "region_graph", "graph": "quad_graph", "latents": 2, "share": 2}
    arms = ["lvd", "random", "hclt"]
    return tiny_runs.hclt_config(circuit=section, arms=arms, **changes)


def growing_config(**changes: Any) -> dict[str, Any]:
    circuit = {"kind": "growing", "clusters": 2, "heads": [2, 3], "width": 1, "patch": 3}
    phase = {"epochs": 1, "batch_size": 16}
    phases = {"patch_training": phase, "latent_training": phase}
    train = {"epochs": 4, "batch_size": 32, **phases}
    return tiny_runs.patch_config(circuit=circuit, train=train, arms=["lvd"], **changes)


def rat_spn_config(**changes: Any) -> dict[str, Any]:
    section = {"kind": "rat_spn", "depth": 2, "replicas": 3, "sums": 3}
    return tiny_runs.hclt_config(
        circuit=section, teacher={"kind": "object"}, arms=["random"], **changes
    )


RANDOM = ("patches", "growing", "rat_spn")
"""Kinds none of whose arms begins with counted parameters alone."""
CONFIGS: dict[str, Callable[..., dict[str, Any]]] = {
    "patches": tiny_runs.patch_config,
    "regions": graph_config,
    "growing": growing_config,
    "rat_spn": rat_spn_config,
}


@pytest.fixture(scope="module", autouse=True)
def _julia() -> None:
    skip_without_julia()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bert")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        tiny_text.save_bert(folder / "bert")
        yield folder / "bert"


def run(
    kind: str,
    engine: str,
    out: Path,
    bert: Path,
    train: dict[str, int] | None = None,
    **more: Any,
) -> RunResult:
    if kind == "text":
        return pj.run(
            tiny_text.config(bert), text=tiny_text.splits(), out=out, engine=engine, **more
        )
    make = CONFIGS.get(kind, tiny_runs.hclt_config)
    changes = {"train": train} if train else {}
    return pj.run(make(engine=engine, **changes), images=tiny_runs.images(), out=out, **more)


def score(row: dict[str, Any], split: str) -> float:
    """A result as mean nats or bits; perplexities are exponentials of these."""
    value = float(row[split]["value"])
    return math.log(value) if row[split]["unit"] == "perplexity" else value


@pytest.mark.parametrize("kind", ENGINES)
def test_a_run_is_like_one_on_torch(tmp_path: Path, bert: Path, kind: str) -> None:
    """Equal to noise: random rows are other draws, everything else is the same."""
    found, expected = (run(kind, e, tmp_path / e / "run", bert) for e in ("julia", "torch"))
    for row, other in zip(found.results, expected.results, strict=True):
        assert (row["model"], row["engine"], row["device"]) == (other["model"], "julia", "cpu")
        assert row["julia"].startswith("1.") and row["threads"] >= 1
        assert ENGINES[kind][row["model"]].items() <= row["stage_engines"].items()
        assert row["parameters"] == other["parameters"]
        for split in ("train", "valid", "test"):
            close = 1e-3 if row["model"] == "lvd" and kind not in RANDOM else 0.1
            assert score(row, split) == pytest.approx(score(other, split), rel=close)
    arms = {result.arm for result in read_run(found.path).results}
    assert arms == {row["model"] for row in found.results}
    page = found.report.read_text()
    assert "counting julia" in page or kind in RANDOM
    assert "train julia" in page


def test_a_dead_worker_is_one_sentence_and_the_run_goes_on(tmp_path: Path, bert: Path) -> None:
    # So many batches that the worker is never done with all before the third pass is told.
    train = {"epochs": 60, "batch_size": 4}
    straight = run("hclt", "julia", tmp_path / "straight" / "run", bert, train)
    victim = narrow_pipe()

    class Console:
        is_terminal, quiet = False, False

        def print(self, line: str, **_: Any) -> None:
            if line.startswith("LVD, pass 3"):
                os.kill(victim, signal.SIGKILL)

    out = tmp_path / "killed" / "run"
    with pytest.raises(pj.UserError, match="SIGKILL"):
        run("hclt", "julia", out, bert, train, console=Console())
    assert "stopped: Julia's process ended" in (out / "log.txt").read_text()
    resumed = run("hclt", "julia", out, bert, train)
    assert resumed.reused
    assert tiny_runs.numbers(out) == tiny_runs.numbers(straight.path)
    assert tiny_runs.curve(out) == tiny_runs.curve(straight.path)


def test_an_unexpected_error_leaves_julias_trace_in_the_log(
    tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyjuice_bridge.engines.julia import builders
    from pyjuice_bridge.engines.julia.process import JuliaError

    build = builders._build

    def wrong(do: str, facts: Any, arrays: Any, **circuits: Any) -> Any:
        return build("nonsense" if do == "hclt" else do, facts, arrays, **circuits)

    monkeypatch.setattr(builders, "_build", wrong)
    with pytest.raises(JuliaError) as caught:
        run("hclt", "julia", tmp_path / "run", bert)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "serve.jl" in log and "MethodError" in log
    assert caught.value.log == tmp_path / "run" / "log.txt"  # type: ignore[attr-defined]
