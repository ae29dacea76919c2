"""The command line as one meets it: misspelt commands, templates, code pages, completion."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from pyjuice_bridge.cli.main import main
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.config.teacher import Teacher
from pyjuice_bridge.distill.registry import KINDS
from pyjuice_bridge.domains.registry import DOMAINS
from pyjuice_bridge.runner.config import load_config

COMMAND = (sys.executable, "-m", "pyjuice_bridge")
TEMPLATES = {"image": "images", "text": "text", "table": "table"}


def invoke(*words: str) -> Any:
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("evalute model", "evaluate"), ("dat list", "data"), ("data lits", "list")],
)
def test_misspelt_commands_name_the_right_one(typed: str, meant: str) -> None:
    done = invoke(*typed.split())
    assert done.exit_code == 2
    assert f"Did you mean '{meant}'?" in done.output


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp1252", "utf-8"])
@pytest.mark.parametrize("words", [("data", "list"), ("init", "image"), ("--help",)])
def test_output_under_every_code_page(encoding: str, words: tuple[str, ...]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run([*COMMAND, *words], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered(shell: str) -> None:
    if shell == "bash" and sys.platform == "win32":
        pytest.skip("asks bash for its version")
    runner = CliRunner(env={"_PYJUICE_BRIDGE_COMPLETE": f"{shell}_source"})
    done = runner.invoke(main, prog_name="pyjuice_bridge")
    assert done.exit_code == 0 and "pyjuice_bridge" in done.output


def choices(model: type[BaseModel], domain: str) -> Iterator[str]:
    """Every choice and field of the sections that a config of the domain may have."""
    for name, field in model.model_fields.items():
        if model is not Settings or name not in ("name", "data", "sweep"):
            yield name
        yield from _of(field.annotation, domain)


def _of(annotation: Any, domain: str) -> Iterator[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from choices(annotation, domain)
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for part in get_args(annotation):
            yield from _of(part, domain)


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_name_every_choice(template: str, tmp_path: Path) -> None:
    domain = TEMPLATES[template]
    text = invoke("init", template).output
    sections: list[type[BaseModel]] = [DOMAINS[domain].section]
    sections += [kind.section for kind in KINDS.values() if domain in kind.domains]
    teachers = [t for t in _models(Teacher) if domain in t.domains]
    words = {w for section in sections for w in choices(section, domain)}
    words |= {w for teacher in teachers for w in _literals(teacher)}
    words |= set(choices(Settings, domain)) - {"sweep", "object"}
    for_images = {"hclt", "patch_training", "latent_training", "report", "samples", "inpaint"}
    for_images |= {"quad_tree", "quad_graph", "poon_domingos", "steps", "splits", "share", "patch"}
    for_images |= {"observed", "pixels", "classes", "mixture", "above", "candidates"}
    words -= {"switch"} | (set() if domain == "images" else for_images)
    assert {word for word in words if word not in text} <= {"object"}
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_config(path).data.kind == domain


def _models(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in get_args(annotation) for m in _models(part)]


def _literals(model: type[BaseModel]) -> Iterator[str]:
    for field in model.model_fields.values():
        if get_origin(field.annotation) is Literal:
            yield from map(str, get_args(field.annotation))
