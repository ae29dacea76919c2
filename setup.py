"""Carry the Julia package in wheels; everything else is in ``pyproject.toml``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

NAME = "_julia"
"""The folder beside ``juliapkg.json`` that holds the Julia package in a wheel."""


class BuildWithJulia(build_py):
    """Copy ``julia/`` into the Python package, and point ``juliapkg.json`` there.

    In a checkout, and in an editable installation, ``juliapkg.json`` names ``../julia`` itself.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib, "pyjuice_bridge")
        shutil.rmtree(package / NAME, ignore_errors=True)
        for part in ("src", "ext"):
            shutil.copytree(Path("julia", part), package / NAME / part)
        shutil.copy(Path("julia", "Project.toml"), package / NAME)
        listed = package / "juliapkg.json"
        needs = json.loads(listed.read_text(encoding="utf-8"))
        needs["packages"]["JuiceBridge"]["path"] = NAME
        listed.write_text(json.dumps(needs, indent=4) + "\n", encoding="utf-8")


setup(cmdclass={"build_py": BuildWithJulia})
