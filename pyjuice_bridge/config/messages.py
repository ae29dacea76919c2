"""Turns mistakes in a config into one sentence each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pyjuice_bridge.errors import UserError

_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "model": "a section of 'field: value' lines",
    "dict": "a section of 'field: value' lines",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least {}"),
    "greater_than": ("gt", "more than {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "less than {}"),
}


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number and refuses a field given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, (list, dict)) or name in seen:
                problem = f"the field '{name}' is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, where: str) -> Any:
    """Plain values of a YAML text; a mistake is a :class:`UserError` that names the line."""
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{where}: not valid YAML: {reason}") from None


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """One sentence about the first mistake that pydantic found."""
    details = error.errors(include_url=False)
    # A misspelt field often causes another one to be missing: speak of the misspelt one.
    details.sort(key=lambda d: d["type"] == "missing")
    return f"{where}: {_sentence(details[0], model)}"


def nearest(value: object, choices: Sequence[str]) -> str:
    """``"; did you mean 'x'?"`` when one of the choices is close to the value, else empty."""
    close = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def _sentence(detail: ErrorDetails, model: type[BaseModel]) -> str:
    path, owner = _walk(detail["loc"], model)
    kind, context, given = detail["type"], detail.get("ctx", {}), detail["input"]
    field = ".".join(path)
    if kind == "extra_forbidden":
        allowed = list(owner.model_fields)
        *section, name = path
        for other in _options(model, section):
            if name in other.model_fields and (tag := _tag(other)):
                return f"'{field}' belongs to '{'.'.join(section)}.kind: {tag}'"
        hint = nearest(path[-1], allowed) or f"; allowed are {_list(allowed)}"
        return f"there is no field '{field}'{hint}"
    if kind == "missing":
        return f"'{field}' is missing"
    if kind in ("literal_error", "union_tag_invalid", "union_tag_not_found"):
        if kind != "literal_error":
            field = f"{field}.kind"
            given = given.get("kind") if isinstance(given, dict) else given
        choices = re.findall(
            r"'([^']*)'", str(context.get("expected_tags", context.get("expected", "")))
        )
        if not choices:
            choices = [tag for section in _options(model, path) if (tag := _tag(section))]
        if given is None:
            return f"'{field}' is missing; choose {_list(choices, 'or')}"
        return (
            f"'{field}' is {_show(given)}; choose {_list(choices, 'or')}{nearest(given, choices)}"
        )
    if kind in _BOUNDS:
        key, phrase = _BOUNDS[kind]
        return f"'{field}' is {_show(given)}, but must be {phrase.format(context[key])}"
    if kind == "value_error":
        message = str(context["error"])
        return f"'{field}': {message}" if field else message
    if kind == "too_short":
        return f"'{field}' is empty; give at least {context['min_length']}"
    if kind == "too_long":
        return f"'{field}' has {context['actual_length']} entries; give {context['max_length']}"
    if kind == "string_pattern_mismatch":
        return f"'{field}' is {_show(given)}; use letters, digits, '.', '_' and '-' only"
    if kind == "finite_number":
        return f"'{field}' is {_show(given)}, but must be a finite number"
    expected = next((v for k, v in _KINDS.items() if kind.startswith(k)), None)
    if expected:
        return f"'{field or 'config'}' is {_show(given)}, but must be {expected}"
    return f"'{field}' is {_show(given)}: {detail['msg'].lower()}"


def _walk(loc: Sequence[int | str], model: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """The field path without pydantic's union tags, and the section that holds its last step."""
    path: list[str] = []
    owner = model
    annotation: Any = model
    for step in loc:
        options = _models(annotation)
        tagged = [m for m in options if _tag(m) == step]
        if len(options) > 1 and tagged:
            annotation = tagged[0]
            continue
        path.append(str(step))
        if options:
            owner = options[0]
            field = owner.model_fields.get(str(step))
            annotation = field.annotation if field else None
    return path, owner


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [m for a in get_args(annotation) for m in _models(a)]
    return []


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    if field is None or get_origin(field.annotation) is not Literal:
        return None
    return str(get_args(field.annotation)[0])


def _options(model: type[BaseModel], path: Sequence[str]) -> list[type[BaseModel]]:
    """The sections that may stand at ``path``."""
    annotation: Any = model
    for step in path:
        annotation = _models(annotation)[0].model_fields[step].annotation
    return _models(annotation)


def _show(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    if value is None:
        text = "empty"
    elif isinstance(value, bool):
        text = text.lower()
    return text if len(text) <= 60 else text[:57] + "..."


def _list(names: Sequence[str], word: str = "and") -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {word} {names[-1]}"
