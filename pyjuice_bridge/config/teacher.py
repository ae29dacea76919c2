"""The section of the teacher: one of those that the registry lists."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from pyjuice_bridge.teachers.base import TeacherSection
from pyjuice_bridge.teachers.registry import SECTIONS

if TYPE_CHECKING:
    Teacher = TeacherSection
else:
    Teacher = Annotated[reduce(or_, SECTIONS), Field(discriminator="kind")]
