"""What a run would take: parameters, memory and time, from shapes and a second of measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pyjuice_bridge.circuit.types import IntArray
from pyjuice_bridge.config import Config, PatchCircuit
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.data.colour import get_colour
from pyjuice_bridge.engines import choose_engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.sizes import (
    Work,
    equal_latents,
    glued_parameters,
    glued_work,
    hclt_parameters,
    hclt_work,
)

_SWEEPS = 10
"""Times a pass reads or writes its activations: both products, both sums, both directions."""


@dataclass(frozen=True)
class Known:
    """A set's images [H, W, C], its training images without validation, and pixel values."""

    shape: tuple[int, int, int]
    train: int
    categories: int = 256


SHAPES = {
    "digits": Known((8, 8, 1), 1438, 17),
    "mnist5k": Known((28, 28, 1), 4000),
    "mnist": Known((28, 28, 1), 55_000),
    "fashion_mnist": Known((28, 28, 1), 55_000),
    "cifar10": Known((32, 32, 3), 45_000),
    "cifar100": Known((32, 32, 3), 45_000),
    "imagenet32": Known((32, 32, 3), 1_276_167),
    "imagenet64": Known((64, 64, 3), 1_276_167),
}


@dataclass(frozen=True)
class ArmPlan:
    """One arm.

    ``memory_bytes`` is parameters, counts, the best parameters so far, optimiser state, the
    training data and the activations of one batch; ``seconds`` is the EM passes alone.
    """

    arm: str
    parameters: int
    passes: int
    memory_bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a run would take."""

    name: str
    arms: tuple[ArmPlan, ...]
    note: str


@dataclass(frozen=True)
class Rates:
    """What a device does per second: floating-point operations in products, bytes moved."""

    flops: float
    bytes: float


def make_plan(config: Config) -> Plan:
    """Predict the run of ``config`` on this machine; trains nothing, needs no known data set."""
    choice = choose_engine(config.engine, config.device)
    known = _known(config)
    sizes = _categories(config, known)
    arms, rates = [], {}
    for arm in config.arms or []:
        parameters, work, width = _circuit(config, arm, known.shape, sizes)
        if width not in rates:
            rates[width] = measure(choice.device, width)
        memory = _memory(config, known, len(sizes), parameters, work)
        rate = rates[width]
        moved = _SWEEPS * 4 * work.activations
        each = work.flops / rate.flops + moved / rate.bytes
        passes = config.train.epochs
        arms.append(ArmPlan(arm, parameters, passes, memory, passes * known.train * each))
    note = (
        f"{known.train:,} training images of {'×'.join(map(str, known.shape))}; time is that of "
        f"the EM passes at the speed measured now on {choice.device}; memory holds a whole batch "
        f"of {config.train.batch_size}, which the engine cuts where it does not fit"
    )
    return Plan(config.name, tuple(arms), note)


def _known(config: Config) -> Known:
    section = config.data
    if section.name in SHAPES:
        known = SHAPES[section.name]
        train = known.train if section.limit is None else min(known.train, section.limit)
        return Known(known.shape, train, known.categories)
    found = load_dataset(
        section.name,
        root=section.root,
        valid=section.valid,
        seed=config.seed,
        limit=section.limit,
    )
    return Known(found.shape, len(found.train), found.categories)


def _categories(config: Config, known: Known) -> IntArray:
    height, width, channels = known.shape
    each: tuple[int, ...] = (known.categories,) * channels
    if config.data.colour != "rgb":
        each = get_colour(config.data.colour).categories
        if channels != 3:
            raise UserError(f"'data.colour' is '{config.data.colour}', but the images are grey")
    return np.tile(np.asarray(each, np.int32), height * width)


def _circuit(
    config: Config, arm: str, shape: tuple[int, int, int], sizes: IntArray
) -> tuple[int, Work, int]:
    """Parameters, work per image, and the width of the matrices that do most of it."""
    section = config.circuit
    if not isinstance(section, PatchCircuit):
        return (
            hclt_parameters(sizes, section.latents),
            hclt_work(sizes, section.latents),
            (section.latents),
        )
    parameters = glued_parameters(shape, sizes, section)
    if arm != "hclt":
        return parameters, glued_work(shape, section), section.patch_latents
    latents = equal_latents(parameters, sizes)
    return hclt_parameters(sizes, latents), hclt_work(sizes, latents), latents


def _memory(config: Config, known: Known, variables: int, parameters: int, work: Work) -> int:
    bytes_each = 8 if config.precision == "float64" else 4
    copies = 5 if config.train.optimizer == "anemone" else 3
    code = 1 if config.data.colour == "rgb" else 2
    batch = min(config.train.batch_size, known.train)
    if config.train.optimizer == "full_em":
        batch = known.train
    activations = batch * (work.activations * bytes_each + 8 * work.blocks)
    return copies * parameters * bytes_each + known.train * variables * code + activations


def measure(device: str, width: int, seconds: float = 0.3) -> Rates:
    """Speed of batched products of ``width`` × ``width`` matrices and of plain copying."""
    import torch

    blocks, batch = max(8, 2048 // width), 256
    tiles = torch.rand(blocks, batch, width, device=device)
    matrices = torch.rand(blocks, width, width, device=device)
    out = torch.empty_like(tiles)

    def rate(step: Callable[[], object], amount: float) -> float:
        step()
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / 2 or count < 2:
            step()
            if device != "cpu":
                torch.cuda.synchronize()
            count += 1
        return count * amount / (time.perf_counter() - start)

    source = torch.rand(1 << 23, device=device)
    target = torch.empty_like(source)
    flops = rate(lambda: torch.bmm(tiles, matrices, out=out), 2.0 * blocks * batch * width**2)
    moved = rate(lambda: target.copy_(source), 8.0 * len(source))
    return Rates(flops, moved)
