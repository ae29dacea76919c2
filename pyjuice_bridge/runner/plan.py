"""What a run would take: parameters, memory and time, from structures and a short trial."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import mean

import numpy as np

from pyjuice_bridge.circuit.doubling import outline
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.initialise import initialise
from pyjuice_bridge.circuit.size import Size, balanced_parents, size_of
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.config.sweep import Point
from pyjuice_bridge.config.train import Grow
from pyjuice_bridge.distill.base import Kind
from pyjuice_bridge.distill.registry import KINDS
from pyjuice_bridge.domains.base import Shape
from pyjuice_bridge.domains.registry import DOMAINS
from pyjuice_bridge.engines import choose_engine, open_engine
from pyjuice_bridge.engines.base import Engine, Epoch, FitOptions
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.runner.config import Config
from pyjuice_bridge.stages.store import fingerprint

_GPUS = (8, 16, 24, 40, 80, 140)
"""Memory of usual GPUs in GiB."""
_VALUES = 1 << 14
"""Values of the circuit that time is measured on, at least."""
_ENTRIES = 1 << 17
"""Entries of the sum matrices of an HCLT that time is measured on."""
_FEW, _MANY = 16, 128
"""Rows of the steps that are tried."""
_EPOCHS = 3
_TILE_BYTES, _LEAST_ROWS = 1 << 24, 8
"""On a CPU, engines cut a batch so that the widest layer's values take that much memory."""


@dataclass(frozen=True)
class ArmPlan:
    """One arm.

    ``memory_bytes`` is parameters, counts, the best parameters so far, optimiser state, the
    training data and the activations of one batch; ``seconds`` is the EM passes alone; ``point``
    is where in the run's sweep.
    """

    arm: str
    parameters: int
    passes: int
    memory_bytes: int
    seconds: float
    point: Point = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a run would take."""

    name: str
    arms: tuple[ArmPlan, ...]
    note: str


def make_plan(config: Config) -> Plan:
    """Predict the run of ``config`` on this machine; published data sets need not be there."""
    choice = choose_engine(config.engine, config.device)
    engine = open_engine(choice, precision=config.precision)
    shape = DOMAINS[config.data.kind].shape(config)
    arms: list[ArmPlan] = []
    measured: dict[str, float] = {}
    for point, own in config.points:
        there, kind = own.fitted(shape.train), KINDS[own.circuit.kind]
        for arm in there.arms or []:
            # Only the arm of equal size has a structure of its own.
            which = fingerprint(
                [arm == "hclt", there.circuit.model_dump(), _batch(there, shape)],
            )
            sizes = _sizes(kind.structure(there.circuit, arm, shape), there.train.grow)
            components = getattr(there.circuit, "mixture", None) or 1
            if which not in measured:
                measured[which] = _pass_seconds(engine, kind, there, arm, shape)
            passes = there.train.epochs
            size = _mixed(sizes[-1], components)
            memory = _memory(there, shape, size, choice.device)
            larger = mean(size.parameters for size in sizes) / sizes[0].parameters
            seconds = passes * components * measured[which] * larger
            arms.append(ArmPlan(arm, size.parameters, passes, memory, seconds, point))
    most = max(arm.memory_bytes for arm in arms)
    return Plan(
        config.name, tuple(arms), _note(config.fitted(shape.train), shape, choice.device, most)
    )


def _sizes(structure: Circuit, grow: Grow | None) -> list[Size]:
    """List the sizes of the circuits that an arm trains, one after the other."""
    sizes = [size_of(structure)]
    if grow is not None:
        for _ in range(grow.rounds):
            structure = outline(structure, grow.prune)
            sizes.append(size_of(structure))
    return sizes


def _mixed(size: Size, components: int) -> Size:
    """Return the size of a mixture of circuits of one size."""
    if components == 1:
        return size
    return Size(
        components * (size.parameters + 1),
        components * size.flops,
        components * size.activations,
        components * size.blocks,
        components * size.widest,
    )


def _note(config: Settings, shape: Shape, device: str, memory: int) -> str:
    fits = next((size for size in _GPUS if memory < 0.9 * size * 2**30), None)
    gpu = f"the largest arm fits a GPU of {fits} GiB" if fits else "no single GPU holds every arm"
    every = getattr(config.circuit, "classes", False)
    classes = "; every class has a circuit of this size" if every else ""
    return (
        f"{shape.note}{classes}; time is that of the EM passes, from steps of a small circuit "
        f"tried on {device}; teacher and clustering come on top; memory comes on top of PyTorch "
        f"itself (some 300 MiB) and holds the values of as many rows of a batch of "
        f"{_batch(config, shape)} as go through the circuit together on {device}: {gpu}"
    )


def _batch(config: Settings, shape: Shape) -> int:
    return shape.train if config.train.optimizer == "full_em" else config.train.batch_size


def _memory(config: Settings, shape: Shape, size: Size, device: str) -> int:
    """Add up parameters, counts, best so far (and Anemone's averages), rows, a batch's values."""
    bytes_each = 8 if config.precision == "float64" else 4
    copies = 5 if config.train.optimizer == "anemone" else 3
    together = min(_batch(config, shape), shape.train)
    if device == "cpu":
        together = min(together, max(_LEAST_ROWS, _TILE_BYTES // (size.widest * bytes_each)))
    activations = together * (size.activations * bytes_each + 8 * size.blocks)
    return copies * size.parameters * bytes_each + shape.train * shape.row_bytes + activations


def _pass_seconds(engine: Engine, kind: Kind, config: Settings, arm: str, shape: Shape) -> float:
    """Estimate an EM pass: rows cost time by the values computed, steps by the parameters."""
    whole = size_of(kind.structure(config.circuit, arm, shape))
    circuit = _small(kind, config, arm, shape)
    small = size_of(circuit)
    batch = min(_batch(config, shape), shape.train)
    few, many = min(_FEW, batch), min(_MANY, batch)
    per_step, per_row = _step_seconds(engine, circuit, few), 0.0
    if many > few:
        long = _step_seconds(engine, circuit, many)
        per_row = max(long - per_step, 0.0) / (many - few)
        per_step = max(per_step - few * per_row, 0.0)
    steps = -(-shape.train // batch)
    rows = shape.train * per_row * whole.activations / small.activations
    return rows + steps * per_step * whole.parameters / small.parameters


def _small(kind: Kind, config: Settings, arm: str, shape: Shape) -> Circuit:
    """Build the structure of the smallest data of this kind that keep the engine busy."""
    section, whole = config.circuit, kind.structure(config.circuit, arm, shape)
    if whole.meta["structure"] == "hclt":
        # Of equal size to another arm's, so its width belongs to the whole data.
        width = int(whole.meta["latent_states"])
        count = int(np.clip(_ENTRIES // width**2, 2, min(64, whole.num_vars)))
        return hclt(balanced_parents(count), width, shape.categories[:count], seed=0)
    section = kind.trial(section)
    for smaller in _smaller(shape):
        try:
            circuit = kind.structure(section, arm, smaller)
        except UserError:
            continue
        if size_of(circuit).activations >= _VALUES:
            return initialise(circuit, 0)
    return initialise(kind.structure(section, arm, shape), 0)


def _smaller(shape: Shape) -> Iterator[Shape]:
    """Yield the shapes of smaller data of the same kind, smallest first."""
    if shape.sides is None:
        for count in range(2, len(shape.categories)):
            yield replace(shape, categories=shape.categories[:count])
        return
    height, width, channels = shape.sides
    for side in range(2, min(height, width)):
        sizes = shape.categories[: side * side * channels]
        yield replace(shape, categories=sizes, sides=(side, side, channels))


def _step_seconds(engine: Engine, circuit: Circuit, rows: int) -> float:
    """Time a step on rows of noise, the fastest of a few.

    A busy machine makes steps take longer than they would; where the engine works in this process,
    its processor time, shared by its threads, is a bound on that.
    """
    rng = np.random.default_rng(0)
    x = rng.integers(0, circuit.categories, (rows, circuit.num_vars)).astype(np.int32)
    clock, spent = [time.process_time()], []

    def mark(epoch: Epoch) -> None:
        clock.append(time.process_time())
        threads = int(engine.facts()["threads"])
        busy = (clock[-1] - clock[-2]) / threads
        spent.append(min(epoch.seconds, busy) if engine.name == "torch" else epoch.seconds)

    options = FitOptions(epochs=_EPOCHS, batch_size=rows)
    engine.fit(circuit, x, options, on_epoch=mark)
    return min(spent)
