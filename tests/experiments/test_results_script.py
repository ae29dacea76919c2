"""Tables from run folders, and codecs, as the scripts print them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scripts import script

from pyjuice_bridge.data.codecs import codec_bits

results, codecs = script("results"), script("codecs")
FACTS: dict[str, Any] = {
    "machine": "Linux x86_64",
    "threads": 2,
    "python": "3.11.0",
    "torch": "2.13.0",
    "date": "2026-11-22",
    "colour": "rgb",
    "images": {"train": 50, "valid": 5, "test": 6},
    "shape": [2, 5, 3],
}


def write_run(path: Path, seed: int, figures: dict[str, float], **changes: Any) -> Path:
    path.mkdir()
    latents = changes.pop("latents", 4)
    data = changes.get("dataset", "digits")
    config = {"name": "x", "seed": seed, "data": {"name": data}, "circuit": {"latents": latents}}
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {
            "model": arm,
            "engine": "torch",
            "device": "cpu",
            "parameters": 1500,
            **{s: {"value": value, "unit": "bits/dim"} for s in ("train", "valid", "test")},
            "seconds": 1000.0 + seed,
            "peak_memory_bytes": 2**20 * (seed + 1),
            "seed": seed,
            "dataset": data,
            "fingerprint": f"{seed}" * 64,
            "command": f"python -m pyjuice_bridge run x.yaml --set seed={seed}",
            **FACTS,
            **changes,
        }
        for arm, value in figures.items()
    ]
    (path / "results.json").write_text(json.dumps(rows))
    return path


def table(text: str) -> list[list[str]]:
    """The cells of every table line but the rules."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if not set("".join(row)) <= set("-:")]


def test_seeds_are_averaged_and_provenance_is_listed(tmp_path: Path) -> None:
    figures = {0: {"lvd": 1.10, "random": 1.2}, 1: {"lvd": 1.14, "random": 1.2}}
    runs = [write_run(tmp_path / str(seed), seed, figures[seed]) for seed in figures]
    text = results.render(runs)
    head, lvd, random = table(text)
    spread = f"1.1200 ± {np.std([1.10, 1.14], ddof=1):.4f}"
    assert dict(zip(head, lvd, strict=True)) == {
        "arm": "LVD",
        "parameters": "1,500",
        "per pixel": "3",
        "train": spread,
        "valid": spread,
        "test": spread,
        "seconds": "1,000 ± 1",
        "peak memory": "2 MiB",
        "seeds": "0, 1",
    }
    assert random[0] == "Random start" and random[5] == "1.2000 ± 0.0000"
    for known in ("Linux x86_64", "threads 2", "torch 2.13.0", "2026-11-22", "0" * 12, "1" * 12):
        assert known in text
    for seed in figures:
        assert f"    python -m pyjuice_bridge run x.yaml --set seed={seed}" in text.splitlines()


def test_sets_are_apart_and_configurations_are_told_apart(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"dataset": "imagenet32", "variant": "old release"},
        {"dataset": "imagenet32", "variant": "new release", "colour": "ycocg_r"},
        {"latents": 4},
        {"latents": 8, "images": None},
    ]
    runs = [
        write_run(tmp_path / str(i), 0, {"lvd": 2.0 + i}, **each) for i, each in enumerate(changes)
    ]
    old, new, digits = results.render(runs).split("### ")[1:]
    assert old.startswith("imagenet32 (old release)") and "Colour coding" not in old
    assert new.startswith("imagenet32 (new release)") and "Colour coding: ycocg_r." in new
    assert [row[4] for row in table(old)[1:] + table(new)[1:]] == ["2.0000", "3.0000"]
    assert [row[:4] for row in table(digits)[1:]] == [
        ["1", "LVD", "1,500", "3"],
        ["2", "LVD", "1,500", "–"],
    ]
    assert "Run 2: circuit.latents=8." in digits


def test_arms_are_compared_at_equal_seconds(tmp_path: Path) -> None:
    """When the quickest arm ends, the other one has ended two of its three passes."""
    both = write_run(tmp_path / "both", 0, {"lvd": 1.0, "random": 1.0})
    curves = {"lvd": [(5, 1.5), (30, 1.25)], "random": [(10, 2.5), (20, 1.75), (31, 1.125)]}
    lines = [
        {"arm": arm, "stage": "train", "passes": i, "total_seconds": seconds, "valid": valid}
        for arm, curve in curves.items()
        for i, (seconds, valid) in enumerate(curve, 1)
    ]
    (both / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    alone = write_run(tmp_path / "alone", 1, {"lvd": 1.0})
    (alone / "metrics.jsonl").write_text(f"{json.dumps(lines[0])}\n")
    assert "equal seconds" not in results.render([alone])
    text = results.render([both, alone]).split("At equal seconds")[1]
    assert table(text) == [
        ["run", "seconds", "LVD", "Random start"],
        ["both", "30", "1.2500", "1.7500"],
    ]


def test_mistakes_end_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main([str(tmp_path / "none")]) == 1
    assert "no such run directory" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert results.main([str(tmp_path / "empty")]) == 1
    assert "finish the run" in capsys.readouterr().err
    for main in (results.main, codecs.main):
        assert main([]) == 2
        assert "usage" in capsys.readouterr().err
    assert codecs.main([str(tmp_path / "none.yaml")]) == 1
    assert "no such file" in capsys.readouterr().err


def test_codecs_are_measured_on_the_test_images_of_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 9, (12, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "x.npz", train=images, test=images[:5])
    config = {"name": "x", "data": {"name": str(tmp_path / "x.npz")}}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
    assert codecs.main([str(tmp_path / "x.yaml")]) == 0
    text = capsys.readouterr().out
    measured = codec_bits(images[:5])
    expected = [[codecs.NAMES[name], f"{bits:.4f}"] for name, bits in measured.items()]
    assert table(text)[1:] == expected
    assert "5 test images of 8×8×3" in text
    assert f"python experiments/codecs.py {tmp_path / 'x.yaml'}" in text


def test_text_is_counted_per_token_and_every_size_is_a_row(tmp_path: Path) -> None:
    rows = []
    for seed in (0, 1):
        write_run(tmp_path / str(seed), seed, {"lvd": 1.0})
        path = tmp_path / str(seed) / "results.json"
        (row,) = json.loads(path.read_text())
        figures = {
            s: {"value": 300.0 + 10 * seed, "unit": "perplexity"}
            for s in ("train", "valid", "test")
        }
        text = {"tokens": {"train": 500, "valid": 5, "test": 5}, "images": None, "shape": None}
        sizes = [
            {**row, **figures, **text, "sweep": {"circuit.states": states}} for states in (4, 8)
        ]
        path.write_text(json.dumps(sizes))
        rows.append(tmp_path / str(seed))
    rendered = results.render(rows)
    head, small, large = table(rendered)
    assert head[2] == "per token"
    assert [small[0], large[0]] == ["LVD, 4 states", "LVD, 8 states"]
    assert small[2:6] == ["3", *["305.00 ± 7.07"] * 3]
    assert "Splits in perplexity" in rendered and "parameters per training token" in rendered
    assert "per pixel" not in rendered
