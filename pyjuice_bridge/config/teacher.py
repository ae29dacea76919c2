"""What latent values are made from, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import Field

from pyjuice_bridge.config.base import Count, Section
from pyjuice_bridge.teachers.base import TeacherSection
from pyjuice_bridge.teachers.registry import SECTIONS

if TYPE_CHECKING:
    Teacher = TeacherSection
else:
    Teacher = Annotated[Union[SECTIONS], Field(discriminator="kind")]  # noqa: UP007


class Cluster(Section):
    """K-means on the teacher's features.

    ``scope`` is ``position`` (own centroids for every position, the default for HCLTs) or
    ``pooled`` (shared by all positions, the default and only choice for others).
    """

    scope: Literal["position", "pooled"] | None = None
    iterations: Count = 20
    restarts: Count = 1
    points_per_centroid: Count = 256
