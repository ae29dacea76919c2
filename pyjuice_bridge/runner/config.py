"""A whole run's config: the registered kinds of data, teachers and circuits put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from pyjuice_bridge.config.messages import explain
from pyjuice_bridge.config.read import put, read_values
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.config.sweep import Point, points_of, words_of
from pyjuice_bridge.config.teacher import Teacher
from pyjuice_bridge.distill.registry import KINDS
from pyjuice_bridge.domains.registry import DOMAINS
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.sections import KindSection

if TYPE_CHECKING:
    Data = KindSection
    Circuit = KindSection
else:

    def _one_of(sections):
        """Return the union of sections, told apart by their ``kind``."""
        return Annotated[reduce(or_, sections), Field(discriminator="kind")]

    Data = _one_of([domain.section for domain in DOMAINS.values()])
    Circuit = _one_of([kind.section for kind in KINDS.values()])


def default_kinds(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the kind that is meant where a section of a config (plain values) does not say."""
    data = values.get("data")
    kind = data.get("kind", "images") if isinstance(data, Mapping) else "images"
    domain = DOMAINS.get(kind if isinstance(kind, str) else "")
    if domain is None:
        return {"data": "images"}
    return {"data": "images", "teacher": domain.teacher, "circuit": domain.circuit}


class Config(Settings):
    """A whole run."""

    data: Data
    teacher: Teacher
    circuit: Circuit
    _points: tuple[tuple[Point, Config], ...] = PrivateAttr(default=())

    @property
    def points(self) -> tuple[tuple[Point, Config], ...]:
        """The points of the sweep, each with its config; without one this config alone."""
        return self._points or (({}, self),)

    @model_validator(mode="wrap")
    @classmethod
    def _with_points(cls, values: Any, check: ModelWrapValidatorHandler[Config]) -> Config:
        config = check(values)
        if config.sweep is not None:
            config._points = tuple(
                (point, _at(values, point, config)) for point in points_of(config.sweep)
            )
        return config

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

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        kind, data = KINDS[self.circuit.kind], self.data.kind
        if data not in kind.domains:
            raise ValueError(
                f"'circuit.kind: {kind.name}' models {', '.join(kind.domains)}, but 'data.kind' "
                f"is '{data}'; use '{DOMAINS[data].circuit}'"
            )
        self._teacher_fits(data)
        for name, by in (("classes", "their labels"), ("mixture", "clusters")):
            self._can_divide(data, name, by)
        self.arms = self.arms or (["start"] if self.train.start is not None else [*kind.arms])
        if (self.train.start is not None) != ("start" in self.arms):
            raise ValueError(
                "the arm 'start' begins with 'train.start'; give both, or neither of them"
            )
        wrong = [arm for arm in self.arms if arm not in (*kind.arms, "start")]
        if wrong:
            *others, last = [each.name for each in KINDS.values() if wrong[0] in each.arms]
            having = f"{', '.join(others)} or {last}" if others else last
            raise ValueError(f"the arm '{wrong[0]}' belongs to 'circuit.kind: {having}' only")
        DOMAINS[data].check(self)
        kind.check(self)
        self._can_grow()
        return self

    def _can_grow(self) -> None:
        grow, epochs = self.train.grow, self.train.epochs
        if grow is None:
            return
        if getattr(self.circuit, "frozen", False):
            raise ValueError("'circuit.frozen: true' leaves as it is what 'train.grow' would grow")
        if epochs <= grow.rounds:
            raise ValueError(
                f"'train.grow.rounds: {grow.rounds}' needs at least {grow.rounds + 1} passes, "
                f"but 'train.epochs' is {epochs}"
            )

    def _can_divide(self, data: str, name: str, by: str) -> None:
        if not getattr(self.circuit, name, None):
            return
        reasons = {
            "'data.kind' is not 'images'": data != "images",
            "'teacher.kind' is 'file'": self.teacher.kind == "file",
            "'circuit.frozen' is true": name == "mixture"
            and getattr(self.circuit, "frozen", False),
        }
        why = next((reason for reason, holds in reasons.items() if holds), None)
        if why is not None:
            raise ValueError(f"'circuit.{name}' divides images by {by}, but {why}")

    def _teacher_fits(self, data: str) -> None:
        name, reads = self.teacher.kind, self.teacher.domains
        if data not in reads:
            raise ValueError(
                f"'teacher.kind: {name}' reads {' and '.join(reads)}, but 'data.kind' is '{data}'; "
                f"use '{DOMAINS[data].teacher}'"
            )


def _at(values: Mapping[str, Any], point: Point, config: Config) -> Config:
    """Return the config at a point of its sweep."""
    if config.tune is not None and (
        tuned := [n for n in point if n.startswith(("train.pseudocount", "train.step_size"))]
    ):
        raise ValueError(f"'sweep.{tuned[0]}' is what 'tune' chooses; leave out one of the two")
    changed = {name: value for name, value in values.items() if name != "sweep"}
    for name, value in point.items():
        put(changed, name, value, default_kinds)
    try:
        return Config.model_validate(changed)
    except ValidationError as error:
        raise ValueError(explain(error, Config, f"at '{words_of(point)}' of 'sweep'")) from None


def make_config(values: Mapping[str, Any], where: str = "config") -> Config:
    """Check plain values.

    Raises:
        UserError: one sentence about the first mistake.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        raise UserError(explain(error, Config, where)) from None


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply ``a.b=value`` overrides, whose values are YAML too."""
    return make_config(read_values(path, overrides, default_kinds), str(path))
