"""Compiled kernels against the plain operations of the same engine, and what they may not depend
on: threads, cuts of the batch, an OpenMP library."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from circuits import ids, mixture, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from random_circuits import random_circuit
from torch_passes import check_same, passes

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.rat_spn import rat_spn
from pyjuice_bridge.circuit.region_graph import random_region_graph
from pyjuice_bridge.circuit.types import (
    Circuit,
    InputLayer,
    ProductLayer,
    SumLayer,
    layer_params,
)
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.engines.torch.backward import Downward, new_counts
from pyjuice_bridge.engines.torch.em import m_step
from pyjuice_bridge.engines.torch.forward import Upward
from pyjuice_bridge.engines.torch.fused import FusedUpward, downward, jobs, threads, upward
from pyjuice_bridge.engines.torch.fused.layout import layout
from pyjuice_bridge.engines.torch.values import Workspace

ENGINE = TorchEngine()


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 100_000), size=st.integers(2, 8), missing=st.sampled_from([0.0, 0.4]))
def test_random_circuits(seed: int, size: int, missing: float) -> None:
    circuit = random_circuit(seed, size)
    check_same(FusedUpward, circuit, random_rows(circuit, 9, seed, missing), {})


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1000), soft=st.booleans(), width=st.integers(1, 19))
def test_trees_with_evidence_on_latents(seed: int, soft: bool, width: int) -> None:
    rng = np.random.default_rng(seed)
    circuit = hclt([-1, 0, 0, 1, 3], width, 4, seed=seed)
    x = random_rows(circuit, 11, seed, 0.2)
    (name, blocks), *_ = circuit.latents.items()
    states = rng.integers(-1, width, (len(x), len(blocks)))
    evidence = torch.from_numpy(states)
    if soft:
        evidence = torch.from_numpy(rng.uniform(0.1, 1, (*states.shape, width)).astype("f4"))
    check_same(FusedUpward, circuit, x, {name: evidence})


def structures() -> list[Circuit]:
    graph = random_region_graph(8, 2, 3, seed=1)
    return [
        random_hmm(5, 6, seed=0).circuit(7),
        mixture(6, 3, 1),
        rat_spn(graph, 3, 3, 4, seed=1),
        rat_spn(graph, 16, 16, 4, seed=1),
        hclt([-1, 0, 1, 1], 33, 7, seed=2),
    ]


@pytest.mark.parametrize("which", range(5))
def test_structures(which: int) -> None:
    circuit = structures()[which]
    check_same(FusedUpward, circuit, random_rows(circuit, 40, 3, 0.1), {})


@pytest.mark.parametrize("which", range(5))
def test_without_a_blas_to_call_pytorch_makes_the_products(
    which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    circuit = structures()[which]
    x = random_rows(circuit, 40, 3, 0.1)
    fused, counts = passes(FusedUpward, circuit, x, {})
    monkeypatch.setattr(jobs, "gemm_entry", lambda: 0)
    alone, own_counts = passes(FusedUpward, circuit, x, {})
    torch.testing.assert_close(alone, fused, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(own_counts, counts, rtol=1e-5, atol=1e-5)


def star_of_stars(children: int, width: int) -> Circuit:
    """A tree whose root, and each child of it, is a product of ``children`` sums."""
    parents = [-1]
    for _ in range(children):
        parents.append(0)
        parents += [len(parents) - 1] * children
    return hclt(parents, width, 4, seed=1)


@pytest.mark.parametrize("children", [2, 3, 5, 9])
def test_products_of_many_raised_rows(children: int) -> None:
    """Two rows near 2^60 have a product in float32; more of them must not overflow."""
    circuit = star_of_stars(children, 3)
    check_same(FusedUpward, circuit, random_rows(circuit, 30, 4, 0.1), {})


def nearly_disjoint(share: float) -> Circuit:
    """A product of two sums, of which one's values are 1 and ``share``², the other's reversed."""
    unlike, like = [1 - share, share], [0.0, 1.0]
    leaves = np.array([[like, unlike]] * 2 + [[unlike, like]] * 2)
    apart = np.stack([np.eye(2), np.eye(2)])
    layers = (
        InputLayer(ids(0, 1, 2, 3), ids(0, 1, 2, 3), leaves),
        ProductLayer("hadamard", ids(0, 2, 4), ids(0, 1, 2, 3)),
        SumLayer(ids(0, 1, 2), ids(4, 5), ids(0, 1), apart),
        ProductLayer("hadamard", ids(0, 2), ids(6, 7)),
        SumLayer(ids(0, 1), ids(8), ids(0), np.full((1, 1, 2), 0.5)),
    )
    return Circuit(4, layers, ids(9))


def test_raised_rows_hold_what_is_far_below_their_maxima() -> None:
    circuit = nearly_disjoint(1e-25)
    x = torch.ones(1, 4, dtype=torch.uint8)
    program, params = ENGINE._load(circuit)
    with torch.inference_mode():
        plain, raised = (
            kind(program, params, x, {}, Workspace()) for kind in (Upward, FusedUpward)
        )
        plain.run(), raised.run()
        assert bool(plain.doubtful().any())
        assert raised.doubtful() is None or not bool(raised.doubtful().any())
        assert float(raised.log_likelihood()) == pytest.approx(math.log(1e-50), rel=1e-6)
    counts = ENGINE.expected_counts(circuit, x.numpy()).layers[4]
    np.testing.assert_allclose(counts, [[[0.5, 0.5]]], rtol=1e-5)


def test_every_step_of_a_tree_a_chain_and_a_rat_spn_is_a_kernel() -> None:
    graph = random_region_graph(16, 3, 2, seed=1)
    for circuit in (
        hclt([-1, 0, 1, 1], 8, 5, seed=2),
        rat_spn(graph, 4, 4, 5, seed=1),
        structures()[0],
    ):
        program, _ = ENGINE._load(circuit)
        found = layout(program)
        assert found.sets.keys() == found.variables.keys()


def test_samples_may_be_cut_anywhere(one_thread: None) -> None:
    """One thread, so that sums are in one order; rows per call are the only difference."""
    circuit = hclt([-1, 0, 1, 1], 16, 5, seed=2)
    x = random_rows(circuit, 50, 1)
    whole = ENGINE.log_likelihood(circuit, x)
    parts = [ENGINE.log_likelihood(circuit, x[i : i + 7]) for i in range(0, 50, 7)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-6)


@pytest.mark.parametrize("which", range(5))
def test_the_number_of_threads_does_not_matter(which: int, one_thread: None) -> None:
    circuit = structures()[which]
    x = random_rows(circuit, 64, 5)
    alone = ENGINE.expected_counts(circuit, x)
    torch.set_num_threads(3)
    together = ENGINE.expected_counts(circuit, x)
    for a, b in zip(alone.layers, together.layers, strict=True):
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_parameters_may_be_given_in_any_memory_order() -> None:
    circuit = hclt([-1, 0, 1, 1], 5, 4, seed=0)
    turned = [
        None if p is None else np.asfortranarray(p) for p in map(layer_params, circuit.layers)
    ]
    x = random_rows(circuit, 30, 1)
    options = FitOptions("full_em", epochs=3, seed=0)
    found, expected = (
        ENGINE.fit(c, x, options).circuit for c in (circuit.with_layer_params(turned), circuit)
    )
    np.testing.assert_array_equal(
        ENGINE.log_likelihood(found, x), ENGINE.log_likelihood(expected, x)
    )


def test_threads_take_turns_in_counting(one_thread: None) -> None:
    """Blocks are cut into portions that count one after another, so sums are always the same."""
    circuit = hclt([-1, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5], 48, 4, seed=0)
    x = random_rows(circuit, 1100, 2)
    alone = ENGINE.expected_counts(circuit, x)
    torch.set_num_threads(3)
    for _ in range(5):
        together = ENGINE.expected_counts(circuit, x)
        for a, b in zip(alone.layers, together.layers, strict=True):
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    again = ENGINE.expected_counts(circuit, x)
    for a, b in zip(again.layers, together.layers, strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_openmp_kernels_run_on_the_calling_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = hclt([-1, 0, 1, 1], 16, 5, seed=2)
    x = random_rows(circuit, 50, 1)
    expected = ENGINE.log_likelihood(circuit, x)
    monkeypatch.setattr(threads, "_POOL", None)
    np.testing.assert_array_equal(ENGINE.log_likelihood(circuit, x), expected)


@pytest.mark.parametrize("pseudocount", [0.0, 0.3])
@pytest.mark.parametrize("step_size", [1.0, 0.2])
def test_m_steps_equal_those_in_float64(step_size: float, pseudocount: float) -> None:
    circuit = hclt([-1, 0, 1, 1], 70, 5, seed=2)
    program, params = ENGINE._load(circuit)
    generator = torch.Generator().manual_seed(0)
    counts = [None if p is None else torch.rand(p.shape, generator=generator) for p in params]
    for count in counts:
        if count is not None:
            count[0, :, :2] = 0.0
            count[-1] = 0.0
    double = [[None if t is None else t.double() for t in part] for part in (params, counts)]
    m_step(program, params, counts, step_size, pseudocount)
    m_step(program.in_double, *double, step_size, pseudocount)
    for a, b, count in zip(params, double[0], counts, strict=True):
        if a is not None and b is not None and count is not None:
            torch.testing.assert_close(a.double(), b, rtol=2e-6, atol=1e-9)
            assert not count.any()


def test_batches_of_several_sizes_share_a_workspace() -> None:
    """A last batch that is shorter, and scores in between, change nothing."""
    circuit = hclt([-1, 0, 1, 1], 12, 5, seed=2)
    x = random_rows(circuit, 50, 1)
    options = FitOptions("mini_em", epochs=3, batch_size=16, seed=0)
    with_scores = ENGINE.fit(circuit, x, options, valid=x[:30])
    without = ENGINE.fit(circuit, x, options)
    scores = [e.valid for e in with_scores.history]
    assert None not in scores
    np.testing.assert_allclose(
        [e.train for e in with_scores.history], [e.train for e in without.history], rtol=1e-6
    )


def test_the_plain_pass_is_kept_for_other_precisions() -> None:
    program, params = TorchEngine(precision="float64")._load(hclt([-1, 0], 2, 2, seed=0))
    x = torch.zeros(3, 2, dtype=torch.uint8)
    up = upward(program, params, x, {}, Workspace())
    assert type(up) is Upward
    assert type(downward(up, new_counts(program, params))) is Downward


TRIVIAL = (
    "import numpy as np; from pyjuice_bridge.circuit.hclt import hclt;"
    "from pyjuice_bridge.engines.torch import TorchEngine;"
    "print(TorchEngine().log_likelihood(hclt([-1, 0], 2, 2, seed=0), np.zeros((1, 2), int)))"
)


@pytest.mark.parametrize("usable", [True, False])
def test_machine_code_is_kept_where_the_user_keeps_caches(tmp_path: Path, usable: bool) -> None:
    place = tmp_path / "cache"
    if not usable:
        place.write_text("no folder", encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", TRIVIAL],
        env=os.environ | {"XDG_CACHE_HOME": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = ENGINE.log_likelihood(hclt([-1, 0], 2, 2, seed=0), np.zeros((1, 2), int))
    assert str(expected) == ran.stdout.strip()
    assert bool(list(place.glob("pyjuice_bridge/kernels/*/*/*.nbi"))) == usable


def run_trivial(place: Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", TRIVIAL],
        env=os.environ | {"XDG_CACHE_HOME": str(place)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.strip()


def test_damaged_machine_code_is_made_again(tmp_path: Path) -> None:
    expected = run_trivial(tmp_path)
    kernels = tmp_path / "pyjuice_bridge" / "kernels"
    assert {p.stat().st_mode & 0o777 for p in (kernels, *kernels.iterdir())} == {0o700}
    kept = [*kernels.glob("*/*/*.nbi"), *kernels.glob("*/*/*.nbc")]
    for number, file in enumerate(kept):
        file.write_bytes([b"", b"junk", file.read_bytes()[:40]][number % 3])
    assert run_trivial(tmp_path) == expected
    assert all(file.stat().st_size > 40 for file in kernels.glob("*/*/*.nbi"))


@pytest.mark.parametrize("mode", [0o777])
def test_machine_code_that_others_could_have_written_is_not_run(tmp_path: Path, mode: int) -> None:
    kernels = tmp_path / "pyjuice_bridge" / "kernels"
    kernels.mkdir(parents=True)
    kernels.chmod(mode)
    run_trivial(tmp_path)
    assert not list(kernels.iterdir())


def test_a_link_in_place_of_the_kept_machine_code_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "pyjuice_bridge").mkdir()
    (tmp_path / "pyjuice_bridge" / "kernels").symlink_to(elsewhere)
    run_trivial(tmp_path)
    assert not list(elsewhere.iterdir())


FIRST_PASS = """
import numpy as np, torch
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.engines.torch import TorchEngine
torch.set_num_threads(2)
circuit = hclt([-1] + [i // 2 for i in range(62)], 256, 8, seed=0)
x = np.random.default_rng(0).integers(0, 8, (256, 63))
counts, exact = (
    TorchEngine(precision=p).expected_counts(circuit, x).layers for p in ("float32", "float64")
)
print(max(np.abs(a - b).max() for a, b in zip(counts, exact) if a is not None))
"""


def test_the_first_pass_of_a_process_counts_right() -> None:
    """A BLAS asks for its memory then, and would be given what a kernel had let go of."""
    ran = subprocess.run(
        [sys.executable, "-c", FIRST_PASS], capture_output=True, text=True, check=True
    )
    assert float(ran.stdout) < 1e-3
