"""Partial E-steps: of a latent variable above sub-circuits, training evaluates a few values only.

A pass over all values notes for every row those with most flow; the passes after it evaluate the
sub-circuits of these alone, as if the variable were known to be one of them.  What they maximise is
a bound from below on log p (Neal & Hinton, *A View of the EM Algorithm that Justifies Incremental,
Sparse, and Other Variants*, 1998).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pyjuice_bridge import processes
from pyjuice_bridge.engines.base import CANDIDATE_PASSES
from pyjuice_bridge.engines.torch.program import Program
from pyjuice_bridge.engines.torch.values import Evidence


@dataclass(frozen=True)
class Candidates:
    """The values of one latent variable per row and position that are evaluated.

    Attributes:
        name: of the latents.
        target: the layer whose slots are the values.
        blocks: int64 [positions], the block of the layer for every position.
        values: how many the variable has.
        known: int32 [rows, positions, count].
    """

    name: str
    target: int
    values: int
    blocks: torch.Tensor
    known: torch.Tensor

    @classmethod
    def of(
        cls, program: Program, rows: int, count: int | None, evidence: Evidence
    ) -> Candidates | None:
        """Begin to keep candidates; None where all values are evaluated anyway.

        Args:
            program: whose sub-circuits are evaluated depth first, or not.
            rows: of the training data.
            count: of candidates; None for all values.
            evidence: the latents that are observed.
        """
        if count is None or program.cut is None or len(program.cut.banks) != 1:
            return None
        (bank,) = program.cut.banks
        sites = program.latents.get(bank.target, ())
        slots = bank.slots.shape[1]
        if len(sites) != 1 or len(sites[0].blocks) != len(bank.slots) or slots <= count:
            return None
        (site,) = sites
        if site.name in evidence:
            return None
        blocks = torch.empty_like(site.blocks)
        blocks[site.positions] = site.blocks
        known = torch.zeros(rows, len(blocks), count, dtype=torch.int32)
        return cls(site.name, bank.target, slots, blocks, known)

    def begin(self, number: int) -> bool:
        """Begin a pass; return whether it is over all values, which then are forgotten."""
        full = number % CANDIDATE_PASSES == 0
        if full:
            self.known.zero_()
        return full

    def evidence(self, rows: torch.Tensor | slice) -> Evidence:
        """Say of some rows that the latent variable is one of the candidates."""
        return {self.name: self.known[rows]}

    def end(self, full: bool) -> None:
        """End a pass; of several processes each has noted the candidates of its own rows."""
        if full:
            processes.add(self.known)


@dataclass(frozen=True)
class Notes:
    """Where a pass over all values notes the candidates of a batch.

    Attributes:
        candidates: of all rows.
        rows: int64 [batch], the batch's numbers among them.
    """

    candidates: Candidates
    rows: torch.Tensor

    def part(self, chosen: slice | torch.Tensor) -> Notes:
        """Return the notes on some rows of the batch."""
        return Notes(self.candidates, self.rows[chosen])

    def take(self, flows: Mapping[int, torch.Tensor]) -> None:
        """Note the values with most flow, for rows that have any."""
        of = self.candidates
        flow = flows[of.target][of.blocks]
        found = flow.topk(of.known.shape[2], dim=2, sorted=False).indices.transpose(0, 1)
        there = flow.sum((0, 2)) > 0
        of.known[self.rows[there]] = found[there].to(of.known.dtype)
