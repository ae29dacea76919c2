"""The configuration of a run: what may be asked for, read from YAML and checked.

Every mistake becomes one sentence (``messages``) that names the field, the value given and what is
allowed.
"""

from pyjuice_bridge.config.base import Arm
from pyjuice_bridge.config.circuit import HcltCircuit, HmmCircuit, PatchCircuit
from pyjuice_bridge.config.data import Data, ImageData, TextData
from pyjuice_bridge.config.read import load_config, make_config, put, read_values
from pyjuice_bridge.config.run import Config, Report, Sweep
from pyjuice_bridge.config.teacher import Cluster
from pyjuice_bridge.config.train import LatentPhase, Phase, StepSize, Train, Tune

__all__ = [
    "Arm",
    "Cluster",
    "Config",
    "Data",
    "HcltCircuit",
    "HmmCircuit",
    "ImageData",
    "LatentPhase",
    "PatchCircuit",
    "Phase",
    "Report",
    "StepSize",
    "Sweep",
    "TextData",
    "Train",
    "Tune",
    "load_config",
    "make_config",
    "put",
    "read_values",
]
