"""Exact sampling with evidence, and posteriors of latents.

Sampling is an upward pass with the evidence, then a top-down pass (``descent``): an active sum
block in state i picks (edge, child node j) with probability ∝ weight[i, j] · value of the child
node, and an active input block draws a category.  Both choices invert a cumulative sum, so no
choice of probability zero is ever made.  A posterior is the flow of the latent's block; below it
trees are evaluated depth first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import Circuit
from pyjuice_bridge.engines.torch.backward import Downward
from pyjuice_bridge.engines.torch.batches import EVALUATION_ROWS, micro_batch
from pyjuice_bridge.engines.torch.descent import (
    CHUNK,
    STATES,
    InputIndex,
    SumIndex,
    descend,
    layer_indices,
)
from pyjuice_bridge.engines.torch.forward import Upward
from pyjuice_bridge.engines.torch.fused import Trees, cut_of
from pyjuice_bridge.engines.torch.program import Params, Program, SumPlan
from pyjuice_bridge.engines.torch.values import Evidence, Workspace
from pyjuice_bridge.errors import UserError


def sample_rows(
    circuit: Circuit,
    program: Program,
    params: Params,
    x: torch.Tensor,
    evidence: Evidence,
    n: int,
    *,
    seed: int,
    root: int,
) -> NDArray[np.int32]:
    """Draw n completions of every row of ``x``.

    Args:
        circuit: what ``program`` was compiled from.
        program: the compiled circuit.
        params: its parameters on the device.
        x: int [N, num_vars], -1 where a value is drawn.
        evidence: of the latents.
        n: samples per row.
        seed: of the draws.
        root: which root's distribution.

    Returns:
        int32 [N, n, num_vars]; variables outside the root's scope stay as in ``x``.

    Raises:
        UserError: a row's evidence has probability zero.
    """
    indices = layer_indices(circuit, program.device)
    generator = torch.Generator(program.device).manual_seed(seed)
    chooser, workspace = _Draw(params, generator), Workspace()
    out = np.empty((len(x) * n, circuit.num_vars), np.int32)
    step = micro_batch(program)
    columns = max(1, STATES // circuit.num_blocks)
    for start in range(0, len(x), step):
        chooser.up = _upward(program, params, x, evidence, workspace, start, step, root)
        rows = torch.arange(chooser.up.act.batch, device=program.device).repeat_interleave(n)
        done = start * n
        for part in rows.split(columns):
            drawn = descend(
                indices,
                circuit.num_blocks,
                int(circuit.roots[root]),
                x[start : start + step],
                part,
                chooser,
            )
            out[done : done + len(part)] = drawn.cpu().numpy()
            done += len(part)
    return out.reshape(len(x), n, circuit.num_vars)


def posteriors(
    circuit: Circuit,
    program: Program,
    params: Params,
    x: torch.Tensor,
    name: str,
    *,
    root: int,
) -> NDArray[np.float32]:
    """p(latent = j | x) of the latents ``name``: float32 [N, positions, width].

    This is the flow of the latent's block, so where the root does not reach the block for certain
    (a region of a random graph) the row sums to the probability that it does.

    Raises:
        UserError: no such latents, latents of unequal widths, or a row of probability zero.
    """
    if name not in circuit.latents:
        known = ", ".join(circuit.latents) or "none"
        raise UserError(f"The circuit has no latent {name!r}; it has: {known}.")
    places = [(circuit.layer_of(int(b)), int(b)) for b in circuit.latents[name]]
    layers = tuple(sorted({layer for layer, _ in places}))
    widths = {circuit.widths[layer] for layer in layers}
    if len(widths) > 1:
        raise UserError(f"The latents {name!r} have different numbers of values.")
    out = np.zeros((len(x), len(places), max(widths, default=0)), np.float32)
    cut, workspace = cut_of(program, {}), Workspace()
    if cut is not None and cut.inside.isdisjoint(layers):
        # What is left beside the trees is small enough for float64.
        program = program.in_double
    else:
        program = replace(program, cut=None)
    step = min(micro_batch(program, program.cut), EVALUATION_ROWS)
    for start in range(0, len(x), step):
        up = _upward(program, params, x, {}, workspace, start, step, root)
        down = Downward(up, [None] * len(params), keep=layers)
        weights = torch.zeros(up.act.batch, len(circuit.roots), device=program.device)
        weights[:, root] = 1
        down.run(weights)
        for position, (layer, block) in enumerate(places):
            if layer in down.flows:
                flow = down.flows[layer][block - int(circuit.starts[layer])]
                out[start : start + step, position] = flow.float().cpu().numpy()
    return out


def _upward(
    program: Program,
    params: Params,
    x: torch.Tensor,
    evidence: Evidence,
    workspace: Workspace,
    start: int,
    step: int,
    root: int,
) -> Upward:
    """Run the upward pass of some rows, none of them impossible."""
    rows = slice(start, start + step)
    picked = {name: values[rows] for name, values in evidence.items()}
    if program.cut is None:
        up = Upward(program, params, x[rows], picked, workspace)
    else:
        up = Trees(program.cut, program, params, x[rows], picked, workspace)
    up.run()
    doubt = up.doubtful()
    if doubt is not None and bool(doubt.any()):
        up = Upward(program.in_double, params, x[rows], picked)
        up.run()
    impossible = up.log_likelihood()[:, root].isneginf()
    if bool(impossible.any()):
        row = start + int(impossible.nonzero()[0])
        raise UserError(f"Row {row} of the evidence has probability zero under the circuit.")
    return up


class _Draw:
    """Chooses at random, given the values of the upward pass ``up``."""

    up: Upward

    def __init__(self, params: Params, generator: torch.Generator) -> None:
        self.params, self.generator = params, generator
        self._values: tuple[object, torch.Tensor] = (None, torch.empty(0))
        self._tables: dict[int, torch.Tensor] = {}

    def edge(
        self,
        layer: int,
        index: SumIndex,
        block: torch.Tensor,
        state: torch.Tensor,
        row: torch.Tensor,
    ) -> torch.Tensor:
        weights = self.params[self.up.program.owners[layer]]
        assert weights is not None
        edge, group = index.edges[block], index.groups[block]
        theta = weights.view(-1, index.width_in)[group * index.width + state[:, None]]
        theta = theta.masked_fill_((edge < 0)[..., None], 0.0).flatten(1)
        values = self._edge_values(layer)[edge.clamp(min=0), row[:, None]].flatten(1)
        cumulative = (theta * values).cumsum(1)
        lost = cumulative[:, -1] <= 0
        if bool(lost.any()):
            logs = theta[lost].log() + values[lost].log()
            cumulative[lost] = (logs - logs.amax(1, keepdim=True)).exp().cumsum(1)
        return self._invert(cumulative)

    def leaf(
        self, layer: int, index: InputIndex, block: torch.Tensor, state: torch.Tensor
    ) -> torch.Tensor:
        table = self.params[layer]
        assert table is not None
        if layer not in self._tables:
            self._tables[layer] = table[:, 1:].cumsum(1).transpose(1, 2).flatten(0, 1)
        cumulative = self._tables[layer]
        line = index.groups[block] * table.shape[2] + state
        step = max(1, CHUNK // cumulative.shape[1])
        return torch.cat([self._invert(cumulative[some]) for some in line.split(step)])

    def _edge_values(self, layer: int) -> torch.Tensor:
        key = (self.up, layer)
        if self._values[0] != key:
            plan = self.up.program.layers[layer]
            assert isinstance(plan, SumPlan)
            self._values = (key, self.up.edges(plan).value)
        return self._values[1]

    def _invert(self, cumulative: torch.Tensor) -> torch.Tensor:
        """int64 [M]: an index per row of ``cumulative`` [M, C], drawn by its increments.

        The target stays below the total, so an index without an increment is never drawn.
        """
        total = cumulative[:, -1:]
        uniform = torch.rand(
            len(total), 1, generator=self.generator, device=total.device, dtype=total.dtype
        )
        target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
        return torch.searchsorted(cumulative, target, right=True)[:, 0]
