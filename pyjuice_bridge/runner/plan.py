"""What a run would take: parameters, memory and time, from structures and short trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from pyjuice_bridge.circuit.doubling import outline
from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.config.sweep import Point
from pyjuice_bridge.config.train import Grow
from pyjuice_bridge.distill.base import Kind
from pyjuice_bridge.distill.registry import KINDS
from pyjuice_bridge.domains.base import Shape
from pyjuice_bridge.domains.registry import DOMAINS
from pyjuice_bridge.engines import choose_engine, open_engine
from pyjuice_bridge.engines.base import Engine, FitOptions
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.runner.config import Config
from pyjuice_bridge.runner.trials import StepCost, latent_seconds, small_circuit, step_cost
from pyjuice_bridge.stages.store import fingerprint

_GPUS = (8, 16, 24, 40, 80, 140)
"""Memory of usual GPUs in GiB."""


@dataclass(frozen=True)
class ArmPlan:
    """One arm.

    Attributes:
        arm: its name.
        parameters: of its circuit.
        passes: over the training data.
        memory_bytes: of its training and of the training data.
        seconds: of the EM passes.
        latent_seconds: of the teacher and of clustering, None where the teacher is not there.
        point: where in the run's sweep it is.
    """

    arm: str
    parameters: int
    passes: int
    memory_bytes: int
    seconds: float
    latent_seconds: float | None = 0.0
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
    planner = _Planner(engine, DOMAINS[config.data.kind].shape(config))
    arms = [
        planner.arm(own.fitted(planner.shape.train), arm, point)
        for point, own in config.points
        for arm in own.arms or []
    ]
    most = max(arm.memory_bytes for arm in arms)
    note = _note(config.fitted(planner.shape.train), planner.shape, choice.device, most)
    return Plan(config.name, tuple(arms), "; ".join([note, *planner.missing]))


class _Planner:
    """Plans arms; what several have in common is tried once.

    Attributes:
        engine: to try steps with.
        shape: of the data.
        missing: what could not be tried, and why.
    """

    def __init__(self, engine: Engine, shape: Shape) -> None:
        self.engine, self.shape = engine, shape
        self.missing: list[str] = []
        self._tried: dict[str, Any] = {}

    def arm(self, config: Settings, arm: str, point: Point) -> ArmPlan:
        """Plan an arm at a point of the run's sweep."""
        kind, shape = KINDS[config.circuit.kind], self.shape
        circuits = _circuits(kind.structure(config.circuit, arm, shape), config.train.grow)
        components = getattr(config.circuit, "mixture", None) or 1
        memory = self._training_bytes(config, arm, circuits[-1])
        parameters = circuits[-1].num_parameters
        if components > 1:
            parameters = components * (parameters + 1)
        return ArmPlan(
            arm,
            parameters,
            config.train.epochs,
            components * memory + shape.train * shape.row_bytes,
            components * self._training_seconds(kind, config, arm, circuits),
            self._latent_seconds(kind, config) if arm == "lvd" else 0.0,
            point,
        )

    def _training_bytes(self, config: Settings, arm: str, circuit: Circuit) -> int:
        train = config.train
        options = FitOptions(optimizer=train.optimizer, batch_size=train.batch_size)
        # Only the arm of equal size has a structure of its own.
        which = ["memory", arm == "hclt", config.circuit.model_dump(), train.model_dump()]
        found: int = self._once(
            which,
            lambda: self.engine.training_bytes(
                circuit, options, self.shape.train, self.shape.valid
            ),
        )
        return found

    def _training_seconds(
        self, kind: Kind, config: Settings, arm: str, circuits: Sequence[Circuit]
    ) -> float:
        """Estimate all passes of EM, those with latents observed included."""
        batch = _batch(config, self.shape)
        before = kind.before(config, self.shape) if arm == "lvd" else ()
        rest = config.train.epochs - sum(passes.count for passes in before)
        cost = self._step_cost(kind, config, arm, circuits[0], config.train.candidates)
        each = mean(cost.seconds(circuit, self.shape.train, batch) for circuit in circuits)
        observed = self._step_cost(kind, config, arm, circuits[0], None) if before else cost
        return rest * each + sum(
            passes.count * observed.seconds(passes.circuit, passes.rows, passes.batch_size)
            for passes in before
        )

    def _step_cost(
        self, kind: Kind, config: Settings, arm: str, whole: Circuit, candidates: int | None
    ) -> StepCost:
        def cost() -> StepCost:
            small = small_circuit(kind, config.circuit, arm, self.shape, whole)
            return step_cost(self.engine, small, candidates)

        # Only the arm of equal size has a structure of its own.
        which = [arm == "hclt", config.circuit.model_dump(), candidates]
        found: StepCost = self._once(which, cost)
        return found

    def _latent_seconds(self, kind: Kind, config: Settings) -> float | None:
        which = [config.teacher.model_dump(), config.cluster.model_dump()]
        which.append(config.circuit.model_dump())

        def seconds() -> float | None:
            try:
                return latent_seconds(config, kind, self.shape, self.engine.device)
            except UserError as error:
                self.missing.append(f"the teacher could not be tried: {error}")
                return None

        found: float | None = self._once(which, seconds)
        return found

    def _once(self, which: list[Any], try_it: Callable[[], Any]) -> Any:
        key = fingerprint(which)
        if key not in self._tried:
            self._tried[key] = try_it()
        return self._tried[key]


def _circuits(structure: Circuit, grow: Grow | None) -> list[Circuit]:
    """List the circuits that an arm trains one after the other, larger and larger."""
    circuits = [structure]
    if grow is not None:
        for _ in range(grow.rounds):
            circuits.append(outline(circuits[-1], grow.prune))
    return circuits


def _note(config: Settings, shape: Shape, device: str, memory: int) -> str:
    fits = next((size for size in _GPUS if memory < 0.9 * size * 2**30), None)
    gpu = f"the largest arm fits a GPU of {fits} GiB" if fits else "no single GPU holds every arm"
    every = getattr(config.circuit, "classes", False)
    classes = "; every class has a circuit of this size" if every else ""
    return (
        f"{shape.note}{classes}; times are those of an idle machine, scaled up from steps of a "
        f"small circuit and from a few samples tried on {device}; trees and scoring come on top; "
        f"memory comes on top of PyTorch itself (some 300 MiB), in steps of "
        f"{_batch(config, shape)} rows on {device}: {gpu}"
    )


def _batch(config: Settings, shape: Shape) -> int:
    full = config.train.optimizer == "full_em"
    return shape.train if full else min(config.train.batch_size, shape.train)
