"""The torch engine's own promises: arithmetic, batching, steps, checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from circuits import hmm, ids, mixture, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import patch_bundle
from pyjuice_bridge.circuit.types import Circuit, InputLayer, ProductLayer, SumLayer, layer_params
from pyjuice_bridge.engines.base import FitOptions, Schedule
from pyjuice_bridge.engines.resume import row_order
from pyjuice_bridge.engines.torch import TorchEngine, batches
from pyjuice_bridge.errors import UserError

ENGINE = TorchEngine()
EXACT = TorchEngine(precision="float64")
TREE = [-1, 0, 0, 1, 1, 4]


def small_circuits(seed: int) -> list[Circuit]:
    return [hclt(TREE, 3, [2, 3, 2, 2, 3, 2], seed=seed), hmm(5, 3, 4, seed), mixture(4, 3, seed)]


@pytest.mark.parametrize("which", range(3))
def test_likelihoods_equal_plain_evaluation(which: int) -> None:
    circuit = small_circuits(1)[which]
    x = random_rows(circuit, 30, 2)
    expected = oracle.log_likelihoods(circuit, x)
    np.testing.assert_allclose(EXACT.log_likelihood(circuit, x), expected, rtol=1e-12)
    np.testing.assert_allclose(ENGINE.log_likelihood(circuit, x), expected, rtol=1e-5)


@pytest.mark.parametrize("which", range(3))
def test_counts_equal_derivatives_of_plain_evaluation(which: int) -> None:
    circuit = small_circuits(3)[which]
    x = random_rows(circuit, 6, 4)
    weights = np.random.default_rng(5).random((6, len(circuit.roots))) * 7
    found = EXACT.expected_counts(circuit, x, weights)
    for count, expected in zip(
        found.layers, oracle.expected_counts(circuit, x, weights), strict=True
    ):
        if expected is not None:
            np.testing.assert_allclose(count, expected, atol=1e-7)


def test_counts_equal_automatic_differentiation() -> None:
    """An independent dense forward pass of an HMM, differentiated by autograd."""
    circuit = hmm(6, 4, 5, 7)
    x = random_rows(circuit, 9, 8, missing=0.0)
    emission = torch.tensor(circuit.layers[0].params[0], requires_grad=True)
    transition = torch.tensor(circuit.layers[2].weights[0], requires_grad=True)
    initial = torch.tensor(circuit.layers[-1].weights[0, 0], requires_grad=True)
    message = initial * emission[:, x[:, 0]].T
    for t in range(1, 6):
        message = message @ transition * emission[:, x[:, t]].T
    message.sum(1).log().sum().backward()
    counts = EXACT.expected_counts(circuit, x).layers
    np.testing.assert_allclose(counts[0][0], (emission * emission.grad).detach(), atol=1e-10)
    np.testing.assert_allclose(counts[-1][0, 0], (initial * initial.grad).detach(), atol=1e-10)
    total = counts[2][0]
    np.testing.assert_allclose(total, (transition * transition.grad).detach(), atol=1e-10)


def test_impossible_evidence_is_minus_infinity_without_flow() -> None:
    circuit = hmm(4, 3, 4, 0)
    emission = circuit.layers[0].params.copy()
    emission[:, :, 3] = 0.0
    emission /= emission.sum(-1, keepdims=True)
    params = [layer_params(layer) for layer in circuit.layers]
    circuit = circuit.with_layer_params([emission, *params[1:]])
    x = np.array([[0, 1, 2, 0], [0, 3, 1, 1]], np.int32)
    scores = ENGINE.log_likelihood(circuit, x)[:, 0]
    assert np.isfinite(scores[0]) and scores[1] == -np.inf
    both, first = (ENGINE.expected_counts(circuit, rows).layers for rows in (x, x[:1]))
    for a, b in zip(both, first, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_cutting_a_batch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = small_circuits(1)[0]
    x = random_rows(circuit, 50, 3)
    whole = EXACT.expected_counts(circuit, x)
    monkeypatch.setattr(batches, "micro_batch", lambda *_: 7)
    cut = EXACT.expected_counts(circuit, x)
    assert cut.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-12)
    for a, b in zip(whole.layers, cut.layers, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(
    which=st.integers(0, 2), seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.3, 0.9])
)
def test_full_batch_em_never_lowers_the_likelihood(which: int, seed: int, missing: float) -> None:
    circuit = small_circuits(seed)[which]
    x = random_rows(circuit, 20, seed + 1, missing)
    options = FitOptions(optimizer="full_em", epochs=6, pseudocount=0.0)
    curve = [e.train for e in EXACT.fit(circuit, x, options).history]
    assert (np.diff(curve) >= -1e-9).all()


def plain_step(circuit: Circuit, counts, prior, eta, pseudocount, anemone) -> list:
    """M-steps written out per block from the definitions."""
    params = []
    for layer, count, base in zip(circuit.layers, counts, prior, strict=True):
        theta = layer_params(layer)
        if theta is None:
            params.append(None)
            continue
        new = theta.copy()
        families = (
            {(int(g),) for g in layer.groups}
            if isinstance(layer, InputLayer)
            else {
                tuple(int(g) for g in layer.groups[a:b])
                for a, b in zip(layer.offsets[:-1], layer.offsets[1:], strict=True)
            }
        )
        for family in (list(f) for f in families):
            for row in range(theta.shape[1]):
                flow, old = count[family, row], theta[family, row]
                if flow.sum() == 0:
                    continue
                smooth = flow + pseudocount / flow.size
                if anemone:
                    mixed = eta * smooth + (1 - eta) * base[family, row]
                    new[family, row] = mixed / mixed.sum()
                else:
                    new[family, row] = (1 - eta) * old + eta * smooth / smooth.sum()
        params.append(new)
    return params


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("optimizer", ["full_em", "mini_em", "anemone"])
def test_one_step_follows_the_definitions(which: int, optimizer: str) -> None:
    circuit = small_circuits(2)[which]
    x = random_rows(circuit, 12, 3)
    x[:, 0] = 0
    counts = EXACT.expected_counts(circuit, x).layers
    everything = np.array(list(oracle.assignments(circuit)))
    share = np.exp(EXACT.log_likelihood(circuit, everything))
    prior = EXACT.expected_counts(circuit, everything, 12 * share).layers
    eta = 1.0 if optimizer == "full_em" else 0.3
    expected = plain_step(circuit, counts, prior, eta, 0.5, optimizer == "anemone")
    options = FitOptions(
        optimizer=optimizer, epochs=1, pseudocount=0.5, step_size=Schedule(0.3, 0.3)
    )
    found = EXACT.fit(circuit, x, options).circuit
    for layer, params in zip(found.layers, expected, strict=True):
        if params is not None:
            np.testing.assert_allclose(layer_params(layer), params, atol=1e-10)


def test_a_short_last_batch_is_a_small_step_of_anemone() -> None:
    """Momentum counts of whole batches must not outweigh the parameters of a batch of one row."""
    circuit = small_circuits(2)[0]
    x = random_rows(circuit, 65, 3, 0.0)
    schedule = Schedule(1e-3, kind="constant")
    options = FitOptions(optimizer="anemone", epochs=1, batch_size=64, step_size=schedule)
    found = EXACT.fit(circuit, x, options).circuit
    for old, new in zip(circuit.layers, found.layers, strict=True):
        if isinstance(old, InputLayer):
            np.testing.assert_allclose(new.params, old.params, atol=0.02)


def test_anemone_leaves_a_root_whose_rows_have_run_out() -> None:
    bundle = patch_bundle([-1, 0], 2, 2, [2, 3], seed=3)
    x = random_rows(bundle, 64, 5, 0.0)
    schedule = Schedule(0.1, kind="constant")
    options = FitOptions(optimizer="anemone", epochs=1, batch_size=4, step_size=schedule, seed=1)
    first = np.random.default_rng([1, 0]).permutation(64)[:4]
    weights = np.ones((64, 2))
    weights[:, 1] = 0.0
    weights[first, 1] = 1.0
    found = EXACT.fit(bundle, x, options, weights=weights).circuit
    step = EXACT.fit(bundle, x[first], options, weights=weights[first]).circuit
    rows = np.array([[-1, -1, a, b] for a in range(2) for b in range(3)])
    scores = [EXACT.log_likelihood(c, rows)[:, 1] for c in (found, step)]
    np.testing.assert_allclose(*scores, rtol=1e-9)


def test_em_leaves_the_factorised_saddle_on_digits() -> None:
    from sklearn.datasets import load_digits

    x = load_digits().data.astype(np.uint8)
    tree = np.arange(-1, 63)
    circuit = hclt(tree, 8, 17, seed=0)
    shares = np.stack([(x == v).mean(0) for v in range(17)], 1)
    factorised = (shares * np.log(np.maximum(shares, 1e-300))).sum()
    assert factorised == pytest.approx(-107.031, abs=1e-3)
    result = ENGINE.fit(circuit, x, FitOptions(optimizer="full_em", epochs=15, pseudocount=0.01))
    assert result.history[-1].train > factorised + 10


def test_frozen_layers_stay_and_the_rest_moves() -> None:
    circuit = small_circuits(4)[1]
    x = random_rows(circuit, 20, 5)
    found = ENGINE.fit(circuit, x, FitOptions(epochs=2, batch_size=8, frozen=(0,))).circuit
    assert np.array_equal(found.layers[0].params, circuit.layers[0].params.astype("f4"))
    assert not np.allclose(found.layers[2].weights, circuit.layers[2].weights)


@pytest.mark.parametrize("optimizer", ["mini_em", "anemone"])
def test_a_resumed_training_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, optimizer) -> None:
    circuit = small_circuits(5)[0]
    x, valid = random_rows(circuit, 40, 6), random_rows(circuit, 10, 7)
    options = FitOptions(optimizer=optimizer, epochs=5, batch_size=16)

    class KilledError(Exception):
        pass

    def kill(epoch) -> None:
        if epoch.epoch == 2:
            raise KilledError

    whole = ENGINE.fit(circuit, x, options, valid=valid)
    path = tmp_path / "checkpoint.h5"
    with pytest.raises(KilledError):
        ENGINE.fit(circuit, x, options, valid=valid, checkpoint=path, on_epoch=kill)
    resumed = ENGINE.fit(circuit, x, options, valid=valid, checkpoint=path)
    for a, b in zip(whole.circuit.layers, resumed.circuit.layers, strict=True):
        if layer_params(a) is not None:
            assert np.array_equal(layer_params(a), layer_params(b))
    assert [(e.train, e.valid) for e in whole.history] == [
        (e.train, e.valid) for e in resumed.history
    ]
    with pytest.raises(UserError, match="another training"):
        ENGINE.fit(circuit, x[:30], options, checkpoint=path)
    with pytest.raises(UserError, match="another training"):
        EXACT.fit(circuit, x, options, valid=valid, checkpoint=path)


def test_early_stopping_returns_the_best_circuit() -> None:
    circuit = small_circuits(6)[0]
    x, valid = random_rows(circuit, 10, 8, 0.0), random_rows(circuit, 30, 9, 0.0)
    options = FitOptions(
        epochs=60,
        batch_size=10,
        patience=3,
        pseudocount=0.0,
        step_size=Schedule(0.5, kind="constant"),
    )
    result = ENGINE.fit(circuit, x, options, valid=valid)
    scores = [e.valid for e in result.history]
    assert len(scores) < 60 and np.argmax(scores) == len(scores) - 4
    found = ENGINE.log_likelihood(result.circuit, valid).mean()
    assert found == pytest.approx(max(scores), rel=1e-6)


def test_schedules_start_and_end_where_they_say() -> None:
    for kind in ("linear", "cosine"):
        schedule = Schedule(0.5, 0.1, kind)
        steps = [schedule.at(i, 11) for i in range(11)]
        assert steps[0] == 0.5 and steps[-1] == pytest.approx(0.1)
        assert steps[5] == pytest.approx(0.3)
    assert Schedule(0.5, 0.1, "constant").at(10, 11) == 0.5
    steps = [Schedule(0.5, 0.1, "step", 0.8).at(i, 25) for i in range(25)]
    assert steps == [0.5] * 20 + [0.1] * 5


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (np.zeros((2, 5), np.int32), "x: expected shape \\[N, 6\\]"),
        (np.zeros((2, 6)), "x: expected integers"),
        (np.full((2, 6), 2, np.int32), "row 0, variable 0 is 2; values must be 0 … 1,"),
        (np.full((2, 6), -2, np.int32), "variable 0 is -2"),
    ],
)
def test_wrong_rows_are_named(x: np.ndarray, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ENGINE.log_likelihood(small_circuits(0)[0], x)


def test_latent_evidence_is_checked() -> None:
    circuit = small_circuits(0)[0]
    x = random_rows(circuit, 3, 0)
    with pytest.raises(UserError, match="no latent 'y'"):
        ENGINE.log_likelihood(circuit, x, {"y": np.zeros((3, 6), int)})
    with pytest.raises(UserError, match="expected \\[3, 6\\]"):
        ENGINE.log_likelihood(circuit, x, {"z": np.zeros((3, 5), int)})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.full((3, 5), 3), "states from 0 to 2"),
        (np.full((3, 5), -2), "states from 0 to 2"),
        (np.full((3, 5), 0.5), "expected \\[3, 5, 3\\]"),
        (np.full((3, 5, 1), 0.5), "expected \\[3, 5, 3\\]"),
        (np.full((3, 5, 3), 1.5), "weights from 0 to 1"),
        (np.full((3, 5, 3), np.nan), "weights from 0 to 1"),
    ],
)
def test_latent_evidence_that_means_nothing_is_refused(values: np.ndarray, sentence: str) -> None:
    circuit = hmm(5, 3, 4, 0)
    with pytest.raises(UserError, match=sentence):
        ENGINE.log_likelihood(circuit, random_rows(circuit, 3, 0), {"z": values})


@pytest.mark.parametrize("engine", [ENGINE, EXACT])
def test_many_impossible_rows_leave_the_counts_alone(engine: TorchEngine) -> None:
    """A start that excludes what the first symbol says: value 0 at the root, but not below it."""
    circuit = hmm(3, 2, 3, 10)
    params = [layer_params(layer) for layer in circuit.layers]
    emission = np.array([[[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]])
    circuit = circuit.with_layer_params([emission, *params[1:-1], np.array([[[1.0, 0.0]]])])
    possible = np.array([[0, 1, 2], [0, 0, 1]])
    mixed = np.concatenate([possible, np.tile([1, -1, -1], (50, 1))])
    found, expected = (engine.expected_counts(circuit, x).layers for x in (mixed, possible))
    for a, b in zip(found, expected, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_circuits_without_sums_and_variables_without_leaves() -> None:
    table = np.array([[[0.3, 0.7]], [[0.2, 0.8]]])
    leaves = InputLayer(ids(0, 1), ids(0, 1), table)
    product = ProductLayer("hadamard", ids(0, 2), ids(0, 1))
    x = np.array([[0, 1, 9], [1, -1, 0]])
    for circuit, expected in (
        (Circuit(3, (leaves, product), ids(2)), [0.3 * 0.8, 0.7]),
        (Circuit(3, (leaves,), ids(0)), [0.3, 0.7]),
    ):
        found = EXACT.log_likelihood(circuit, x)[:, 0]
        np.testing.assert_allclose(found, np.log(expected), rtol=1e-12)
        best, value = EXACT.mpe(circuit, np.full((1, 3), -1))
        assert best[0, 0] == 1 and np.isfinite(value).all()
        counts = EXACT.expected_counts(circuit, x).layers[0]
        np.testing.assert_allclose(counts[0, 0], [1, 1])
        assert EXACT.sample(circuit, 4, seed=0).shape == (4, 3)


@pytest.mark.parametrize("which", range(3))
def test_hard_and_soft_latent_evidence(which: int) -> None:
    circuit = small_circuits(8)[which]
    x = random_rows(circuit, 10, 1)
    blocks = circuit.latents["z"]
    width = circuit.widths[circuit.layer_of(int(blocks[0]))]
    rng = np.random.default_rng(2)
    hard = rng.integers(-1, width, (10, len(blocks)))
    soft = rng.random((10, len(blocks), width))
    for evidence in (hard, soft):
        expected = [
            oracle.log_likelihood(circuit, row, {"z": e})
            for row, e in zip(x, evidence, strict=True)
        ]
        found = EXACT.log_likelihood(circuit, x, {"z": evidence})
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_tied_blocks_in_any_order_give_the_same_numbers() -> None:
    """Group-major edges take a fast path; shuffled ones a gather. Both must agree."""
    rng = np.random.default_rng(3)
    circuit = hclt([-1, 0, 0, 0, 0], 3, 2, seed=0)
    level = circuit.layers[2]
    assert isinstance(level, SumLayer)
    tied = np.sort(rng.integers(0, 2, 4)).astype(np.int32)
    tied[:] = [0, 0, 1, 1]
    major = replace(level, groups=tied, weights=level.weights[:2])
    mixed = replace(level, groups=tied[[0, 2, 1, 3]], weights=level.weights[:2])
    x = random_rows(circuit, 10, 1)
    for layer in (major, mixed):
        layers = (*circuit.layers[:2], layer, *circuit.layers[3:])
        changed = replace(circuit, layers=layers)
        expected = [oracle.log_likelihood(changed, row) for row in x]
        np.testing.assert_allclose(EXACT.log_likelihood(changed, x), expected, rtol=1e-10)
        counts = EXACT.expected_counts(changed, x).layers[2]
        np.testing.assert_allclose(counts, oracle.expected_counts(changed, x)[2], atol=1e-7)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("optimizer", ["full_em", "mini_em"])
@pytest.mark.parametrize("engine", [ENGINE, EXACT])
def test_a_loop_of_ones_own_takes_the_steps_of_fit(
    engine: TorchEngine, optimizer: str, which: int
) -> None:
    """Counts and M-steps in turn, on the rows in the order of ``fit``."""
    circuit = [*small_circuits(3), patch_bundle([-1, 0], 2, 2, [2, 3], seed=3)][which]
    x = random_rows(circuit, 25, 4)
    weights = np.random.default_rng(0).random((25, len(circuit.roots))) * 3
    frozen = (0,) if which == 0 else ()
    options = FitOptions(optimizer, epochs=2, batch_size=10, pseudocount=0.3, frozen=frozen, seed=5)
    own, done = circuit, 0
    for epoch in range(options.epochs):
        order = row_order(options.seed, epoch, len(x))
        size = len(x) if optimizer == "full_em" else options.batch_size
        for batch in np.split(order, range(size, len(x), size)):
            eta = 1.0 if optimizer == "full_em" else options.step_size.at(done, 6)
            counts = engine.expected_counts(own, x[batch], weights[batch])
            own = engine.m_step(own, counts, step_size=eta, pseudocount=0.3, frozen=frozen)
            done += 1
    found = engine.fit(circuit, x, options, weights=weights).circuit
    tolerance = 1e-6 if engine is ENGINE else 1e-12
    for a, b in zip(own.layers, found.layers, strict=True):
        if layer_params(a) is not None:
            np.testing.assert_allclose(layer_params(a), layer_params(b), atol=tolerance)


def test_an_m_step_leaves_its_circuit_alone_and_checks_what_it_is_given() -> None:
    circuit = small_circuits(3)[0]
    x = random_rows(circuit, 25, 4)
    counts = EXACT.expected_counts(circuit, x)
    before = [None if p is None else p.copy() for p in map(layer_params, circuit.layers)]
    EXACT.m_step(circuit, counts)
    for old, layer in zip(before, circuit.layers, strict=True):
        if old is not None:
            assert np.array_equal(old, layer_params(layer))
    other = small_circuits(3)[2]
    with pytest.raises(UserError, match="must be what expected_counts returned"):
        EXACT.m_step(other, counts)
    wrong = replace(counts, layers=(counts.layers[0][:1], *counts.layers[1:]))
    with pytest.raises(UserError, match="layer 0 has other counts"):
        EXACT.m_step(circuit, wrong)
    wrong = replace(counts, layers=(-counts.layers[0], *counts.layers[1:]))
    with pytest.raises(UserError, match="layer 0 must hold finite numbers from 0"):
        EXACT.m_step(circuit, wrong)
    with pytest.raises(UserError, match="step_size is 2"):
        EXACT.m_step(circuit, counts, step_size=2)
