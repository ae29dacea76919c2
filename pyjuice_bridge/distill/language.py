"""Hidden Markov models of whole texts: one state marks the end of the text.

As in Ctrl-G (Zhang et al., arXiv 2406.13892): what follows a text's end are end tokens, which the
last state alone emits and which it never leaves.  So a text's probability does not depend on how
far it is filled up, and the probability that a text ends is that of reaching this state.
"""

from __future__ import annotations

import numpy as np

from pyjuice_bridge.circuit.hmm import Hmm


def with_end_state(hmm: Hmm, end: int) -> Hmm:
    """Return the HMM whose last state emits ``end`` only, for ever, and whose others never emit it.

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
