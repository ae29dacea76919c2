"""Loading language models of transformers, and what they expect around a text."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.public import freeze, from_pretrained

Precision = Literal["auto", "float32", "bfloat16", "float16"]

_TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")
_ENDLESS = 1 << 30
"""Tokenizers without a limit have a huge one."""


def load_model(
    source: Any, *, causal: bool, device: str, precision: str, revision: str | None = None
) -> Any:
    """Load the model of ``source`` to ``device``, for evaluation, without gradients.

    On a GPU the weights are stored in the given precision, on a CPU always in float32.

    Args:
        source: a local folder, a name on the hub (never fetched while HF_HUB_OFFLINE is set), or
            a model, which stays as it is: work with it inside `borrowed`.
        causal: with the head that predicts the next token.
        device: "cpu" or "cuda".
        precision: "float32", "bfloat16" or "float16".
        revision: of a name on the hub, a branch, tag or commit.

    Raises:
        UserError: transformers is not installed, or there is no such model.
    """
    if isinstance(source, torch.nn.Module):
        return source if causal else source.base_model
    kind = _transformers().AutoModelForCausalLM if causal else _transformers().AutoModel
    dtype = getattr(torch, precision) if device != "cpu" else torch.float32
    model, info = _load(kind, source, dtype=dtype, output_loading_info=True, revision=revision)
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise UserError(f"{source}: lacks weights that the model needs, the first is {missing[0]}")
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if model.config.is_encoder_decoder:
        raise UserError(f"{source}: is an encoder-decoder; use an encoder or a causal model")
    return freeze(model, device)


def load_tokenizer(source: str, revision: str | None = None) -> Any | None:
    """Load the tokenizer of ``source``; None if it has none.

    transformers makes an empty one up where a folder holds the model alone.

    Raises:
        UserError: a folder's tokenizer is damaged.
    """
    folder = Path(source)
    if not source:
        return None
    local = folder.is_dir()
    if local and not any(True for each in _TOKENIZER_FILES for _ in folder.glob(each)):
        return None
    try:
        with _quiet():
            kind = _transformers().AutoTokenizer
            return from_pretrained(kind, source, "a tokenizer", revision=revision)
    except UserError:
        if local:
            raise
        return None


def resolve_precision(precision: Precision, device: str) -> str:
    """Resolve ``auto``: half precision on a GPU, bfloat16 where the processor multiplies it.

    Raises:
        UserError: an unknown precision.
    """
    if precision not in get_args(Precision):
        raise UserError(
            f"the precision of a text teacher is one of {', '.join(get_args(Precision))}, "
            f'found "{precision}"'
        )
    if precision != "auto":
        return precision
    if device != "cpu":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return "bfloat16" if tiles is not None and tiles() else "float32"


def computing(device: str, precision: str) -> AbstractContextManager[object]:
    """Multiply matrices in ``precision`` on a CPU; sums and norms stay in float32."""
    if device != "cpu" or precision == "float32":
        return nullcontext()
    return torch.autocast("cpu", dtype=getattr(torch, precision))


def longest(model: Any, tokenizer: Any | None) -> int:
    """Return how many tokens a model reads at once, special ones included."""
    limits = [
        getattr(tokenizer, "model_max_length", None),
        getattr(model.config, "max_position_embeddings", None),
    ]
    return min((int(each) for each in limits if each), default=_ENDLESS)


def surroundings(model: Any, tokenizer: Any | None, causal: bool) -> tuple[list[int], list[int]]:
    """Return the special tokens that a model expects before and after a text.

    Causal models get one token before the text, from which the first one is predicted: that of
    the beginning of a text, or else of its end.
    """
    if causal:
        for owner in (model.config, tokenizer):
            for name in ("bos_token_id", "eos_token_id"):
                value = getattr(owner, name, None)
                if isinstance(value, int):
                    return [value], []
        return [], []
    if tokenizer is None:
        return [], []
    inside = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    for start in range(len(whole) - len(inside) + 1):
        if whole[start : start + len(inside)] == inside:
            return whole[:start], whole[start + len(inside) :]
    return [], []


def looks_back_only(model: Any, device: str) -> bool:
    """Try whether a token's state is independent of the tokens after it."""
    ids = torch.tensor([[1, 2, 3], [1, 2, 4]], device=device)
    ids %= model.get_input_embeddings().weight.shape[0]
    with torch.inference_mode():
        states = model(input_ids=ids).last_hidden_state[:, 0].float()
    return bool(torch.allclose(states[0], states[1], rtol=1e-4, atol=1e-6))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError("text teachers need transformers; pip install -e '.[text]'") from None
    return transformers


def _load(kind: Any, source: str, **options: Any) -> Any:
    with _quiet():
        return from_pretrained(kind, source, "a language model", **options)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars and reports of unused weights."""
    talk = _transformers().utils.logging
    level, bar = talk.get_verbosity(), talk.is_progress_bar_enabled()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # tells of every retry
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        yield
    finally:
        talk.set_verbosity(level)
        if bar:
            talk.enable_progress_bar()
