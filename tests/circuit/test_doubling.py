"""Doubling and narrowing circuits of any structure, against enumeration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
from circuits import CIRCUITS, mixture, random_rows
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracle import log_likelihoods
from random_circuits import circuits

from pyjuice_bridge.circuit.doubling import double, narrow, outline
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.types import Circuit, InputLayer, SumLayer, layer_params
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.errors import UserError

KINDS = ["hclt", "hmm", "bundle", "glued", "regions"]


def random_counts(circuit: Circuit) -> list[np.ndarray | None]:
    rng = np.random.default_rng(0)
    return [None if p is None else rng.random(p.shape) for p in map(layer_params, circuit.layers)]


def can_grow(circuit: Circuit) -> bool:
    try:
        double(circuit)
    except UserError:
        return False
    return True


@settings(max_examples=40, deadline=None)
@given(circuit=circuits(), seed=st.integers(0, 1000))
def test_every_circuit_is_the_same_after_doubling_without_noise(
    circuit: Circuit, seed: int
) -> None:
    assume(can_grow(circuit))
    rows = random_rows(circuit, 8, seed)
    doubled = double(circuit, noise=0)
    check(doubled)
    assert doubled.num_parameters > circuit.num_parameters
    np.testing.assert_allclose(
        log_likelihoods(doubled, rows), log_likelihoods(circuit, rows), atol=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(circuit=circuits(), share=st.floats(0, 0.99), seed=st.integers(0, 1000))
def test_every_circuit_can_be_narrowed_and_doubled(
    circuit: Circuit, share: float, seed: int
) -> None:
    assume(can_grow(circuit))
    narrower = narrow(circuit, random_counts(circuit), share)
    check(narrower)
    assert all(b <= a for a, b in zip(circuit.widths, narrower.widths, strict=True))
    if can_grow(narrower):
        grown = double(narrower, noise=0.3, seed=seed)
        check(grown)
        nothing_seen = np.full(circuit.num_vars, -1)
        assert abs(oracle.log_likelihood(grown, nothing_seen)[0]) < 1e-5


@pytest.mark.parametrize("name", KINDS)
def test_nodes_without_flow_are_the_ones_that_go(name: str) -> None:
    """A doubled circuit in which nothing reads the second copies becomes what it was."""
    circuit = CIRCUITS[name]()
    doubled = double(circuit, noise=0)
    layers = []
    for before, layer in zip(circuit.layers, doubled.layers, strict=True):
        if isinstance(layer, SumLayer) and layer.tied_to is None:
            weights = layer.weights.copy()
            width = before.weights.shape[2]
            if weights.shape[2] > width:
                weights[:, :, width:] = 0
                weights *= 2
            layer = replace(layer, weights=weights)
        elif isinstance(layer, SumLayer):
            layer = replace(layer, weights=layers[layer.tied_to].weights)
        layers.append(layer)
    idle = replace(doubled, layers=tuple(layers))
    rows = random_rows(circuit, 20, seed=1)
    narrower = narrow(idle, oracle.expected_counts(idle, rows), 0.5)
    assert narrower.widths == circuit.widths
    np.testing.assert_allclose(
        log_likelihoods(narrower, rows), log_likelihoods(circuit, rows), atol=1e-6
    )


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_outline_has_the_size(name: str, share: float) -> None:
    circuit = CIRCUITS[name]()
    grown = double(narrow(circuit, random_counts(circuit), share))
    planned = outline(circuit, share)
    check(planned)
    assert (planned.num_parameters, planned.widths) == (grown.num_parameters, grown.widths)


def test_patch_circuits_grow_inside_their_clusters() -> None:
    bundle = patch_bundle([-1, 0], 3, 2, [2, 3], seed=0)
    circuit = glue(hclt([-1, 0], 3, [3, 3], seed=1), bundle, [[0, 1], [2, 3]])
    doubled = double(circuit, seed=2)
    leaves = [layer for layer in doubled.layers if isinstance(layer, InputLayer)]
    assert {layer.width for layer in leaves} == {4}
    assert {name: list(at) for name, at in doubled.latents.items()} == {
        name: list(at) for name, at in circuit.latents.items()
    }
    assert doubled.roots.tolist() == circuit.roots.tolist()
    assert double(hclt([-1, 0], 3, 2, seed=0)).meta["latent_states"] == 6


def test_copies_part_with_noise_and_seeds_repeat() -> None:
    circuit = hclt([-1, 0], 2, 3, seed=0)
    one, again, other = (double(circuit, seed=seed) for seed in (1, 1, 2))
    leaf, same, another = (c.layers[0].params for c in (one, again, other))
    assert np.abs(leaf[:, :2] - leaf[:, 2:]).max() > 1e-3
    np.testing.assert_array_equal(leaf, same)
    assert np.abs(leaf - another).max() > 1e-3


def test_what_cannot_be_grown_is_refused() -> None:
    circuit = hclt([-1, 0], 2, 3, seed=0)
    with pytest.raises(UserError, match="no blocks that can grow"):
        double(mixture(4, 2, 0))
    with pytest.raises(UserError, match="noise must be"):
        double(circuit, noise=-1)
    with pytest.raises(UserError, match="share is 1"):
        narrow(circuit, random_counts(circuit), 1)
    with pytest.raises(UserError, match="counts: layer 0"):
        narrow(circuit, [None] * len(circuit.layers), 0.5)
