"""Text sampled from a causal language model, with the states it was generated from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.teachers.base import Progress
from pyjuice_bridge.teachers.text_states import TokenStates


@dataclass(frozen=True, eq=False)
class SampledText:
    """Sequences as a stream: tokens int32 [n], documents int64 [sequences + 1], states."""

    tokens: NDArray[np.int32]
    documents: NDArray[np.int64]
    states: TokenStates


def sample_sequences(
    model: Any,
    n: int,
    length: int,
    folder: Path | str,
    *,
    seed: int,
    prompt: Sequence[int] | None = None,
    layer: int = -1,
    batch: int = 64,
    temperature: float = 1.0,
    device: str = "cpu",
    on_progress: Progress | None = None,
) -> SampledText:
    """Sample ``n`` sequences of at most ``length`` tokens (shorter where EOS comes earlier)."""
    raise NotImplementedError
