"""Defaults that suit small data, what is said where settings do not, and the callback."""

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import pyjuice_bridge as pj
from pyjuice_bridge.config.train import Train
from pyjuice_bridge.engines.base import FitOptions, Schedule
from pyjuice_bridge.runner.doubts import start_left


def mixture(rows: int, columns: int = 16, kinds: int = 6) -> np.ndarray[Any, Any]:
    """Rows of a mixture of products of coins."""
    rng = np.random.default_rng(0)
    heads = rng.beta(0.5, 0.5, (kinds, columns))
    return (rng.random((rows, columns)) < heads[rng.integers(0, kinds, rows)]).astype(np.int64)


def independent_bits(x: np.ndarray[Any, Any]) -> float:
    """The entropy of the columns as if they were independent, in bits per row."""
    p = np.clip(x.mean(0), 1e-9, 1 - 1e-9)
    return -float((p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum())


@pytest.mark.parametrize("rows", [4000, 200])
def test_the_defaults_beat_independent_columns(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    x = mixture(rows)
    config = {"name": "small", "data": {"kind": "table", "name": "x"}, "arms": ["random"]}
    result = pj.run(config, table=x, engine="torch", progress=False)
    assert result.results[0]["test"]["value"] < independent_bits(x) - 0.3 < 16


def test_the_defaults_learn_three_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given their first word, the sentences have log2(1.5) bits or so in six words."""
    monkeypatch.chdir(tmp_path)
    texts = ["the cat sees a dog .", "a dog hears the bird .", "the bird sees the cat ."] * 40
    config = {
        "name": "animals",
        "data": {"kind": "text", "name": "strings", "tokens": "words", "window": 6},
        "circuit": {"states": 12},
        "arms": ["random"],
        "engine": "torch",
    }
    result = pj.run(config, text=texts, progress=False)
    assert result.results[0]["test"]["value"] < 2.5


@pytest.mark.parametrize(
    ("rows", "values", "epochs", "start"),
    [
        (160, {}, 100, 0.5),
        (3200, {}, 31, 0.5),
        (50_000, {}, 10, 0.1),
        (3200, {"epochs": 5}, 5, 0.5),
        (3200, {"epochs": 100}, 100, 0.1),
        (3200, {"step_size": {"start": 0.2}}, 31, 0.2),
    ],
)
def test_what_is_not_set_fits_the_data(
    rows: int, values: dict[str, Any], epochs: int, start: float
) -> None:
    train = Train.model_validate(values).fitted(rows)
    assert (train.epochs, train.step_size.start) == (epochs, start)


def test_the_share_of_the_start_is_that_of_the_steps() -> None:
    options = FitOptions(epochs=2, batch_size=50, step_size=Schedule(0.5, 0.5))
    assert start_left(options, 100) == 0.5**4
    assert start_left(options, 101) == 0.5**6


def test_settings_that_do_not_fit_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train = {"epochs": 2, "batch_size": 200, "step_size": {"start": 0.1, "end": 0.1}}
    config = {
        "name": "short",
        "data": {"kind": "table", "name": "x"},
        "circuit": {"latents": 4},
        "arms": ["random"],
        "engine": "torch",
    }
    console = Console(force_terminal=False)
    pj.run(config, table=mixture(200), train=train, console=console)
    said = capsys.readouterr().out
    assert "warning: Random start: 81 % of the random start is left" in said
    noise = np.random.default_rng(1).integers(0, 2, (200, 16))
    pj.run(config, table=noise, train=train, console=console)
    assert "worse than uniform on validation" in capsys.readouterr().out
    pj.run({**config, "name": "long"}, table=mixture(200), console=console)
    assert "warning" not in capsys.readouterr().out


def test_the_callback_gets_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = {
        "name": "told",
        "data": {"kind": "table", "name": "x"},
        "circuit": {"latents": 2},
        "train": {"epochs": 3},
        "engine": "torch",
    }
    first: list[dict[str, Any]] = []
    again: list[dict[str, Any]] = []
    pj.run(config, table=mixture(100), progress=False, on_epoch=first.append)
    pj.run(config, table=mixture(100), progress=False, on_epoch=again.append)
    lines = [json.loads(line) for line in Path("runs/told/metrics.jsonl").read_text().splitlines()]
    assert again == lines
    told = [(row["arm"], row["passes"], row["valid"]) for row in first]
    assert told == [(row["arm"], row["passes"], row["valid"]) for row in lines]
    assert {arm for arm, _, _ in told} == {"lvd", "random"}
    page = (Path(__file__).parents[2] / "docs" / "loggers.md").read_text(encoding="utf-8")
    assert set(ast.literal_eval(page.split("```python\n")[1].split("```")[0])) == set(lines[-1])
