"""Hidden Markov models of whole texts: one state stands for the end of the text.

As in Ctrl-G (Zhang et al., arXiv 2406.13892): what follows a text's end are end tokens, which the
last state alone emits and which it never leaves.  So a text's probability does not depend on how
far it is filled up, and the probability that a text ends is that of reaching this state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.circuit.types import MISSING


def one_end(x: NDArray[Any], ends: Sequence[int]) -> NDArray[np.int32]:
    """Texts int [N, T] in which every end token is the first of ``ends``; -1 stays."""
    out = np.asarray(x, np.int32).copy()
    if ends:
        out[np.isin(out, ends)] = ends[0]
    return out


def fill_up(x: NDArray[np.int32], end: int | None) -> NDArray[np.int32]:
    """Texts with the -1 after their end replaced by ``end``; None leaves them."""
    return x if end is None else np.where(x == MISSING, np.int32(end), x)


def with_end_state(hmm: Hmm, end: int) -> Hmm:
    """The HMM whose last state emits ``end`` only, for ever, and whose others never emit it.

    The other rows are scaled to one again; one without anything else becomes uniform.
    """
    transition, emission = hmm.transition.copy(), hmm.emission.copy()
    transition[-1], emission[-1] = 0.0, 0.0
    transition[-1, -1] = emission[-1, end] = 1.0
    others = emission[:-1]
    others[:, end] = 0.0
    total = others.sum(1, keepdims=True)
    others /= np.where(total > 0, total, 1)
    others[total[:, 0] == 0] = 1 / (emission.shape[1] - 1)
    others[:, end] = 0.0
    return Hmm(hmm.initial, transition, emission)
