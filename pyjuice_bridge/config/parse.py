"""Read YAML as a config needs it: plain values, the numbers of YAML 1.2, within limits."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import yaml

from pyjuice_bridge.errors import UserError

LARGEST = 100_000
"""Characters that a config may have."""
DEEPEST = 32
"""Depth of nested sections and lists, at most."""
MOST = 10_000
"""Values of a config, at most, with aliases expanded."""
_DIGITS = 400
_TAG = "tag:yaml.org,2002:"
_BASES = {"0o": 8, "0x": 16}
_BOOL = r"true|True|TRUE|false|False|FALSE"
_INTEGER = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_SCALARS: dict[str, tuple[str, Callable[[str], Any], str]] = {
    "null": (r"null|Null|NULL|~|", lambda text: None, "null"),
    "bool": (_BOOL, lambda text: text[0] in "tT", "true or false"),
    "int": (_INTEGER, lambda text: int(text, _BASES.get(text[:2], 10)), "a whole number"),
    "float": (_FLOAT, lambda text: float(re.sub(r"\.(?=[iInN])", "", text)), "a number"),
    "str": (r"(?s:.*)", str, "a text"),
}
"""By name of the tag: the pattern of its texts, their value, and what to call it."""


class _Loader(yaml.SafeLoader):
    """Compose within limits and construct plain values only; refuse a field given twice."""

    yaml_constructors: ClassVar[dict[str | None, Any]] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0
        self._sizes: dict[int, int] = {}

    def resolve(self, kind: type[yaml.Node], value: str | None, implicit: Any) -> str:
        """Return the tag of a node that has none: only plain texts may be more than texts."""
        if kind is yaml.ScalarNode and implicit[0] and value is not None:
            for name, (pattern, _, _) in _SCALARS.items():
                if re.fullmatch(pattern, value):
                    return _TAG + name
        if kind is yaml.ScalarNode:
            return f"{_TAG}str"
        return f"{_TAG}seq" if kind is yaml.SequenceNode else f"{_TAG}map"

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node, unless it is too deep or there are too many."""
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        alias = isinstance(event, yaml.AliasEvent)
        anchor = getattr(event, "anchor", None)
        if not alias and anchor in self.anchors:
            _refuse(f"the anchor '{anchor}' is given twice", event)
        if self._depth > DEEPEST:
            _refuse(f"sections are nested more than {DEEPEST} deep", event)
        before = self._count
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if alias and node.end_mark is None:
            _refuse("a section cannot hold itself", event)
        self._count += self._sizes[id(node)] if alias else 1
        self._sizes.setdefault(id(node), self._count - before)
        if self._count > MOST:
            _refuse(f"there are more than {MOST:,} values", event)
        return node


def _refuse(problem: str, at: yaml.Node | yaml.Event) -> NoReturn:
    mark: Any = at.start_mark
    raise yaml.constructor.ConstructorError(None, None, problem, mark)


def _scalar(loader: _Loader, node: yaml.Node) -> Any:
    """Return the value of a text by its tag."""
    pattern, read, kind = _SCALARS[node.tag.removeprefix(_TAG)]
    if not isinstance(node, yaml.ScalarNode) or not re.fullmatch(pattern, node.value):
        shown = repr(node.value[:40]) if isinstance(node, yaml.ScalarNode) else "a section or list"
        _refuse(f"{shown} is not {kind}", node)
    if read is not str and len(node.value) > _DIGITS:
        _refuse(f"a number of {len(node.value):,} digits is too long", node)
    if any("\ud800" <= character <= "\udfff" for character in node.value):
        _refuse("a text holds half a character (a lone surrogate)", node)
    return read(node.value)


def _list(loader: _Loader, node: yaml.Node) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        _refuse("this is not a list", node)
    return [loader.construct_object(part, deep=True) for part in node.value]


def _section(loader: _Loader, node: yaml.Node) -> dict[str, Any]:
    """Return a section, whose fields are named by texts."""
    if not isinstance(node, yaml.MappingNode):
        _refuse("this is not a section", node)
    section: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            _refuse("the name of a field must be a text", key)
        if key.value == "<<" and key.style is None:
            _refuse("'<<' is not a field; write out what it would take over", key)
        key.tag = f"{_TAG}str"
        name = loader.construct_object(key)
        if name in section:
            _refuse(f"the field '{name}' is given twice", key)
        section[name] = loader.construct_object(value, deep=True)
    return section


def _unknown(loader: _Loader, node: yaml.Node) -> None:
    _refuse(f"could not determine a constructor for the tag '{node.tag[:80]}'", node)


for _name in _SCALARS:
    _Loader.add_constructor(_TAG + _name, _scalar)
_Loader.add_constructor(f"{_TAG}seq", _list)
_Loader.add_constructor(f"{_TAG}map", _section)
_Loader.add_constructor(None, _unknown)


def parse_yaml(text: str, where: str) -> Any:
    """Return the plain values of a YAML text.

    Raises:
        UserError: a mistake, with its line, or more than a config may hold.
    """
    if len(text) > LARGEST:
        raise UserError(f"{where}: has more than {LARGEST:,} characters; is it a config?")
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = str(error.problem)
        problem = f"{error.context}, {problem}" if problem.startswith("but ") else problem
        raise UserError(f"{where}{line}: not valid YAML: {problem}") from None
    except (OverflowError, ValueError):
        # Of all that is read here, only chr can fail: on the number of a character in quotes.
        line = f", line {loader.get_mark().line + 1}"
        raise UserError(f"{where}{line}: not valid YAML: there is no such character") from None
    finally:
        loader.dispose()
