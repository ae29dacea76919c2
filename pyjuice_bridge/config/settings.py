"""What every part of a run may read of its config."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from pyjuice_bridge.config.sweep import Grid, check_grids, grids_of
from pyjuice_bridge.config.train import Train, Tune
from pyjuice_bridge.engines.base import Precision
from pyjuice_bridge.sections import A_FEW, Arm, KindSection, Section, at_most
from pyjuice_bridge.teachers.base import TeacherSection

_ONE_PAGE = "all of them are shown on one page"
_KMEANS = "each one reads all the points"
_IN_MEMORY = "all the points are in memory"


def _checked_grids(grids: list[Grid]) -> list[Grid]:
    check_grids(grids)
    return grids


Sweep = Annotated[
    list[dict[str, list[Any]]], BeforeValidator(grids_of), A_FEW, AfterValidator(_checked_grids)
]
"""Fields and their values, of which all combinations are trained; or a list of such grids."""


class Report(Section):
    """How many samples and completions the report shows."""

    samples: Annotated[int, Field(ge=1), at_most(10_000, _ONE_PAGE)] = 25
    inpaint: Annotated[int, Field(ge=1), at_most(1000, _ONE_PAGE)] = 8


class Cluster(Section):
    """K-means on the teacher's features.

    ``scope`` is ``position`` (own centroids for every position, the default for HCLTs) or
    ``pooled`` (shared by all positions, the default and only choice for others).
    """

    scope: Literal["position", "pooled"] | None = None
    iterations: Annotated[int, Field(ge=1), at_most(10_000, _KMEANS)] = 20
    restarts: Annotated[int, Field(ge=1), at_most(1000, _KMEANS)] = 1
    points_per_centroid: Annotated[int, Field(ge=1), at_most(10**6, _IN_MEMORY)] = 256


class Settings(Section):
    """A whole run's config, whichever kinds of data, teacher and circuit it names.

    ``runner.config.Config`` narrows the three sections to those that are registered.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    engine: Literal["auto", "torch", "julia"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "float32"
    data: KindSection
    teacher: TeacherSection
    cluster: Cluster = Field(default_factory=Cluster)
    circuit: KindSection
    train: Train = Field(default_factory=Train)
    tune: Tune | None = None
    sweep: Sweep | None = None
    arms: Annotated[list[Arm], Field(min_length=1)] | None = None
    report: Report = Field(default_factory=Report)

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name.casefold() == "artifacts":
            raise ValueError("'artifacts' is the folder of stored stages; choose another name")
        if len(name) > 100:
            raise ValueError(f"has {len(name)} characters, but may have at most 100")
        return name

    @field_validator("arms")
    @classmethod
    def _each_arm_once(cls, arms: list[Arm] | None) -> list[Arm] | None:
        if arms is not None and len(set(arms)) != len(arms):
            raise ValueError("the same arm is listed twice")
        return arms

    def fitted(self, rows: int) -> Self:
        """Return the config with what ``train`` leaves open fitted to so many training rows."""
        return self.model_copy(update={"train": self.train.fitted(rows)})
