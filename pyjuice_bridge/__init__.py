"""Latent variable distillation: from raw data to a trained, evaluated, queryable circuit.

>>> import pyjuice_bridge as pj
>>> result = pj.run("experiments/quickstart.yaml")
>>> model = pj.load("runs/quickstart")

Names are loaded when they are first used: importing the package does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyjuice_bridge.circuit.combine import mixture, product
    from pyjuice_bridge.circuit.hmm import Hmm
    from pyjuice_bridge.circuit.types import Circuit
    from pyjuice_bridge.data import load_text
    from pyjuice_bridge.errors import UserError
    from pyjuice_bridge.estimators.structures import HCLT, HMM, RegionCircuit
    from pyjuice_bridge.query.model import Model, load
    from pyjuice_bridge.query.text import TextModel
    from pyjuice_bridge.query.text_phrases import Constraint
    from pyjuice_bridge.runner.api import RunResult, run
    from pyjuice_bridge.runner.config import Config, load_config, make_config
    from pyjuice_bridge.runner.language import Sampling, distill_language_model

__version__ = "0.2.0"

_HOMES = {
    "HCLT": "estimators.structures",
    "HMM": "estimators.structures",
    "RegionCircuit": "estimators.structures",
    "Circuit": "circuit.types",
    "Config": "runner.config",
    "Constraint": "query.text_phrases",
    "Hmm": "circuit.hmm",
    "Model": "query.model",
    "RunResult": "runner.api",
    "Sampling": "runner.language",
    "TextModel": "query.text",
    "UserError": "errors",
    "distill_language_model": "runner.language",
    "load": "query.model",
    "load_config": "runner.config",
    "load_text": "data",
    "make_config": "runner.config",
    "mixture": "circuit.combine",
    "product": "circuit.combine",
    "run": "runner.api",
}

__all__ = [
    "HCLT",
    "HMM",
    "Circuit",
    "Config",
    "Constraint",
    "Hmm",
    "Model",
    "RegionCircuit",
    "RunResult",
    "Sampling",
    "TextModel",
    "UserError",
    "distill_language_model",
    "load",
    "load_config",
    "load_text",
    "make_config",
    "mixture",
    "product",
    "run",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
