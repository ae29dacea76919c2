"""Turns mistakes in a config into one sentence each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

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


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """Put the first mistake that pydantic found into one sentence."""
    details = error.errors(include_url=False)
    # A misspelt field often causes another one to be missing: speak of the misspelt one.
    details.sort(key=lambda d: d["type"] == "missing")
    return f"{where}: {_sentence(details[0], model)}"


def nearest(value: object, choices: Sequence[str]) -> str:
    """Return ``"; did you mean 'x'?"`` if one of the choices is close to the value, else ``""``."""
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
                return f"'{field}' belongs to '{'.'.join([*section, _tag_field(other)])}: {tag}'"
        hint = nearest(path[-1], allowed) or f"; allowed are {_list(allowed)}"
        return f"there is no field '{field}'{hint}"
    if kind == "missing":
        return f"'{field}' is missing"
    if kind in ("literal_error", "union_tag_invalid", "union_tag_not_found"):
        if kind != "literal_error":
            tag_field = str(context["discriminator"]).strip("'")
            field = f"{field}.{tag_field}"
            given = given.get(tag_field) if isinstance(given, dict) else given
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
    if kind == "at_most":
        why = f"at most {context['bound']:,}: {context['reason']}"
        return f"'{field}' is {_show(given)}, but must be {why}"
    if kind == "invalid_key":
        return f"'{field}' is not a text, but names a field"
    if kind == "value_error":
        message = str(context["error"])
        return f"'{field}': {message}" if field else message
    if kind in ("too_short", "too_long"):
        count = context["actual_length"]
        amount = f"has {count} {'entry' if count == 1 else 'entries'}" if count else "is empty"
        key, phrase = ("min_length", "least") if kind == "too_short" else ("max_length", "most")
        return f"'{field}' {amount}; give at {phrase} {context[key]}"
    if kind == "string_pattern_mismatch":
        return f"'{field}' is {_show(given)}; use letters, digits, '.', '_' and '-' only"
    if kind == "finite_number":
        return f"'{field}' is {_show(given)}, but must be a finite number"
    expected = next((v for k, v in _KINDS.items() if kind.startswith(k)), None)
    if expected:
        return f"'{field or 'config'}' is {_show(given)}, but must be {expected}"
    return f"'{field}' is {_show(given)}: {detail['msg'].lower()}"


def _walk(loc: Sequence[int | str], model: type[BaseModel]) -> tuple[list[str], type[BaseModel]]:
    """Return the path without pydantic's union tags, and the section that holds its last step."""
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
    """List the sections that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [m for a in get_args(annotation) for m in _models(a)]
    return []


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get(_tag_field(model))
    if field is None or get_origin(field.annotation) is not Literal:
        return None
    return str(get_args(field.annotation)[0])


def _tag_field(model: type[BaseModel]) -> str:
    """Return the field by which sections of this sort are told apart."""
    return "family" if "family" in model.model_fields else "kind"


def _options(model: type[BaseModel], path: Sequence[str]) -> list[type[BaseModel]]:
    """List the sections allowed at ``path``."""
    annotation: Any = model
    for step in path:
        annotation = _models(annotation)[0].model_fields[step].annotation
    return _models(annotation)


def _show(value: object) -> str:
    if isinstance(value, int) and abs(value) >= 10**60:
        return "a number of more than 60 digits"
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
