"""Which query works for which structure, found out by asking.

``python -m pyjuice_bridge.query.table docs/queries.md`` writes the page; a test fails when the page
says something else than what the queries do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.circuit.patches import glue, patch_bundle
from pyjuice_bridge.circuit.rat_spn import rat_spn
from pyjuice_bridge.circuit.region_circuit import region_circuit
from pyjuice_bridge.circuit.region_graph import random_region_graph
from pyjuice_bridge.circuit.region_rectangles import quad_graph
from pyjuice_bridge.circuit.types import MISSING, Circuit
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.engines.base import Engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.query.text_phrases import Constraint

_INTRODUCTION = """\
# Queries

What each query of a `Model` answers, by the structure of its circuit. The table is written by
`python -m pyjuice_bridge.query.table docs/queries.md`, which asks every query of a small circuit of
every structure.

- **exact**: the answer of the circuit, up to rounding; missing values (-1) are summed out.
- **approximate**: the best answer a search found, with its exact probability.
- **per root**: one answer for each root of the circuit.
- **one root**: choose one of the roots with `select(root)` first.
- **no images**: the circuit does not model images.
- **no latents**: the structure names no latents, so the answer is empty.
- **no HMM**: `text` needs a hidden Markov model.
"""

_NOTES = """\
`mpe` maximises the variables and the latents together. The most probable values of the variables
alone, latents summed out, are NP-hard to find: `map_approximate` searches for them. On a hidden
Markov model `mpe` is the Viterbi algorithm. `model.text` answers for texts of any length.
"""

_HEIGHT, _WIDTH = 2, 2


def structures() -> dict[str, Circuit]:
    """Build a small circuit of 2×2 grey images with four values per pixel, by structure.

    A hidden Markov model reads texts and a bundle patches, so they have no image shape.
    """
    size, values = _HEIGHT * _WIDTH, 4
    bundle = patch_bundle([-1, 0], 3, 2, values, seed=0)
    places = np.arange(size).reshape(2, 2)
    graph = random_region_graph(size, 2, 2, seed=0)
    images = {
        "HCLT": hclt([-1, 0, 0, 2], 3, values, seed=0),
        "quad graph": region_circuit(quad_graph((_HEIGHT, _WIDTH, 1)), 3, values, seed=0),
        "RAT-SPN": rat_spn(graph, 2, 2, values, seed=0),
        "glued patches": glue(hclt([-1, 0], 3, 3, seed=0), bundle, places),
    }
    shape = {"image_height": _HEIGHT, "image_width": _WIDTH, "image_channels": 1}
    circuits = {k: replace(c, meta={**c.meta, **shape}) for k, c in images.items()}
    circuits["HMM"] = random_hmm(3, values, seed=0).circuit(size)
    return {**circuits, "patch bundle": patch_bundle([-1, 0], 2, 2, values, seed=0)}


def _hidden(images: NDArray[np.uint8]) -> NDArray[np.int16]:
    gaps = images.astype(np.int16)
    gaps[:, 0] = MISSING
    return gaps


Ask = Callable[[Model, NDArray[np.uint8]], str]


def _per_root(values: NDArray[np.float64]) -> str:
    if not np.isfinite(values).all():
        raise AssertionError("the query answered with a number that is not finite")
    return "exact" if values.ndim == 1 else "exact, per root"


def _exact(answer: object) -> str:
    return "exact" if answer is not None else "no answer"


QUERIES: dict[str, Ask] = {
    "log_likelihood": lambda m, x: _per_root(m.log_likelihood(_hidden(x))),
    "conditional": lambda m, x: _per_root(m.conditional(x, _hidden(x))),
    "bits_per_dim": lambda m, x: _exact(m.bits_per_dim(x)),
    "sample": lambda m, x: _exact(m.sample(2, seed=0)),
    "sample given evidence": lambda m, x: _exact(m.sample(2, _hidden(x), seed=0)),
    "inpaint": lambda m, x: _exact(m.inpaint(x, np.eye(_HEIGHT, _WIDTH, dtype=bool))),
    "mpe": lambda m, x: _exact(m.mpe(_hidden(x))),
    "map_approximate": lambda m, x: m.map_approximate(_hidden(x), samples=2).label.split(":")[0],
    "marginal MAP": lambda m, x: m.map_approximate(_hidden(x), [0], samples=2).label.split(":")[0],
    "marginals": lambda m, x: _exact(m.marginals(_hidden(x))),
    "moments": lambda m, x: _exact(m.moments(_hidden(x))),
    "entropies": lambda m, x: _exact(m.entropies(_hidden(x))),
    "divergence": lambda m, x: _exact(m.divergence(m)),
    "posteriors": lambda m, x: "exact" if m.posteriors(x) else "no latents",
    "text.infill": lambda m, x: _exact(m.text.infill(x)),
    "text.token_distribution": lambda m, x: _exact(m.text.token_distribution(x, 1)),
    "text.phrase_probability": lambda m, x: _exact(
        m.text.phrase_probability(x, Constraint.any_of([[0, 1]], 3))
    ),
}


def answers(engine: Engine) -> dict[str, dict[str, str]]:
    """Ask everything: structure → query → what happened."""
    images = np.array([[[[0], [1]], [[2], [3]]]], np.uint8)
    table: dict[str, dict[str, str]] = {}
    for name, circuit in structures().items():
        model = Model(circuit, engine)
        x = images if model.image_shape is not None else images.reshape(1, -1)
        table[name] = {}
        for query, ask in QUERIES.items():
            try:
                table[name][query] = ask(model, x)
            except UserError as refusal:
                table[name][query] = _refused(str(refusal))
    return table


def _refused(message: str) -> str:
    known = {
        "does not model images": "no images",
        "select(root)": "one root",
        "not a homogeneous HMM": "no HMM",
    }
    return next((short for phrase, short in known.items() if phrase in message), message)


def page(engine: Engine) -> str:
    """Write the whole of docs/queries.md."""
    table = answers(engine)
    lines = [f"| query | {' | '.join(table)} |", f"| --- |{' --- |' * len(table)}"]
    lines += [f"| `{q}` | {' | '.join(table[s][q] for s in table)} |" for q in QUERIES]
    return f"{_INTRODUCTION}\n" + "\n".join(lines) + f"\n\n{_NOTES}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(get_engine("auto", "cpu")), encoding="utf-8")
