"""The base of all sections of a config, and the types of their fields.

It stands below ``config``, so that whatever a section configures can own it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from pyjuice_bridge.numbers import MOST_EPOCHS, MOST_PSEUDOCOUNT, StepSize


def at_most(bound: float, reason: str) -> AfterValidator:
    """Refuse larger numbers, saying why."""

    def check(value: float) -> float:
        if value > bound:
            context = {"bound": bound, "reason": reason}
            raise PydanticCustomError("at_most", "at most {bound}: {reason}", context)
        return value

    return AfterValidator(check)


Count = Annotated[int, Field(ge=1), at_most(10**12, "nothing here has so many")]
Epochs = Annotated[int, Field(ge=1), at_most(MOST_EPOCHS, "every pass reads all of the data")]
BatchSize = Annotated[int, Field(ge=1), at_most(10**6, "all of a mini-batch is in memory")]
Fraction = StepSize
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
States = Annotated[int, Field(ge=2), at_most(65_536, "tables have the square of it in entries")]
_MUCH = at_most(MOST_PSEUDOCOUNT, "it would outweigh any data")
Amount = Annotated[float, Field(ge=0), _MUCH]
Pseudocount = Annotated[float, Field(gt=0), _MUCH]
A_FEW = Field(min_length=1, max_length=100)
Arm = Literal["lvd", "random", "hclt", "start"]


class Section(BaseModel):
    """Base of all sections: unknown fields and silent conversions are refused."""

    model_config = ConfigDict(
        extra="forbid", strict=True, validate_default=True, allow_inf_nan=False
    )


class KindSection(Section):
    """Base of the sections of which a config names one by its ``kind``."""

    kind: str
