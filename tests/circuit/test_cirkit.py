"""Circuits compiled by cirkit give the probabilities that ours give."""

from itertools import product

import numpy as np
import pytest
import torch

from pyjuice_bridge.circuit.combine import mixture
from pyjuice_bridge.circuit.formats.cirkit import to_cirkit
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.rat_spn import rat_spn
from pyjuice_bridge.circuit.region_graph import random_region_graph
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.errors import UserError

TREE = np.array([-1, 0, 0, 1])
SIZES = np.array([2, 3, 2, 2], np.int32)


def glued() -> Circuit:
    bundle = patch_bundle(np.array([-1, 0]), 3, 2, np.array([2, 2], np.int32), seed=0)
    above = hclt(np.array([-1, 0]), 3, 3, seed=1)
    return glue(above, bundle, np.array([[0, 1], [2, 3]], np.int32))


CIRCUITS = {
    "hclt": lambda: hclt(TREE, 3, SIZES, seed=0),
    "hmm": lambda: random_hmm(3, 2, 0).circuit(4),
    "rat_spn": lambda: rat_spn(random_region_graph(4, 2, 2, seed=0), 2, 2, SIZES, seed=0),
    "patches": glued,
    "mixture": lambda: mixture([hclt(TREE, 3, SIZES, seed=k) for k in (0, 1)], [0.3, 0.7]),
}


@pytest.mark.parametrize("name", CIRCUITS)
def test_probabilities_are_the_same(name: str) -> None:
    pytest.importorskip("cirkit.symbolic.circuit", reason="cirkit is not installed")
    from cirkit.pipeline import PipelineContext

    circuit = CIRCUITS[name]()
    every = np.array(list(product(*(range(n) for n in circuit.categories))), np.int32)
    context = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True)
    model = context.compile(to_cirkit(circuit))
    with torch.no_grad():
        found = model(torch.as_tensor(every.astype(np.int64))).flatten().double().numpy()
    expected = get_engine("torch", "cpu").log_likelihood(circuit, every)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.exp(found).sum() == pytest.approx(1, abs=1e-4)


def test_without_cirkit_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("cirkit", "cirkit.symbolic"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="pip install libcirkit"):
        to_cirkit(CIRCUITS["hclt"]())
