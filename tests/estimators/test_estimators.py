"""What estimators answer, against enumeration, runs and scikit-learn."""

from __future__ import annotations

import pickle
import re
from itertools import product
from pathlib import Path

import numpy as np
import oracle
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import BernoulliNB

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.region_graph import random_region_graph
from pyjuice_bridge.circuit.types import layer_params
from pyjuice_bridge.errors import UserError

SMALL = {"epochs": 3, "random_state": 0}


def some_rows(rows: int = 200, seed: int = 0) -> np.ndarray:
    """Rows of four columns with 3, 2, 3 and 2 values, each depending on the one before."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, [3, 2, 3, 2], (rows, 4))
    x[:, 2] = np.where(rng.random(rows) < 0.8, x[:, 0], x[:, 2])
    x[:, 3] = np.where(rng.random(rows) < 0.8, x[:, 1], x[:, 3])
    return x


def every_row(circuit: pj.Circuit) -> np.ndarray:
    return np.array(list(product(*(range(n) for n in circuit.categories))))


@pytest.mark.parametrize(
    "estimator",
    [
        pj.HCLT(latents=3, **SMALL),
        pj.HCLT(latents=3, distill=False, **SMALL),
        pj.HMM(states=3, **SMALL),
        pj.RegionCircuit(depth=2, replicas=2, sums=2, **SMALL),
        pj.RegionCircuit(random_region_graph(4, 1, 2, seed=0), sums=2, **SMALL),
    ],
    ids=["hclt", "hclt-random", "hmm", "region", "own-graph"],
)
def test_scores_are_a_distribution_and_missing_values_are_summed_out(estimator) -> None:
    estimator.fit(some_rows())
    every = every_row(estimator.circuit)
    p = np.exp(estimator.score_samples(every))
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
    found = estimator.score_samples([[1, np.nan, 2, np.nan]])
    fits = (every[:, 0] == 1) & (every[:, 2] == 2)
    np.testing.assert_allclose(np.exp(found), p[fits].sum(), rtol=1e-5)


def test_measurements_have_a_density_that_is_near_the_true_one(tmp_path) -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 3000)
    x = np.stack([rng.normal(3 * kind, 1), rng.normal(-2 * kind, 0.5), kind], axis=1)
    holes = np.where(rng.random(x.shape) < 0.05, np.nan, x)
    model = pj.HCLT(latents=6, epochs=6, bins=24, random_state=0).fit(holes[:2000])
    codec = model.model_.codec
    assert sorted(codec.edges) == [0, 1]

    places = np.meshgrid(*map(np.convolve, codec.edges.values(), ([0.5, 0.5],) * 2), indexing="ij")
    inside = np.stack([*(p[1:-1, 1:-1].ravel() for p in places), np.full(26**2, np.nan)], axis=1)
    volumes = np.outer(*(np.diff(edges) for edges in codec.edges.values())).ravel()
    mass = np.exp(model.score_samples(inside)) * volumes
    np.testing.assert_allclose(mass.sum(), 1, rtol=1e-5)

    rest = x[2000:, :2]
    density = sum(
        norm.pdf(rest[:, 0], 3 * k, 1) * norm.pdf(rest[:, 1], -2 * k, 0.5) / 3 for k in range(3)
    )
    found = model.score(np.column_stack([rest, np.full(1000, np.nan)]))
    assert found < np.log(density).mean()
    assert found > np.log(density).mean() - 0.25

    gaps = np.array([[6.25, np.nan, np.nan], [np.nan, -4.1, 2]])
    drawn = model.model_.sample(200, gaps, seed=0)
    np.testing.assert_array_equal(drawn[0, :, 0], 6.25)  # what is given stays as it is
    np.testing.assert_array_equal(drawn[1, :, 1:], [[-4.1, 2]] * 200)
    assert abs(drawn[1, :, 0].mean() - 6) < 0.3
    assert abs(drawn[0, :, 1].mean() + 4) < 0.3

    model.save(tmp_path / "model.h5")
    bits = pj.load(tmp_path / "model.h5").evaluate(x[2000:])
    np.testing.assert_allclose(-bits * np.log(2), model.score(x[2000:]), rtol=1e-6)

    frame = pd.DataFrame(holes, columns=["heat", "wind", "kind"])
    named = pj.HCLT(latents=6, epochs=6, bins=24, random_state=0).fit(frame[:2000])
    np.testing.assert_allclose(
        named.score_samples(frame[2000:]), model.score_samples(holes[2000:]), rtol=1e-6
    )
    completed, _ = named.model_.mpe(frame[:3])
    there = ~np.isnan(holes[:3, 0])
    np.testing.assert_array_equal(completed["heat"][there], holes[:3, 0][there])


def test_an_estimator_does_what_a_run_does(tmp_path) -> None:
    """Same rows, same settings: the same tree, clusters, counts and training."""
    x = some_rows()
    estimator = pj.HCLT(latents=3, validation=0.25, **SMALL).fit(x)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    order = np.random.default_rng(seed).permutation(len(x))
    valid, train = np.sort(order[:50]), np.sort(order[50:])
    result = pj.run(
        {
            "name": "same",
            "seed": seed,
            "engine": "torch",
            "data": {"kind": "table", "name": "array"},
            "circuit": {"kind": "hclt", "latents": 3},
            "train": {"epochs": 3, "batch_size": 128, "step_size": {"start": 0.3, "end": 0.03}},
            "arms": ["lvd"],
        },
        table={"train": x[train], "valid": x[valid], "test": x[valid]},
        out=tmp_path / "same",
        progress=False,
    )
    ours, theirs = estimator.circuit, result.model.circuit
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        assert type(mine) is type(other)
        if layer_params(mine) is not None:
            np.testing.assert_array_equal(layer_params(mine), layer_params(other))


def test_classes_are_bayes_rule_over_one_circuit_each() -> None:
    x = some_rows()
    y = np.where(x[:, 0] == x[:, 2], "same", "other")
    estimator = pj.HCLT(latents=2, **SMALL).fit(x, y)
    assert estimator.classes_.tolist() == ["other", "same"]
    every = every_row(estimator.circuit)
    evidence = [{"class": [k]} for k in range(2)]
    joint = np.array(
        [[oracle.log_likelihood(estimator.circuit, row, e)[0] for e in evidence] for row in every]
    )
    np.testing.assert_allclose(
        estimator.predict_proba(every),
        np.exp(joint) / np.exp(joint).sum(1, keepdims=True),
        rtol=1e-4,
        atol=1e-6,
    )
    np.testing.assert_allclose(
        np.exp(estimator.score_samples(every)), np.exp(joint).sum(1), rtol=1e-4
    )
    nothing = np.full((1, 4), np.nan)
    share = (y == "same").mean()
    np.testing.assert_allclose(estimator.predict_proba(nothing), [[1 - share, share]], rtol=1e-5)
    assert estimator.score(x, y) == (estimator.predict(x) == y).mean() > 0.9


def test_digits_are_told_apart_better_than_by_naive_bayes() -> None:
    digits, y = load_digits(return_X_y=True)
    x = (digits > 7).astype(int)
    naive = BernoulliNB().fit(x[:900], y[:900]).score(x[900:], y[900:])
    ours = pj.HCLT(latents=4, epochs=4, categories=2, random_state=0).fit(x[:900], y[:900])
    assert ours.score(x[900:], y[900:]) > naive + 0.02


def test_small_binary_data_end_far_better_than_uniform() -> None:
    """16 binary variables, 4,000 rows, with default settings."""
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.5, (6, 16))
    x = (rng.random((6000, 16)) < p[rng.integers(0, 6, 6000)]).astype(int)
    truth = np.where(x[4000:, None] == 1, p, 1 - p).prod(axis=2).mean(axis=1)
    score = pj.HCLT(random_state=0).fit(x[:4000]).score(x[4000:])
    best = np.log(truth).mean()
    assert best - 0.15 < score < best + 0.05 < -16 * np.log(2) + 4


def test_sequences_of_an_hmm_are_learnt() -> None:
    """A sticky chain of three states: close to the entropy of the model that wrote them."""
    rng = np.random.default_rng(0)
    states = np.empty((600, 10), int)
    states[:, 0] = rng.integers(0, 3, 600)
    for t in range(1, 10):
        stay = rng.random(600) < 0.9
        states[:, t] = np.where(stay, states[:, t - 1], rng.integers(0, 3, 600))
    x = np.where(rng.random((600, 10)) < 0.95, 2 * states + rng.integers(0, 2, (600, 10)), 0)
    move = 0.9 * np.eye(3) + 0.1 / 3
    emit = np.zeros((3, 6))
    for state in range(3):
        emit[state, [2 * state, 2 * state + 1]] = 0.475
        emit[state, 0] += 0.05
    best = []
    for row in x[500:]:
        alpha = emit[:, row[0]] / 3
        for value in row[1:]:
            alpha = (alpha @ move) * emit[:, value]
        best.append(np.log(alpha.sum()))
    scores = [pj.HMM(states=3, random_state=s).fit(x[:500]).score(x[500:]) for s in range(3)]
    assert np.mean(best) - 0.15 < min(scores) <= max(scores) < np.mean(best) + 0.1


def test_a_run_over_columns_of_different_values_is_no_hmm(tmp_path) -> None:
    config = {
        "name": "chain",
        "data": {"kind": "table", "name": "array"},
        "circuit": {"kind": "hmm", "states": 2},
        "engine": "torch",
    }
    with pytest.raises(UserError, match="have 2 to 3 values; use 'hclt'"):
        pj.run(config, table=some_rows(), out=tmp_path / "chain", progress=False)


def test_samples_follow_the_model() -> None:
    estimator = pj.HCLT(latents=3, **SMALL).fit(some_rows())
    drawn = estimator.sample(4000, random_state=1)
    every = every_row(estimator.circuit)
    p = np.exp(estimator.score_samples(every))
    codes = np.ravel_multi_index(drawn.T, estimator.circuit.categories)
    counts = np.bincount(codes, minlength=len(p))
    expected = p * 4000
    assert ((counts - expected) ** 2 / expected).sum() < len(p) + 4 * np.sqrt(2 * len(p))
    np.testing.assert_array_equal(drawn, estimator.sample(4000, random_state=1))
    assert (drawn != estimator.sample(4000)).any()


def test_a_saved_estimator_answers_the_same(tmp_path) -> None:
    x = some_rows()
    estimator = pj.HMM(states=2, **SMALL).fit(x, x[:, 0] > 0)
    estimator.save(tmp_path / "model.h5")
    model = pj.load(tmp_path / "model.h5", engine="torch")
    np.testing.assert_array_equal(model.log_likelihood(x), estimator.score_samples(x))
    np.testing.assert_allclose(
        model.posteriors(x)["class"][:, 0], estimator.predict_proba(x), rtol=1e-6
    )
    assert model.circuit.meta["classes"] == "[false, true]"
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict_proba(x), estimator.predict_proba(x))


def test_data_frames_keep_names_text_and_gaps(tmp_path) -> None:
    pandas = pytest.importorskip("pandas")
    x = some_rows()
    frame = pandas.DataFrame(
        {
            "colour": np.array(["red", "green", "blue"])[x[:, 0]],
            "big": x[:, 1] > 0,
            "size": x[:, 2].astype(float),
        }
    )
    frame.loc[3, "size"] = np.nan
    frame.loc[4, "colour"] = None
    estimator = pj.HCLT(latents=2, **SMALL).fit(frame)
    assert estimator.feature_names_in_.tolist() == ["colour", "big", "size"]
    codes = np.stack([[2, 1, 0][v] for v in x[:, 0]]), x[:, 1], x[:, 2]
    rows = np.stack(codes, axis=1).astype(float)
    rows[3, 2] = rows[4, 0] = np.nan
    with pytest.warns(UserWarning, match="feature names"):
        plain = estimator.score_samples(rows)
    np.testing.assert_array_equal(estimator.score_samples(frame), plain)
    drawn = estimator.sample(5, random_state=0)
    assert drawn.dtype.names == ("colour", "big", "size")
    assert set(drawn["colour"]) <= {"red", "green", "blue"}
    estimator.save(tmp_path / "named.h5")
    model = pj.load(tmp_path / "named.h5", engine="torch")
    np.testing.assert_array_equal(model.log_likelihood(frame), plain)
    with pytest.raises(ValueError, match="'violet' is not one of its values"):
        estimator.score_samples(frame.replace("red", "violet"))


def test_a_grid_search_finds_the_size_by_likelihood() -> None:
    rng = np.random.default_rng(0)
    hidden = rng.integers(0, 6, 600)
    x = np.stack([(hidden + rng.integers(0, 2, 600)) % 6 for _ in range(5)], axis=1)
    grid = GridSearchCV(
        pj.HCLT(epochs=4, categories=6, random_state=0), {"latents": [2, 6]}, cv=2, refit=False
    ).fit(x)
    assert grid.best_params_ == {"latents": 6}


def test_an_own_teacher_is_asked() -> None:
    asked = []

    class Teacher:
        def embed(self, samples):
            asked.append(samples.shape)
            return samples[..., None].astype(np.float32)

    pj.HCLT(latents=2, teacher=Teacher(), **SMALL).fit(some_rows())
    assert asked and {shape[1] for shape in asked} == {4}


@pytest.mark.parametrize(
    ("estimator", "x", "problem"),
    [
        (pj.HCLT(latents=1), some_rows(), "latents is 1, must be a whole number from 2"),
        (pj.HCLT(latents="4"), some_rows(), "latents is '4', must be a whole number"),
        (pj.HCLT(latents=1, distill=False), some_rows(), "circuit.latents"),
        (pj.HMM(states=2.5), some_rows(), "states is 2.5, must be a whole number"),
        (pj.HCLT(step_size=0.3), some_rows(), "step_size is 0.3, must be two numbers"),
        (pj.HCLT(pseudocount="a"), some_rows(), "pseudocount"),
        (pj.HCLT(epochs=1), some_rows(), "epochs"),
        (pj.HCLT(step_size=(2, 1)), some_rows(), "step_size"),
        (pj.HCLT(validation=1.0), some_rows(), "validation is 1.0"),
        (pj.HCLT(validation="a"), some_rows(), "validation is 'a', must be a number above 0"),
        (pj.HCLT(engine="jax"), some_rows(), "engine"),
        (pj.HCLT(categories=2), some_rows(), "categories: fewer than the values in X"),
        (pj.HCLT(categories=[3, 3]), some_rows(), "one for each of 4 columns"),
        (pj.HCLT(), some_rows() + 0.5, "not a whole number"),
        (pj.HCLT(), some_rows() - 2, "Negative values"),
        (pj.HCLT(latents=300), some_rows(), "minimum of 300"),
        (pj.HMM(), some_rows()[:, :1], "1 feature"),
        (pj.RegionCircuit("none.json"), some_rows(), "none.json"),
    ],
)
def test_what_does_not_fit_is_one_sentence(estimator, x, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as caught:
        estimator.fit(x)
    assert "\n" not in str(caught.value)


def test_questions_that_cannot_be_answered_are_refused() -> None:
    estimator = pj.HCLT(latents=2, **SMALL).fit(some_rows())
    with pytest.raises(UserError, match="fitted without labels"):
        estimator.predict(some_rows())
    with pytest.raises(ValueError, match="row 0, variable 1 is 5"):
        estimator.score_samples([[0, 5, 0, 0]])
    with pytest.raises(ValueError, match="n is 0"):
        estimator.sample(0)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "estimators.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, known)
    assert (tmp_path / "digits.h5").is_file()


def test_a_warm_start_continues_with_every_class() -> None:
    rows = some_rows()
    labels = rows[:, 0] > 0
    settings = {"latents": 2, "distill": False, **SMALL}
    cold = pj.HCLT(**settings).fit(rows, labels).history_
    estimator = pj.HCLT(warm_start=True, **settings).fit(rows, labels)
    assert estimator.history_ == cold
    warm = estimator.fit(rows, labels).history_
    # The first pass of either class is ahead of the last pass before it.
    assert all(after[0] > before[-1] for after, before in zip(warm, cold, strict=True))
    with pytest.raises(ValueError, match="with warm_start its classes must be those of the first"):
        estimator.fit(rows)
    with pytest.raises(ValueError, match="with warm_start its classes must be those of the first"):
        estimator.fit(rows, rows[:, 0])
    assert estimator.classes_.tolist() == [False, True] and estimator.history_ == warm
    with pytest.raises(ValueError, match="x0"):
        estimator.fit(rows + 5, labels)
