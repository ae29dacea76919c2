"""Who constructs a run's circuits: the engine's own language where it can, Python elsewhere."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from pyjuice_bridge.circuit.chow_liu import chow_liu_tree
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.distill.counting import count_parameters, latent_circuit
from pyjuice_bridge.distill.hmm import count_hmm
from pyjuice_bridge.engines.base import Builders, Engine


class PythonBuilders:
    """The package's own functions."""

    name = "python"
    chow_liu_tree = staticmethod(chow_liu_tree)
    hclt = staticmethod(hclt)
    patch_bundle = staticmethod(patch_bundle)
    glue = staticmethod(glue)
    count_parameters = staticmethod(count_parameters)
    latent_circuit = staticmethod(latent_circuit)

    def random_hmm(self, states: int, vocabulary: int, length: int, *, seed: int) -> Circuit:
        return random_hmm(states, vocabulary, seed).circuit(length)

    def count_hmm(
        self,
        x: NDArray[Any],
        z: NDArray[Any],
        states: int,
        vocabulary: int,
        *,
        pseudocount: float,
    ) -> Circuit:
        return count_hmm(x, z, states, vocabulary, pseudocount).circuit(x.shape[1])


def builders_of(engine: Engine) -> Builders:
    """The constructions that go with an engine."""
    if engine.name == "julia":
        from pyjuice_bridge.engines.julia.builders import JuliaBuilders

        return JuliaBuilders()
    return PythonBuilders()
