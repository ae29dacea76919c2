"""Hidden Markov models in the files of Ctrl-G (github.com/joshuacnf/Ctrl-G, arXiv 2406.13892).

A model is a folder, as ``huggingface_hub``'s model mixin writes it:

- ``config.json``: ``{"eos_token_id": …, "hidden_states": H, "vocab_size": V}``;
- ``model.safetensors``: float32 ``alpha_exp`` [H, H], the transition probabilities themselves
  (row = state before); ``beta`` [H, V], the *logarithms* of the emission probabilities; ``gamma``
  [H], the logarithms of the initial probabilities (training there applies a softmax to them, so a
  constant may be missing).  Zero probabilities are written as -1e30, its own value for -∞.

Conventions of its models: token ids are those of the causal model's tokenizer, prompt left out;
sequences that end early are filled up with the end-of-sequence token; and the last state, H - 1, is
reserved for that token and never left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import replacing, write_text

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

_LOG_ZERO = -1e30
_TYPES = ("F64", "F32", "F16")
"""Of numbers, as safetensors names them."""
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
    states, vocabulary = config["hidden_states"], config["vocab_size"]
    shapes = {"alpha_exp": (states, states), "beta": (states, vocabulary), "gamma": (states,)}
    arrays = _read_tensors(folder / WEIGHTS, shapes)
    with np.errstate(over="ignore", invalid="ignore"):
        gamma = arrays["gamma"]
        initial = np.exp(gamma - gamma.max())
        initial /= initial.sum()
        emission = np.exp(arrays["beta"], out=arrays["beta"])
    hmm = Hmm(
        _rows(initial[None], folder, "exp(gamma)")[0],
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
    write_text(folder / CONFIG, json.dumps(config, sort_keys=True, indent=2))


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
    except (ValueError, RecursionError):
        raise UserError(f"{path}: is not JSON.") from None
    names = ("eos_token_id", "hidden_states", "vocab_size")
    if not isinstance(config, dict) or any(type(config.get(name)) is not int for name in names):
        raise UserError(f"{path}: must hold the whole numbers {', '.join(names)}.")
    if min(config["hidden_states"], config["vocab_size"]) < 1:
        raise UserError(f"{path}: hidden_states and vocab_size must be at least 1.")
    if not 0 <= config["eos_token_id"] < config["vocab_size"]:
        raise UserError(
            f"{path}: eos_token_id is {str(config['eos_token_id'])[:20]}, but must be a token, "
            f"0 … {config['vocab_size'] - 1}."
        )
    return {name: config[name] for name in names}


def _read_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.float32]]:
    """Read the named tensors; types and shapes are checked before any numbers."""
    _safetensors()
    from safetensors import safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            for name, shape in shapes.items():
                if name not in file.keys():  # noqa: SIM118, the file is no mapping
                    raise UserError(f"{path}: there is no tensor {name!r}.")
                found = file.get_slice(name)
                if found.get_dtype() not in _TYPES:
                    raise UserError(
                        f"{path}: {name} holds {found.get_dtype()}; convert it to F32 first."
                    )
                if tuple(found.get_shape()) != shape:
                    raise UserError(
                        f"{path}: {name} has the shape {list(found.get_shape())}, but "
                        f"{CONFIG} says {list(shape)}."
                    )
            return {name: np.array(file.get_tensor(name), np.float32) for name in shapes}
    except UserError:
        raise
    except OSError:
        raise UserError(f"{path}: cannot be read, or is not there.") from None
    except Exception as problem:  # damaged files raise anything
        raise UserError(f"{path}: is not a safetensors file ({problem}).") from None


def _rows(array: NDArray[np.float32], folder: Path, name: str) -> NDArray[np.float32]:
    """Scale the rows of an array to one, in place.

    Raises:
        UserError: a row is no distribution, even roughly.
    """
    with np.errstate(invalid="ignore"):
        totals = array.sum(axis=1, keepdims=True, dtype=np.float64)
    if not array.min() >= 0 or not (np.abs(totals - 1) < _CLOSE).all():
        raise UserError(f"{folder / WEIGHTS}: the rows of {name} are not distributions.")
    array /= totals.astype(np.float32)
    return array


def _log(array: NDArray[Any]) -> NDArray[np.float32]:
    out = np.full(array.shape, _LOG_ZERO, np.float32)
    np.log(array, out=out, where=array > 0, casting="same_kind")
    return out
