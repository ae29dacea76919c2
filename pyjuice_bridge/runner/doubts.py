"""What the figures of a run say against its settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.runner.arms import Trained
from pyjuice_bridge.stages.store import Artifact

_LEFT = 0.1
"""Share of a random start in the trained parameters that is worth a warning."""


def doubts(context: Context, arms: Sequence[Trained], scores: Sequence[Artifact]) -> Iterator[str]:
    """Yield a sentence for every arm that kept much of its start, or that is worse than chance."""
    data, rows = context.data, len(context.data.rows["train"])
    chance = data.value("valid", _uniform(context))
    for arm, score in zip(arms, scores, strict=True):
        name = arm.training.title
        left = start_left(arm.options, rows)
        if arm.arm not in ("lvd", "start") and left > _LEFT:
            yield (
                f"{name}: {100 * left:.0f} % of the random start is left in the parameters after "
                f"{_steps(arm.options, rows)} steps; raise 'train.epochs' or 'train.step_size', or "
                "lower 'train.batch_size'"
            )
        figure = data.value("valid", score.info["valid"])
        if math.isfinite(figure) and figure > chance:
            yield (
                f"{name} is worse than uniform on validation "
                f"({data.measure.text(figure)} against {data.measure.phrase(chance)}); "
                "'train' does not fit these data: try more epochs or larger steps, or smaller "
                "'pseudocount's"
            )


def start_left(options: FitOptions, rows: int) -> float:
    """Return the share of the start in the parameters after mini-batch EM: the product of 1 - η."""
    if options.optimizer != "mini_em":
        return 0.0
    steps = _steps(options, rows)
    return math.prod(1 - options.step_size.at(step, steps) for step in range(steps))


def _steps(options: FitOptions, rows: int) -> int:
    return options.epochs * -(-rows // options.batch_size)


def _uniform(context: Context) -> float:
    """Return the mean log p of validation rows whose observed values are all equally likely."""
    observed = context.data.rows["valid"] >= 0
    return -float(observed.mean(0) @ np.log(context.data.categories))
