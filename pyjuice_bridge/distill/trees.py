"""Chow-Liu trees as stages of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.types import IntArray
from pyjuice_bridge.distill.builders import builders_of
from pyjuice_bridge.domains.base import Context
from pyjuice_bridge.files import write_array
from pyjuice_bridge.stages.store import Artifact

_ROWS = 20_000
"""Rows that mutual information is estimated from, at most."""
_FILE = "parents.npy"


def tree_stage(
    context: Context,
    title: str,
    inputs: Mapping[str, Any],
    x: NDArray[Any],
    sizes: IntArray | int,
    *,
    parents: Sequence[Artifact] = (),
    **options: int,
) -> Artifact:
    """Learn a Chow-Liu tree over the columns of ``x``, or reuse it.

    ``options`` are those of ``chow_liu_tree`` that differ from its defaults.
    """
    inputs = {"of": title, **inputs, **options, "builders": builders_of(context.engine).name}

    def build(folder: Path) -> Mapping[str, Any]:
        builders, seed = builders_of(context.engine), context.config.seed
        with context.reporter.task(title) as tick:
            tree = builders.chow_liu_tree(x, sizes, rows=_ROWS, seed=seed, on_pair=tick, **options)
        write_array(folder / _FILE, tree)
        return {"made_by": builders.name}

    return context.store.stage("tree", 2, inputs, build, parents=parents)


def data_tree(context: Context) -> Artifact:
    """Learn the Chow-Liu tree over all variables of the data."""
    inputs = {"data": context.data.key, "rows": _ROWS, "seed": context.config.seed}
    return tree_stage(context, "tree", inputs, context.data.rows["train"], context.data.categories)


def parents_of(tree: Artifact) -> IntArray:
    """Read the parents of a tree artifact, int32 [n]."""
    parents: IntArray = np.load(tree.path / _FILE, allow_pickle=False)
    return parents
