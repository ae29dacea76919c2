"""``data.kind: table``: rows of categories and measurements, some of which may be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pyjuice_bridge.circuit.chow_liu import mutual_information
from pyjuice_bridge.circuit.types import MISSING, IntArray
from pyjuice_bridge.codecs import TableCodec
from pyjuice_bridge.config.settings import Settings
from pyjuice_bridge.data.bins import BINS
from pyjuice_bridge.data.bins import names as bin_names
from pyjuice_bridge.data.dataset import SPLITS
from pyjuice_bridge.data.table import TableDataset, load_table
from pyjuice_bridge.domains.base import (
    Arm,
    Context,
    DataSection,
    Domain,
    Prepared,
    Samples,
    Shape,
    Tools,
    ancestor,
    copy_clusters,
    no_check,
)
from pyjuice_bridge.files import copy_file, write_arrays, write_json
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.sections import Count, Share, at_most
from pyjuice_bridge.stages.store import fingerprint

EXAMPLES = "table.json"
PICTURES = "figures.npz"
_COLUMNS = 24
"""Columns that the report shows, at most: those where data and model differ most."""
_VALUES = 8
"""Values of a column that the report shows, at most."""
_ROWS = 5_000
"""Rows that dependence is estimated from, at most."""
Bins = Annotated[int, Field(ge=BINS.ge), at_most(BINS.le, "it is a number of bins")]
_DEPTH = 3.0
"""Orders of magnitude of mutual information between white and black."""


class TableSection(DataSection):
    """Which table, and how it is split.

    ``name`` is a set (``data list`` names them), or the path of a ``.csv``, ``.data``, ``.npy``,
    ``.npz`` or ``.parquet`` file or of a folder with one for each split.  ``valid`` and ``test``
    are shares of the rows, where the table has no such splits of its own; ``limit`` keeps at most
    that many rows of every split.  ``bins`` cuts columns of measurements.
    """

    kind: Literal["table"]
    valid: Share | None = None
    test: Share | None = None
    limit: Count | None = None
    bins: Bins | None = None


@dataclass(frozen=True, eq=False)
class TableData(Prepared):
    """A table: rows are its own, int32 [N, columns]."""

    dataset: TableDataset

    def facts(self) -> dict[str, Any]:
        dataset = self.dataset
        return {
            "dataset": dataset.name,
            "rows": dataset.counts,
            "columns": len(dataset.columns),
            "fingerprint": dataset.fingerprint,
        }


def _section(config: Settings) -> TableSection:
    assert isinstance(config.data, TableSection)
    return config.data


def _split(config: Settings, source: Any, root: Path | None = None) -> TableDataset:
    """Load a table with the splits of a run's config."""
    section = _section(config)
    return load_table(
        source,
        root=root or section.root_of(source),
        valid=section.valid,
        test=section.test,
        seed=config.seed,
        limit=section.limit,
        bins=section.bins,
    )


def _load(tools: Tools, table: Any) -> TableData:
    config = tools.config
    dataset = _split(config, _section(config).name if table is None else table)
    counts = "/".join(f"{n:,}" for n in dataset.counts.values())
    measured = f", {len(dataset.edges):,} of them measured" if dataset.edges else ""
    columns = f"{len(dataset.columns):,} columns{measured}"
    tools.reporter.say(f"data {dataset.name}: {counts} rows of {columns}")
    tools.reporter.say(dataset.origins())
    return prepare(dataset)


def prepare(dataset: TableDataset) -> TableData:
    """Return a table's rows and codec; splits without rows are left out."""
    rows = {split: getattr(dataset, split) for split in SPLITS if len(getattr(dataset, split))}
    codec = TableCodec(dataset.categories, dataset.columns, dataset.values, dataset.edges)
    return TableData(
        rows=rows,
        codec=codec,
        name=dataset.name,
        observed=dict.fromkeys(SPLITS, 1.0),
        correction={s: float(codec.log_preimage(x).mean()) for s, x in rows.items()},
        key=fingerprint({"table": dataset.fingerprint}),
        shape=_shape_of(dataset),
        samples=Samples(
            rows,
            dataset.fingerprint,
            "rows",
            categories=dataset.categories,
        ),
        dataset=dataset,
    )


def _shape_of(dataset: TableDataset) -> Shape:
    columns = len(dataset.columns)
    note = f"{len(dataset.train):,} training rows of {columns:,} columns"
    return Shape(len(dataset.train), len(dataset.valid), dataset.categories, 4 * columns, note)


def _shape(config: Settings) -> Shape:
    return _shape_of(_split(config, _section(config).name))


def _show(
    context: Context, folder: Path, arms: Sequence[Arm], best: Arm, _: IntArray | None
) -> None:
    """Leave ``table.json``, pictures of dependence and the clusters in the run's folder."""
    data, seed = context.data, context.config.seed
    assert isinstance(data, TableData)
    valid = np.asarray(data.rows["valid"][:_ROWS], np.int32)

    def build(made: Path) -> None:
        observed = frequencies(valid, data.categories)
        pictures = {"dependence/data": dependence(valid, data.categories)}
        marginals: dict[str, list[NDArray[np.float64]]] = {}
        for arm in arms:
            with context.reporter.task(f"examples of {arm.arm}"):
                model = Model(arm.circuit(), context.engine)
                marginals[arm.arm] = _marginals(model, data.categories)
                drawn = model.engine.sample(model.circuit, len(valid), seed=seed)
                drawn[valid == MISSING] = MISSING
                pictures[f"dependence/{arm.arm}"] = dependence(drawn, data.categories)
        write_json(made / EXAMPLES, _columns(data.dataset, observed, marginals))
        write_arrays(made / PICTURES, pictures)

    inputs = {"data": data.key, "seed": seed}
    parents = [arm.artifact for arm in arms]
    drawn = context.store.stage("examples", 1, inputs, build, parents=parents)
    for name in (EXAMPLES, PICTURES):
        copy_file(drawn.path / name, folder / name)
    copy_clusters(ancestor(best, "clusters"), folder)


def frequencies(x: NDArray[np.int32], categories: IntArray) -> list[NDArray[np.float64]]:
    """Return the frequency of each column's values among its observed cells."""
    shares = []
    for column, size in enumerate(categories):
        values = x[:, column]
        counts = np.bincount(values[values != MISSING], minlength=size).astype(np.float64)
        shares.append(counts / max(1.0, counts.sum()))
    return shares


def _marginals(model: Model, categories: IntArray) -> list[NDArray[np.float64]]:
    """Return the exact distribution of each column under a model."""
    asked = [(column, value) for column, size in enumerate(categories) for value in range(size)]
    x = np.full((len(asked), len(categories)), MISSING, np.int32)
    x[np.arange(len(asked)), [column for column, _ in asked]] = [value for _, value in asked]
    log_p = model.engine.log_likelihood(model.circuit, x)[:, 0]
    return np.split(np.exp(log_p), np.cumsum(categories)[:-1])


def dependence(x: NDArray[np.int32], categories: IntArray) -> NDArray[np.uint8]:
    """Draw the mutual information of every pair of columns as grey levels [D, D], white for none.

    A level is the logarithm of the information against its possible maximum, log of the smaller
    number of values.
    """
    information = mutual_information(x, categories, bins=int(categories.max()), pseudocount=0.1)
    most = np.log(np.maximum(np.minimum(categories[:, None], categories[None, :]), 2))
    share = np.maximum(information / most, 10**-_DEPTH)
    np.fill_diagonal(share, 1.0)
    return (255 - np.round(255 * (1 + np.log10(share) / _DEPTH).clip(0, 1))).astype(np.uint8)


def _columns(
    dataset: TableDataset,
    observed: Sequence[NDArray[np.float64]],
    marginals: Mapping[str, Sequence[NDArray[np.float64]]],
) -> dict[str, Any]:
    """Describe the columns where data and models differ most."""
    off = [
        max(float(np.abs(seen - found[i]).sum()) / 2 for found in marginals.values())
        for i, seen in enumerate(observed)
    ]
    shown = sorted(np.argsort(off)[::-1][:_COLUMNS].tolist())
    rows = []
    for i in shown:
        name, seen = dataset.columns[i], observed[i]
        values = np.sort(np.argsort(-seen, kind="stable")[:_VALUES]).tolist()
        labels: Sequence[str] | None = dataset.values.get(name)
        if i in dataset.edges:
            labels = bin_names(dataset.edges[i])
        rows.append(
            {
                "name": name,
                "values": [labels[v] if labels else str(v) for v in values],
                "data": [float(seen[v]) for v in values],
                "arms": {arm: [float(p[i][v]) for v in values] for arm, p in marginals.items()},
                "off": {arm: float(np.abs(seen - p[i]).sum()) / 2 for arm, p in marginals.items()},
            }
        )
    return {"columns": rows, "of": len(dataset.columns)}


DOMAIN = Domain(
    name="table",
    section=TableSection,
    teacher="columns",
    circuit="hclt",
    check=no_check,
    load=_load,
    split=_split,
    shape=_shape,
    show=_show,
)
