"""Runs on text that take seconds: a made-up language and a tiny language model that reads it."""

from pathlib import Path
from typing import Any

import numpy as np
from teachers.tiny_text_models import save_bert

__all__ = ["config", "documents", "save_bert", "splits"]

_AFTER = {
    "the": ["cat", "dog", "cats", "unknown"],
    "a": ["cat", "dog", "unknown"],
    "cat": ["sat", "the", "-"],
    "cats": ["sat", "-"],
    "dog": ["sat", "a"],
    "unknown": ["cat", "dog"],
    "sat": ["the", "a", "-"],
    "-": ["the", "a", "b"],
    "b": ["c", "the"],
    "c": ["b", "a"],
}


def documents(count: int = 30, seed: int = 0) -> list[str]:
    """Texts of a chain over ten words, 12 to 40 words each."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        words = ["the"]
        while len(words) < rng.integers(12, 41):
            words.append(str(rng.choice(_AFTER[words[-1]])))
        texts.append(" ".join(words))
    return texts


def splits() -> dict[str, list[str]]:
    """Texts in three splits of their own."""
    texts = documents()
    return {"train": texts[:20], "valid": texts[20:25], "test": texts[25:]}


def config(source: Path, **changes: Any) -> dict[str, Any]:
    """HMMs of two sizes, both arms."""
    values = {
        "name": "tiny-text",
        "data": {"kind": "text", "name": "strings", "window": 6},
        "teacher": {"kind": "text", "source": str(source)},
        "cluster": {"iterations": 5},
        "train": {"epochs": 3, "batch_size": 16},
        "sweep": {"circuit.states": [3, 5]},
        "report": {"samples": 3, "inpaint": 2},
        "engine": "torch",
    }
    return {**values, **changes}
