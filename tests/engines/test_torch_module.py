"""Circuits as modules of PyTorch: gradients against expected counts, files, optimisers."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from circuits import CIRCUITS, random_rows
from hypothesis import given, settings
from random_circuits import circuits

from pyjuice_bridge.circuit import Circuit, InputLayer, ProductLayer, SumLayer, check
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.types import layer_params
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.engines.torch.module import CircuitModule
from pyjuice_bridge.errors import UserError

EXACT = TorchEngine(precision="float64")


@pytest.fixture(params=CIRCUITS)
def circuit(request: pytest.FixtureRequest) -> Circuit:
    return CIRCUITS[request.param]()


def row_sums(layer: InputLayer | SumLayer, values: np.ndarray) -> np.ndarray:
    """Sums of rows, over all edges of a block, beside every entry; block by block."""
    sums = values.sum(2, keepdims=True)
    if isinstance(layer, SumLayer):
        own = sums.copy()
        for groups in np.split(layer.groups, layer.offsets[1:-1]):
            sums[groups] = own[groups].sum(0)
    return sums


def assert_gradients_are_counts(circuit: Circuit, x: np.ndarray) -> None:
    """∂ log p / ∂ logit = n - θ·Σn, n the expected counts and Σ over the row."""
    module = CircuitModule(circuit, dtype=torch.float64)
    weights = np.random.default_rng(1).random((len(x), len(circuit.roots)))
    scores = module(x)
    (scores * torch.from_numpy(weights)).sum().backward()
    expected = [oracle.log_likelihood(circuit, row) for row in x]
    np.testing.assert_allclose(scores.detach(), expected, rtol=1e-6, atol=1e-6)
    counts = EXACT.expected_counts(circuit, x, weights).layers
    for index, (layer, count) in enumerate(zip(circuit.layers, counts, strict=True)):
        if count is not None:
            wanted = count - layer_params(layer) * row_sums(layer, count)
            found = module.logits[str(index)].grad
            np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_gradients_by_logits_follow_from_expected_counts(circuit: Circuit) -> None:
    assert_gradients_are_counts(circuit, random_rows(circuit, 20, 3))


@settings(max_examples=40, deadline=None)
@given(circuits())
def test_gradients_of_random_circuits_follow_from_expected_counts(circuit: Circuit) -> None:
    assert_gradients_are_counts(circuit, random_rows(circuit, 5, 3))


def test_concat_blocks_may_list_children_of_other_widths() -> None:
    rng = np.random.default_rng(0)
    narrow, wide = (rng.dirichlet(np.ones(3), (1, width)) for width in (1, 2))
    ids = lambda *values: np.array(values, np.int32)  # noqa: E731
    layers = (
        InputLayer(ids(0), ids(0), narrow),
        InputLayer(ids(0), ids(0), wide),
        ProductLayer("concat", ids(0, 2, 4), ids(0, 1, 1, 0)),
        SumLayer(ids(0, 2), ids(2, 3), ids(0, 1), rng.dirichlet(np.ones(6), 1).reshape(2, 1, 3)),
    )
    circuit = Circuit(1, layers, ids(4))
    check(circuit)
    rows = np.array([[0], [1], [2], [-1]])
    expected = [oracle.log_likelihood(circuit, row) for row in rows]
    found = CircuitModule(circuit, dtype=torch.float64)(rows)
    np.testing.assert_allclose(found.detach(), expected, atol=1e-12)


@pytest.mark.parametrize("name", ["hclt", "hmm", "glued"])
def test_gradients_by_soft_evidence_equal_differences(name: str) -> None:
    circuit = CIRCUITS[name]()
    x = random_rows(circuit, 3, 5)
    blocks = circuit.latents["z"]
    width = circuit.widths[circuit.layer_of(int(blocks[0]))]
    weights = np.random.default_rng(2).uniform(0.2, 0.8, (3, len(blocks), width))
    given = torch.tensor(weights, requires_grad=True)
    module = CircuitModule(circuit, dtype=torch.float64)
    scores = module(x, {"z": given})
    expected = [
        oracle.log_likelihood(circuit, r, {"z": w}) for r, w in zip(x, weights, strict=True)
    ]
    np.testing.assert_allclose(scores.detach(), expected, rtol=1e-6, atol=1e-6)
    scores.sum().backward()
    step = 1e-6
    for place in np.ndindex(*weights.shape):
        sides = []
        for sign in (1, -1):
            moved = weights.copy()
            moved[place] += sign * step
            row = place[0]
            sides.append(oracle.log_likelihood(circuit, x[row], {"z": moved[row]}).sum())
        slope = (sides[0] - sides[1]) / (2 * step)
        assert given.grad is not None
        assert float(given.grad[place]) == pytest.approx(slope, abs=1e-6)
    states = np.random.default_rng(3).integers(-1, width, (3, len(blocks)))
    found = module(x, {"z": states}).detach()
    np.testing.assert_allclose(found, EXACT.log_likelihood(circuit, x, {"z": states}), rtol=1e-6)


def test_impossible_rows_are_minus_infinity_without_gradient(circuit: Circuit) -> None:
    params = [layer_params(layer) for layer in circuit.layers]
    for index, layer in enumerate(circuit.layers):
        if isinstance(layer, InputLayer):
            table = layer.params.astype(float).copy()
            table[..., -1] = 0
            params[index] = table / table.sum(-1, keepdims=True)
    without = circuit.with_layer_params(params)
    possible = random_rows(circuit, 6, 1, 0.0) % (circuit.categories - 1)
    impossible = np.tile(circuit.categories - 1, (4, 1))
    grads = []
    for rows in (possible, np.concatenate([possible, impossible])):
        module = CircuitModule(without, dtype=torch.float64)
        scores = module(rows)
        scores[:6].sum().backward() if len(rows) == 6 else torch.where(
            scores.isneginf(), 0.0, scores
        ).sum().backward()
        assert torch.isneginf(scores[6:]).all()
        grads.append([p.grad for p in module.parameters()])
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_circuits_come_back_and_states_are_kept(circuit: Circuit, tmp_path) -> None:
    module = CircuitModule(circuit, dtype=torch.float64)
    for old, new in zip(circuit.layers, module.circuit().layers, strict=True):
        if layer_params(old) is not None:
            np.testing.assert_allclose(layer_params(new), layer_params(old), rtol=1e-6)
    with torch.no_grad():
        for logits in module.parameters():
            logits += torch.randn_like(logits)
    found = module.circuit()
    check(found)
    x = random_rows(circuit, 10, 2)
    np.testing.assert_allclose(module(x).detach(), EXACT.log_likelihood(found, x), rtol=1e-9)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    other = CircuitModule(circuit, dtype=torch.float64)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other(x), module(x))
    assert set(module.state_dict()) == {
        f"logits.{i}" for i, a in enumerate(circuit.layers) if layer_params(a) is not None
    }


def test_adam_raises_the_likelihood_to_where_em_gets() -> None:
    truth = hclt([-1, 0, 0, 1], 2, 3, seed=5)
    x = EXACT.sample(truth, 300, seed=0)
    circuit = hclt([-1, 0, 0, 1], 2, 3, seed=1)
    module = CircuitModule(circuit)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    curve = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = -module(x).mean()
        loss.backward()
        optimizer.step()
        curve.append(-loss.item())
    options = FitOptions("full_em", epochs=150, pseudocount=0.0)
    best = EXACT.fit(circuit, x, options).history[-1].train
    assert curve[0] == pytest.approx(float(EXACT.log_likelihood(circuit, x).mean()), rel=1e-5)
    assert curve[-1] > best - 0.01
    found = EXACT.log_likelihood(module.circuit(), x).mean()
    assert module(x).mean().item() == pytest.approx(found, rel=1e-5)


def test_what_does_not_fit_is_refused(circuit: Circuit) -> None:
    module = CircuitModule(circuit)
    with pytest.raises(UserError, match="x: expected shape"):
        module(torch.zeros(3, 1, dtype=torch.long))
    with pytest.raises(UserError, match="no latent 'y'"):
        module(random_rows(circuit, 2, 0), {"y": torch.zeros(2, 2)})
    with pytest.raises(UserError, match="circuit is int"):
        CircuitModule(3)
