"""The papers' configs: they fit a GPU of 80 GB, and run on a few images in the true formats."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import EXPERIMENTS

import pyjuice_bridge as pj
from pyjuice_bridge.data.readers import NEW_IMAGENET, OLD_IMAGENET
from pyjuice_bridge.runner import plan as plans
from pyjuice_bridge.runner.config import load_config
from pyjuice_bridge.runner.plan import make_plan

SMALL = (
    "teacher.hidden=8",
    "teacher.mlp=8",
    "teacher.heads=2",
    "teacher.layers=[1, 1]",
    "teacher.epochs=1",
    "cluster.iterations=3",
    "cluster.restarts=1",
    "circuit.latents=3",
    "circuit.patch_latents=2",
    "data.limit=8",
    "data.valid=3",
    "train.epochs=3",
    "train.patch_training.epochs=1",
    "train.latent_training.epochs=1",
    "report={samples: 1, inpaint: 1}",
)
GPU_BYTES = 80e9


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def pictures(count: int, side: int, seed: int) -> np.ndarray:
    """Rectangles of one of two colours on the other: few values, so the trees are quick."""
    rng = np.random.default_rng(seed)
    colours = np.array([[200, 40, 40], [90, 90, 250]], np.uint8)
    images = np.empty((count, side, side, 3), np.uint8)
    for image in images:
        ground, shape = rng.permutation(2)
        row, column = rng.integers(0, side // 2, 2)
        image[:] = colours[ground]
        image[row : row + side // 2, column : column + side // 2] = colours[shape]
    return images


def planes(images: np.ndarray) -> np.ndarray:
    """Rows of the planes R, G, B, as the published batches hold them."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def write_npz(folder: Path, train: np.ndarray, test: np.ndarray) -> None:
    batches = {"train_data_batch_1": train[:5], "train_data_batch_2": train[5:], "val_data": test}
    for name, part in batches.items():
        labels = np.arange(len(part))
        np.savez(folder / f"{name}.npz", data=planes(part), labels=labels, mean=np.zeros(3))


def write_png(folder: Path, train: np.ndarray, test: np.ndarray) -> None:
    side = train.shape[1]
    for name, part in (("train", train), ("valid", test)):
        (folder / f"{name}_{side}x{side}").mkdir()
        for i, image in enumerate(part):
            Image.fromarray(image).save(folder / f"{name}_{side}x{side}" / f"{i:07}.png")


def write_pickles(folder: Path, train: np.ndarray, test: np.ndarray) -> None:
    inner = folder / "cifar-10-batches-py"
    inner.mkdir()
    parts = zip(range(1, 6), np.array_split(train, 5), strict=True)
    batches = {f"data_batch_{i}": part for i, part in parts} | {"test_batch": test}
    for name, part in batches.items():
        batch = {b"batch_label": name.encode(), b"labels": [0] * len(part), b"data": planes(part)}
        (inner / name).write_bytes(pickle.dumps(batch, protocol=2))


def write_binary(folder: Path, train: np.ndarray, test: np.ndarray) -> None:
    inner = folder / "cifar-10-batches-bin"
    inner.mkdir()
    parts = zip(range(1, 6), np.array_split(train, 5), strict=True)
    batches = {f"data_batch_{i}": part for i, part in parts} | {"test_batch": test}
    for name, part in batches.items():
        records = np.concatenate([np.zeros((len(part), 1), np.uint8), planes(part)], axis=1)
        (inner / f"{name}.bin").write_bytes(records.tobytes())


Writer = Callable[[Path, np.ndarray, np.ndarray], None]


@pytest.mark.parametrize(
    ("name", "forms", "arms"),
    [
        ("imagenet32", {NEW_IMAGENET: write_npz, OLD_IMAGENET: write_png}, "[lvd, random, hclt]"),
        # The tree over 12,288 variables, which only the arm hclt needs, is too large for a test.
        ("imagenet64", {NEW_IMAGENET: write_npz, OLD_IMAGENET: write_png}, "[lvd, random]"),
        ("cifar10", {"python": write_pickles, "binary": write_binary}, "[lvd, random]"),
    ],
)
def test_a_few_images_from_file_to_report(
    name: str, forms: dict[str, Writer], arms: str, tmp_path: Path
) -> None:
    """The same images in a second format are the same data, so that every stage is reused."""
    side = 64 if name == "imagenet64" else 32
    train, test = pictures(11, side, 0), pictures(4, side, 1)
    rows = []
    for number, (variant, write) in enumerate(forms.items()):
        root = tmp_path / f"files-{number}"
        root.mkdir()
        write(root, train, test)
        changes = [*SMALL, f"arms={arms}", f"data.root={root}"]
        config = load_config(EXPERIMENTS / f"{name}.yaml", changes)
        done = pj.run(config, out=tmp_path / f"run-{number}")
        rows.append(json.loads((done.path / "results.json").read_text()))
        assert [row["model"] for row in rows[-1]] == config.arms
        assert all(row["images"] == {"train": 8, "valid": 3, "test": 4} for row in rows[-1])
        if name.startswith("imagenet"):
            assert {row["variant"] for row in rows[-1]} == {variant}
        assert all(0 < row["test"]["value"] < 9 for row in rows[-1])
        assert (done.path / "report.html").stat().st_size > 0
        made = len(json.loads((done.path / "artifacts.json").read_text()))
        assert len(done.reused) == (made if number else 0)
    assert [row["test"] for row in rows[0]] == [row["test"] for row in rows[1]]


@pytest.mark.parametrize("name", ["imagenet32", "imagenet64", "cifar10"])
def test_every_arm_of_the_full_set_fits_one_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "latent_seconds", lambda *_: 0.0)  # tries the teacher
    config = load_config(EXPERIMENTS / f"{name}.yaml")
    plan = make_plan(config)
    assert [arm.arm for arm in plan.arms] == ["lvd", "random", "hclt"]
    full = 45_000 if name == "cifar10" else 1_276_167
    assert f"{full:,} training images" in plan.note
    for arm in plan.arms:
        assert arm.parameters > 100_000_000
        assert arm.memory_bytes < GPU_BYTES, f"{arm.arm}: {arm.memory_bytes / 1e9:.0f} GB"


def test_papers_setting() -> None:
    for name in ("imagenet32", "imagenet64", "cifar10"):
        config = load_config(EXPERIMENTS / f"{name}.yaml")
        assert config.circuit.kind == "patches" and config.teacher.kind == "mae"
        assert config.circuit.patch * 8 == (64 if name == "imagenet64" else 32)
        teacher = config.teacher
        assert (teacher.hidden, teacher.mlp, teacher.heads) == (256, 512, 8)
        assert teacher.layers == [6, 4] and config.circuit.patch_latents == 16
        assert config.data.colour in ("rgb", "ycocg_r")


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_valid_and_named_after_its_file(path: Path) -> None:
    assert load_config(path).name == path.stem
