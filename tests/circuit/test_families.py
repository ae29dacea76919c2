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
from scipy import optimize, special, stats

from pyjuice_bridge.circuit import check, load, save
from pyjuice_bridge.circuit.families.base import Family
from pyjuice_bridge.circuit.families.binomial import Binomial
from pyjuice_bridge.circuit.families.categorical import Categorical
from pyjuice_bridge.circuit.families.gaussian import Gaussian
from pyjuice_bridge.circuit.families.logistic import Logistic
from pyjuice_bridge.circuit.families.registry import FAMILIES
from pyjuice_bridge.circuit.families.smooth import Smooth
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.leaves import fitted_rows, with_leaves
from pyjuice_bridge.circuit.types import InputLayer
from pyjuice_bridge.engines.torch.module import CircuitModule
from pyjuice_bridge.errors import UserError

CONSTRAINED: tuple[Family, ...] = (
    Binomial(),
    Binomial(uniform=0.0),
    Gaussian(),
    Gaussian(uniform=0.0),
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
    rounding = 1e-6  # random rows are float32
    for _ in range(4):
        better = family.projected(target, rows)
        assert (score(target, better) >= score(target, rows) - rounding).all()
        rows, rounding = better, 1e-9


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


def gaussian_row(middle: float, deviation: float, categories: int) -> np.ndarray:
    logs = stats.norm.logpdf(np.arange(categories), middle, deviation)
    return np.asarray(np.exp(logs - special.logsumexp(logs)))


@settings(max_examples=40, deadline=None)
@given(
    middle=st.floats(-3, 40),
    deviation=st.floats(0.2, 40),
    categories=st.integers(2, 40),
    seed=SEEDS,
)
def test_gaussian_rows_are_scipys(
    middle: float, deviation: float, categories: int, seed: int
) -> None:
    row = gaussian_row(middle, deviation, categories)[None, None]
    assert not Gaussian(uniform=0.0).strays(row).any()
    assert not Gaussian(uniform=0.001).strays(0.999 * row + 0.001 / categories).any()
    start = Gaussian(uniform=0.0).rows(np.random.default_rng(seed), row.shape).astype(np.float64)
    for _ in range(25):
        start = Gaussian(uniform=0.0).projected(row, start)
    # Beyond the ends, or on one value, almost all mass is on one value, and steps are small.
    slow = not 0 < middle < categories - 1 or deviation < 0.4
    assert score(row, row) - score(row, start) < (2e-3 if slow else 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_gaussian_projections_have_the_moments_of_their_target(seed: int) -> None:
    """What maximises the likelihood in an exponential family."""
    categories = 30
    target = random_target(seed, categories, 2.0)
    family, x = Gaussian(uniform=0.0), np.arange(categories)
    rows = family.rows(np.random.default_rng(seed), target.shape).astype(np.float64)
    for _ in range(20):
        rows = family.projected(target, rows)
    for power in (1, 2):
        np.testing.assert_allclose((rows * x**power).sum(-1), (target * x**power).sum(-1), 1e-8)


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


def diffusion(categories: int, amount: float) -> np.ndarray:
    """The matrix of y - amount·y″ = x with ends that nothing crosses, inverted."""
    steps = np.diff(np.eye(categories), axis=0)
    return np.asarray(np.linalg.inv(np.eye(categories) + amount * steps.T @ steps))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, categories=SIZES, bandwidth=st.floats(0.01, 10))
def test_smoothing_moves_counts_and_loses_none(
    seed: int, categories: int, bandwidth: float
) -> None:
    counts = random_target(seed, categories) * 7
    found = Smooth(bandwidth=bandwidth).pooled(counts)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(-1), 7)
    for place in np.ndindex(2, 3):
        row = counts[place]
        amount = (bandwidth * 0.282 / ((row / 7) ** 2).sum()) ** 2 / 2
        near, far = diffusion(categories, amount), diffusion(categories, 64 * amount)
        np.testing.assert_allclose(found[place], 0.9 * near @ row + 0.1 * far @ row, atol=1e-9)


def test_smoothing_goes_by_the_width_of_a_row() -> None:
    values = np.arange(401)
    for scale in (2.0, 8.0):
        row = stats.norm.pdf(values, 200, scale)
        found = Smooth(bandwidth=0.5).pooled(row[None])[0] / row.sum()
        mean = (found * values).sum()
        variance = (found * (values - mean) ** 2).sum()
        # A tenth is spread 8 times as far: 0.9 + 0.1·64 = 7.3 times the variance.
        assert variance == pytest.approx(scale**2 * (1 + 7.3 * 0.25), rel=0.03)
    assert Smooth().pooled(np.eye(9)[4][None])[0, 4] > 0.9


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
    circuit = with_leaves(hclt([-1, 0], 2, 7, seed=1), Smooth(bandwidth=0.5))
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


def test_logits_leave_the_family_behind_only_where_they_may_leave_it() -> None:
    plain = hclt([-1, 0], 2, 7, seed=1)
    for family, expected in ((Logistic(), Categorical()), (Smooth(), Smooth())):
        found = CircuitModule(with_leaves(plain, family, seed=2)).circuit()
        check(found)
        assert isinstance(found.layers[0], InputLayer)
        assert found.layers[0].family == expected
