"""Where a run's circuits are constructed: in the engine's own language, Python otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.chow_liu import OnPair, chow_liu_tree
from pyjuice_bridge.circuit.doubling import double, narrow
from pyjuice_bridge.circuit.growing import choose_roots, prune, widen
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.rat_spn import rat_spn, tucker_circuit
from pyjuice_bridge.circuit.region_circuit import region_circuit
from pyjuice_bridge.circuit.region_graph import RegionGraph
from pyjuice_bridge.circuit.types import Circuit, FloatArray, IntArray
from pyjuice_bridge.distill.counting import count_parameters, latent_circuit
from pyjuice_bridge.engines.base import Engine


class Builders(Protocol):
    """The functions of these names in ``circuit`` and ``distill``, in either language.

    Every implementation makes the same trees, structures and counts of the same data; random rows
    and noise are drawn by each in its own way.  ``name`` says which one it is.
    """

    name: str

    def chow_liu_tree(
        self,
        x: NDArray[Any],
        categories: ArrayLike,
        *,
        bins: int = 16,
        pseudocount: float = 1.0,
        rows: int | None = None,
        seed: int = 0,
        on_pair: OnPair | None = None,
    ) -> IntArray:
        """Learn the tree of ``circuit.chow_liu.chow_liu_tree``; Julia does not call ``on_pair``."""

    def hclt(
        self, parents: ArrayLike, latents: int, categories: ArrayLike, *, seed: int
    ) -> Circuit:
        """Build the circuit of ``circuit.hclt.hclt``."""

    def patch_bundle(
        self, parents: ArrayLike, clusters: int, latents: int, categories: ArrayLike, *, seed: int
    ) -> Circuit:
        """Build the circuit of ``circuit.patches.patch_bundle``."""

    def glue(self, latent: Circuit, bundle: Circuit, patch_variables: ArrayLike) -> Circuit:
        """Build the circuit of ``circuit.patches.glue``."""

    def rat_spn(
        self, graph: RegionGraph, sums: int, inputs: int, categories: ArrayLike, *, seed: int
    ) -> Circuit:
        """Build the circuit of ``circuit.rat_spn.rat_spn``."""

    def region_circuit(
        self,
        graph: RegionGraph,
        latents: ArrayLike,
        categories: ArrayLike,
        *,
        shapes: ArrayLike | None = None,
        seed: int | None = None,
    ) -> Circuit:
        """Build the circuit of ``circuit.region_circuit.region_circuit``."""

    def tucker_circuit(
        self, graph: RegionGraph, latents: int, categories: ArrayLike, *, seed: int | None = None
    ) -> Circuit:
        """Build the circuit of ``circuit.rat_spn.tucker_circuit``."""

    def random_hmm(self, states: int, vocabulary: int, length: int, *, seed: int) -> Circuit:
        """Build the circuit of ``circuit.hmm.random_hmm``."""

    def count_parameters(
        self, circuit: Circuit, x: NDArray[Any], z: NDArray[Any], *, pseudocount: float
    ) -> Circuit:
        """Count as ``distill.counting.count_parameters`` does."""

    def latent_circuit(
        self,
        z: NDArray[Any],
        clusters: int,
        *,
        pseudocount: float,
        epsilon: float,
        parents: ArrayLike | None = None,
    ) -> Circuit:
        """Build the circuit of ``distill.counting.latent_circuit``."""

    def choose_roots(self, circuit: Circuit, of: ArrayLike) -> Circuit:
        """Choose as ``circuit.growing.choose_roots`` does."""

    def prune(self, circuit: Circuit, counts: Sequence[FloatArray | None], share: float) -> Circuit:
        """Prune as ``circuit.growing.prune`` does."""

    def widen(
        self,
        circuit: Circuit,
        second: ArrayLike,
        *,
        cross: float = 0.2,
        noise: float = 0.2,
        seed: int = 0,
    ) -> Circuit:
        """Double a circuit of several roots as ``circuit.growing.widen`` does."""

    def narrow(
        self, circuit: Circuit, counts: Sequence[FloatArray | None], share: float
    ) -> Circuit:
        """Drop nodes as ``circuit.doubling.narrow`` does."""

    def double(self, circuit: Circuit, *, noise: float = 0.2, seed: int = 0) -> Circuit:
        """Double any circuit as ``circuit.doubling.double`` does."""


class PythonBuilders:
    """Build circuits with the package's own functions."""

    name = "python"
    chow_liu_tree = staticmethod(chow_liu_tree)
    hclt = staticmethod(hclt)
    patch_bundle = staticmethod(patch_bundle)
    glue = staticmethod(glue)
    rat_spn = staticmethod(rat_spn)
    region_circuit = staticmethod(region_circuit)
    tucker_circuit = staticmethod(tucker_circuit)
    count_parameters = staticmethod(count_parameters)
    latent_circuit = staticmethod(latent_circuit)
    choose_roots = staticmethod(choose_roots)
    prune = staticmethod(prune)
    widen = staticmethod(widen)
    narrow = staticmethod(narrow)
    double = staticmethod(double)

    def random_hmm(self, states: int, vocabulary: int, length: int, *, seed: int) -> Circuit:
        return random_hmm(states, vocabulary, seed).circuit(length)


def builders_of(engine: Engine) -> Builders:
    """Return the constructions that go with an engine."""
    if engine.name == "julia":
        from pyjuice_bridge.engines.julia.builders import JuliaBuilders

        return JuliaBuilders()
    return PythonBuilders()
