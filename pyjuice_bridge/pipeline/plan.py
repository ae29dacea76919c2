"""What a run would take: parameters, memory and time, from shapes and a few seconds of trial."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.types import Circuit, InputLayer, IntArray
from pyjuice_bridge.config import Config, HcltCircuit, ImageData, PatchCircuit, TextData
from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.data.colour import get_colour
from pyjuice_bridge.data.shapes import SHAPES, Known
from pyjuice_bridge.engines import choose_engine, get_engine
from pyjuice_bridge.engines.base import Engine, FitOptions
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.pipeline.sizes import (
    Work,
    equal_latents,
    glued_parameters,
    glued_work,
    hclt_parameters,
    hclt_work,
)
from pyjuice_bridge.teachers.base import patch_grid

_BUDGET = 1 << 17
"""Entries of the sum matrices of the circuit that time is measured on."""
_MOST_ROWS = 256


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
    states: int | None = None


@dataclass(frozen=True)
class Plan:
    """What a run would take."""

    name: str
    arms: tuple[ArmPlan, ...]
    note: str


def make_plan(config: Config) -> Plan:
    """Predict the run of ``config`` on this machine; trains nothing, needs no known data set."""
    choice = choose_engine(config.engine, config.device)
    engine = get_engine(choice.name, choice.device, precision=config.precision)
    data, section = config.data, config.circuit
    if isinstance(data, TextData):
        from pyjuice_bridge.pipeline.plan_text import plan_text

        return plan_text(config, engine)
    assert isinstance(section, HcltCircuit | PatchCircuit)
    known = _known(config, data)
    sizes = _categories(data, known)
    arms, measured = [], dict[int, float]()
    batch = min(config.train.batch_size, _MOST_ROWS)
    for arm in config.arms or []:
        parameters, work, latents = _circuit(section, arm, known.shape, sizes)
        if latents not in measured:
            small = _stand_in(section, arm, sizes, latents)
            measured[latents] = seconds_per_row(engine, small, work, batch)
        memory = _memory(config, data, known, len(sizes), parameters, work)
        passes = config.train.epochs
        seconds = passes * known.train * measured[latents]
        arms.append(ArmPlan(arm, parameters, passes, memory, seconds))
    note = (
        f"{known.train:,} training images of {'×'.join(map(str, known.shape))}; time is that of "
        f"the EM passes at the speed of a small circuit tried on {choice.device}; memory comes "
        f"on top of PyTorch itself (some 300 MiB) and holds a whole batch of "
        f"{config.train.batch_size}, which the engine cuts where it does not fit"
    )
    return Plan(config.name, tuple(arms), note)


def _known(config: Config, section: ImageData) -> Known:
    if section.name in SHAPES:
        known = SHAPES[section.name]
        valid = section.valid or known.valid
        train = known.train + known.valid - valid
        if train < 1:
            raise UserError(f"'data.valid' is {valid}, which leaves no image to train on")
        return replace(known, train=min(train, section.limit or train), valid=valid)
    found = load_dataset(
        section.name,
        root=section.root,
        valid=section.valid,
        seed=config.seed,
        limit=section.limit,
    )
    return Known(found.shape, len(found.train), len(found.valid), found.categories)


def _categories(section: ImageData, known: Known) -> IntArray:
    height, width, channels = known.shape
    each: tuple[int, ...] = (known.categories,) * channels
    if section.colour != "rgb":
        each = get_colour(section.colour).categories
        if channels != 3:
            raise UserError(f"'data.colour' is '{section.colour}', but the images are grey")
    return np.tile(np.asarray(each, np.int32), height * width)


def _circuit(
    section: HcltCircuit | PatchCircuit, arm: str, shape: tuple[int, int, int], sizes: IntArray
) -> tuple[int, Work, int]:
    """Parameters, work per image, and the width of the matrices that do most of it."""
    if not isinstance(section, PatchCircuit):
        return (
            hclt_parameters(sizes, section.latents),
            hclt_work(sizes, section.latents),
            section.latents,
        )
    patch_grid(np.empty((0, *shape), np.uint8), section.patch)
    parameters = glued_parameters(shape, sizes, section)
    if arm != "hclt":
        return parameters, glued_work(shape, section), section.patch_latents
    latents = equal_latents(parameters, sizes)
    return hclt_parameters(sizes, latents), hclt_work(sizes, latents), latents


def _memory(
    config: Config, data: ImageData, known: Known, variables: int, parameters: int, work: Work
) -> int:
    bytes_each = 8 if config.precision == "float64" else 4
    copies = 5 if config.train.optimizer == "anemone" else 3
    code = 1 if data.colour == "rgb" else 2
    batch = min(config.train.batch_size, known.train)
    if config.train.optimizer == "full_em":
        batch = known.train
    activations = batch * (work.activations * bytes_each + 8 * work.blocks)
    return copies * parameters * bytes_each + known.train * variables * code + activations


def seconds_per_row(engine: Engine, small: Circuit, work: Work, batch: int) -> float:
    """Seconds per image of an EM pass over a circuit of the same widths that does ``work``.

    ``small`` is trained on noise for a few passes, of which the fastest counts; time grows with
    the number of values that a pass computes.
    """
    rows = 2 * batch
    x = np.random.default_rng(0).integers(0, small.categories, (rows, small.num_vars))
    found = engine.fit(small, x, FitOptions(epochs=4, batch_size=batch))
    inner = zip(small.layers, small.widths, strict=True)
    values = sum(layer.num_blocks * w for layer, w in inner if not isinstance(layer, InputLayer))
    fastest = min(epoch.seconds for epoch in found.history)
    return fastest / rows * work.activations / values


def _stand_in(
    section: HcltCircuit | PatchCircuit, arm: str, sizes: IntArray, latents: int
) -> Circuit:
    """A small circuit with the widths and categories of an arm's."""
    if not isinstance(section, PatchCircuit) or arm == "hclt":
        count = int(np.clip(_BUDGET // latents**2, 2, min(64, len(sizes))))
        return hclt(_binary_tree(count), latents, sizes[:count], seed=0)
    size = max(2, min(section.patch**2, len(sizes)))
    clusters = int(np.clip(_BUDGET // (4 * size * latents**2), 2, section.latents))
    bundle = patch_bundle(_binary_tree(size), clusters, latents, sizes[:size], seed=0)
    above = hclt(_binary_tree(4), clusters, clusters, seed=0)
    return glue(above, bundle, np.arange(4 * size).reshape(4, size))


def _binary_tree(count: int) -> IntArray:
    return ((np.arange(count) + 1) // 2 - 1).astype(np.int32)
