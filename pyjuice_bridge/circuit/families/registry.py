"""The leaf families that circuits, configs and circuit files can name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from pyjuice_bridge.circuit.families.base import Family
from pyjuice_bridge.circuit.families.binomial import Binomial
from pyjuice_bridge.circuit.families.categorical import Categorical
from pyjuice_bridge.circuit.families.gaussian import Gaussian
from pyjuice_bridge.circuit.families.logistic import Logistic
from pyjuice_bridge.circuit.families.smooth import Smooth
from pyjuice_bridge.errors import UserError, shown

FAMILIES: tuple[type[Family], ...] = (
    Categorical,
    Smooth,
    Gaussian,
    Logistic,
    Binomial,
)

BY_NAME = {str(each.model_fields["family"].default): each for each in FAMILIES}

if TYPE_CHECKING:
    Leaves = Family
else:
    Leaves = Annotated[reduce(or_, FAMILIES), Field(discriminator="family")]
    """A family as a section of a config."""


def family_of(name: str, options: Mapping[str, Any], where: str) -> Family:
    """Make the family ``name``; of ``options`` those are taken that it has.

    Raises:
        UserError: there is no such family, or an option is out of range.
    """
    kind = BY_NAME.get(name)
    if kind is None:
        raise UserError(
            f"{where}: family {shown(name)} is unknown, must be one of {', '.join(BY_NAME)}."
        )
    given = {option: options[option] for option in kind.model_fields if option in options}
    try:
        return kind(**{**given, "family": name})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(
            f"{where}: {first['loc'][0]} of the family '{name}' is {shown(first['input'])}: "
            f"{first['msg'].lower()}."
        ) from None
