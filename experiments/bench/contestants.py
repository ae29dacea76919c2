"""Who takes part, in what, and why some do not."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from experiments.bench.peers import Peer
from experiments.bench.peers.paths import ctrlg_file
from pyjuice_bridge.engines import Precision
from pyjuice_bridge.engines.julia_environment import julia_state
from pyjuice_bridge.errors import UserError

ALL = ("hmm", "hclt", "patches", "glued", "rat_spn")
TOLERANCE = 1e-4
"""How far log-likelihoods may be from the reference, relative to it."""
LOW_PRECISION = 2e-2
"""The same where fewer bits were asked for: a check of sanity, its loss stands in the table."""


@dataclass(frozen=True)
class Entry:
    """A peer as the command line knows it.

    Attributes:
        name: in tables.
        module: of ``peers``.
        needs: what must be importable for it; empty for what comes with this project.
        families: the problems it can run.
        devices: where.
        only: the one case it takes part in, if it is just one.
        options: for its ``Peer``.
        tolerance: see ``TOLERANCE``.
    """

    name: str
    module: str
    needs: str = ""
    families: tuple[str, ...] = ALL
    devices: tuple[str, ...] = ("cpu", "cuda")
    only: str = ""
    options: tuple[tuple[str, str], ...] = ()
    tolerance: float = TOLERANCE

    def load(self) -> type[Peer]:
        found: type[Peer] = import_module(f"experiments.bench.peers.{self.module}").Peer
        return found

    def absent(self, device: str) -> str:
        """Why it cannot be run here, in one line; empty if it can."""
        if self.module == "julia_engine":
            state = julia_state()
            return "" if state.usable else f"Julia {state.reason}"
        if self.module == "ctrlg":
            return "" if ctrlg_file() else "--ctrlg names no folder that holds its package"
        if "precision" in dict(self.options):
            on = device if device in self.devices else self.devices[0]
            return _no_precision(dict(self.options)["precision"], on)
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return "not installed"
        return ""


OURS = Entry("ours, torch", "torch_engine")
"""What ratios refer to."""
JULIA = Entry("ours, julia", "julia_engine")
ENGINES = (OURS, JULIA)


def _fewer_bits(precision: Precision, *devices: str) -> Entry:
    """The engine with rounded factors, on devices that may have units for them."""
    return Entry(
        f"ours, torch {precision}",
        "torch_engine",
        devices=devices,
        options=(("precision", precision),),
        tolerance=LOW_PRECISION,
    )


_TREES = ("hclt", "rat_spn")
CONTESTANTS = (
    OURS,
    _fewer_bits("bf16", "cpu", "cuda"),
    _fewer_bits("tf32", "cuda"),
    JULIA,
    Entry("naive torch", "naive", families=("hclt",), options=(("denormals", "flushed"),)),
    Entry(
        "naive torch, denormals kept",
        "naive",
        families=("hclt",),
        devices=("cpu",),
        only="mnist-epoch",
        options=(("denormals", "kept"),),
    ),
    Entry("Ctrl-G", "ctrlg", families=("hmm",)),
    Entry("cirkit", "cirkit", needs="cirkit", families=("hmm", *_TREES)),
    Entry("hmmlearn", "hmmlearn", needs="hmmlearn", families=("hmm",), devices=("cpu",)),
    Entry("pomegranate", "pomegranate", needs="pomegranate", families=("hmm",)),
    Entry("dynamax", "dynamax", needs="dynamax", families=("hmm",)),
    Entry("SPFlow", "spflow", needs="spflow", families=_TREES),
    Entry(
        "PyJuice",
        "pyjuice",
        needs="pyjuice",
        families=("hmm", "hclt"),
        devices=("cuda",),
        tolerance=LOW_PRECISION,
    ),
    Entry(
        "PyJuice, float32",
        "pyjuice",
        needs="pyjuice",
        families=("hmm", "hclt"),
        devices=("cuda",),
        options=(("float32", "forced"),),
    ),
)


def _no_precision(precision: str, device: str) -> str:
    """Why the engine does not offer a precision here; empty if it does.

    The engine is imported here, so that it is no part of another program's memory and start.
    """
    from pyjuice_bridge.engines.torch import TorchEngine

    try:
        TorchEngine(device, cast(Precision, precision))
    except (UserError, AssertionError, RuntimeError) as failure:
        return str(failure).splitlines()[0]
    return ""


def entry_named(name: str) -> Entry:
    """The entry of a name that tables show.

    Raises:
        KeyError: there is none.
    """
    return {entry.name: entry for entry in CONTESTANTS}[name]
