"""README.md and docs/guide.md: their code runs, their commands, links and tables are true.

The code of the page about region graphs runs, too.
"""

from __future__ import annotations

import re
import shlex
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import click
import pytest
import torch
import yaml
from click.testing import CliRunner
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pyjuice_bridge.cli.main import main
from pyjuice_bridge.config.train import Tune
from pyjuice_bridge.runner.config import Config, default_kinds, load_config, make_config

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide.md"
README = ROOT / "README.md"
PAGES = (README, GUIDE)
COMMAND = "python -m pyjuice_bridge"


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page; ``line`` is that of the opening fence, from 1."""
    found: list[Block] = []
    start, language, lines = 0, "", list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif start:
            found.append(Block(language, start, "\n".join(lines)))
            start = 0
        else:
            start, language, lines = number, line[3:].strip(), []
    assert not start, f"{page.name}, line {start}: the block does not end"
    return found


def commands(block: Block) -> list[list[str]]:
    """The words after ``python -m pyjuice_bridge`` of every such line of a shell block."""
    lines = [line for line in block.text.splitlines() if line.startswith(COMMAND)]
    return [shlex.split(line, comments=True)[3:] for line in lines]


def each_command() -> Iterator[Any]:
    for page in PAGES:
        for block in blocks(page):
            for words in commands(block):
                yield pytest.param(words, id=f"{page.name}: {' '.join(words)}")


# The code.


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "docs" / "region_graph.md"], ids=lambda page: page.name
)
def test_the_code_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block after block in one namespace and an empty folder; commands where they are cheap."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    namespace: dict[str, Any] = {"__name__": page.stem}
    try:
        for block in blocks(page):
            _run(block, page, namespace)
    finally:
        torch.set_num_threads(threads)


def _run(block: Block, page: Path, namespace: dict[str, Any]) -> None:
    if block.language == "python":
        # The empty lines put the page's own line numbers into tracebacks.
        exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)
    elif block.language == "yaml":
        _check_config(block)
    elif block.language in ("sh", "bash"):
        for words in commands(block):
            if _is_cheap(words):
                done = CliRunner().invoke(main, words)
                assert done.exit_code == 0, f"{' '.join(words)}: {done.output}"


def _check_config(block: Block) -> None:
    """A whole config is kept under the name in its first line; a part must fit into one."""
    values = yaml.safe_load(block.text)
    if "name" in values:
        path = Path(block.text.splitlines()[0].removeprefix("# "))
        path.write_text(block.text, encoding="utf-8")
        load_config(path)
    else:
        make_config({"name": "part", "data": {"name": "digits"}, **values})


def _is_cheap(words: Sequence[str]) -> bool:
    if words[0] == "run":
        return _config_of(words).data.name == "digits"
    return words[:2] != ["data", "get"] and not any("quickstart" in word for word in words)


def _config_of(words: Sequence[str]) -> Config:
    path = Path(words[1])
    overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    return load_config(path if path.exists() else ROOT / path, overrides)


@pytest.mark.parametrize("words", list(each_command()))
def test_every_command_line_is_understood(words: list[str]) -> None:
    command: click.Command | None = main
    name, rest = "", words
    context = click.Context(main)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, command, rest = command.resolve_command(context, rest)  # type: ignore[assignment]
    assert command is not None
    try:
        command.make_context(name, list(rest), parent=context)
    except click.exceptions.Exit as done:
        assert done.exit_code == 0


def test_both_pages_have_code_and_commands() -> None:
    for page in PAGES:
        languages = [block.language for block in blocks(page)]
        assert "python" in languages and "sh" in languages
        assert any(commands(block) for block in blocks(page))


# The links.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: there is no {link}"
        if anchor:
            assert anchor in _anchors(path), f"{page.name}: there is no heading {link}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for page in PAGES:
        shell = "\n".join(block.text for block in blocks(page) if block.language == "sh")
        named = re.findall(r"^make (\w+)", shell, re.MULTILINE)
        named += re.findall(r"`make (\w+)`", page.read_text(encoding="utf-8"))
        assert named, f"{page.name} names no target"
        assert set(named) <= set(targets)


# The tables.


def table_after(text: str, marker: str) -> list[str]:
    """The lines of the first table after ``marker``."""
    assert text.count(marker) == 1, f"{marker!r} occurs {text.count(marker)} times"
    lines = iter(text.split(marker)[1].splitlines())
    table: list[str] = []
    for line in lines:
        if line.startswith("|"):
            table.append(line)
        elif table or line.startswith("#"):
            break
    return table


def test_the_query_table_is_that_of_its_page() -> None:
    queries = (ROOT / "docs" / "queries.md").read_text(encoding="utf-8")
    rows = [line for line in queries.splitlines() if line.startswith("|")]
    assert rows == table_after(README.read_text(encoding="utf-8"), "<!-- queries -->")


def sections(model: type[BaseModel], path: str = "") -> dict[str, type[BaseModel]]:
    """Heading of the guide → section of the config, each section once."""
    found: dict[str, type[BaseModel]] = {}
    for name, field in model.model_fields.items():
        choices = _models(field.annotation)
        for choice in choices:
            tag = _tag(choice)
            if tag == "family" and set(choice.model_fields) == {tag}:
                continue
            kind = f", `{tag}: {_kind(choice)}`" if len(choices) > 1 else ""
            inner = {f"`{path}{name}`{kind}": choice, **sections(choice, f"{path}{name}.")}
            found |= {k: v for k, v in inner.items() if v not in found.values()}
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in get_args(annotation) for m in _models(part)]


def _tag(model: type[BaseModel]) -> str:
    """The field by which sections of this sort are told apart."""
    return "family" if "family" in model.model_fields else "kind"


def _kind(model: type[BaseModel]) -> str:
    return str(get_args(model.model_fields[_tag(model)].annotation)[0])


HEADINGS: dict[str, type[BaseModel]] = {"Top level": Config, **sections(Config)}


@pytest.mark.parametrize("heading", HEADINGS)
def test_the_config_tables_are_those_of_the_model(heading: str) -> None:
    """Every field with its default and what it may be; the meaning is the guide's own."""
    rows = table_after(GUIDE.read_text(encoding="utf-8"), f"\n### {heading}\n")
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    written = [tuple(row[:3]) for row in cells]
    assert written == expected_rows(HEADINGS[heading])
    assert all(len(row) == 4 and row[3] for row in cells)


def test_the_guide_has_no_section_too_many() -> None:
    text = GUIDE.read_text(encoding="utf-8").split("\n## ")
    (chapter,) = [part for part in text if part.startswith("2. The config")]
    assert re.findall(r"^### (.+)$", chapter, re.MULTILINE) == list(HEADINGS)


def expected_rows(model: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Field, default, allowed values, as the guide writes them."""
    fields = model.model_fields.items()
    by_data = (
        set(default_kinds({"data": {"kind": "text"}})) - {"data"} if model is Config else set()
    )
    return [
        (f"`{name}`", _default(field) if name not in by_data else "by `data.kind`", _allowed(field))
        for name, field in fields
        if name not in ("kind", "family") or len(get_args(field.annotation)) > 1
    ]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "–"
    if isinstance(value, BaseModel):
        tag = _tag(type(value))
        several = len(_models(field.annotation)) > 1
        return f"`{tag}: {getattr(value, tag)}`" if several else "its defaults"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _allowed(field: FieldInfo) -> str:
    return _describe(field.annotation, field.metadata)


def _describe(annotation: Any, metadata: Sequence[Any]) -> str:
    if _models(annotation):
        return "section"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _describe(inner[0], _limits(inner[1:]))
    if origin in (typing.Union, UnionType):
        return _describe(next(part for part in inner if part is not type(None)), metadata)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin is list:
        return f"list of: {_describe(inner[0], ())}"
    if origin is dict:
        return "section"
    if annotation is bool:
        return "`true`, `false`"
    words = {int: "whole number", float: "number", str: "text"}[annotation]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {_number(getattr(limit, name))}"
        for limit in _limits(metadata)
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    return ", ".join([words, *bounds])


def _number(value: float) -> str:
    return "2^31" if value == 2**31 else f"{value:g}"


def _limits(metadata: Sequence[Any]) -> list[Any]:
    """The constraints in annotations, those inside a ``Field`` unpacked."""
    return [
        limit
        for item in metadata
        for limit in (item.metadata if isinstance(item, FieldInfo) else (item,))
    ]


def test_the_expected_tables_say_what_the_model_says() -> None:
    rows = {name: rest for name, *rest in expected_rows(Tune)}
    assert rows["`pseudocounts`"] == ["`[0.01, 0.1, 1.0]`", "list of: number, ≥ 0"]
    assert rows["`rows`"] == ["`2000`", "whole number, ≥ 1"]
