"""Circuits constructed and counted by Julia: the functions of ``circuit`` and ``distill``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyjuice_bridge.circuit.chow_liu import OnPair, sample_rows
from pyjuice_bridge.circuit.hclt import category_array, check_parents
from pyjuice_bridge.circuit.region_circuit import per_region
from pyjuice_bridge.circuit.region_graph import RegionGraph
from pyjuice_bridge.circuit.types import Circuit, FloatArray, IntArray
from pyjuice_bridge.engines.julia import Arrays, ask
from pyjuice_bridge.engines.julia.exchange import Facts, Request


class JuliaBuilders:
    """What ``distill.builders.Builders`` describes, done by JuiceBridge.jl.

    Structures, trees and counts are those of the Python functions; random rows are drawn from other
    random numbers.
    """

    name = "julia"

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
        sizes = category_array(categories, x.shape[1])
        arrays = {"x": sample_rows(x, rows, seed), "categories": sizes}
        facts = {"bins": bins, "pseudocount": pseudocount}
        return ask(Request("chow_liu_tree", facts, arrays)).arrays["parents"]

    def hclt(
        self, parents: ArrayLike, latents: int, categories: ArrayLike, *, seed: int
    ) -> Circuit:
        tree = check_parents(parents)
        arrays = {"parents": tree, "categories": category_array(categories, len(tree))}
        return _circuit("hclt", {"latents": latents, "seed": seed}, arrays)

    def patch_bundle(
        self, parents: ArrayLike, clusters: int, latents: int, categories: ArrayLike, *, seed: int
    ) -> Circuit:
        tree = check_parents(parents)
        arrays = {"parents": tree, "categories": category_array(categories, len(tree))}
        facts = {"clusters": clusters, "latents": latents, "seed": seed}
        return _circuit("patch_bundle", facts, arrays)

    def glue(self, latent: Circuit, bundle: Circuit, patch_variables: ArrayLike) -> Circuit:
        arrays = {"patch_variables": _ids(patch_variables)}
        return _circuit("glue", {}, arrays, latent=latent, bundle=bundle)

    def count_parameters(
        self, circuit: Circuit, x: NDArray[Any], z: NDArray[Any], *, pseudocount: float
    ) -> Circuit:
        facts = {"pseudocount": pseudocount}
        return _circuit("count_parameters", facts, {"x": x, "z": z}, circuit=circuit)

    def latent_circuit(
        self,
        z: NDArray[Any],
        clusters: int,
        *,
        pseudocount: float,
        epsilon: float,
        parents: ArrayLike | None = None,
    ) -> Circuit:
        facts = {"clusters": clusters, "pseudocount": pseudocount, "epsilon": epsilon}
        arrays = {"z": z, "parents": None if parents is None else check_parents(parents)}
        return _circuit("latent_circuit", facts, arrays)

    def random_hmm(self, states: int, vocabulary: int, length: int, *, seed: int) -> Circuit:
        facts = {"states": states, "vocabulary": vocabulary, "length": length, "seed": seed}
        return _circuit("random_hmm", facts, {})

    def count_hmm(
        self,
        x: NDArray[Any],
        z: NDArray[Any],
        states: int,
        vocabulary: int,
        *,
        pseudocount: float,
    ) -> Circuit:
        facts = {"states": states, "vocabulary": vocabulary, "pseudocount": pseudocount}
        return _circuit("count_hmm", facts, {"x": x, "z": z})

    def rat_spn(
        self, graph: RegionGraph, sums: int, inputs: int, categories: ArrayLike, *, seed: int
    ) -> Circuit:
        facts = {"sums": sums, "inputs": inputs, "seed": seed}
        return _circuit("rat_spn", facts, _over(graph, categories))

    def region_circuit(
        self,
        graph: RegionGraph,
        latents: ArrayLike,
        categories: ArrayLike,
        *,
        shapes: ArrayLike | None = None,
        seed: int | None = None,
    ) -> Circuit:
        arrays = {
            **_over(graph, categories),
            "latents": per_region(latents, graph, "latents"),
            "shapes": per_region(-1 if shapes is None else shapes, graph, "shapes"),
        }
        return _circuit("region_circuit", {"seed": seed}, arrays)

    def tucker_circuit(
        self,
        graph: RegionGraph,
        latents: int,
        categories: ArrayLike,
        *,
        seed: int | None = None,
    ) -> Circuit:
        return _circuit(
            "tucker_circuit", {"latents": latents, "seed": seed}, _over(graph, categories)
        )

    def choose_roots(self, circuit: Circuit, of: ArrayLike) -> Circuit:
        return _changed("choose_roots", circuit, {}, {"roots": _ids(of)})

    def prune(self, circuit: Circuit, counts: Sequence[FloatArray | None], share: float) -> Circuit:
        return _changed("prune", circuit, {"share": share}, _by_layer(counts))

    def widen(
        self,
        circuit: Circuit,
        second: ArrayLike,
        *,
        cross: float = 0.2,
        noise: float = 0.2,
        seed: int = 0,
    ) -> Circuit:
        facts = {"cross": cross, "noise": noise, "seed": seed}
        return _changed("widen", circuit, facts, {"second": _ids(second)})

    def narrow(
        self, circuit: Circuit, counts: Sequence[FloatArray | None], share: float
    ) -> Circuit:
        return _changed("narrow", circuit, {"share": share}, _by_layer(counts))

    def double(self, circuit: Circuit, *, noise: float = 0.2, seed: int = 0) -> Circuit:
        return _changed("double", circuit, {"noise": noise, "seed": seed}, {})


def _over(graph: RegionGraph, categories: ArrayLike) -> dict[str, NDArray[Any]]:
    """Return a region graph, as the text of its file, and the values of its variables."""
    text = np.frombuffer(graph.to_json().encode(), np.uint8)
    return {"graph": text, "categories": category_array(categories, graph.num_vars)}


def _circuit(do: str, facts: Facts, arrays: Arrays, **circuits: Circuit) -> Circuit:
    return _made(Request(do, facts, arrays, circuits))


def _changed(do: str, circuit: Circuit, facts: Facts, arrays: Arrays) -> Circuit:
    """Ask for a circuit made of another, which the worker may have already."""
    return _made(Request(do, facts, arrays, subject=circuit))


def _made(request: Request) -> Circuit:
    made = ask(request).circuit
    assert made is not None
    return made


def _by_layer(counts: Sequence[FloatArray | None]) -> Arrays:
    return {f"counts/{i}": count for i, count in enumerate(counts)}


def _ids(values: ArrayLike) -> IntArray:
    return np.asarray(values, np.int32)
