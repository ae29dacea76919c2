"""``circuit.kind: hmm``: a homogeneous hidden Markov model of windows, distilled by counting."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pyjuice_bridge.circuit.hmm import Hmm, random_hmm
from pyjuice_bridge.circuit.types import MISSING, Circuit, IntArray
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.distill.base import Initialisation, Kind
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.distill.checks import check_counted, pool
from pyjuice_bridge.distill.counted import counted_start
from pyjuice_bridge.distill.language import with_end_state
from pyjuice_bridge.distill.latents import LatentValues, latents
from pyjuice_bridge.domains.base import Context, Shape
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.sections import KindSection, Pseudocount, States


class HmmCircuit(KindSection):
    """A homogeneous hidden Markov model over the tokens of a window, distilled by counting.

    ``smoothing`` is the share of every counted row that is given to overall frequencies.
    """

    kind: Literal["hmm"]
    states: States = 128
    pseudocount: Pseudocount = 0.1
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1


def _check(config: Settings) -> None:
    pool(config, "HMM, whose states are the same at every position")
    check_counted(config)


def _scopes(_: HmmCircuit, shape: Shape) -> IntArray:
    """Return one latent for every position of a window."""
    return np.arange(len(shape.categories), dtype=np.int32)[:, None]


def _structure(section: HmmCircuit, _: str, shape: Shape) -> Circuit:
    vocabulary, length = int(shape.categories[0]), len(shape.categories)
    return random_hmm(section.states, vocabulary, None).circuit(length)


def _initialise(context: Context) -> list[Initialisation]:
    section = context.config.circuit
    assert isinstance(section, HmmCircuit)
    values = context.data.categories
    if values.min() != values.max():
        raise UserError(
            f"'circuit.kind: hmm' reads rows as sequences of one kind of value, but the columns of "
            f"{context.data.name} have {values.min()} to {values.max()} values; use 'hclt'"
        )
    initialisations, length = [], len(context.data.categories)
    for arm in context.config.arms or []:
        if arm == "lvd":
            # The last state marks the end; it has no cluster.
            clusters = section.states - (_end(context) is not None)
            found = latents(context, clusters, (length,))
            initialisations.append(_counted(context, section, found))
        else:
            initialisations.append(_random(context, section))
    return initialisations


def _random(context: Context, section: HmmCircuit) -> Initialisation:
    """Begin with Dirichlet(1) rows."""
    seed, count, builders = context.config.seed, section.states, builders_of(context.engine)
    vocabulary, length = int(context.data.categories[0]), len(context.data.categories)
    key = {
        "random": "hmm",
        "states": count,
        "vocabulary": vocabulary,
        "length": length,
        "seed": seed,
        "builders": builders.name,
    }
    return Initialisation(
        "random",
        key,
        lambda: builders.random_hmm(count, vocabulary, length, seed=seed),
        (),
    )


def _counted(context: Context, section: HmmCircuit, found: LatentValues) -> Initialisation:
    """Begin with the HMM counted in one pass over the windows and their latents."""
    data, count = context.data, section.states
    vocabulary, end = int(data.categories[0]), _end(context)
    builders = builders_of(context.engine)

    def known(split: str) -> NDArray[np.int32]:
        return _with_end(data.rows[split], found.z[split], end, count)

    def make() -> Circuit:
        x, z = _until_end(data.rows["train"], known("train"), end)
        start = builders.random_hmm(count, vocabulary, x.shape[1], seed=0)
        counted = builders.count_parameters(start, x, z, pseudocount=section.pseudocount)
        smooth = interpolate(Hmm.of(counted), x, z, section.smoothing)
        return _finish(context, smooth.circuit(x.shape[1]))

    return counted_start(
        context,
        f"counting ({count:,} states)",
        make,
        key={
            "states": count,
            "pseudocount": section.pseudocount,
            "smoothing": section.smoothing,
        },
        parents=(found.artifact,),
        valid=known("valid"),
    )


def _end(context: Context) -> int | None:
    """Return the token that ends a text, None where rows do not end."""
    return getattr(context.data.codec, "end", None)


def _finish(context: Context, circuit: Circuit) -> Circuit:
    """Restore the end state's rows, which pseudocounts fill."""
    end = _end(context)
    if end is None:
        return circuit
    ended = with_end_state(Hmm.of(circuit), end).circuit(circuit.num_vars)
    return replace(circuit, layers=ended.layers)


def _with_end(
    x: NDArray[Any], z: NDArray[np.int32], end: int | None, states: int
) -> NDArray[np.int32]:
    """Put the last state wherever the text has ended."""
    return z if end is None else np.where(x == end, np.int32(states - 1), z)


def _until_end(
    x: NDArray[Any], z: NDArray[np.int32], end: int | None
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Drop padding, so that it is not counted."""
    if end is None:
        return x, z
    ended = x == end
    filled = np.cumsum(ended, axis=1) > ended
    return np.where(filled, MISSING, x), np.where(filled, np.int32(MISSING), z)


def interpolate(hmm: Hmm, x: NDArray[Any], z: NDArray[Any], share: float) -> Hmm:
    """Mix rows with overall frequencies: (1 - share)·row + share·frequencies of all states.

    Counted rows are near zero wherever a state was never seen with a token, and EM, which
    multiplies, brings such an entry back slowly.  Mixed with the frequencies of tokens (emission)
    and of states (transition), a state can move away from what the teacher said (Jelinek-Mercer
    smoothing: Jelinek & Mercer, 1980).

    Args:
        hmm: counted from ``x`` and ``z``.
        x: int [N, T], token ids, -1 where missing.
        z: int [N, T], states, -1 where there is none.
        share: from 0 (as counted) to 1.

    Raises:
        UserError: a share outside 0 … 1, or no token or state at all.
    """
    if not 0 <= share <= 1:
        raise UserError(f"the share of the frequencies must be from 0 to 1, got {share}.")
    tables = []
    for row, values, name in ((hmm.transition, z, "z"), (hmm.emission, x, "x")):
        values = np.asarray(values)
        counts = np.bincount(values[values != MISSING], minlength=row.shape[1])
        if not counts.sum():
            raise UserError(f"{name} holds missing values only.")
        mixed = row * np.float32(1 - share)
        mixed += (share * counts / counts.sum()).astype(np.float32)
        tables.append(mixed)
    return Hmm(hmm.initial, *tables)


KIND = Kind(
    name="hmm",
    section=HmmCircuit,
    domains=("text", "written", "table"),
    arms=("lvd", "random"),
    check=_check,
    scopes=_scopes,
    structure=_structure,
    initialise=_initialise,
    finish=_finish,
)
