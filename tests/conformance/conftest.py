"""Every test of this folder runs against every engine and a circuit of every kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from circuits import CIRCUITS

from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.engines.julia_environment import julia_state


def julia_engine() -> Engine:
    state = julia_state()
    if not state.usable:
        pytest.skip(f"Julia {state.reason}")
    return get_engine("julia", "cpu")


ENGINES: dict[str, Callable[[], Engine]] = {
    "torch": lambda: get_engine("torch", "cpu"),
    "julia": julia_engine,
}

LATENT = {"hclt": "z", "hmm": "z", "glued": "z"}
"""Circuits whose latents have a state for certain, so that a posterior sums to one."""


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]()


@pytest.fixture(scope="session", params=[name for name in ENGINES if name != "torch"])
def other(request: pytest.FixtureRequest) -> Engine:
    """An engine that is compared with torch."""
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
