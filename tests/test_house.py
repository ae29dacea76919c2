"""The house itself: which package may know which, and that no module needs itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pyjuice_bridge as pj

ROOT = Path(__file__).parents[1]
NAME = "pyjuice_bridge"
FACADE = ""
FLOORS = (
    ("__main__",),
    ("cli",),
    (FACADE,),
    ("estimators",),
    ("runner",),
    ("distill",),
    ("domains",),
    ("query", "stages"),
    ("report",),
    ("cluster", "config"),
    ("codecs", "teachers"),
    ("data", "engines"),
    ("circuit",),
    ("files", "measure", "processes", "sections"),
    ("numbers",),
    ("errors",),
)
"""From the roof to the ground: a package imports from lower floors only."""


def module_of(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in (ROOT / NAME).rglob("*.py")}


def imported(text: str) -> Iterator[str]:
    """The package's modules that a file imports: at the top, in functions, for types only."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in inside]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == NAME)


def arrows() -> dict[str, set[str]]:
    """Every module and those that it imports."""
    found = {name: set(imported(path.read_text("utf-8"))) for name, path in MODULES.items()}
    found[NAME] |= {f"{NAME}.{home}" for home in pj._HOMES.values()}
    return found


def package_of(module: str) -> str:
    return [*module.split("."), FACADE][1]


def test_imports_are_found_wherever_they_stand() -> None:
    text = """
import numpy, pyjuice_bridge.errors
from pyjuice_bridge import files as f, processes
from pyjuice_bridge.run_dir import missing
if TYPE_CHECKING:
    from pyjuice_bridge.circuit.types import Circuit
def ask():
    from pyjuice_bridge.engines import get_engine, torch
"""
    assert [name.removeprefix(f"{NAME}.") for name in imported(text)] == [
        "errors",
        "files",
        "processes",
        "run_dir",
        "circuit.types",
        "engines",
        "engines.torch",
    ]


def test_every_package_has_a_floor() -> None:
    assert {package_of(name) for name in MODULES} == {name for floor in FLOORS for name in floor}


def test_arrows_between_packages_point_down() -> None:
    floors = {name: i for i, floor in enumerate(FLOORS) for name in floor}
    upward = [
        f"{module} imports {target}"
        for module, targets in arrows().items()
        for target in targets
        if package_of(module) != package_of(target)
        and floors[package_of(module)] >= floors[package_of(target)]
    ]
    assert upward == []


def test_no_module_needs_itself() -> None:
    try:
        list(TopologicalSorter(arrows()).static_order())
    except CycleError as error:
        pytest.fail(" imported by ".join(error.args[1]))


@pytest.mark.parametrize("folder", [NAME, "tests", "experiments"])
def test_imported_modules_are_there(folder: str) -> None:
    lost = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path != Path(__file__)
        for name in imported(path.read_text("utf-8"))
        if name not in MODULES
    ]
    assert lost == []


def test_the_reference_is_the_public_interface() -> None:
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    named = re.findall(rf"^::: {NAME}\.(\S+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(pj.__all__)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=lambda page: page.name)
def test_pages_use_the_public_interface_alone(page: Path) -> None:
    """Code that users copy imports the package itself; ``extending.md`` adds to its inside."""
    if page.name == "extending.md":
        return
    text = page.read_text("utf-8")
    deeper = re.findall(rf"^\s*(?:from|import) {NAME}\b(?! as pj$).*", text, re.MULTILINE)
    assert deeper == []
    used = set(re.findall(r"\bpj\.([A-Za-z]\w*)", text))
    assert used <= set(pj.__all__)


def test_public_names_stay_what_they_are_once_everything_is_imported() -> None:
    """A module of the same name would take a public name's place when it is first imported."""
    taken = [name for name in pj.__all__ if f"{NAME}.{name}" in MODULES]
    assert taken == [] and sorted(pj.__all__) == sorted(pj._HOMES)
    code = """
import importlib
import pyjuice_bridge as pj
homes = {n: importlib.import_module(f"pyjuice_bridge.{home}") for n, home in pj._HOMES.items()}
wrong = [name for name, home in homes.items() if getattr(pj, name) is not getattr(home, name)]
raise SystemExit(", ".join(wrong) or None)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
