"""M-steps: how counts become parameters, in place."""

from __future__ import annotations

import torch

from pyjuice_bridge.circuit.families.base import Family
from pyjuice_bridge.engines.torch import fused
from pyjuice_bridge.engines.torch.backward import by_weight
from pyjuice_bridge.engines.torch.program import InputPlan, Params, Program, SumPlan


def m_step(
    program: Program,
    params: Params,
    counts: Params,
    step_size: float | torch.Tensor,
    pseudocount: float,
    taken: frozenset[int] = frozenset(),
) -> None:
    """θ ← (1 - η)·θ + η·normalise(counts + c/#siblings), in place; counts are set to zero.

    ``counts`` are as collected by the downward pass (sum layers without their factor θ).  A row
    without flow stays as it is, before pseudocounts.  η = 1 is full-batch EM.  Layers whose step
    was ``taken`` while counting are left alone.  The rows of leaves that are not categorical are
    then brought back into their family (``circuit.families.base``).
    """
    leaves = _pool(program, params, counts)
    alone: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    tables: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for i, (plan, theta, count) in enumerate(zip(program.layers, params, counts, strict=True)):
        if theta is None or count is None or i in taken:
            continue
        if isinstance(plan, SumPlan) and plan.family_of_group is not None:
            _family_step(plan, theta, count, step_size, pseudocount)
            continue
        thetas, its_counts = tables if isinstance(plan, InputPlan) else alone
        thetas.append(theta)
        its_counts.append(count)
    if fused.applies(program.device, program.dtype):
        fused.step_sums(*alone, float(step_size), pseudocount)
        fused.step_inputs(*tables, float(step_size), pseudocount)
    else:
        _step_sums(*alone, step_size, pseudocount)
        _step_inputs(*tables, step_size, pseudocount)
    _project(leaves)


def _pool(
    program: Program, params: Params, counts: Params
) -> list[tuple[Family, torch.Tensor, torch.Tensor]]:
    """Let families pool their counts, in place; return those that project, old and new rows.

    Rows are [groups, width, categories]; the old ones are a copy.
    """
    constrained = []
    for plan, theta, count in zip(program.layers, params, counts, strict=True):
        if not isinstance(plan, InputPlan) or theta is None or count is None:
            continue
        rows, counted = (t[:, 1:].transpose(1, 2) for t in (theta, count))
        pooled = plan.family.pooled(counted)
        if pooled is not counted:
            counted.copy_(pooled)
        if plan.family.constrained:
            constrained.append((plan.family, rows.clone(), rows))
    return constrained


def _project(leaves: list[tuple[Family, torch.Tensor, torch.Tensor]]) -> None:
    """Replace the rows that a step has moved by the best of their family."""
    for family, old, rows in leaves:
        moved = (rows != old).any(2, keepdim=True)
        rows.copy_(torch.where(moved, family.projected(rows, old), rows))


def _step_sums(
    thetas: list[torch.Tensor],
    counts: list[torch.Tensor],
    step_size: float | torch.Tensor,
    pseudocount: float,
) -> None:
    for theta, count in zip(thetas, counts, strict=True):
        by_weight(count, theta)
        total = count.sum(2, keepdim=True)
        _blend(theta, count, total, theta.shape[2], step_size, pseudocount)
        count.zero_()


def _step_inputs(
    thetas: list[torch.Tensor],
    counts: list[torch.Tensor],
    step_size: float | torch.Tensor,
    pseudocount: float,
) -> None:
    for theta, count in zip(thetas, counts, strict=True):
        t, c = theta[:, 1:], count[:, 1:]
        _blend(t, c, c.sum(1, keepdim=True), t.shape[1], step_size, pseudocount)
        count.zero_()


def anemone_step(
    program: Program,
    params: Params,
    counts: Params,
    smoothed: Params,
    prior: Params,
    step_size: float,
    pseudocount: float,
) -> None:
    """θ ∝ η·(smoothed + c/#siblings) + (1 - η)·prior, in place (arXiv 2505.19982).

    All are expected counts: ``counts`` of the batch, ``smoothed`` their average over batches, and
    ``prior`` of as many draws from the circuit itself, that is |B|·TD(n)·θ.  Rows without flow in
    the batch stay as they are.  ``smoothed`` counts of leaves are pooled and their rows projected
    as in :func:`m_step`.
    """
    leaves = _pool(program, params, smoothed)
    for plan, theta, count, average, base in zip(
        program.layers, params, counts, smoothed, prior, strict=True
    ):
        if theta is None or count is None:
            continue
        assert average is not None and base is not None
        axis = 1 if isinstance(plan, InputPlan) else 2
        if axis == 1:
            theta, count, average, base = (t[:, 1:] for t in (theta, count, average, base))
        total, siblings = row_totals(plan, count, axis)
        fresh = (average + pseudocount / siblings).mul_(step_size).add_(base, alpha=1 - step_size)
        norm, _ = row_totals(plan, fresh, axis)
        torch.where(total > 0, fresh / norm, theta, out=theta)
    _project(leaves)


def row_totals(
    plan: object, count: torch.Tensor, axis: int
) -> tuple[torch.Tensor, torch.Tensor | int]:
    """Add up rows over all edges of a block.

    Args:
        plan: of the layer.
        count: [groups, …], whose rows run along ``axis``: 1 for inputs, 2 for sums.
        axis: of the rows.

    Returns:
        The totals, broadcastable, and the number of entries per row.
    """
    rows = count.sum(axis, keepdim=True)
    if not isinstance(plan, SumPlan) or plan.family_of_group is None:
        return rows, count.shape[axis]
    family = plan.family_of_group
    total = rows.new_zeros(plan.num_families, *rows.shape[1:]).index_add_(0, family, rows)
    return total[family], plan.siblings[family][:, None, None]


def _family_step(
    plan: SumPlan,
    theta: torch.Tensor,
    count: torch.Tensor,
    step_size: float | torch.Tensor,
    pseudocount: float,
) -> None:
    by_weight(count, theta)
    total, siblings = row_totals(plan, count, 2)
    _blend(theta, count, total, siblings, step_size, pseudocount)
    count.zero_()


def _blend(
    theta: torch.Tensor,
    count: torch.Tensor,
    total: torch.Tensor,
    siblings: torch.Tensor | int,
    step_size: float | torch.Tensor,
    pseudocount: float,
) -> None:
    seen = total > 0
    keep = 1.0 - seen.to(theta.dtype) * step_size
    # What is kept and what is new must add up to one, or rows drift by rounding.
    rate = torch.where(seen, (1.0 - keep) / (total + pseudocount), 0.0)
    theta.mul_(keep).addcmul_(count, rate)
    if pseudocount:
        theta.add_(rate.mul_(pseudocount / siblings))
