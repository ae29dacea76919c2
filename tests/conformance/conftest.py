"""Every test of this folder runs against every engine and a circuit of every kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from circuits import hmm, mixture

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.rat_spn import rat_spn
from pyjuice_bridge.circuit.region_graph import random_region_graph
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import Engine

ENGINES: dict[str, Callable[[], Engine]] = {
    "torch": lambda: get_engine("torch", "cpu"),
}

CIRCUITS: dict[str, Callable[[], Circuit]] = {
    "hclt": lambda: hclt([1, -1, 1, 2], 3, [2, 3, 2, 3], seed=1),
    "hmm": lambda: hmm(4, 3, 3, seed=2),
    "bundle": lambda: patch_bundle([-1, 0], 2, 2, [2, 3], seed=3),
    "glued": lambda: glue(
        hclt([-1, 0], 2, 3, seed=4),
        patch_bundle([1, -1], 3, 2, 2, seed=5),
        np.array([[0, 3], [2, 1]]),
    ),
    "rat_spn": lambda: rat_spn(random_region_graph(4, 2, 2, seed=0), 2, 2, [2, 3, 2, 2], seed=7),
    "mixture": lambda: mixture(4, 2, seed=6),
}

LATENT = {"hclt": "z", "hmm": "z", "glued": "z"}
"""Circuits whose latents have a state for certain, so that a posterior sums to one."""


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]()


@pytest.fixture(scope="session", params=CIRCUITS)
def circuit(request: pytest.FixtureRequest) -> Circuit:
    return CIRCUITS[request.param]()


@pytest.fixture(scope="session")
def bundle() -> Circuit:
    return CIRCUITS["bundle"]()


@pytest.fixture(scope="session", params=LATENT)
def latent_circuit(request: pytest.FixtureRequest) -> Circuit:
    return CIRCUITS[request.param]()
