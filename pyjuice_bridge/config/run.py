"""A whole run's config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pyjuice_bridge.config.base import Arm, Count, Section
from pyjuice_bridge.config.circuit import CircuitSection, HcltCircuit, PatchCircuit
from pyjuice_bridge.config.data import Data
from pyjuice_bridge.config.teacher import Cluster, PixelTeacher, Teacher
from pyjuice_bridge.config.train import LatentPhase, Phase, Train, Tune

DEFAULT_KINDS = {"teacher": "pixels", "circuit": "hclt"}
"""The kind that is meant where a section does not say."""


class Report(Section):
    """How many pictures the report shows."""

    samples: Count = 25
    inpaint: Count = 8


class Config(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    engine: Literal["auto", "torch", "julia"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "float64"] = "float32"
    data: Data
    teacher: Teacher = Field(default_factory=PixelTeacher)
    cluster: Cluster = Field(default_factory=Cluster)
    circuit: CircuitSection = Field(default_factory=HcltCircuit)
    train: Train = Field(default_factory=Train)
    tune: Tune | None = None
    arms: Annotated[list[Arm], Field(min_length=1)] | None = None
    report: Report = Field(default_factory=Report)

    @field_validator(*DEFAULT_KINDS, mode="before")
    @classmethod
    def _default_kind(cls, section: object, info: ValidationInfo) -> object:
        assert info.field_name is not None
        if isinstance(section, Mapping):
            return {"kind": DEFAULT_KINDS[info.field_name], **section}
        return section

    @field_validator("arms")
    @classmethod
    def _each_arm_once(cls, arms: list[Arm] | None) -> list[Arm] | None:
        if arms is not None and len(set(arms)) != len(arms):
            raise ValueError("the same arm is listed twice")
        return arms

    @model_validator(mode="after")
    def _fits_the_circuit(self) -> Config:
        if isinstance(self.circuit, PatchCircuit):
            self._check_patches(self.train)
        else:
            self._check_hclt()
        return self

    def _check_patches(self, train: Train) -> None:
        if self.cluster.scope == "position":
            raise ValueError("'cluster.scope: position' has no patch circuits; use 'pooled'")
        self.cluster.scope = "pooled"
        if self.teacher.kind == "pixels" and self.teacher.ring is None:
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
        for name in ("patch_training", "latent_training"):
            if getattr(self.train, name) is not None:
                raise ValueError(f"'train.{name}' belongs to 'circuit.kind: patches' only")
        if self.teacher.kind in ("mae", "vit_mae", "efficientnet"):
            raise ValueError(
                f"'teacher.kind: {self.teacher.kind}' describes patches, while 'circuit.kind: "
                "hclt' needs features of every pixel; use 'pixels' or 'circuit.kind: patches'"
            )
        if self.arms and "hclt" in self.arms:
            raise ValueError("the arm 'hclt' belongs to 'circuit.kind: patches' only")
        if self.train.epochs < 2:
            raise ValueError("'train.epochs' is 1, but counting is one pass; use at least 2")
        if self.teacher.kind == "pixels" and self.teacher.ring is None:
            self.teacher.ring = 3
        self.cluster.scope = self.cluster.scope or "position"
        self.arms = self.arms or ["lvd", "random"]
