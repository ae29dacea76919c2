"""Hidden Markov models: the homogeneous model itself, and its circuit for any length.

p(x, z) = initial[z_0] · emission[z_0, x_0] · Π_t transition[z_{t-1}, z_t] · emission[z_t, x_t].

In blocks: one input layer with a block per position, all of one group; then from the last position
to the first a product block (the position's input times the sum block of the position after it) and
a sum block, which mixes it by the transition matrix, or at position 0 by the initial distribution.
All transition layers are tied to the first of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pyjuice_bridge.circuit.initialise import uniform_leaves
from pyjuice_bridge.circuit.rows import dirichlet_rows
from pyjuice_bridge.circuit.types import (
    Circuit,
    FloatArray,
    InputLayer,
    IntArray,
    Layer,
    ProductLayer,
    SumLayer,
)
from pyjuice_bridge.errors import UserError


@dataclass(frozen=True, eq=False)
class Hmm:
    """A homogeneous hidden Markov model over tokens.

    Attributes:
        initial: float [H], the distribution of the first state.
        transition: float [H, H], row h is the distribution of the state after h.
        emission: float [H, V], row h is the distribution of the token in state h.
    """

    initial: FloatArray
    transition: FloatArray
    emission: FloatArray

    def __post_init__(self) -> None:
        for name in ("initial", "transition", "emission"):
            object.__setattr__(self, name, _floats(getattr(self, name), name))
        states = self.initial.shape[0] if self.initial.ndim == 1 else 0
        if not states or self.transition.shape != (states, states):
            raise UserError(
                "An HMM needs initial [H] and transition [H, H], but they have the shapes "
                f"{list(self.initial.shape)} and {list(self.transition.shape)}."
            )
        if self.emission.ndim != 2 or self.emission.shape[0] != states or not self.emission.size:
            raise UserError(
                f"emission: expected shape [{states}, V], got {list(self.emission.shape)}."
            )

    @property
    def states(self) -> int:
        """H, the number of hidden states."""
        return len(self.initial)

    @property
    def vocabulary_size(self) -> int:
        """V, the number of tokens."""
        return int(self.emission.shape[1])

    @property
    def num_parameters(self) -> int:
        """Entries of the three arrays, which is the circuit's number at any length above 1."""
        return int(self.initial.size + self.transition.size + self.emission.size)

    def circuit(self, length: int) -> Circuit:
        """Build the circuit of the first ``length`` tokens, one variable each.

        ``latents["z"]`` lists the product blocks: node h of block t means z_t = h.  The circuit
        shares the arrays of the model.

        Raises:
            UserError: ``length`` is below 1.
        """
        if length < 1:
            raise UserError(f"length: an HMM's circuit needs at least 1 position, got {length}.")
        positions = np.arange(length, dtype=np.int32)
        layers: list[Layer] = [InputLayer(positions, np.zeros_like(positions), self.emission[None])]
        transition = self.transition[None]
        latent: list[int] = []
        below: list[int] = []
        block = length
        for t in reversed(range(length)):
            children = [t, *below]
            layers.append(ProductLayer("hadamard", _i32([0, len(children)]), _i32(children)))
            weights = transition if t else self.initial[None, None]
            owner = 2 if 0 < t < length - 1 else None
            layers.append(SumLayer(_i32([0, 1]), _i32([block]), _i32([0]), weights, owner))
            latent.append(block)
            below, block = [block + 1], block + 2
        return Circuit(
            length,
            tuple(layers),
            _i32([block - 1]),
            {"z": _i32(latent[::-1])},
            {"structure": "hmm", "latent_states": self.states},
        )

    @staticmethod
    def of(circuit: Circuit) -> Hmm:
        """Return the HMM behind a circuit of any length; the arrays are shared.

        Raises:
            UserError: the circuit is not one that ``Hmm.circuit`` builds, or of a single position,
                which has no transitions.
        """
        if circuit.num_vars < 2:
            raise UserError("A circuit of a single variable has no transitions of an HMM to read.")
        if len(circuit.layers) == 2 * circuit.num_vars + 1:
            leaf, first, last = circuit.layers[0], circuit.layers[2], circuit.layers[-1]
            if (
                isinstance(leaf, InputLayer)
                and isinstance(first, SumLayer)
                and isinstance(last, SumLayer)
                and leaf.width == first.width == last.weights.shape[2]
                and last.width == 1
            ):
                hmm = Hmm(last.weights[0, 0], first.weights[0], leaf.params[0])
                if _structure(hmm.circuit(circuit.num_vars)) == _structure(circuit):
                    return hmm
        raise UserError(
            "The circuit is not a homogeneous HMM, one chain of tied transitions; such circuits "
            "are built by Hmm.circuit."
        )

    def __repr__(self) -> str:
        return (
            f"Hmm({self.states:,} states, {self.vocabulary_size:,} tokens, "
            f"{self.num_parameters:,} parameters)"
        )


def random_hmm(states: int, vocabulary: int, seed: int | None) -> Hmm:
    """Draw the rows of an HMM from Dirichlet(1), float32.

    Args:
        states: H.
        vocabulary: V.
        seed: equal seeds give equal rows; None leaves uniform rows that take no memory.
    """
    if states < 1 or vocabulary < 1:
        raise UserError("An HMM needs at least 1 state and 1 token.")
    if seed is None:
        transition = uniform_leaves(1, states, states)[0]
        return Hmm(transition[0], transition, uniform_leaves(1, states, vocabulary)[0])
    rng = np.random.default_rng(seed)
    initial = dirichlet_rows(rng, (1, states))[0]
    transition = dirichlet_rows(rng, (states, states))
    return Hmm(initial, transition, dirichlet_rows(rng, (states, vocabulary)))


def _structure(circuit: Circuit) -> list[object]:
    """Return everything about a circuit but its parameters, as plain lists."""
    facts: list[object] = [circuit.num_vars, circuit.roots.tolist()]
    facts.append({name: blocks.tolist() for name, blocks in circuit.latents.items()})
    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            facts.append([layer.variables.tolist(), layer.groups.tolist(), layer.params.shape])
            continue
        facts.append([type(layer).__name__, layer.offsets.tolist(), layer.children.tolist()])
        if isinstance(layer, SumLayer):
            facts.append([layer.groups.tolist(), layer.weights.shape, layer.tied_to])
        else:
            facts.append(layer.kind)
    return facts


def _floats(values: ArrayLike, name: str) -> FloatArray:
    """Return floats as they are, other numbers in double precision."""
    try:
        array = np.asarray(values)
        return array if array.dtype.kind == "f" else array.astype(np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name}: expected an array of numbers.") from None


def _i32(values: list[int]) -> IntArray:
    return np.array(values, np.int32)
