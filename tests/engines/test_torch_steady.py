"""The passes for GPUs: their numbers, and that a GPU can record them.

What they compute does not depend on the device, so it is checked on the CPU.  That nothing in them
looks at numbers or leaves the device is checked on tensors that have no numbers.  Only repeating a
recording needs a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from circuits import CIRCUITS, random_rows
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_circuits import random_circuit, sharpened
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch_passes import check_same

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.engines.torch.backward import Downward, new_counts
from pyjuice_bridge.engines.torch.em import m_step
from pyjuice_bridge.engines.torch.forward import Upward
from pyjuice_bridge.engines.torch.recording import Recordings
from pyjuice_bridge.engines.torch.steady import SteadyUpward
from pyjuice_bridge.engines.torch.values import Workspace
from pyjuice_bridge.errors import UserError

ENGINE = TorchEngine()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 100_000), size=st.integers(2, 8), missing=st.sampled_from([0.0, 0.4]))
def test_random_circuits(seed: int, size: int, missing: float) -> None:
    circuit = random_circuit(seed, size)
    check_same(SteadyUpward, circuit, random_rows(circuit, 9, seed, missing), {})


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), soft=st.booleans(), width=st.integers(1, 19))
def test_trees_with_evidence_on_latents(seed: int, soft: bool, width: int) -> None:
    rng = np.random.default_rng(seed)
    circuit = hclt([-1, 0, 0, 1, 3], width, 4, seed=seed)
    x = random_rows(circuit, 11, seed, 0.2)
    (name, blocks), *_ = circuit.latents.items()
    evidence = torch.from_numpy(rng.integers(-1, width, (len(x), len(blocks))))
    if soft:
        weights = rng.uniform(0.1, 1, (len(x), len(blocks), width)).astype("f4")
        evidence = torch.from_numpy(weights)
    check_same(SteadyUpward, circuit, x, {name: evidence})


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 100_000), size=st.integers(5, 8), power=st.sampled_from([30, 100]))
@example(seed=6106, size=8, power=30)  # tied sums that use fewer groups than their owner has
def test_values_are_within_their_bounds(seed: int, size: int, power: int) -> None:
    """Every value of every layer against float64, where parameters are far apart."""
    circuit = sharpened(random_circuit(seed, size), power, seed)
    x = torch.from_numpy(random_rows(circuit, 20, seed, 0.1).copy())
    program, params = ENGINE._load(circuit)
    with torch.inference_mode():
        steady = SteadyUpward(program, params, x, {}, Workspace())
        exact = Upward(program.in_double, params, x, {}, Workspace())
        steady.run(), exact.run()
    for layer, tile in steady.act.tiles.items():
        shift = (steady.act.scales[layer] - exact.act.scales[layer]).exp()[..., None]
        bound = steady.act.errors[layer][..., None] if layer in steady.act.errors else 0.0
        right = exact.act.tiles[layer]
        known = shift.isfinite() & (shift > 0)
        wrong = (tile * shift - right).abs() > 1.001 * shift * bound + 1e-4 * right
        assert not (wrong & known).any()


def test_products_of_many_raised_rows_stay_in_range() -> None:
    """A star: sixty sums below one product would reach 2^3600 if each were raised to 2^60."""
    circuit = hclt([-1] + [0] * 60 + list(range(1, 61)), 3, 4, seed=1)
    check_same(SteadyUpward, circuit, random_rows(circuit, 20, 0, 0.1), {})


class OnOneDevice(TorchDispatchMode):
    """Refuses operations on tensors of another device than ``meta``."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, found)):
            assert not isinstance(leaf, torch.Tensor) or leaf.device.type == "meta", func
        return found


def without_numbers(thing: Any) -> Any:
    """The same structure, its tensors with shapes and types only."""
    if isinstance(thing, torch.Tensor):
        return thing.to("meta")
    if isinstance(thing, torch.device):
        return torch.device("meta")
    if isinstance(thing, (tuple, list)):
        return type(thing)(map(without_numbers, thing))
    if isinstance(thing, dict):
        return {key: without_numbers(value) for key, value in thing.items()}
    if is_dataclass(thing):
        parts = {f.name: without_numbers(getattr(thing, f.name)) for f in fields(thing)}
        return replace(thing, **parts)
    return thing


def step(
    kind: type[Upward], circuit: Circuit, factors: torch.dtype | None = None, observed: bool = False
) -> Sequence[Any]:
    """A pass up and down and an M-step of tensors without numbers, all on one device."""
    program, params = without_numbers(ENGINE._load(circuit))
    program = replace(program, factors=factors)
    with torch.no_grad(), OnOneDevice():
        x = torch.zeros(7, circuit.num_vars, dtype=torch.int32, device="meta")
        evidence = {
            name: torch.zeros(7, len(blocks), dtype=torch.int64, device="meta")
            for name, blocks in circuit.latents.items()
            if observed
        }
        up = kind(program, params, x, evidence, Workspace())
        up.run()
        counts = new_counts(program, params)
        found = up.log_likelihood()
        Downward(up, counts).run(torch.where(found.isneginf(), 0.0, 1.0))
        eta = torch.full((), 0.5, device="meta", dtype=torch.float64)
        m_step(program, params, counts, eta, 0.1)
        return found, up.doubtful()


@pytest.mark.parametrize("factors", [None, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize("observed", [False, True], ids=["alone", "latents observed"])
@pytest.mark.parametrize("name", CIRCUITS)
def test_nothing_looks_at_numbers_or_leaves_the_device(
    name: str, observed: bool, factors: torch.dtype | None
) -> None:
    circuit = CIRCUITS[name]()
    scores, doubt = step(SteadyUpward, circuit, factors, observed)
    assert scores.shape == (7, len(circuit.roots)) and scores.dtype == torch.float64
    assert doubt is None or (doubt.shape, doubt.dtype) == ((7,), torch.bool)


def test_the_pass_for_other_devices_looks() -> None:
    """That the check above can fail."""
    with pytest.raises(RuntimeError, match="meta"):
        step(Upward, CIRCUITS["hclt"]())


def test_an_m_step_takes_its_rate_as_a_tensor() -> None:
    circuit = hclt([-1, 0, 1, 1], 5, 4, seed=2)
    x = random_rows(circuit, 30, 1)
    results = []
    for eta in (0.3, torch.tensor(0.3, dtype=torch.float64)):
        program, params = TorchEngine(precision="float64")._load(circuit)
        counts = new_counts(program, params)
        up = Upward(program, params, torch.from_numpy(x.copy()), {}, Workspace())
        up.run()
        Downward(up, counts).run(torch.ones(len(x), 1, dtype=torch.float64))
        m_step(program, params, counts, eta, 0.1)
        results.append([p for p in params if p is not None])
    torch.testing.assert_close(*results, rtol=1e-15, atol=0)


def test_work_elsewhere_is_not_recorded() -> None:
    calls = []
    recordings = Recordings()
    for _ in range(3):
        recordings.run("key", lambda t: (calls.append(1), (t + 1,))[1], (torch.zeros(2),))
    assert len(calls) == 3


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@needs_cuda
@pytest.mark.parametrize("name", CIRCUITS)
def test_training_on_a_gpu_equals_training_on_the_cpu(name: str) -> None:
    """Batches of two sizes, each recorded in the second epoch and repeated after it."""
    circuit = CIRCUITS[name]()
    x = random_rows(circuit, 50, 1)
    options = FitOptions("mini_em", epochs=4, batch_size=20, pseudocount=0.1, seed=0)
    here, there = (TorchEngine(d).fit(circuit, x, options, valid=x[:9]) for d in ("cpu", "cuda"))
    for a, b in zip(here.history, there.history, strict=True):
        np.testing.assert_allclose((a.train, a.valid), (b.train, b.valid), rtol=1e-5)


@needs_cuda
def test_a_recording_is_made_the_second_time_and_repeats_the_work() -> None:
    recordings, calls = Recordings(), []
    total = torch.zeros(3, device="cuda")

    def work(given: torch.Tensor) -> tuple[torch.Tensor]:
        calls.append(1)
        total.add_(given)
        return (given * 2,)

    for i in range(4):
        (found,) = recordings.run("key", work, (torch.full((3,), float(i), device="cuda"),))
        assert found is not None and found.tolist() == [2.0 * i] * 3
    assert total.tolist() == [6.0] * 3 and len(calls) == 2


@needs_cuda
def test_bf16_on_a_gpu_is_close() -> None:
    try:
        engine = TorchEngine("cuda", "bf16")
    except UserError as lacking:
        pytest.skip(str(lacking))
    circuit = hclt([-1, 0, 1, 1], 64, 5, seed=2)
    x = random_rows(circuit, 200, 1)
    exact = TorchEngine().log_likelihood(circuit, x)
    assert 1e-7 < np.abs(engine.log_likelihood(circuit, x) / exact - 1).max() < 1e-2
