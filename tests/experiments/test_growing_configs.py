"""The second paper's configs: they fit a GPU of 80 GB, and run on a few images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scripts import EXPERIMENTS
from test_paper_configs import GPU_BYTES, pictures, write_pickles

import pyjuice_bridge as pj
from pyjuice_bridge.runner import plan as plans
from pyjuice_bridge.runner.config import load_config
from pyjuice_bridge.runner.plan import make_plan

NAMES = ("cifar10", "imagenet32", "imagenet64")
TINY = (
    "teacher.width=8",
    "teacher.residual=2",
    "teacher.blocks=1",
    "teacher.dim=2",
    "teacher.codes=4",
    "teacher.epochs=1",
    "cluster={iterations: 3}",
    "circuit.clusters=2",
    "circuit.width=1",
    "data.limit=8",
    "data.valid=3",
    "train.epochs=5",
    "train.patch_training.epochs=1",
    "train.latent_training.epochs=1",
    "report={samples: 1, inpaint: 1}",
    "arms=[lvd]",
)


@pytest.mark.parametrize("name", NAMES)
def test_the_papers_sizes_fit_one_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "latent_seconds", lambda *_: 0.0)  # tries the teacher
    config = load_config(EXPERIMENTS / f"{name}_growing.yaml", ["arms=[lvd]"])
    assert config.circuit.clusters * config.circuit.heads[1] == 1600
    assert (config.teacher.width, config.teacher.dim, config.teacher.codes) == (128, 64, 1024)
    (arm,) = make_plan(config).arms
    assert arm.parameters > 500_000_000
    assert arm.memory_bytes < GPU_BYTES, f"{arm.memory_bytes / 1e9:.0f} GB"


@pytest.mark.parametrize("name", NAMES)
def test_the_small_configs_differ_in_size_alone(name: str) -> None:
    large, small = (load_config(EXPERIMENTS / f"{name}_growing{s}.yaml") for s in ("", "_small"))
    assert small.name == f"{name}_growing_small" and small.arms == ["lvd", "random", "hclt"]
    for field in ("kind", "patch", "heads"):
        assert getattr(small.circuit, field) == getattr(large.circuit, field)
    assert small.teacher.decoder == large.teacher.decoder
    assert small.data.colour == large.data.colour == "rgb"
    assert small.train.epochs > 3 * small.train.patch_training.epochs


def test_a_few_images_from_file_to_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teacher and student bound the same bits, and the report shows both."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "files"
    root.mkdir()
    write_pickles(root, pictures(11, 32, 0), pictures(4, 32, 1))
    changes = [*TINY, f"data.root={root}"]
    config = load_config(EXPERIMENTS / "cifar10_growing.yaml", changes)
    done = pj.run(config, out=tmp_path / "run")
    (row,) = json.loads((done.path / "results.json").read_text())
    assert 0 < row["test"]["value"] < 9
    page = (done.path / "report.html").read_text()
    assert 'id="growing"' in page and 'id="teacher"' in page
    with np.load(done.path / "figures.npz") as figures:
        shown = figures["teacher/original"]
        assert figures["teacher/reconstruction"].shape == shown.shape == (3, 32, 32, 3)
        valid, test = figures["teacher/figures"]
        for bits, pixels, codes, *books in (valid, test):
            assert bits == pytest.approx(pixels + codes) and codes > 0
            assert all(1 <= n <= 4 for n in books)
