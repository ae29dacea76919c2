"""Leaf families: rows, projections and smoothing against plain definitions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from pyjuice_bridge.circuit import check, load, save
from pyjuice_bridge.circuit.families.base import Family
from pyjuice_bridge.circuit.families.binomial import Binomial
from pyjuice_bridge.circuit.families.categorical import Categorical
from pyjuice_bridge.circuit.families.logistic import Logistic
from pyjuice_bridge.circuit.families.registry import FAMILIES
from pyjuice_bridge.circuit.families.smooth import Smooth
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.leaves import fitted_rows, with_leaves
from pyjuice_bridge.circuit.types import InputLayer
from pyjuice_bridge.errors import UserError

CONSTRAINED: tuple[Family, ...] = (
    Binomial(),
    Binomial(uniform=0.0),
    Logistic(),
    Logistic(uniform=0.0),
)
ALL = (Categorical(), Smooth(), *CONSTRAINED)
SIZES = st.integers(1, 40)
SEEDS = st.integers(0, 2**32 - 1)


def random_target(seed: int, categories: int, peaked: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(categories, peaked), (2, 3))


def score(target: np.ndarray, rows: np.ndarray) -> np.ndarray:
    logs = np.log(np.maximum(rows.astype(np.float64), 1e-300))
    return np.asarray(np.where(target > 0, target * logs, 0).sum(-1))


def logistic_row(middle: float, scale: float, categories: int) -> np.ndarray:
    edges = np.arange(1, categories) - 0.5
    below = np.concatenate([[0], stats.logistic.cdf(edges, middle, scale), [1]])
    return np.diff(below)


@settings(max_examples=60, deadline=None)
@given(family=st.sampled_from(ALL), seed=SEEDS, categories=SIZES)
def test_random_rows_are_of_the_family(family: Family, seed: int, categories: int) -> None:
    rows = family.rows(np.random.default_rng(seed), (2, 3, categories))
    assert rows.shape == (2, 3, categories) and rows.dtype == np.float32
    np.testing.assert_allclose(rows.sum(-1), 1, atol=1e-5)
    assert not family.strays(rows).any()
    np.testing.assert_allclose(family.projected(rows, rows), rows, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(family=st.sampled_from(CONSTRAINED), seed=SEEDS, categories=SIZES)
def test_a_projection_is_never_worse_than_where_it_started(
    family: Family, seed: int, categories: int
) -> None:
    target = random_target(seed, categories)
    rows = family.rows(np.random.default_rng(seed), target.shape).astype(np.float64)
    for _ in range(4):
        better = family.projected(target, rows)
        assert (score(target, better) >= score(target, rows) - 1e-9).all()
        rows = better


@settings(max_examples=60, deadline=None)
@given(family=st.sampled_from(ALL), seed=SEEDS, categories=SIZES)
def test_numpy_and_torch_agree(family: Family, seed: int, categories: int) -> None:
    target = random_target(seed, categories)
    rows = family.rows(np.random.default_rng(seed), target.shape).astype(np.float64)
    found = family.projected(torch.from_numpy(target), torch.from_numpy(rows))
    np.testing.assert_allclose(found.numpy(), family.projected(target, rows), atol=1e-7)
    pooled = family.pooled(torch.from_numpy(target))
    np.testing.assert_allclose(pooled.numpy(), family.pooled(target), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(p=st.floats(0.01, 0.99), categories=st.integers(2, 60))
def test_binomial_rows_are_scipys_and_the_best(p: float, categories: int) -> None:
    family, trials = Binomial(uniform=0.0), categories - 1
    row = stats.binom.pmf(np.arange(categories), trials, p)[None, None]
    assert not family.strays(row).any()
    target = random_target(int(p * 1e6), categories, 1.0)
    start = family.rows(np.random.default_rng(0), target.shape).astype(np.float64)
    found = family.projected(target, start)
    mean = (target * np.arange(categories)).sum(-1) / trials
    expected = stats.binom.pmf(np.arange(categories), trials, mean[..., None])
    np.testing.assert_allclose(found, expected, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(middle=st.floats(-3, 40), scale=st.floats(0.2, 20), categories=st.integers(2, 40))
def test_logistic_rows_are_scipys(middle: float, scale: float, categories: int) -> None:
    row = logistic_row(middle, scale, categories)[None, None]
    assert not Logistic(uniform=0.0).strays(row).any()
    mixed = 0.999 * row + 0.001 / categories
    assert not Logistic(uniform=0.001).strays(mixed).any()


@pytest.mark.parametrize("seed", range(4))
def test_logistic_projections_reach_the_maximum(seed: int) -> None:
    categories = 30
    target = random_target(seed, categories, 2.0)[:1, :1]
    family = Logistic(uniform=0.0)
    rows = family.rows(np.random.default_rng(seed), target.shape).astype(np.float64)
    for _ in range(20):
        rows = family.projected(target, rows)

    def loss(numbers: np.ndarray) -> float:
        row = logistic_row(numbers[0], np.exp(numbers[1]), categories)
        return -float((target[0, 0] * np.log(np.maximum(row, 1e-300))).sum())

    best = optimize.minimize(loss, [15.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-8})
    assert -score(target, rows)[0, 0] == pytest.approx(best.fun, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, categories=SIZES, bandwidth=st.floats(0.05, 50))
def test_smoothing_moves_counts_and_loses_none(
    seed: int, categories: int, bandwidth: float
) -> None:
    counts = random_target(seed, categories) * 7
    found = Smooth(bandwidth=bandwidth).pooled(counts)
    np.testing.assert_allclose(found.sum(-1), counts.sum(-1))
    expected = np.zeros_like(counts)
    for value in range(categories):
        shares = [1 / (1 + ((value - w) / bandwidth) ** 2) for w in range(categories)]
        expected += counts[..., value, None] * np.array(shares) / sum(shares)
    np.testing.assert_allclose(found, expected)


def test_counts_become_rows_of_the_family() -> None:
    counts = np.array([[[0.0, 6, 2, 0, 0]], [[0, 0, 0, 0, 0]]])
    old = np.full((2, 1, 5), 0.2, np.float32)
    raw = fitted_rows(Categorical(), counts, old, 0.0)
    np.testing.assert_allclose(raw[0, 0], [0, 0.75, 0.25, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(raw[1], old[1])
    binomial = fitted_rows(Binomial(uniform=0.0), counts, old, 0.0)
    np.testing.assert_allclose(binomial[0, 0], stats.binom.pmf(range(5), 4, 1.25 / 4), atol=1e-6)
    np.testing.assert_array_equal(binomial[1], old[1])


@pytest.mark.parametrize("family", ALL, ids=str)
def test_circuits_of_the_family_are_stored(family: Family, tmp_path: Path) -> None:
    circuit = with_leaves(hclt([-1, 0, 0], 3, [2, 9, 9], seed=1), family, seed=2)
    check(circuit)
    save(circuit, tmp_path / "a.h5")
    for found, layer in zip(load(tmp_path / "a.h5").layers, circuit.layers, strict=True):
        if isinstance(layer, InputLayer) and isinstance(found, InputLayer):
            assert found.family == layer.family
            np.testing.assert_array_equal(found.params, layer.params)


def test_without_a_seed_rows_become_the_nearest_of_the_family() -> None:
    circuit = hclt([-1, 0], 2, 7, seed=1)
    found = with_leaves(circuit, Binomial(uniform=0.0)).layers[0].params  # type: ignore[union-attr]
    old = circuit.layers[0].params  # type: ignore[union-attr]
    np.testing.assert_allclose((found * range(7)).sum(-1), (old * range(7)).sum(-1), atol=1e-5)
    structure = with_leaves(hclt([-1, 0], 2, 7), Binomial())
    assert structure.layers[0].params.strides == (0, 0, 0)  # type: ignore[union-attr]


def test_parameters_are_the_numbers_that_rows_are_made_from() -> None:
    plain = hclt([-1, 0], 4, 100)
    leaves, sums = 2 * 4 * 100, 4 * 4 + 4
    assert plain.num_parameters == leaves + sums
    assert with_leaves(plain, Smooth()).num_parameters == leaves + sums
    assert with_leaves(plain, Logistic()).num_parameters == 2 * 4 * 2 + sums
    assert with_leaves(plain, Binomial()).num_parameters == 2 * 4 + sums


def changed(path: Path, name: str, value: Any) -> str:
    circuit = with_leaves(hclt([-1, 0], 2, 7, seed=1), Smooth(bandwidth=3.0))
    save(circuit, path)
    with h5py.File(path, "r+") as file:
        file["layers/0"].attrs[name] = value
    with pytest.raises(UserError) as error:
        load(path)
    return str(error.value)


def test_bad_families_in_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    unknown = changed(path, "family", np.bytes_(b"normal"))
    names = ", ".join(str(each.model_fields["family"].default) for each in FAMILIES)
    assert unknown == (f"{path}: /layers/0: family 'normal' is unknown, must be one of {names}.")
    assert "bandwidth of the family 'smooth' is -1" in changed(path, "bandwidth", -1.0)


def test_rows_outside_the_family_are_refused() -> None:
    circuit = hclt([-1, 0], 2, 7, seed=1)
    leaf = circuit.layers[0]
    assert isinstance(leaf, InputLayer)
    wrong = InputLayer(leaf.variables, leaf.groups, leaf.params, Logistic())
    broken = type(circuit)(2, (wrong, *circuit.layers[1:]), circuit.roots)
    with pytest.raises(UserError, match=r"/layers/0/params: row 0 of group 0 is no logistic"):
        check(broken)
