"""What every part of a run may read of its config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pyjuice_bridge.config.base import Amount, Arm, Count, Section, States
from pyjuice_bridge.config.train import Train, Tune
from pyjuice_bridge.engines import Precision


class Report(Section):
    """How many samples and completions the report shows."""

    samples: Count = 25
    inpaint: Count = 8


class Cluster(Section):
    """K-means on the teacher's features.

    ``scope`` is ``position`` (own centroids for every position, the default for HCLTs) or
    ``pooled`` (shared by all positions, the default and only choice for others).
    """

    scope: Literal["position", "pooled"] | None = None
    iterations: Count = 20
    restarts: Count = 1
    points_per_centroid: Count = 256


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


class Settings(Section):
    """A whole run's config, whichever kinds of data, teacher and circuit it names.

    ``run.config.Config`` narrows the three sections to those that are registered.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    engine: Literal["auto", "torch", "julia"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "float32"
    data: Section
    teacher: Section
    cluster: Cluster = Field(default_factory=Cluster)
    circuit: Section
    train: Train = Field(default_factory=Train)
    tune: Tune | None = None
    sweep: Sweep | None = None
    arms: Annotated[list[Arm], Field(min_length=1)] | None = None
    report: Report = Field(default_factory=Report)

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
        """Return the pseudocount of training at one of ``sizes``."""
        if self.sweep is None or self.sweep.pseudocounts is None or states is None:
            return self.train.pseudocount
        return self.sweep.pseudocounts[self.sweep.states.index(states)]
