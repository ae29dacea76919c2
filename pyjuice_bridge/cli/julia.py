"""``julia``: set up the Julia engine, and say what of it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click


@click.group()
def julia() -> None:
    """Set up the Julia engine."""


@julia.command()
@click.option("--cuda", is_flag=True, help="Also CUDA.jl and its libraries, for a GPU (2 GB).")
@click.option("--juice", is_flag=True, help="Also Juice.jl, to convert its circuits.")
def setup(cuda: bool, juice: bool) -> None:
    """Install Julia and its packages, where they are missing."""
    from pyjuice_bridge.engines import julia_environment

    wanted = {"CUDA": cuda, "ProbabilisticCircuits": juice}
    julia_environment.setup([name for name, asked in wanted.items() if asked])
    click.echo("Julia is ready: 'engine: auto' takes it from now on.")


def findings() -> Iterator[tuple[str, str]]:
    """Return the lines of ``doctor`` about Julia."""
    from pyjuice_bridge.engines.julia_environment import PACKAGES, julia_state, threads

    state = julia_state()
    version = f"{state.version} ({state.executable})" if state.version else ""
    problem = "" if state.usable else f"Julia {state.reason}; circuits run with PyTorch"
    yield "julia", "; ".join(filter(None, (version, problem)))
    if state.packages:
        names = [f"{name} {state.packages.get(name, 'missing')}" for name in PACKAGES]
        yield "julia packages", ", ".join(names)
        yield "julia threads", f"{threads()} of {os.cpu_count()}"
        yield "julia gpu", _gpu(state.gpu, "CUDA" in state.packages)


def _gpu(name: str | None, package: bool) -> str:
    if name is None:
        return "no CUDA device"
    return name if package else f"{name}, but the package CUDA is missing"
