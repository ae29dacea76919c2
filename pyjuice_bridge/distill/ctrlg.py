"""Hidden Markov models in the files of Ctrl-G (github.com/joshuacnf/Ctrl-G, arXiv 2406.13892).

A model is a folder, as ``huggingface_hub``'s model mixin writes it:

- ``config.json``: ``{"eos_token_id": …, "hidden_states": H, "vocab_size": V}``;
- ``model.safetensors``: float32 ``alpha_exp`` [H, H], the transition probabilities themselves
  (row = state before); ``beta`` [H, V], the *logarithms* of the emission probabilities; ``gamma``
  [H], the logarithms of the initial probabilities (training there applies a softmax to them, so a
  constant may be missing).  Zero probabilities are written as -1e30, its own stand-in for -∞.

Conventions of its models: token ids are those of the causal model's tokenizer, prompt left out;
sequences that end early are filled up with the end-of-sequence token; and the last state, H - 1, is
kept for that token and stays where it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import atomic_file, replacing

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

_LOG_ZERO = -1e30
_CLOSE = 1e-2
"""How far from one the rows of a file may sum; they are scaled to one."""


def load_ctrlg(folder: Path | str) -> tuple[Hmm, int]:
    """Read a model of Ctrl-G.

    Args:
        folder: holds ``config.json`` and ``model.safetensors``.

    Returns:
        The model, float32, every row scaled to sum to one, and the id of its end-of-sequence token.

    Raises:
        UserError: a file is missing or not as described, or safetensors is not installed.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    arrays = _read_tensors(folder / WEIGHTS)
    states, vocabulary = config["hidden_states"], config["vocab_size"]
    shapes = {"alpha_exp": (states, states), "beta": (states, vocabulary), "gamma": (states,)}
    for name, shape in shapes.items():
        if name not in arrays:
            raise UserError(f"{folder / WEIGHTS}: there is no tensor {name!r}.")
        if arrays[name].shape != shape:
            raise UserError(
                f"{folder / WEIGHTS}: {name} has the shape {list(arrays[name].shape)}, but "
                f"{CONFIG} says {list(shape)}."
            )
    gamma = arrays["gamma"]
    initial = np.exp(gamma - gamma.max())
    emission = np.exp(arrays["beta"], out=arrays["beta"])
    hmm = Hmm(
        (initial / initial.sum()).astype(np.float32),
        _rows(arrays["alpha_exp"], folder, "alpha_exp"),
        _rows(emission, folder, "exp(beta)"),
    )
    return hmm, config["eos_token_id"]


def save_ctrlg(hmm: Hmm, folder: Path | str, *, eos_token_id: int) -> None:
    """Write a model that Ctrl-G reads with ``HMM.from_pretrained(folder)``.

    Args:
        hmm: the model.
        folder: made where it is missing; its two files are replaced.
        eos_token_id: the id of the end-of-sequence token.

    Raises:
        UserError: the id is no token of the model, or safetensors is not installed.
    """
    if not 0 <= eos_token_id < hmm.vocabulary_size:
        raise UserError(f"eos_token_id: must be 0 … {hmm.vocabulary_size - 1}, got {eos_token_id}.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = _safetensors()
    tensors = {
        "alpha_exp": np.ascontiguousarray(hmm.transition, np.float32),
        "beta": _log(hmm.emission),
        "gamma": _log(hmm.initial),
    }
    with replacing(folder / WEIGHTS) as path:
        files.save_file(tensors, path, metadata={"format": "pt"})
    config = {
        "eos_token_id": int(eos_token_id),
        "hidden_states": hmm.states,
        "vocab_size": hmm.vocabulary_size,
    }
    with atomic_file(folder / CONFIG) as file:
        file.write(json.dumps(config, sort_keys=True, indent=2).encode())


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise UserError("Ctrl-G's files need safetensors; pip install -e '.[text]'.") from None
    return safetensors.numpy


def _read_config(path: Path) -> dict[str, int]:
    try:
        config = json.loads(path.read_bytes())
    except OSError as problem:
        raise UserError(f"{path}: cannot be read ({problem.strerror}).") from None
    except ValueError:
        raise UserError(f"{path}: is not JSON.") from None
    names = ("eos_token_id", "hidden_states", "vocab_size")
    if not isinstance(config, dict) or any(type(config.get(name)) is not int for name in names):
        raise UserError(f"{path}: must hold the whole numbers {', '.join(names)}.")
    return {name: config[name] for name in names}


def _read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    files = _safetensors()
    from safetensors import SafetensorError

    try:
        arrays = files.load_file(path)
    except OSError:
        raise UserError(f"{path}: cannot be read, or is not there.") from None
    except SafetensorError as problem:
        raise UserError(f"{path}: is not a safetensors file ({problem}).") from None
    return {name: array.astype(np.float32, copy=False) for name, array in arrays.items()}


def _rows(array: NDArray[np.float32], folder: Path, name: str) -> NDArray[np.float32]:
    """The array with its rows scaled to one, in place."""
    totals = array.sum(axis=1, keepdims=True, dtype=np.float64)
    if array.min() < 0 or not (np.abs(totals - 1) < _CLOSE).all():
        raise UserError(f"{folder / WEIGHTS}: the rows of {name} are no distributions.")
    array /= totals.astype(np.float32)
    return array


def _log(array: NDArray[Any]) -> NDArray[np.float32]:
    out = np.full(array.shape, _LOG_ZERO, np.float32)
    np.log(array, out=out, where=array > 0, casting="same_kind")
    return out
