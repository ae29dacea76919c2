"""Latent variable distillation: from raw data to a trained, evaluated, queryable circuit.

>>> import pyjuice_bridge as pj
>>> result = pj.run("experiments/quickstart.yaml")
>>> model = pj.load("runs/quickstart")

The names of this package are the public interface; what lies deeper may change.  Names are loaded
when they are first used: importing the package does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyjuice_bridge.circuit.chow_liu import chow_liu_tree as chow_liu_tree
    from pyjuice_bridge.circuit.combine import mixture as mixture
    from pyjuice_bridge.circuit.combine import product as product
    from pyjuice_bridge.circuit.dictionary import with_dictionary as with_dictionary
    from pyjuice_bridge.circuit.doubling import double as double
    from pyjuice_bridge.circuit.doubling import narrow as narrow
    from pyjuice_bridge.circuit.families.binomial import Binomial as Binomial
    from pyjuice_bridge.circuit.families.categorical import Categorical as Categorical
    from pyjuice_bridge.circuit.families.gaussian import Gaussian as Gaussian
    from pyjuice_bridge.circuit.families.logistic import Logistic as Logistic
    from pyjuice_bridge.circuit.families.smooth import Smooth as Smooth
    from pyjuice_bridge.circuit.formats import read_circuit as read_circuit
    from pyjuice_bridge.circuit.formats import write_circuit as write_circuit
    from pyjuice_bridge.circuit.formats.cirkit import to_cirkit as to_cirkit
    from pyjuice_bridge.circuit.hclt import hclt as hclt
    from pyjuice_bridge.circuit.hmm import Hmm as Hmm
    from pyjuice_bridge.circuit.leaves import with_leaves as with_leaves
    from pyjuice_bridge.circuit.patches import glue as glue
    from pyjuice_bridge.circuit.patches import patch_bundle as patch_bundle
    from pyjuice_bridge.circuit.rat_spn import rat_spn as rat_spn
    from pyjuice_bridge.circuit.region_circuit import region_circuit as region_circuit
    from pyjuice_bridge.circuit.region_graph import RegionGraph as RegionGraph
    from pyjuice_bridge.circuit.region_graph import load_region_graph as load_region_graph
    from pyjuice_bridge.circuit.region_graph import random_region_graph as random_region_graph
    from pyjuice_bridge.circuit.region_graph import tree_regions as tree_regions
    from pyjuice_bridge.circuit.region_rectangles import congruent as congruent
    from pyjuice_bridge.circuit.region_rectangles import poon_domingos as poon_domingos
    from pyjuice_bridge.circuit.region_rectangles import quad_graph as quad_graph
    from pyjuice_bridge.circuit.region_rectangles import quad_tree as quad_tree
    from pyjuice_bridge.circuit.types import Circuit as Circuit
    from pyjuice_bridge.circuit.types import InputLayer as InputLayer
    from pyjuice_bridge.circuit.types import ProductLayer as ProductLayer
    from pyjuice_bridge.circuit.types import SumLayer as SumLayer
    from pyjuice_bridge.circuit.validate import check as check
    from pyjuice_bridge.codecs.table import TableCodec as TableCodec
    from pyjuice_bridge.data import load_dataset as load_dataset
    from pyjuice_bridge.data import load_table as load_table
    from pyjuice_bridge.data import load_text as load_text
    from pyjuice_bridge.engines import get_engine as get_engine
    from pyjuice_bridge.engines.base import Engine as Engine
    from pyjuice_bridge.engines.base import FitOptions as FitOptions
    from pyjuice_bridge.engines.base import FitResult as FitResult
    from pyjuice_bridge.engines.base import Schedule as Schedule
    from pyjuice_bridge.engines.julia_environment import julia_state as julia_state
    from pyjuice_bridge.engines.torch.module import CircuitModule as CircuitModule
    from pyjuice_bridge.errors import UserError as UserError
    from pyjuice_bridge.estimators.structures import HCLT as HCLT
    from pyjuice_bridge.estimators.structures import HMM as HMM
    from pyjuice_bridge.estimators.structures import RegionCircuit as RegionCircuit
    from pyjuice_bridge.query.model import Model as Model
    from pyjuice_bridge.query.model import load as load
    from pyjuice_bridge.query.text import TextModel as TextModel
    from pyjuice_bridge.query.text_phrases import Constraint as Constraint
    from pyjuice_bridge.runner.api import RunResult as RunResult
    from pyjuice_bridge.runner.api import run as run
    from pyjuice_bridge.runner.config import Config as Config
    from pyjuice_bridge.runner.config import load_config as load_config
    from pyjuice_bridge.runner.config import make_config as make_config
    from pyjuice_bridge.runner.language import Sampling as Sampling
    from pyjuice_bridge.runner.language import distill_language_model as distill_language_model

__version__ = "0.2.0"

_MODULES = {
    "circuit.chow_liu": ("chow_liu_tree",),
    "circuit.combine": ("mixture", "product"),
    "circuit.dictionary": ("with_dictionary",),
    "circuit.doubling": ("double", "narrow"),
    "circuit.families.binomial": ("Binomial",),
    "circuit.families.categorical": ("Categorical",),
    "circuit.families.gaussian": ("Gaussian",),
    "circuit.families.logistic": ("Logistic",),
    "circuit.families.smooth": ("Smooth",),
    "circuit.formats": ("read_circuit", "write_circuit"),
    "circuit.formats.cirkit": ("to_cirkit",),
    "circuit.hclt": ("hclt",),
    "circuit.hmm": ("Hmm",),
    "circuit.leaves": ("with_leaves",),
    "circuit.patches": ("glue", "patch_bundle"),
    "circuit.rat_spn": ("rat_spn",),
    "circuit.region_circuit": ("region_circuit",),
    "circuit.region_graph": (
        "RegionGraph",
        "load_region_graph",
        "random_region_graph",
        "tree_regions",
    ),
    "circuit.region_rectangles": ("congruent", "poon_domingos", "quad_graph", "quad_tree"),
    "circuit.types": ("Circuit", "InputLayer", "ProductLayer", "SumLayer"),
    "circuit.validate": ("check",),
    "codecs.table": ("TableCodec",),
    "data": ("load_dataset", "load_table", "load_text"),
    "engines": ("get_engine",),
    "engines.base": ("Engine", "FitOptions", "FitResult", "Schedule"),
    "engines.julia_environment": ("julia_state",),
    "engines.torch.module": ("CircuitModule",),
    "errors": ("UserError",),
    "estimators.structures": ("HCLT", "HMM", "RegionCircuit"),
    "query.model": ("Model", "load"),
    "query.text": ("TextModel",),
    "query.text_phrases": ("Constraint",),
    "runner.api": ("RunResult", "run"),
    "runner.config": ("Config", "load_config", "make_config"),
    "runner.language": ("Sampling", "distill_language_model"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOMES)


if not TYPE_CHECKING:  # to type checkers, other names are mistakes

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
