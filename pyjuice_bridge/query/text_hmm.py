"""Filtering and smoothing in a hidden Markov model, batched over texts, on tensors.

Every quantity is a probability over the hidden states, rescaled row by row at every position, so
that texts of any length stay in range; logarithms of the scales are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.circuit.hmm import Hmm
from pyjuice_bridge.circuit.types import MISSING
from pyjuice_bridge.errors import UserError

_ENTRIES = 1 << 26
"""Most numbers in one block of rows by tokens."""
_BLOCK = 1 << 24
"""Entries of a table that are converted at once."""


@dataclass(frozen=True, eq=False)
class HmmTensors:
    """The parameters of an HMM on one device.

    The tables may be stored in bf16, which halves their memory; what is computed with them has the
    type of ``initial``.

    Attributes:
        initial: [H].
        transition: [H, H], row = state before.
        emission: [V, H], column h is the distribution of the token in state h.
    """

    initial: torch.Tensor
    transition: torch.Tensor
    emission: torch.Tensor

    @classmethod
    def of(
        cls,
        hmm: Hmm,
        device: torch.device | str,
        dtype: torch.dtype,
        stored: torch.dtype | None = None,
    ) -> HmmTensors:
        """Return the model's parameters as tensors, the tables of another type if ``stored``."""
        kind = stored or dtype
        initial = torch.as_tensor(np.ascontiguousarray(hmm.initial)).to(device, dtype)
        emission = torch.empty(hmm.vocabulary_size, hmm.states, dtype=kind, device=device)
        for rows in _blocks(hmm.emission):
            part = np.ascontiguousarray(hmm.emission[rows])
            emission[:, rows] = torch.as_tensor(part).to(device, kind).t()
        return cls(initial, _table(hmm.transition, device, kind), emission)

    @property
    def device(self) -> torch.device:
        return self.initial.device

    def evidence(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return p(token | state) of int64 [N] tokens, ones where missing: [N, H]."""
        observed = self.emission[tokens.clamp(min=0)].to(self.initial.dtype)
        return torch.where((tokens == MISSING)[:, None], torch.ones_like(observed), observed)


def _table(array: NDArray[Any], device: torch.device | str, dtype: torch.dtype) -> torch.Tensor:
    """Return an array of another type, converted in blocks: there is never a second copy."""
    table = torch.as_tensor(np.ascontiguousarray(array))
    if table.dtype == dtype:
        return table.to(device)
    out = torch.empty(table.shape, dtype=dtype, device=device)
    for rows in _blocks(table):
        out[rows] = table[rows].to(device, dtype)
    return out


def times(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return ``x @ table``, the table read in blocks where it is of another type."""
    if x.dtype == table.dtype:
        return x @ table
    out = x.new_zeros(len(x), table.shape[1])
    for rows in _blocks(table):
        out.addmm_(x[:, rows], table[rows].to(x.dtype))
    return out


def times_transposed(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return ``x @ table.T``, the table read in blocks where it is of another type."""
    if x.dtype == table.dtype:
        return x @ table.t()
    out = x.new_empty(len(x), len(table))
    for rows in _blocks(table):
        out[:, rows] = x @ table[rows].to(x.dtype).t()
    return out


def _blocks(table: torch.Tensor | NDArray[Any]) -> list[slice]:
    step = max(1, _BLOCK // table.shape[1])
    return [slice(i, i + step) for i in range(0, len(table), step)]


def scaled(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide ``values`` [..., H] by the maximum of each row; return the maxima's logarithms, too.

    Logarithms are float64; a row of zeros stays, its logarithm is -inf.
    """
    top = values.amax(-1)
    return values / torch.where(top > 0, top, 1.0)[..., None], top.double().log()


def advance(
    hmm: HmmTensors, state: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Go from the distribution of the state at a position to that of the next one.

    Args:
        hmm: the model.
        state: [N, H], p(z_t | x_0 … x_{t-1}).
        tokens: int64 [N], x_t, -1 where missing.

    Returns:
        p(z_{t+1} | x_0 … x_t), and log p(x_t | x_0 … x_{t-1}) [N], -inf where it is impossible.
    """
    evidence, scale = scaled(hmm.evidence(tokens))
    seen = state * evidence
    total = seen.sum(1)
    seen = seen / torch.where(total > 0, total, 1.0)[:, None]
    return times(seen, hmm.transition), total.double().log() + scale


def predict(
    hmm: HmmTensors, x: torch.Tensor, skip: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the distribution of the state after a text.

    Args:
        hmm: the model.
        x: int64 [N, T], -1 where missing.
        skip: int64 [N], how many leading tokens do not belong to the text of each row.

    Returns:
        p(z_T | x) [N, H] and log p(x) [N].
    """
    state = hmm.initial.expand(len(x), -1)
    log_p = hmm.initial.new_zeros(len(x), dtype=torch.float64)
    for t in range(x.shape[1]):
        after, gain = advance(hmm, state, x[:, t])
        if skip is not None:
            begun = t >= skip
            after = torch.where(begun[:, None], after, state)
            gain = torch.where(begun, gain, 0.0)
        state, log_p = after, log_p + gain
    return state, log_p


def possible(log_p: torch.Tensor, name: str) -> None:
    """Refuse rows of probability zero."""
    if bool(log_p.isneginf().any()):
        row = int(log_p.isneginf().nonzero()[0])
        raise UserError(f"{name}: row {row} has probability zero under the model.")


def token_distribution(hmm: HmmTensors, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Compute p(x_t = v | all other observed tokens) at one position of every row: [N, V].

    Args:
        hmm: the model.
        x: int64 [N, T], -1 where missing; the token at the position itself is ignored.
        positions: int64 [N] in 0 … T; T is the token after the text.

    Raises:
        UserError: the other tokens have probability zero.
    """
    others = torch.cat([x, x.new_full((len(x), 1), MISSING)], 1)
    others = others.scatter(1, positions[:, None], MISSING)
    length = others.shape[1]
    state = hmm.initial.expand(len(x), -1)
    before = torch.zeros_like(state)
    for t in range(length):
        before = torch.where((positions == t)[:, None], state, before)
        state, _ = advance(hmm, state, others[:, t])
    after = torch.ones_like(before)
    future = after
    for t in reversed(range(length - 1)):
        # p(x_{t+1} … | z_t), up to a factor per row.
        seen = future * scaled(hmm.evidence(others[:, t + 1]))[0]
        future, _ = scaled(times_transposed(seen, hmm.transition))
        after = torch.where((positions == t)[:, None], future, after)
    both, _ = scaled(before * after)
    possible(both.amax(1).log(), "x")
    return _tokens(hmm, both)


def _tokens(hmm: HmmTensors, state: torch.Tensor) -> torch.Tensor:
    """Return the normalised distribution of the token, given state weights [N, H]."""
    step = max(1, _ENTRIES // len(hmm.emission))
    parts = []
    for chunk in state.split(step):
        weights = times_transposed(chunk, hmm.emission)
        parts.append(weights / weights.sum(1, keepdim=True))
    return torch.cat(parts) if parts else state.new_empty(0, len(hmm.emission))
