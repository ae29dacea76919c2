"""What every engine can do.  Arrays in and out are NumPy's, whatever the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, get_args, get_origin, get_type_hints

import numpy as np
from annotated_types import Interval
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit, FloatArray
from pyjuice_bridge.errors import UserError, shown
from pyjuice_bridge.numbers import MOST_EPOCHS, MOST_PSEUDOCOUNT, SEEDS, StepSize, real, whole

Latents = Mapping[str, NDArray[Any]]
"""Latent name → int [N, positions] (-1 = unobserved) or float [N, positions, width] soft evidence
with entries in [0, 1]."""


Epochs = Annotated[int, Interval(ge=0, le=MOST_EPOCHS)]
BatchSize = Annotated[int, Interval(ge=1, le=2**31 - 1)]
Pseudocount = Annotated[float, Interval(ge=0, le=MOST_PSEUDOCOUNT)]

Optimizer = Literal[
    "full_em",
    "mini_em",
    "anemone",
]
Precision = Literal["float32", "float64", "tf32", "bf16"]
ScheduleKind = Literal["linear", "cosine", "constant", "step"]

Seed = Annotated[int, SEEDS]


class _Checked:
    """A dataclass whose fields are checked against their types when it is made."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            found = _checked(f"{type(self).__name__}: {name}", getattr(self, name), kind)
            object.__setattr__(self, name, found)


def _checked(name: str, value: Any, kind: Any) -> Any:
    """Return ``value`` as the plain Python value that ``kind``, an annotation, asks for."""
    origin, given = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return (whole if given[0] is int else real)(name, value, given[1])
    if origin is Literal:
        if not isinstance(value, str) or value not in given:
            raise UserError(f"{name} is {shown(value)}, must be one of {', '.join(given)}.")
        return value
    if origin is tuple:
        if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str):
            raise UserError(f"{name} is {shown(value)}, must be a list of whole numbers.")
        return tuple(_checked(name, entry, given[0]) for entry in value)
    if type(None) in given:
        return None if value is None else _checked(name, value, given[0])
    if not isinstance(value, kind):
        raise UserError(f"{name} is {shown(value)}, must be a {kind.__name__}.")
    return value


@dataclass(frozen=True)
class Schedule(_Checked):
    """Step size η over training: from ``start`` to ``end``, per mini-batch.

    ``step`` keeps ``start`` for the share ``switch`` of the training, then takes ``end``.

    Raises:
        UserError: a field is not of the type that it is annotated with, or outside its range.
    """

    start: StepSize = 0.1
    end: StepSize = 0.01
    kind: ScheduleKind = "linear"
    switch: Annotated[float, Interval(ge=0, le=1)] = 0.8

    def at(self, step: int, total: int) -> float:
        """Return η at mini-batch ``step`` of ``total``, counted from 0."""
        if self.kind == "constant":
            return self.start
        if self.kind == "step":
            return self.start if step < self.switch * total else self.end
        done = step / max(1, total - 1)
        if self.kind == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True)
class FitOptions(_Checked):
    """How to train.  Integers may be NumPy's; they are kept as Python's.

    Attributes:
        optimizer: ``full_em`` (one step per pass), ``mini_em`` (Liu et al., ICLR 2023, app. B.1)
            or ``anemone`` (arXiv 2505.19982).
        step_size: η for ``mini_em`` and ``anemone``; ``full_em`` ignores it.
        pseudocount: added to the counts of a row, shared evenly by its entries.
        momentum: on the counts, for ``anemone``.
        patience: stop after this many epochs without a better validation score (None = never).
            With a validation set the returned circuit is the best one seen.
        frozen: indices of layers whose parameters stay as they are.
        seed: orders the mini-batches; epoch e uses the generator seeded by (seed, e).
        skip: a sub-circuit below a latent variable need not count the samples that hardly reach
            it, which together are at most this share of its flow; 0 is exact.  Scores are.
        candidates: of a latent variable above sub-circuits, how many values three passes of four
            evaluate for a row: those with most flow in the first of the four.  None for all.  Has
            no effect where an engine has no faster way of evaluating a few.

    Raises:
        UserError: a field is not of the type that it is annotated with, or outside its range.
    """

    optimizer: Optimizer = "mini_em"
    epochs: Epochs = 10
    batch_size: BatchSize = 512
    step_size: Schedule = field(default_factory=Schedule)
    pseudocount: Pseudocount = 0.1
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    patience: Annotated[int, Interval(ge=1, le=2**31 - 1)] | None = None
    frozen: tuple[Annotated[int, Interval(ge=0, lt=2**31)], ...] = ()
    seed: Seed = 0
    skip: Annotated[float, Interval(ge=0, lt=1)] = 1e-4
    candidates: Annotated[int, Interval(ge=1, le=2**31 - 1)] | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What names the options in the hashes of artifacts and checkpoints."""
        values = asdict(self)
        if self.candidates is None:
            del values["candidates"]
        return values


USUAL = FitOptions()
CANDIDATE_PASSES = 4
"""With ``candidates`` one pass in so many is over all values."""
"""What ``fit`` does unless told otherwise."""


def check_options(circuit: Circuit, options: FitOptions) -> None:
    """Refuse options that do not fit the circuit; both engines ask on entry.

    Raises:
        UserError: ``options`` are no ``FitOptions``, or freeze a layer that is not there or whose
            parameters belong to another layer.
    """
    if not isinstance(options, FitOptions):
        raise UserError(f"options is {type(options).__name__}, must be FitOptions.")
    for index in options.frozen:
        if index >= len(circuit.layers):
            raise UserError(
                f"FitOptions: frozen names layer {index}, but the circuit has the layers 0 to "
                f"{len(circuit.layers) - 1}."
            )
        owner = getattr(circuit.layers[index], "tied_to", None)
        if owner is not None:
            raise UserError(
                f"FitOptions: frozen names layer {index}, whose weights are those of layer "
                f"{owner}; name that one."
            )


@dataclass(frozen=True)
class Epoch:
    """One line of a learning curve; log-likelihoods are nats per row, averaged.

    ``train`` is measured while the epoch's steps are taken; ``valid`` (None without a validation
    set) after them.
    """

    epoch: int
    step_size: float
    train: float
    valid: float | None
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """The trained circuit (the best on validation where there is one) and its learning curve."""

    circuit: Circuit
    history: tuple[Epoch, ...]

    def __repr__(self) -> str:
        last = self.history[-1] if self.history else None
        valid = "" if last is None or last.valid is None else f", valid {last.valid:.4f}"
        figures = "" if last is None else f", last train {last.train:.4f}{valid} nats"
        return f"FitResult({len(self.history)} passes{figures}: {self.circuit!r})"


@dataclass(frozen=True)
class Counts:
    """Expected edge counts (flows), summed over rows: one array per layer.

    None for products and for sum layers tied to another, whose counts stand there.
    """

    layers: tuple[FloatArray | None, ...]
    log_likelihood: float

    def __repr__(self) -> str:
        return f"Counts({len(self.layers)} layers, log-likelihood {self.log_likelihood:.4f})"


class Engine(Protocol):
    """One way to run circuits.  ``x`` is int [N, num_vars], -1 where a value is missing."""

    name: str
    device: str

    @property
    def pid(self) -> int:
        """The id of the process that computes, this one or another."""

    def facts(self) -> dict[str, str | int]:
        """Return threads and versions, for the record of a run."""

    def log_likelihood(
        self, circuit: Circuit, x: NDArray[Any], latents: Latents | None = None
    ) -> NDArray[np.float64]:
        """Return log p(x, observed latents), float64 [N, roots], in nats."""

    def expected_counts(
        self,
        circuit: Circuit,
        x: NDArray[Any],
        weights: NDArray[Any] | None = None,
        latents: Latents | None = None,
    ) -> Counts:
        """Sum flows over rows; ``weights`` is float [N] or [N, roots], default one."""

    def fit(
        self,
        circuit: Circuit,
        x: NDArray[Any],
        options: FitOptions = USUAL,
        *,
        weights: NDArray[Any] | None = None,
        latents: Latents | None = None,
        valid: NDArray[Any] | None = None,
        checkpoint: Path | str | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> FitResult:
        """Train by EM.

        ``checkpoint`` is a file written after every epoch and resumed from when it exists.
        ``on_batch`` is called with (batches done, batches in all) over the whole training.
        """

    def m_step(
        self,
        circuit: Circuit,
        counts: Counts,
        *,
        step_size: float = 1.0,
        pseudocount: float = 0.1,
        frozen: tuple[int, ...] = (),
    ) -> Circuit:
        """Return the circuit after one step of EM on its counts (see ``engines.steps``)."""

    def sample(
        self,
        circuit: Circuit,
        n: int,
        evidence: NDArray[Any] | None = None,
        latents: Latents | None = None,
        *,
        seed: int,
        root: int = 0,
    ) -> NDArray[np.int32]:
        """Draw int32 [n, num_vars], or [N, n, num_vars] given evidence int [N, num_vars]."""

    def mpe(
        self, circuit: Circuit, evidence: NDArray[Any], *, root: int = 0
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the most probable completion with its latents: x [N, num_vars], log-value [N]."""

    def posteriors(
        self, circuit: Circuit, x: NDArray[Any], name: str, *, root: int = 0
    ) -> NDArray[np.float32]:
        """Return p(latent = j | x) of the latents ``name``: float32 [N, positions, width]."""

    def training_bytes(self, circuit: Circuit, options: FitOptions, rows: int, valid: int) -> int:
        """Return the bytes that ``fit`` takes at most, without the rows themselves.

        ``circuit`` may be a structure without numbers; ``rows`` and ``valid`` are how many there
        are to train on and to validate with.
        """
