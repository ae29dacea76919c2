"""Readers of users' files end with what is there or with one sentence, whatever the damage."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tiny_text_models import save_bert

from pyjuice_bridge.circuit.formats.ctrlg import load_ctrlg, save_ctrlg
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.cluster import Assignments
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers import load_cluster_ids, load_embeddings, open_embeddings
from pyjuice_bridge.teachers import store_embeddings as store
from pyjuice_bridge.teachers.mae_training import MAESettings, train_mae
from pyjuice_bridge.teachers.text import TextTeacher

RNG = np.random.default_rng(0)
VECTORS = {name: RNG.normal(size=(n, 3, 2)) for name, n in (("train", 5), ("valid", 2))}
IDS = {name: RNG.integers(0, 4, (n, 3)) for name, n in (("train", 5), ("valid", 2))}
IMAGES = RNG.integers(0, 256, (6, 4, 4, 1)).astype(np.uint8)
MAE = MAESettings(patch=2, hidden=4, mlp=4, heads=1, layers=(1, 1), epochs=1)


def mutants(content: bytes, count: int, seed: int) -> list[bytes]:
    """Damaged copies: cut short, bytes changed, removed, inserted or repeated."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        data = bytearray(content)
        at = int(rng.integers(len(data)))
        size = int(min(len(data) - at, 1 << rng.integers(0, 7)))
        match number % 6:
            case 0:
                del data[at:]
            case 1:
                data[at] ^= 1 << int(rng.integers(8))
            case 2:
                data[at : at + size] = rng.bytes(size)
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = rng.bytes(size)
            case _:
                data[at : at + size] = bytes([int(rng.choice([0, 0xFF]))]) * size
        found.append(bytes(data))
    return found


def read_all(embeddings: Any) -> None:
    for each in embeddings.values():
        each.read(slice(None), slice(None))
        each.read(slice(0, 1), np.array([0]))


def npz(folder: Path, arrays: dict[str, Any], compressed: bool) -> Path:
    save = np.savez_compressed if compressed else np.savez
    save(folder / "own.npz", **arrays)
    return folder / "own.npz"


def h5(folder: Path, group: str, arrays: dict[str, Any], **options: Any) -> Path:
    with h5py.File(folder / "own.h5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(f"{group}/{name}", data=array, **options)
    return folder / "own.h5"


def npy(folder: Path) -> Path:
    for name, array in VECTORS.items():
        np.save(folder / f"{name}.npy", array)
    return folder / "train.npy"


def assignments(folder: Path) -> Path:
    z = {name: ids.astype(np.int32) for name, ids in IDS.items()}
    Assignments(z, 4, np.zeros((1, 4, 2), np.float32)).save(folder / "own.h5")
    return folder / "own.h5"


class Mean:
    def embed(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), 1, -1).mean(-1, keepdims=True).astype(np.float32)


def stored(folder: Path, name: str) -> Path:
    store(Mean(), IMAGES, folder, "train", {"of": "images"})
    return folder / name


def ctrlg(folder: Path, name: str) -> Path:
    save_ctrlg(random_hmm(3, 4, 0), folder, eos_token_id=3)
    return folder / name


def checkpoint(folder: Path) -> Path:
    train_mae(IMAGES, MAE, checkpoint=folder / "mae.pt")
    return folder / "mae.pt"


def resumed(path: Path) -> None:
    train_mae(IMAGES, MAE, checkpoint=path)


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object], int]] = {
    "npz": (lambda f: npz(f, VECTORS, False), lambda p: read_all(load_embeddings(p)), 150),
    "npz deflated": (lambda f: npz(f, VECTORS, True), lambda p: read_all(load_embeddings(p)), 150),
    "npz ids": (lambda f: npz(f, IDS, True), load_cluster_ids, 150),
    "npy": (npy, lambda p: read_all(load_embeddings(p.parent)), 150),
    "h5": (lambda f: h5(f, "embeddings", VECTORS), lambda p: read_all(load_embeddings(p)), 300),
    "h5 deflated": (
        lambda f: h5(f, "embeddings", VECTORS, compression="gzip", chunks=True),
        lambda p: read_all(load_embeddings(p)),
        300,
    ),
    "h5 ids": (lambda f: h5(f, "z", IDS), load_cluster_ids, 300),
    "assignments": (assignments, Assignments.load, 150),
    "stored note": (
        lambda f: stored(f, "train.json"),
        lambda p: read_all({"train": open_embeddings(p.parent, "train")}),
        150,
    ),
    "stored block": (
        lambda f: stored(f, "train-00000.npy"),
        lambda p: read_all({"train": open_embeddings(p.parent, "train")}),
        150,
    ),
    "Ctrl-G config": (lambda f: ctrlg(f, "config.json"), lambda p: load_ctrlg(p.parent), 150),
    "Ctrl-G weights": (
        lambda f: ctrlg(f, "model.safetensors"),
        lambda p: load_ctrlg(p.parent),
        200,
    ),
    "MAE checkpoint": (checkpoint, resumed, 150),
}


@pytest.mark.parametrize("name", READERS)
def test_damage_ends_in_one_sentence(name: str, tmp_path: Path) -> None:
    make, read, count = READERS[name]
    path = make(tmp_path)
    read(path)
    content, refused = path.read_bytes(), 0
    for seed, damaged in enumerate(mutants(content, count, sum(map(ord, name)))):
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                read(path)
            except UserError as error:
                refused += 1
                assert "\n" not in str(error), seed
    assert refused > count / 10
    path.write_bytes(content)
    read(path)


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_damaged_language_models(name: str, tmp_path: Path) -> None:
    path = save_bert(tmp_path / "bert") / name
    content, refused = path.read_bytes(), 0
    for damaged in [*mutants(content, 24, len(name)), b"[" * 200_000, b"null", b"{}", b""]:
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                TextTeacher(path.parent, precision="float32").embed(np.array([[5, 6, -1]]))
            except UserError as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused >= 3


WRONG_CONFIGS = [
    ("[" * 200_000, "is not JSON"),
    (
        json.dumps({"eos_token_id": 4, "hidden_states": 3, "vocab_size": 4}),
        "must be a token, 0 … 3",
    ),
    (json.dumps({"eos_token_id": -1, "hidden_states": 3, "vocab_size": 4}), "must be a token"),
    (json.dumps({"eos_token_id": 0, "hidden_states": 0, "vocab_size": 4}), "at least 1"),
    (json.dumps({"eos_token_id": True, "hidden_states": 3, "vocab_size": 4}), "whole numbers"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_CONFIGS)
def test_impossible_ctrlg_configs(text: str, message: str, tmp_path: Path) -> None:
    ctrlg(tmp_path, "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_ctrlg(tmp_path)


def test_impossible_ctrlg_numbers(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = ctrlg(tmp_path, "model.safetensors")
    good = load_file(path)
    for name, value in (("gamma", torch.nan), ("gamma", torch.inf), ("beta", torch.nan)):
        save_file({**good, name: good[name].fill_(value)}, path)
        with pytest.raises(UserError, match=rf"the rows of exp\({name}\) are not distributions"):
            load_ctrlg(tmp_path)
        good = load_file(ctrlg(tmp_path, "model.safetensors"))
    save_file({**good, "alpha_exp": -good["alpha_exp"]}, path)
    with pytest.raises(UserError, match="the rows of alpha_exp are not distributions"):
        load_ctrlg(tmp_path)
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.int32):
        save_file({**good, "beta": good["beta"].to(dtype)}, path)
        with pytest.raises(UserError, match=r"beta holds \w+; convert it to F32 first"):
            load_ctrlg(tmp_path)
    save_file({name: each.half() for name, each in good.items()}, path)
    hmm, end = load_ctrlg(tmp_path)
    np.testing.assert_allclose(hmm.transition, random_hmm(3, 4, 0).transition, rtol=2e-3)
    assert end == 3


def test_an_hdf5_file_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "own.h5"
    with h5py.File(path, "w") as file:
        shape = (1 << 20, 1 << 10, 9)
        file.create_dataset("embeddings/train", shape, "f4", chunks=(1, 1, 9), compression="gzip")
        file.create_dataset("z/train", shape[:2], "i4", chunks=(1, 1))
    for load in (load_embeddings, load_cluster_ids):
        with pytest.raises(UserError, match="needs more bytes than the file holds"):
            load(path)


def test_a_checkpoint_may_be_a_string(tmp_path: Path) -> None:
    path = str(tmp_path / "mae.pt")
    first = train_mae(IMAGES, MAE, checkpoint=path).embed(IMAGES)
    shutil.copy(path, tmp_path / "copy.pt")
    again = train_mae(IMAGES, MAE, checkpoint=str(tmp_path / "copy.pt")).embed(IMAGES)
    np.testing.assert_array_equal(first, again)
