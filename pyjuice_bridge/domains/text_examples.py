"""What the report shows of HMMs of text: samples, top words, completions, transitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.circuit.types import MISSING
from pyjuice_bridge.domains.base import Arm, Context, spread
from pyjuice_bridge.files import write_arrays, write_json
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.query.text import TextModel
from pyjuice_bridge.stages.store import Artifact

EXAMPLES = "text.json"
PICTURES = "figures.npz"
_STATES, _WORDS = 24, 6
_DRAWN = 1024
"""States in the picture of transitions, at most."""
_PIXELS = 512
_LEVELS = 32


Decode = Callable[[Sequence[int] | NDArray[Any]], str]


def examples(
    context: Context,
    arms: Sequence[Arm],
    vocabulary: Sequence[str],
    decode: Decode,
    lengths: NDArray[np.int64],
) -> Artifact:
    """Draw for every arm; the artifact holds ``text.json`` and ``figures.npz``.

    Args:
        context: the run.
        arms: of one size.
        vocabulary: the string of every token id.
        decode: makes text of ids.
        lengths: int64 [N], the tokens in every validation window.
    """
    data, seed, report = context.data, context.config.seed, context.config.report
    inputs = {"data": data.key, "report": report.model_dump(), "seed": seed}
    window = len(data.categories)

    def build(folder: Path) -> None:
        hidden, cut = _hidden(data.rows["valid"], lengths, report.inpaint)
        content: dict[str, Any] = {"infill": _questions(decode, hidden, cut), "arms": {}}
        pictures: dict[str, NDArray[Any]] = {}
        for arm in arms:
            with context.reporter.task(f"examples of {arm.arm}"):
                model = Model(arm.circuit(), context.engine).text
                blank = np.full((1, window), MISSING, np.int32)
                drawn = model.infill(blank, report.samples, seed=seed)[0]
                content["arms"][arm.arm] = {
                    "samples": [decode(row) for row in drawn],
                    "states": _states(model.hmm, window, vocabulary),
                    "count": model.hmm.states,
                }
                pictures[f"transitions/{arm.arm}"] = picture(model.hmm, window)
                answers = _answers(model, decode, hidden, cut, seed)
                for item, answer in zip(content["infill"], answers, strict=True):
                    item["answers"][arm.arm] = answer
        write_json(folder / EXAMPLES, content)
        write_arrays(folder / PICTURES, pictures)

    parents = [arm.artifact for arm in arms]
    return context.store.stage("examples", 2, inputs, build, parents=parents)


def state_shares(hmm: Hmm, length: int) -> NDArray[np.float64]:
    """Return how often each state is taken, averaged over a window's positions: float64 [H]."""
    state = np.asarray(hmm.initial, np.float64)
    total = np.zeros_like(state)
    for _ in range(length):
        total += state
        state = state @ hmm.transition
    shares: NDArray[np.float64] = total / total.sum()
    return shares


def _states(hmm: Hmm, length: int, vocabulary: Sequence[str]) -> list[dict[str, Any]]:
    """List the words of some states, from the most to the least frequent one.

    Likely words have the highest p(word | state); typical ones add most to the divergence of that
    distribution from the words of all states together.
    """
    shares = state_shares(hmm, length)
    order = np.argsort(-shares, kind="stable")
    everywhere = shares @ hmm.emission
    states: list[dict[str, Any]] = []
    for state in order[spread(len(order), _STATES)]:
        row = np.asarray(hmm.emission[state], np.float64)
        typical = row * np.log(np.maximum(row, 1e-300) / np.maximum(everywhere, 1e-300))
        words = {
            name: [[vocabulary[i], float(row[i])] for i in np.argsort(-by, kind="stable")[:_WORDS]]
            for name, by in (("likely", row), ("typical", typical))
        }
        states.append({"state": int(state), "share": float(shares[state]), **words})
    return states


def _hidden(
    rows: NDArray[Any], lengths: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int32], slice]:
    """Choose a few whole windows, and the span to hide in each."""
    window = rows.shape[1]
    whole = np.flatnonzero(lengths == window)
    chosen = whole[spread(len(whole), count)] if len(whole) else whole
    size = max(1, window // 5)
    start = (window - size) // 2
    return np.asarray(rows[chosen], np.int32), slice(start, start + size)


def _questions(decode: Decode, rows: NDArray[np.int32], cut: slice) -> list[dict[str, Any]]:
    return [
        {
            "before": decode(row[: cut.start]),
            "hidden": decode(row[cut]),
            "after": decode(row[cut.stop :]),
            "answers": {},
        }
        for row in rows
    ]


def _answers(
    model: TextModel, decode: Decode, rows: NDArray[np.int32], cut: slice, seed: int
) -> list[dict[str, str]]:
    """Fill every span by one draw given the rest, and by Viterbi."""
    if not len(rows):
        return []
    observed = rows.copy()
    observed[:, cut] = MISSING
    drawn = model.infill(observed, seed=seed)[:, 0]
    best, _ = model.viterbi(observed)
    return [
        {"sampled": decode(a[cut]), "viterbi": decode(b[cut])}
        for a, b in zip(drawn, best, strict=True)
    ]


def picture(hmm: Hmm, length: int) -> NDArray[np.uint8]:
    """Draw transitions as grey levels [n, n], 255 where they are rarest; row = state before.

    States that follow one another are often neighbours: they are ordered by the second eigenvector
    of the symmetric, normalised joint distribution of neighbours.  The shade is the logarithm of
    the probability against a uniform choice, from a tenth of it to a hundred times.
    """
    shares = state_shares(hmm, length)
    kept = np.sort(np.argsort(-shares, kind="stable")[:_DRAWN])
    matrix = np.asarray(hmm.transition, np.float64)[np.ix_(kept, kept)]
    joint = shares[kept, None] * matrix
    joint = joint + joint.T
    scale = 1 / np.sqrt(joint.sum(axis=1))
    vector = np.linalg.eigh(joint * scale[:, None] * scale)[1][:, -2] * scale
    vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
    order = np.argsort(vector, kind="stable")
    matrix = _smaller(matrix[np.ix_(order, order)])
    depth = (np.log10(np.maximum(matrix * hmm.states, 1e-9)) + 1) / 3
    levels = np.round(np.clip(depth, 0, 1) * (_LEVELS - 1))
    return (255 - levels * (255 // (_LEVELS - 1))).astype(np.uint8)


def _smaller(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average square blocks, so that a side has no more pixels than the picture."""
    side = -(-len(matrix) // _PIXELS)
    if side == 1:
        return matrix
    edges = np.arange(0, len(matrix), side)
    sums = np.add.reduceat(np.add.reduceat(matrix, edges, axis=0), edges, axis=1)
    sizes = np.diff(np.append(edges, len(matrix)))
    return np.asarray(sums / np.outer(sizes, sizes), np.float64)
