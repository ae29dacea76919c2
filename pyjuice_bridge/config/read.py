"""From YAML and overrides to plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pyjuice_bridge.config.parse import LARGEST, parse_yaml
from pyjuice_bridge.errors import UserError

DefaultKinds = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""From a config's plain values to the kinds of the sections that do not name one."""


def read_values(
    path: Path | str, overrides: Iterable[str], default_kinds: DefaultKinds
) -> dict[str, Any]:
    """Read the plain values of a YAML file with overrides, not checked yet."""
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; 'init image' writes a config to start from"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: a config is a list of 'field: value' lines, starting with 'name:'"
        )
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UserError(f"--set {override}: write it as --set section.field=value")
        put(values, key.strip(), parse_yaml(value, f"--set {key}"), default_kinds)
    return values


def put(values: dict[str, Any], key: str, value: object, default_kinds: DefaultKinds) -> None:
    """Set ``a.b`` in nested dictionaries; a change of ``kind`` drops the section's other fields."""
    *sections, last = key.split(".")
    whole = values
    for section in sections:
        inner = values.get(section)
        values[section] = dict(inner) if isinstance(inner, dict) else {}
        values = values[section]
    kind = default_kinds(whole).get(".".join(sections))
    if kind and last == "kind" and values.get("kind", kind) != value:
        values.clear()
    values[last] = value
