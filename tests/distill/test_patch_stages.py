"""Patch distillation: dealing patches out, training clusters apart, the bound at every stage."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product as cartesian
from pathlib import Path
from typing import NamedTuple

import numpy as np
import oracle
import pytest
from circuits import random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.types import Circuit, layer_params
from pyjuice_bridge.distill.bound import bound_and_marginal, likeliest_bound
from pyjuice_bridge.distill.bundle import bundle_rows
from pyjuice_bridge.distill.counting import count_parameters, latent_circuit
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import Engine, FitOptions, FitResult, Schedule
from pyjuice_bridge.errors import UserError

ENGINE = get_engine("torch", "cpu")
EXACT = get_engine("torch", "cpu", precision="float64")
PLACES = np.array([[0, 3], [2, 1], [5, 4]])
CLUSTERS = 3


class Labelled(NamedTuple):
    """Images [N, 6] and the clusters of their patches [N, positions]."""

    x: np.ndarray
    z: np.ndarray


class Stage(NamedTuple):
    """The glued circuit after a stage, and mean log p(x, z) and log p(x) on other images."""

    name: str
    circuit: Circuit
    bound: float
    marginal: float


def bundle(seed: int = 0) -> Circuit:
    return patch_bundle([-1, 0], CLUSTERS, 2, 2, seed=seed)


def train_bundle(
    engine: Engine,
    start: Circuit,
    patches: np.ndarray,
    z: np.ndarray,
    options: FitOptions,
    checkpoint: Path | None = None,
) -> FitResult:
    """Train every patch circuit on its own cluster, all in one batched pass."""
    rows, weights = bundle_rows(patches, z, CLUSTERS, seed=options.seed)
    return engine.fit(start, rows, options, weights=weights, checkpoint=checkpoint)


def labelled(rows: int, seed: int) -> Labelled:
    """Binary images whose patches look like their cluster, with a few flipped pixels."""
    rng = np.random.default_rng(seed)
    z = rng.integers(0, CLUSTERS, (rows, 1)).repeat(len(PLACES), 1)
    z = np.where(rng.random(z.shape) < 0.2, rng.integers(0, CLUSTERS, z.shape), z)
    looks = np.array([[0, 0], [1, 0], [1, 1]])
    x = np.empty((rows, PLACES.size), np.uint8)
    x[:, PLACES] = looks[z] ^ (rng.random((rows, *PLACES.shape)) < 0.1)
    return Labelled(x, z.astype(np.int32))


def same_params(a: Circuit, b: Circuit, atol: float = 0.0) -> None:
    for one, other in zip(a.layers, b.layers, strict=True):
        if layer_params(one) is not None:
            np.testing.assert_allclose(layer_params(one), layer_params(other), rtol=0, atol=atol)


@settings(max_examples=50, deadline=None)
@given(
    z=st.lists(st.lists(st.integers(-1, 3), min_size=2, max_size=2), min_size=1, max_size=20),
    limit=st.one_of(st.none(), st.integers(1, 6)),
    seed=st.integers(0, 100),
)
def test_dealing_keeps_every_patch_with_its_cluster(
    z: list[list[int]], limit: int | None, seed: int
) -> None:
    labels = np.array(z)
    if (labels < 0).all():
        return
    patches = np.arange(labels.size * 3, dtype=np.int32).reshape(*labels.shape, 3) + 1
    rows, weights = bundle_rows(patches, labels, 4, max_rows=limit, seed=seed)
    assert rows.shape == (len(weights), 12) and rows.dtype == patches.dtype
    dealt = rows.reshape(len(rows), 4, 3)
    for cluster in range(4):
        mine = patches[labels == cluster]
        weight = weights[:, cluster]
        used = int(weight.sum())
        assert used == min(len(mine), limit or len(mine))
        assert set(np.unique(weight)) <= {0.0, 1.0} and (np.diff(weight) <= 0).all()
        assert (dealt[used:, cluster] == 0).all()
        found = {tuple(p) for p in dealt[:used, cluster].tolist()}
        assert len(found) == used and found <= {tuple(p) for p in mine.tolist()}
    assert len(rows) == weights.sum(axis=0).max()


def test_large_clusters_are_cut_to_twice_the_mean() -> None:
    z = np.zeros((4000, 1), int)
    z[:1000, 0] = np.arange(1000) % 8
    _, weights = bundle_rows(np.zeros((4000, 1, 2), np.uint8), z, 8)
    assert weights.shape == (1000, 8)
    assert weights.sum(axis=0).tolist() == [1000] + [125] * 7


def test_each_cluster_trains_as_if_alone() -> None:
    """One batched pass over the bundle equals K separate fits of one-cluster circuits."""
    data = labelled(40, 1)
    options = FitOptions("full_em", epochs=4, pseudocount=0.3)
    together = train_bundle(EXACT, bundle(), data.x[:, PLACES], data.z, options).circuit
    for j in range(CLUSTERS):
        alone = patch_bundle([-1, 0], 1, 2, 2, seed=0)
        params = [layer_params(layer) for layer in bundle().layers]
        groups = [slice(j, None, CLUSTERS)] * len(params)
        alone = alone.with_layer_params(
            [None if p is None else p[g] for p, g in zip(params, groups, strict=True)]
        )
        mine = data.x[:, PLACES][data.z == j].astype(np.int32)
        alone = EXACT.fit(alone, mine, options).circuit
        for row in cartesian(range(2), repeat=2):
            expected = oracle.log_likelihood(alone, np.array(row))[0]
            found = oracle.log_likelihood(together, np.tile(row, CLUSTERS))[j]
            assert found == pytest.approx(expected, abs=1e-6)


def test_an_empty_cluster_keeps_its_start() -> None:
    data = labelled(30, 2)
    z = np.where(data.z == 1, -1, data.z)
    fitted = train_bundle(EXACT, bundle(), data.x[:, PLACES], z, FitOptions(epochs=3)).circuit
    before, after = (EXACT.log_likelihood(c, np.zeros((1, 6), int)) for c in (bundle(), fitted))
    assert after[0, 1] == pytest.approx(before[0, 1], abs=1e-6)
    assert abs(after[0, [0, 2]] - before[0, [0, 2]]).min() > 1e-3


def test_glued_joint_is_latent_plus_patches() -> None:
    latent, patches = hclt([1, -1, 1], 2, CLUSTERS, seed=3), bundle(4)
    glued = glue(latent, patches, PLACES)
    x, z = random_rows(glued, 20, 5, 0.2), random_rows(latent, 20, 6, 0.0)
    joint = ENGINE.log_likelihood(glued, x, {"z": z})[:, 0]
    expected = ENGINE.log_likelihood(latent, z)[:, 0]
    for i, place in enumerate(PLACES):
        heads = ENGINE.log_likelihood(patches, np.tile(x[:, place], CLUSTERS))
        expected += heads[np.arange(20), z[:, i]]
    np.testing.assert_allclose(joint, expected, rtol=1e-5)


def counted(data: Labelled) -> Circuit:
    return latent_circuit(data.z, CLUSTERS, pseudocount=0.1, epsilon=0.05)


@pytest.fixture(scope="module")
def stages() -> list[Stage]:
    """Patch training, latent training and fine-tuning, glued after each."""
    train, valid = labelled(200, 7), labelled(50, 8)
    options = FitOptions(epochs=10, batch_size=32, step_size=Schedule(0.3, 0.05))
    patches = train_bundle(ENGINE, bundle(), train.x[:, PLACES], train.z, options).circuit
    short = FitOptions(epochs=3, batch_size=64)
    latent = ENGINE.fit(counted(train), train.z, short, valid=valid.z).circuit
    glued = {
        "start": glue(counted(train), bundle(), PLACES),
        "patches": glue(counted(train), patches, PLACES),
        "latent": glue(latent, patches, PLACES),
    }
    options = FitOptions(epochs=8, batch_size=64)
    glued["fine-tune"] = ENGINE.fit(glued["latent"], train.x, options, valid=valid.x).circuit
    return [
        Stage(name, circuit, *bound_and_marginal(ENGINE, circuit, *valid))
        for name, circuit in glued.items()
    ]


def test_bound_never_exceeds_the_marginal(stages: list[Stage]) -> None:
    for stage in stages:
        assert stage.bound <= stage.marginal + 1e-9


def test_stages_improve(stages: list[Stage]) -> None:
    start, patches, _, tuned = stages
    assert patches.bound > start.bound + 0.1 and patches.marginal > start.marginal + 0.1
    assert tuned.marginal > start.marginal + 0.1


def test_every_stage_sums_to_one(stages: list[Stage]) -> None:
    everything = np.array(list(cartesian(range(2), repeat=6)))
    for stage in stages:
        log_p = ENGINE.log_likelihood(stage.circuit, everything)[:, 0]
        assert np.exp(log_p).sum() == pytest.approx(1.0, abs=1e-5)
        z = np.zeros((len(everything), 3), int)
        masses = []
        for values in cartesian(range(CLUSTERS), repeat=3):
            z[:] = values
            masses.append(ENGINE.log_likelihood(stage.circuit, everything, {"z": z})[:, 0])
        assert np.exp(masses).sum() == pytest.approx(1.0, abs=1e-5)


def train_patches(options: FitOptions, checkpoint: Path | None = None) -> FitResult:
    data = labelled(60, 9)
    patches = data.x[:, PLACES]
    return train_bundle(ENGINE, bundle(), patches, data.z, options, checkpoint)


def train_ids(options: FitOptions, checkpoint: Path | None = None) -> FitResult:
    data = labelled(60, 9)
    return ENGINE.fit(counted(data), data.z, options, checkpoint=checkpoint)


@pytest.mark.parametrize("train", [train_patches, train_ids])
def test_a_stopped_training_resumes_to_the_same_circuit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., FitResult]
) -> None:
    options, file = FitOptions(epochs=4, batch_size=32), tmp_path / "checkpoint.h5"
    whole = train(options)
    replace, left = Path.replace, [2]

    def stopping(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(options, file)
    monkeypatch.undo()
    assert file.exists()
    same_params(train(options, file).circuit, whole.circuit)
    once_more = train(options, file)
    again = train(options, file)
    assert again.history == once_more.history  # seconds included: nothing was trained twice


@pytest.mark.parametrize("pseudocount", [0.0, 0.4])
def test_counting_is_where_em_with_observed_latents_ends(pseudocount: float) -> None:
    """The counts are EM's result after one step, and its fixed point."""
    start = hclt([1, -1, 1, 2], 2, 3, seed=11)
    x = random_rows(start, 60, 12, 0.0)
    z = np.random.default_rng(13).integers(0, 2, (60, 4)).astype(np.int32)
    counted = count_parameters(start, x, z, pseudocount=pseudocount)
    options = FitOptions("full_em", epochs=1, pseudocount=pseudocount)
    for circuit in (start, counted):
        same_params(EXACT.fit(circuit, x, options, latents={"z": z}).circuit, counted, 1e-6)


def test_bound_of_a_counted_hclt() -> None:
    """log p(x, z) of the bound against plain evaluation."""
    circuit = hclt([-1, 0, 1], 2, 3, seed=14)
    x = random_rows(circuit, 10, 15, 0.0)
    z = np.random.default_rng(16).integers(0, 2, (10, 3))
    bound, marginal = bound_and_marginal(ENGINE, circuit, x, z)
    pairs = zip(x, z, strict=True)
    assert bound == pytest.approx(
        np.mean([oracle.log_likelihood(circuit, a, {"z": b})[0] for a, b in pairs]), rel=1e-5
    )
    assert marginal == pytest.approx(
        np.mean([oracle.log_likelihood(circuit, a)[0] for a in x]), rel=1e-5
    )


def test_bound_of_the_likeliest_values() -> None:
    """Two of three values of every latent, each sum written out."""
    circuit = hclt([-1, 0, 1], 3, 3, seed=18)
    x = random_rows(circuit, 6, 19, 0.0)
    assignments = np.array([*cartesian(range(3), repeat=3)])
    total = 0.0
    for row in x:
        joint = np.array([oracle.log_likelihood(circuit, row, {"z": z})[0] for z in assignments])
        p = np.exp(joint)
        flow = np.array([[p[assignments[:, i] == k].sum() for k in range(3)] for i in range(3)])
        likely = [set(np.argsort(-each)[:2]) for each in flow]
        among = [all(z[i] in likely[i] for i in range(3)) for z in assignments]
        total += np.log(p[among].sum())
    assert likeliest_bound(ENGINE, circuit, x, 2) == pytest.approx(total / len(x), rel=1e-5)
    assert likeliest_bound(ENGINE, circuit, x, 3) == pytest.approx(
        ENGINE.log_likelihood(circuit, x).mean(), rel=1e-6
    )


def test_what_does_not_fit_is_refused() -> None:
    data, patches = labelled(5, 17), labelled(5, 17).x[:, PLACES]
    with pytest.raises(UserError, match="z: expected one cluster id"):
        bundle_rows(patches, data.z[:, :2], CLUSTERS)
    with pytest.raises(UserError, match="z: expected one cluster id"):
        bundle_rows(data.x, data.z, CLUSTERS)
    with pytest.raises(UserError, match="z: cluster ids must be"):
        bundle_rows(patches, data.z + 3, CLUSTERS)
    with pytest.raises(UserError, match="no patch has a cluster"):
        bundle_rows(patches, np.full_like(data.z, -1), CLUSTERS)
    with pytest.raises(UserError, match="no latents called 'w'"):
        bound_and_marginal(ENGINE, bundle(), np.zeros((1, 6), int), data.z[:1], latent="w")
    glued = glue(hclt([1, -1, 1], 2, CLUSTERS, seed=3), bundle(), PLACES)
    with pytest.raises(UserError, match="expected shape"):
        bound_and_marginal(ENGINE, glued, data.x, data.z[:, :1])
