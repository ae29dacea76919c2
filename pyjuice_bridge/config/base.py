"""What the sections of a config are made of."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(gt=0, lt=1)]
States = Annotated[int, Field(ge=2)]
Amount = Annotated[float, Field(ge=0)]
Arm = Literal["lvd", "random", "hclt"]


class Section(BaseModel):
    """Base of all sections: unknown fields and silent conversions are refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )


class TeacherSection(Section):
    """Base of the sections of teachers.

    Attributes:
        reads: the kinds of data that the teacher embeds.
        patches_only: whether it describes patches of images, not pixels.
    """

    reads: ClassVar[tuple[str, ...]]
    patches_only: ClassVar[bool] = False
