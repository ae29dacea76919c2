"""The cases of a full run, of a quick one, and of a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from experiments.bench.cases import (
    Case,
    Problem,
    glued_problem,
    hclt_problem,
    hmm_problem,
    mnist_problem,
    patches_problem,
    rat_spn_problem,
)

BASELINE = "mnist-epoch"
"""The case in which a newcomer's HCLT is timed, with denormals and without."""


def cases(*, quick: bool, cuda: bool) -> list[Case]:
    """All cases, small ones first within a family."""
    if quick:
        return _quick()
    found = [
        Case(
            f"hmm-{states}-b{batch}",
            partial(hmm_problem, states, batch, length=32, vocabulary=1000, batches=8),
        )
        for states in (64, 256, 1024)
        for batch in (64, 512)
    ]
    found += [_hclt(side, latents) for side in (8, 28) for latents in (16, 64, 256)]
    found += [
        Case("patches-256", partial(patches_problem, 256, 4, 16, 256, categories=256, batches=4)),
        Case("patches-256-k8", partial(patches_problem, 256, 4, 8, 256, categories=256, batches=4)),
        Case("glued-32-k8", _glued(1)),
        Case("growing-32x4-k8", _glued(4)),
        Case("rat_spn", partial(rat_spn_problem, 8, 4, 8, 16, 512, categories=256, batches=4)),
        Case(BASELINE, partial(mnist_problem, 32, 512, rows=60_000), ("epoch",)),
    ]
    return found + _large() if cuda else found


def _hclt(side: int, latents: int, batches: int = 4) -> Case:
    build = partial(hclt_problem, side, latents, 512, categories=256, batches=batches)
    return Case(f"hclt-{side * side}-k{latents}", build)


def _glued(heads: int) -> Callable[[], Problem]:
    sides = (28, 28, 1)
    return partial(glued_problem, 32, heads, sides, 4, 8, 128, categories=256, batches=4)


def _large() -> list[Case]:
    """Sizes for a GPU: HMMs up to 8,192 states, HCLTs past 10⁸ edges."""
    hmms = [
        Case(
            f"hmm-{states}-v33k-b512",
            partial(hmm_problem, states, 512, length=32, vocabulary=33_000, batches=4),
        )
        for states in (1024, 2048, 4096, 8192)
    ]
    return [*hmms, _hclt(28, 512, batches=8), _hclt(28, 1024, batches=4)]


def _quick() -> list[Case]:
    return [
        Case("hmm-8-b8", partial(hmm_problem, 8, 8, length=5, vocabulary=20, batches=3)),
        Case("hclt-9-k4", partial(hclt_problem, 3, 4, 16, categories=8, batches=3)),
        Case("patches-4", partial(patches_problem, 4, 2, 2, 8, categories=4, batches=3)),
        Case(
            "growing-2x2",
            partial(glued_problem, 2, 2, (4, 4, 1), 2, 2, 8, categories=4, batches=3),
        ),
        Case("rat_spn", partial(rat_spn_problem, 3, 2, 2, 2, 8, categories=4, batches=3)),
        Case(BASELINE, partial(mnist_problem, 4, 16, rows=64, side=4), ("epoch",)),
    ]
