"""What a kind of data has to offer: its config section, its rows, and what a report shows of it.

A *domain* is one file with one :class:`Domain`, listed in ``domains.registry``.  Only there images,
text and tables differ; stages, kinds of circuits and reports see rows of integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit, IntArray
from pyjuice_bridge.cluster.assignments import FILE as ASSIGNMENTS
from pyjuice_bridge.codecs import Codec
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.files import copy_file
from pyjuice_bridge.measure import Measure
from pyjuice_bridge.sections import KindSection
from pyjuice_bridge.stages.progress import Reporter
from pyjuice_bridge.stages.store import Artifact, Store
from pyjuice_bridge.teachers.text_features import Cut

FIGURES = "figures.npz"
"""What a run's report shows; an artifact of an arm's ancestry may hold arrays of its own for it."""


class DataSection(KindSection):
    """Base of the sections of data that are read, ``name`` from below ``root``."""

    name: str
    root: str | None = None

    def root_of(self, source: object) -> str | None:
        """Return the root folder that is meant for a source, if it is the config's own."""
        return self.root if isinstance(source, str) and source == self.name else None


@dataclass(frozen=True, eq=False)
class Shape:
    """The shape of a data set, which for a plan need not be there.

    Attributes:
        train: training rows.
        valid: validation rows.
        categories: int32 [variables], the number of values of each variable.
        row_bytes: memory of a training row.
        note: the data in a few words.
        sides: (height, width, channels) of images, else None.
        tokens: of text with latents, training and validation together, that a language model reads.
    """

    train: int
    valid: int
    categories: IntArray
    row_bytes: int
    note: str
    sides: tuple[int, int, int] | None = None
    tokens: int | None = None


@dataclass(frozen=True, eq=False)
class Stream:
    """A text and the windows that were cut from it.

    Attributes:
        tokens: int32 [n], all documents one after the other.
        documents: int64 [documents + 1], where each begins, then n.
        starts: int64 [N], where each window begins.
        words: the string of every id where tokens are words, None for word pieces.
        key: names the text, however it was cut, in the hashes of artifacts.
    """

    tokens: NDArray[np.int32]
    documents: NDArray[np.int64]
    starts: NDArray[np.int64]
    words: Sequence[str] | None
    key: str


@dataclass(frozen=True, eq=False)
class Written:
    """The states that a language model generated its text from.

    Attributes:
        artifact: holds the states of every token (``teachers.text_states``).
        cuts: per split its sequences.
    """

    artifact: Artifact
    cuts: Mapping[str, Cut]


@dataclass(frozen=True, eq=False)
class Samples:
    """What a teacher embeds.

    Attributes:
        splits: images uint8 [N, H, W, C], windows or rows int32 [N, T], per split with latents.
        key: names them in the hashes of artifacts.
        noun: what a sample is, in the plural.
        lengths: per split int [N], the positions of a sample that count; None if all do.
        vocabulary: the string of every token id.
        white: the value of a white pixel.
        categories: int32 [T], the number of values of each column of a table.
        streams: per split the text that windows were cut from, for teachers that read it whole.
        written: what the language model that wrote them has kept.
    """

    splits: Mapping[str, NDArray[Any]]
    key: str
    noun: str
    lengths: Mapping[str, NDArray[np.integer[Any]]] | None = None
    vocabulary: Sequence[str] | None = None
    white: int = 255
    categories: IntArray | None = None
    streams: Mapping[str, Stream] | None = None
    written: Written | None = None

    def lengths_of(self, split: str) -> NDArray[np.integer[Any]] | None:
        """Return the lengths of a split's samples, if some end early."""
        return None if self.lengths is None else self.lengths[split]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Data as circuits read them.

    Attributes:
        rows: per split int [N, variables], -1 where a value is missing.
        codec: between the data as users hold them and rows.
        name: of the data set.
        observed: per split the mean number of values of a row that count for the measure.
        correction: per split the mean of what is taken off a row's log p, in nats, before.
        key: names the data in the hashes of artifacts.
        shape: as a plan sees the data.
        samples: as a teacher sees the data.
    """

    rows: Mapping[str, NDArray[Any]]
    codec: Codec
    name: str
    observed: Mapping[str, float]
    correction: Mapping[str, float]
    key: str
    shape: Shape
    samples: Samples

    @property
    def categories(self) -> IntArray:
        """int32 [variables], the number of values of each variable."""
        return self.codec.categories

    @property
    def measure(self) -> Measure:
        """In which figures on the data are reported."""
        return self.codec.measure

    def value(self, split: str, log_p: float) -> float:
        """Convert a split's mean log p of rows, in nats, to the measure."""
        return self.measure.of(-(log_p - self.correction[split]) / self.observed[split])

    def part(self, rows: Mapping[str, NDArray[np.int64]], key: str) -> Self:
        """Return some rows of some splits, called ``key``; figures are converted as before."""
        samples = self.samples
        shown = {s: each[rows[s]] if s in rows else each for s, each in samples.splits.items()}
        train, valid = (len(rows[s]) for s in ("train", "valid"))
        return replace(
            self,
            rows={s: each[rows[s]] if s in rows else each for s, each in self.rows.items()},
            key=key,
            shape=replace(self.shape, train=train, valid=valid),
            samples=replace(samples, splits=shown, key=key),
        )

    def facts(self) -> dict[str, Any]:
        """Return what ``results.json`` records about the data."""
        raise NotImplementedError

    def meta(self) -> dict[str, str | int | float]:
        """Return what a model needs to know about its data."""
        return {"dataset": self.name, **self.codec.meta()}


@dataclass(frozen=True, eq=False)
class Tools:
    """The settings and tools of a run, before its data are there.

    Attributes:
        config: the checked config.
        engine: runs circuits.
        store: keeps finished stages.
        reporter: tells the user how far things are.
    """

    config: Settings
    engine: Engine
    store: Store
    reporter: Reporter


@dataclass(frozen=True, eq=False)
class Context(Tools):
    """The settings, tools and data of a run.

    Attributes:
        data: the rows.
        teacher: one handed over from Python, in place of the config's.
        start: the circuit that the arm ``start`` begins with, handed over from Python.
        shared: what the arms of a sweep have in common, by name.
    """

    data: Prepared
    teacher: object | None = None
    start: Circuit | None = None
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def engine_key(self) -> dict[str, str]:
        """What names the engine in the hashes of artifacts."""
        precision = self.config.precision
        return {"name": self.engine.name, "device": self.engine.device, "precision": precision}

    def meta(self, circuit: Circuit, arm: str) -> dict[str, str | int | float]:
        """Return a circuit's meta with what a model needs to know about its data."""
        return {**circuit.meta, "arm": arm, "seed": self.config.seed, **self.data.meta()}


class Arm(Protocol):
    """A trained arm, as far as a report shows it."""

    @property
    def arm(self) -> str:
        """Its name, without its size."""

    @property
    def artifact(self) -> Artifact:
        """What holds its circuit."""

    def circuit(self) -> Circuit:
        """Read the trained circuit."""


@dataclass(frozen=True)
class Domain:
    """A kind of data that a run can model.

    Attributes:
        name: ``data.kind`` of a config.
        section: the config's section.
        teacher: the teacher that is meant where a config names none.
        circuit: the circuit that is meant where a config names none.
        check: refuses what does not fit in other sections, by ValueError.
        load: the data of a config, or those handed over from Python (None: the config's).
        split: another source's data set, split as the config says; also from a root folder.
        shape: the data's shape for a plan, without the data where they are known.
        show: leaves what the report shows in the run's folder; gets the arms (at the best point of
            a sweep), the best of them and the scopes of the latents, int32 [positions, size] or
            None.
    """

    name: str
    section: type[KindSection]
    teacher: str
    circuit: str
    check: Callable[[Settings], None]
    load: Callable[[Tools, Any], Prepared]
    split: Callable[[Settings, Any, Path | None], Any]
    shape: Callable[[Settings], Shape]
    show: Callable[[Context, Path, Sequence[Arm], Arm, IntArray | None], None]


def no_check(config: Settings) -> None:
    """Accept every config."""


def ancestor(arm: Arm, stage: str) -> Artifact | None:
    """Return the artifact of a stage in an arm's ancestry, if there is one."""
    return next((a for a in arm.artifact.lineage() if a.stage == stage), None)


def copy_clusters(clusters: Artifact | None, folder: Path) -> None:
    """Leave the assignments of a clustering, if there was one, in the run's folder."""
    if clusters is not None:
        copy_file(clusters.path / ASSIGNMENTS, folder / ASSIGNMENTS)


def spread(count: int, most: int) -> NDArray[np.int64]:
    """Return at most ``most`` evenly spaced rows below ``count``: some sets are sorted by class."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))
