"""M-steps, and a look at weights, with compiled kernels: numbers pass through the cache once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.engines.torch.backward import LARGEST_RATIO
from pyjuice_bridge.engines.torch.fused.memory import (
    SIZE,
    extremes,
    fields,
    floats,
    longs,
)
from pyjuice_bridge.engines.torch.fused.threads import (
    Job,
    address,
    frame_type,
    kernel,
    next_task,
    run,
)

_TASK_VALUES = 2**14
_COLUMNS = 64
_ROWS = 256

SUM_STEP = frame_type(
    *("tensors", "first", "rows", "widths", "thetas", "counts"),
    reals=("step_size", "pseudocount"),
)
"""Frame of ``sum_step``; a task is some ``_TASK_VALUES`` values of a tensor [rows, width].

int64 [tensors]: ``first`` tasks, ``rows``, ``widths``, and the addresses ``thetas``, ``counts``.
"""

INPUT_STEP = frame_type(
    *("groups", "categories", "width", "columns", "theta", "count"),
    reals=("step_size", "pseudocount"),
)
"""Frame of ``input_step``; a task is ``columns`` nodes of a group.

``theta`` and ``count`` are [groups, 1 + categories, width], row 0 for missing values.
"""

FAINT = frame_type("tensors", "first", "sizes", "values", "flags", reals=("limit",))
"""Frame of ``faint``; a task is ``_TASK_VALUES`` values of a tensor.

int64 [tensors]: ``first`` tasks, ``sizes``, and addresses: of the ``values``, and of the ``flags``
to set where some are below ``limit``.
"""


@dataclass
class Step:
    """An M-step that counting may already take of some layers.

    Attributes:
        size: η.
        pseudocount: of each row.
        taken: the layers whose parameters have changed and whose counts are zero again.
    """

    size: float
    pseudocount: float
    taken: frozenset[int] = frozenset()


def applies(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether there are M-steps for numbers of this type on this device."""
    return device.type == "cpu" and dtype == torch.float32


def step_sums(
    thetas: Sequence[torch.Tensor],
    counts: Sequence[torch.Tensor],
    step_size: float,
    pseudocount: float,
) -> None:
    """Take the M-step of sum layers whose rows stand alone, in place; counts become zero."""
    if not thetas:
        return
    widths = np.array([t.shape[2] for t in thetas])
    rows = np.array([t.numel() for t in thetas]) // widths
    first = _first_tasks(-(-rows // np.maximum(1, _TASK_VALUES // widths)))
    places = [np.array([address(t) for t in tensors]) for tensors in (thetas, counts)]
    run(
        [
            Job(
                sum_step,
                SUM_STEP,
                int(first[-1]),
                tensors=len(thetas),
                first=address(first),
                rows=address(rows),
                widths=address(widths),
                thetas=address(places[0]),
                counts=address(places[1]),
                step_size=step_size,
                pseudocount=pseudocount,
            )
        ]
    )


def step_inputs(
    thetas: Sequence[torch.Tensor],
    counts: Sequence[torch.Tensor],
    step_size: float,
    pseudocount: float,
) -> None:
    """Take the M-step of input layers' tables, in place; counts become zero."""
    jobs = []
    for theta, count in zip(thetas, counts, strict=True):
        groups, rows, width = theta.shape
        columns = min(width, _COLUMNS)
        jobs.append(
            Job(
                input_step,
                INPUT_STEP,
                groups * -(-width // columns),
                groups=groups,
                categories=rows - 1,
                width=width,
                columns=columns,
                theta=address(theta),
                count=address(count),
                step_size=step_size,
                pseudocount=pseudocount,
            )
        )
    run(jobs)


def find_faint(weights: Sequence[torch.Tensor], flags: Sequence[int], limit: float) -> Job:
    """Return the job that sets the flags, at addresses, of tensors with values below ``limit``."""
    sizes = np.array([w.numel() for w in weights])
    first = _first_tasks(-(-sizes // _TASK_VALUES))
    places, marks = np.array([address(w) for w in weights]), np.array(flags)
    return Job(
        faint,
        FAINT,
        int(first[-1]),
        keep=(first, sizes, places, marks),
        tensors=len(weights),
        first=address(first),
        sizes=address(sizes),
        values=address(places),
        flags=address(marks),
        limit=limit,
    )


def _first_tasks(tasks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the tasks of each begin, and how many there are."""
    return np.concatenate([[0], np.cumsum(tasks)]).astype(np.int64)


@kernel
def sum_step(frame):  # type: ignore[no-untyped-def]
    """``em.m_step`` for rows that stand alone; the counts, without their factor, become zero."""
    f = fields(frame, SUM_STEP)
    first, rows = longs(f.first, f.tensors + 1), longs(f.rows, f.tensors)
    widths, thetas = longs(f.widths, f.tensors), longs(f.thetas, f.tensors)
    counts = longs(f.counts, f.tensors)
    keep, zero = np.float32(1 - f.step_size), np.float32(0)
    # What is kept and what is new must add up to one, or rows drift by rounding.
    fresh = np.float32(1) - keep
    largest = np.float32(LARGEST_RATIO)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        tensor = np.searchsorted(first, task, side="right") - 1
        width = widths[tensor]
        chunk = max(1, _TASK_VALUES // width)
        start = (task - first[tensor]) * chunk
        for row in range(start, min(rows[tensor], start + chunk)):
            at = row * width * SIZE
            theta = floats(thetas[tensor] + at, width)
            count = floats(counts[tensor] + at, width)
            total = zero
            for k in range(width):
                count[k] = min(count[k], largest) * theta[k]
                total += count[k]
            if total > 0:
                rate = np.float32(fresh / (total + f.pseudocount))
                more = np.float32(rate * f.pseudocount / width)
                for k in range(width):
                    theta[k] = keep * theta[k] + (rate * count[k] + more)
            for k in range(width):
                count[k] = zero


@kernel
def input_step(frame):  # type: ignore[no-untyped-def]
    """``em.m_step`` for tables; the counts become zero."""
    f = fields(frame, INPUT_STEP)
    width, categories, size = f.width, f.categories, SIZE
    parts = (width + f.columns - 1) // f.columns
    totals, partial = np.empty(f.columns, np.float32), np.empty(f.columns, np.float32)
    rates = np.empty(f.columns, np.float32)
    keeps, mores = np.empty(f.columns, np.float32), np.empty(f.columns, np.float32)
    zero, keep = np.float32(0), np.float32(1 - f.step_size)
    fresh = np.float32(1) - keep
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        group = task // parts
        left = (task - group * parts) * f.columns
        here = min(f.columns, width - left)
        base = (group * (1 + categories) * width + left) * size
        totals[:] = zero
        # A sum over a whole vocabulary, number by number, would be off by 1e-5.
        for start in range(1, 1 + categories, _ROWS):
            partial[:] = zero
            for row in range(start, min(start + _ROWS, 1 + categories)):
                count = floats(f.count + base + row * width * size, here)
                for k in range(here):
                    partial[k] += count[k]
            for k in range(here):
                totals[k] += partial[k]
        for k in range(here):
            seen = totals[k] > 0
            rates[k] = fresh / (totals[k] + f.pseudocount) if seen else 0.0
            keeps[k] = keep if seen else 1.0
            mores[k] = rates[k] * f.pseudocount / categories
        for row in range(1 + categories):
            at = base + row * width * size
            theta, count = floats(f.theta + at, here), floats(f.count + at, here)
            if row > 0:
                for k in range(here):
                    theta[k] = keeps[k] * theta[k] + (rates[k] * count[k] + mores[k])
            for k in range(here):
                count[k] = zero


@kernel
def faint(frame):  # type: ignore[no-untyped-def]
    """Whether tensors have values below a limit."""
    f = fields(frame, FAINT)
    first, sizes = longs(f.first, f.tensors + 1), longs(f.sizes, f.tensors)
    values, flags = longs(f.values, f.tensors), longs(f.flags, f.tensors)
    while True:
        task = next_task(frame)
        if task >= f.tasks:
            return
        tensor = np.searchsorted(first, task, side="right") - 1
        start = (task - first[tensor]) * _TASK_VALUES
        count = min(_TASK_VALUES, sizes[tensor] - start)
        low, _ = extremes(values[tensor] + start * SIZE, count)
        if low < f.limit:
            longs(flags[tensor], 1)[0] = 1
