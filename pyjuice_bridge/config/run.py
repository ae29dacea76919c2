"""A whole run's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pyjuice_bridge.config.base import Amount, Arm, Count, Section, States
from pyjuice_bridge.config.circuit import CircuitSection, HcltCircuit, HmmCircuit, PatchCircuit
from pyjuice_bridge.config.data import Data, TextData
from pyjuice_bridge.config.teacher import Cluster, Teacher
from pyjuice_bridge.config.train import LatentPhase, Phase, Train, Tune
from pyjuice_bridge.engines import Precision
from pyjuice_bridge.teachers.pixels import PixelSection

_KINDS = {
    "images": {"teacher": "pixels", "circuit": "hclt"},
    "text": {"teacher": "text", "circuit": "hmm"},
}


def default_kinds(values: Mapping[str, Any]) -> dict[str, str]:
    """The kind that is meant where a section of a config (plain values) does not say."""
    data = values.get("data")
    kind = data.get("kind", "images") if isinstance(data, Mapping) else "images"
    return {"data": "images", **_KINDS.get(kind if isinstance(kind, str) else "", {})}


class Report(Section):
    """How many samples and completions the report shows."""

    samples: Count = 25
    inpaint: Count = 8


class Sweep(Section):
    """Several numbers of states, each trained in every arm; they replace ``circuit.states``.

    ``pseudocounts`` has one for every number of states, in place of ``train.pseudocount``: the more
    states, the fewer tokens of a mini-batch belong to each.
    """

    states: Annotated[list[States], Field(min_length=1)] = Field(default=[128, 256, 512, 1024])
    pseudocounts: list[Amount] | None = None

    @field_validator("states")
    @classmethod
    def _each_once(cls, states: list[int]) -> list[int]:
        if len(set(states)) != len(states):
            raise ValueError("the same number is listed twice")
        return states

    @model_validator(mode="after")
    def _one_each(self) -> Sweep:
        given = self.pseudocounts
        if given is not None and len(given) != len(self.states):
            raise ValueError(
                f"'pseudocounts' has {len(given)} entries, but 'states' has {len(self.states)}; "
                "give one for each"
            )
        return self


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    engine: Literal["auto", "torch", "julia"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "float32"
    data: Data
    teacher: Teacher = Field(default_factory=PixelSection)
    cluster: Cluster = Field(default_factory=Cluster)
    circuit: CircuitSection = Field(default_factory=HcltCircuit)
    train: Train = Field(default_factory=Train)
    tune: Tune | None = None
    sweep: Sweep | None = None
    arms: Annotated[list[Arm], Field(min_length=1)] | None = None
    report: Report = Field(default_factory=Report)

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        for name, kind in default_kinds(values).items():
            section = values.get(name, {} if name != "data" else None)
            if isinstance(section, Mapping):
                filled[name] = {"kind": kind, **section}
        return filled

    @field_validator("arms")
    @classmethod
    def _each_arm_once(cls, arms: list[Arm] | None) -> list[Arm] | None:
        if arms is not None and len(set(arms)) != len(arms):
            raise ValueError("the same arm is listed twice")
        return arms

    @property
    def sizes(self) -> list[int | None]:
        """Numbers of states to train, or a single None where there is one size."""
        return [None] if self.sweep is None else [*self.sweep.states]

    def pseudocount_of(self, states: int | None) -> float:
        """The pseudocount of training at one of ``sizes``."""
        if self.sweep is None or self.sweep.pseudocounts is None or states is None:
            return self.train.pseudocount
        return self.sweep.pseudocounts[self.sweep.states.index(states)]

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        if isinstance(self.data, TextData):
            self._check_text()
        elif isinstance(self.circuit, PatchCircuit):
            self._check_images()
            self._check_patches(self.train)
        else:
            self._check_images()
            self._check_hclt()
        return self

    def _check_text(self) -> None:
        if not isinstance(self.circuit, HmmCircuit):
            raise ValueError(
                f"'circuit.kind: {self.circuit.kind}' models images, but 'data.kind' is 'text'; "
                "use 'hmm'"
            )
        if "text" not in self.teacher.domains:
            raise ValueError(
                f"'teacher.kind: {self.teacher.kind}' reads images, but 'data.kind' is 'text'; "
                "use 'text'"
            )
        if self.cluster.scope == "position":
            raise ValueError(
                "'cluster.scope: position' has no HMM, whose states are the same at "
                "every position; use 'pooled'"
            )
        self.cluster.scope = "pooled"
        self._check_counted()

    def _check_images(self) -> None:
        for_text = {
            "circuit": isinstance(self.circuit, HmmCircuit),
            "teacher": "images" not in self.teacher.domains,
        }
        for name, wrong in for_text.items():
            if wrong:
                kind = getattr(self, name).kind
                raise ValueError(f"'{name}.kind: {kind}' is for text, but 'data.kind' is 'images'")
        if self.sweep is not None:
            raise ValueError("'sweep' belongs to 'circuit.kind: hmm' only")

    def _check_patches(self, train: Train) -> None:
        if self.cluster.scope == "position":
            raise ValueError("'cluster.scope: position' has no patch circuits; use 'pooled'")
        self.cluster.scope = "pooled"
        if isinstance(self.teacher, PixelSection) and self.teacher.ring is None:
            self.teacher.ring = 0
        train.patch_training = train.patch_training or Phase()
        train.latent_training = train.latent_training or LatentPhase()
        before = train.patch_training.epochs + train.latent_training.epochs
        if train.epochs <= before:
            raise ValueError(
                f"'train.epochs' is {train.epochs}, but patch and latent training already take "
                f"{before} of the passes; use at least {before + 1}"
            )
        self.arms = self.arms or ["lvd", "random", "hclt"]

    def _check_hclt(self) -> None:
        if self.teacher.patches_only:
            raise ValueError(
                f"'teacher.kind: {self.teacher.kind}' describes patches, while 'circuit.kind: "
                "hclt' needs features of every pixel; use 'pixels' or 'circuit.kind: patches'"
            )
        if isinstance(self.teacher, PixelSection) and self.teacher.ring is None:
            self.teacher.ring = 3
        self.cluster.scope = self.cluster.scope or "position"
        self._check_counted()

    def _check_counted(self) -> None:
        """What holds wherever counting is the distillation."""
        for name in ("patch_training", "latent_training"):
            if getattr(self.train, name) is not None:
                raise ValueError(f"'train.{name}' belongs to 'circuit.kind: patches' only")
        if self.arms and "hclt" in self.arms:
            raise ValueError("the arm 'hclt' belongs to 'circuit.kind: patches' only")
        if self.train.epochs < 2:
            raise ValueError("'train.epochs' is 1, but counting is one pass; use at least 2")
        self.arms = self.arms or ["lvd", "random"]
