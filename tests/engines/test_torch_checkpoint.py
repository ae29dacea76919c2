"""What a checkpoint may be: the state of the training at hand, or one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import mutations
import numpy as np
import pytest

from pyjuice_bridge.circuit import check
from pyjuice_bridge.circuit.h5_files import write_attribute
from pyjuice_bridge.circuit.types import layer_params
from pyjuice_bridge.errors import UserError


def change(name: str, make: Callable[[np.ndarray], np.ndarray]) -> mutations.Damage:
    return lambda file: mutations.put(file, name, make(file[name][()]))


def entry(name: str, index: tuple[int, int], value: float) -> mutations.Damage:
    def damage(file: h5py.File) -> None:
        file[name][index] = value

    return damage


def renamed(file: h5py.File) -> None:
    write_attribute(file, "key", "0" * 64)


DAMAGE: dict[str, tuple[mutations.Damage, str]] = {
    "a missing layer": (lambda f: f["params"].pop("0"), "/params/0: the dataset is missing"),
    "another shape": (
        change("params/0", lambda a: np.concatenate([a, a])),
        "/params/0: is float32 [",
    ),
    "another precision": (change("params/0", lambda a: a.astype("f8")), "/params/0: is float64 ["),
    "rows of twelve": (change("params/0", lambda a: a * 12), "/params: /layers/0/params: row 0"),
    "negative": (change("params/0", lambda a: a - 1), "/params/0: must hold finite numbers"),
    "momentum NaN": (change("momentum/0", lambda a: a * np.nan), "/momentum/0: must hold finite"),
    "no momentum": (lambda f: f.pop("momentum"), "/momentum: the group is missing"),
    "more momentum": (
        lambda f: f["momentum"].create_dataset("99", (1, 1, 1), "f4"),
        "/momentum: must hold the layers",
    ),
    "momentum of other roots": (
        change("momentum_rows", lambda a: np.ones((1, 2))),
        "/momentum_rows: is float64 [1, 2], must be float64 [1, 1]",
    ),
    "no best": (lambda f: f.pop("best"), "/best: the group is missing"),
    "no history": (lambda f: f.pop("history"), "/history: the dataset is missing"),
    "short history": (change("history", lambda a: a[:0]), "/history: is float64 [0, 4]"),
    "long history": (change("history", lambda a: np.repeat(a, 9, 0)), "must be float64 [1 … 3, 4]"),
    "positive log p": (entry("history", (1, 1), 7.0), "/history: row 1 is no epoch"),
    "a lost epoch": (change("history", lambda a: a[:1]), "steps is 6, but 1 epochs of 3 batches"),
    "external": (lambda f: mutations.outside(f, "params/0"), "its data lies in another file"),
    "another training": (renamed, "belongs to another training (other data, circuit or options)"),
}


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory):
    path, fit = mutations.checkpoint_file("anemone", tmp_path_factory.mktemp("checkpoint"))
    with h5py.File(path, "r+") as file:
        if "best" not in file:
            raise AssertionError("the first epoch was to be the best")
    return path.read_bytes(), fit


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_one_sentence_that_says_what_to_do(training, case: str, tmp_path: Path) -> None:
    whole, fit = training
    damage, sentence = DAMAGE[case]
    path = tmp_path / "checkpoint.h5"
    path.write_bytes(whole)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        fit(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and text.endswith("; delete it to start afresh.")
    assert "\n" not in text


def test_the_state_it_holds_is_continued(training, tmp_path: Path) -> None:
    whole, fit = training
    path = tmp_path / "checkpoint.h5"
    path.write_bytes(whole)
    resumed, straight = fit(path), fit(tmp_path / "none.h5")
    check(resumed)
    for a, b in zip(resumed.layers, straight.layers, strict=True):
        if layer_params(a) is not None:
            np.testing.assert_array_equal(layer_params(a), layer_params(b))


def test_a_checkpoint_is_named_by_a_string_or_a_path(training, tmp_path: Path) -> None:
    whole, fit = training
    (tmp_path / "text.h5").write_bytes(whole)
    (tmp_path / "path.h5").write_bytes(whole)
    by_name, by_path = fit(str(tmp_path / "text.h5")), fit(tmp_path / "path.h5")
    for a, b in zip(by_name.layers, by_path.layers, strict=True):
        np.testing.assert_array_equal(layer_params(a), layer_params(b))
    for wrong, sentence in (
        (3, "checkpoint is 3, must be the path of a file."),
        (b"c.h5", "must be the path of a file."),
        ("", "is a folder; name a file in it."),
        (tmp_path, "is a folder; name a file in it."),
    ):
        with pytest.raises(UserError, match=re.escape(sentence)):
            fit(wrong)
