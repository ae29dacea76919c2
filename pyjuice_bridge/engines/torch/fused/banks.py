"""Banks of trees with their numbers: the roots' values upward, counts downward (see ``trees``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pyjuice_bridge.engines.torch.fused import roots, segments
from pyjuice_bridge.engines.torch.fused.lanes import ROWS
from pyjuice_bridge.engines.torch.fused.memory import LN2
from pyjuice_bridge.engines.torch.fused.steps import Step
from pyjuice_bridge.engines.torch.fused.threads import Job, address, run
from pyjuice_bridge.engines.torch.fused.trees import Bank, Cut, Longs
from pyjuice_bridge.engines.torch.fused.vectors import row_size
from pyjuice_bridge.engines.torch.program import Params, index_of
from pyjuice_bridge.engines.torch.values import Workspace

_CHUNK_BYTES = 2**17
"""Bytes of a chunk's rows, unless these are very few columns or very many."""
_MOST_ROWS = 8 * ROWS
_TASKS_PER_THREAD = 4
_CACHE_BYTES, _READS_PER_ROW = 3 * 2**19, 2
"""Tables of so many bytes stay in the second cache once their rows have been read so often."""
_SELECT_COLUMNS = 2**14
_BATCH_BYTES = 2**29


def bytes_per_row(cut: Cut) -> int:
    """Return the bytes that a sample takes outside the rest of the program."""
    return sum(bank.places * (4 * bank.nodes + 20 * int(bank.roots[-1])) for bank in cut.banks)


def rows_at_once(cut: Cut) -> int:
    """Return how many samples are evaluated together."""
    return max(8, _BATCH_BYTES // bytes_per_row(cut))


def packed_bytes(cut: Cut, threads: int) -> int:
    """Return the bytes of matrices that are packed for kernels, and of what is known of them."""
    found = 0
    for bank in cut.banks:
        size = (bank.clusters if _is_shared(bank, threads) else threads) * bank.matrices.shape[1]
        found += size * row_size(bank.width) * 8 * (bank.width + 1)
    return found


def _is_shared(bank: Bank, threads: int) -> bool:
    """Return whether threads share a cluster: its matrices are packed for all of them then."""
    return bank.clusters < _TASKS_PER_THREAD * threads and threads > 1


class BankJobs:
    """One bank, its parameters and one batch size.

    Attributes:
        index: the blocks of the target that are given the roots.
        mantissas, exponents: of the roots, [roots, places * batch].
    """

    def __init__(self, bank: Bank, params: Params, batch: int, threads: int) -> None:
        self.bank, self.batch, self.threads = bank, batch, threads
        self.columns = bank.places * batch
        self.index = index_of(bank.blocks, torch.device("cpu"))
        views, view = np.unique(bank.variables, axis=0, return_inverse=True)
        self._variables = torch.from_numpy(np.ascontiguousarray(views.reshape(-1)))
        leaves = views.shape[1]
        self._rows = torch.empty(len(self._variables), batch, dtype=torch.int32)
        self._views = address(self._rows) + 4 * leaves * self.columns * view.reshape(-1)
        self.mantissas = torch.zeros(int(bank.roots[-1]), self.columns)
        self.exponents = torch.zeros(self.mantissas.shape, dtype=torch.int32)
        self._shared = _is_shared(bank, threads)
        self._matrices = bank.matrices.shape[1]
        size = (bank.clusters if self._shared else threads) * self._matrices
        self._packed = torch.zeros(2, size, bank.width * row_size(bank.width))
        self._faint = torch.zeros(size, dtype=torch.int64)
        self._reach = torch.zeros(size, row_size(bank.width), dtype=torch.int64)
        self._weights = _places(params, bank.matrices, 0)
        self._tables = _places(params, bank.tables, 1)
        self._turns = np.zeros((bank.clusters, bank.nodes), np.int64)
        rows = _rows_of(params, bank.tables)
        self._table_rows = np.ascontiguousarray(rows[0])
        large = int(rows.sum(1).max()) * 4 * bank.width > _CACHE_BYTES
        self._hot = self.columns if large else _READS_PER_ROW * int(rows.max())
        self._steps = not self._shared and not large and bool((rows == rows[0]).all())
        layers = np.unique(
            np.concatenate([bank.tables[..., 0].ravel(), bank.matrices[..., 0].ravel()])
        )
        self._layers: list[int] = layers[layers >= 0].tolist()
        self._counted: tuple[tuple[int, ...], Job] | None = None
        self._weights_version = -1
        row_bytes = 8 * bank.nodes * row_size(bank.width)
        chunk = _CHUNK_BYTES // row_bytes // ROWS * ROWS
        self._chunk = max(ROWS, min(_MOST_ROWS, chunk, -(-self.columns // ROWS) * ROWS))
        parts = -(-self.columns // self._chunk)
        self._part = self._chunk if self._shared else parts * self._chunk
        self._tasks = bank.clusters * (parts if self._shared else 1)
        self._sources = bank.slots[..., 0] * self.columns + bank.slots[..., 1] * batch
        self._lines = torch.from_numpy(self._sources // batch)
        """Which line of [roots, places] each slot is."""
        self._pack = Job(
            segments.pack,
            segments.PACK,
            size,
            nodes=bank.nodes,
            matrices=self._matrices,
            width=bank.width,
            padded=row_size(bank.width),
            weights=address(self._weights),
            packed_up=address(self._packed[0]),
            packed_down=address(self._packed[1]),
            faint=address(self._faint),
            reach=address(self._reach),
        )

    def prepare(self, shifted: torch.Tensor, version: int) -> list[Job]:
        """Read a batch; the jobs to be done before others, if weights have changed."""
        torch.index_select(shifted, 0, self._variables, out=self._rows)
        if version == self._weights_version or not self._shared:
            return []
        self._weights_version = version
        return [self._pack]

    def up(self, mask: torch.Tensor | None) -> Job:
        """Evaluate the roots, those only that the evidence ``mask`` leaves if there is one."""
        if mask is None:
            return self._segment(writes=1)
        self.mantissas.zero_()
        found = self._select(self._by_root(mask), 0.0)
        return self._segment(found, writes=1)

    def down(
        self, flow: torch.Tensor, counts: Params, skip: float, step: Step | None = None
    ) -> Listed:
        """Count what flows [blocks, batch, slots] into the roots, except small parts of it."""
        found = self._select(self._by_root(flow), skip)
        run([self._segment(found, counts, step=step)])
        return found

    def count(self, flow: torch.Tensor, counts: Params, step: Step | None = None) -> torch.Tensor:
        """Evaluate and count at once, where the flows into roots are known beforehand.

        Args:
            flow: [blocks, batch], one root per block.
            counts: buffers that are added to.
            step: to be taken of the trees' parameters, see ``takes``.

        Returns:
            The logarithms of the roots' values, float64 [blocks, batch]; -inf where none flows.
        """
        flows = self._by_root(flow.float()[..., None])
        listed = None if bool(flows.amin() > 0) else self._select(flows, 0.0)
        if listed is not None:
            self.mantissas.zero_()
        run([self._segment(listed, counts, flows, step, writes=1)])
        logs = self.mantissas.double().log_().add_(self.exponents, alpha=LN2)
        return logs.view(-1, self.batch)[self._lines[:, 0]]

    def _by_root(self, flow: torch.Tensor) -> torch.Tensor:
        """Return what flows [blocks, batch, slots] into the roots as [roots, columns]."""
        flows = torch.empty(self.mantissas.shape)
        flows.view(-1, self.batch)[self._lines] = flow.transpose(1, 2)
        return flows

    def takes(self, counts: Params) -> bool:
        """Return whether a cluster's M-step can be taken as soon as it is counted.

        Threads then count where the first clusters have their counts.
        """
        return self._steps and all(counts[layer] is not None for layer in self._layers)

    def given(self, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Roots by block in float64 [blocks, batch, slots], maximum one, and their log-scales."""
        mantissas, exponents = (
            roots.view(-1, self.batch)[self._lines].transpose(1, 2)
            for roots in (self.mantissas, self.exponents)
        )
        values = mantissas.double()
        values, own = torch.frexp(values if mask is None else values * mask)
        powers = (own + exponents).masked_fill_(values == 0, roots.NOTHING)
        top = powers.amax(-1)
        scale = torch.where(top > roots.NOTHING, top.double() * LN2, -torch.inf)
        return torch.ldexp(values, powers - top[..., None]), scale

    def gather(
        self,
        mask: torch.Tensor | None,
        tile: torch.Tensor,
        scale: torch.Tensor,
        error: torch.Tensor,
        lost: int,
        lift: int,
    ) -> Job:
        """Set the roots side by side in a layer's tile."""
        blocks, slots = self._sources.shape
        return Job(
            roots.gather,
            roots.GATHER,
            blocks,
            keep=(mask,),
            blocks=blocks,
            batch=self.batch,
            slots=slots,
            lift=lift,
            numbers=address(self.bank.blocks),
            sources=address(self._sources),
            mantissas=address(self.mantissas),
            exponents=address(self.exponents),
            mask=address(mask),
            tile=address(tile),
            scale=address(scale),
            error=address(error),
            lost=lost,
        )

    def _segment(
        self,
        listed: Listed | None = None,
        counts: Params | None = None,
        flows: torch.Tensor | None = None,
        step: Step | None = None,
        writes: int = 0,
    ) -> Job:
        job = self._upward if counts is None else self._counting(counts, step is not None)
        if counts is not None:
            self._turns[:] = 0
        slots = np.zeros(1, np.int64)
        more = {"writes": writes, "slots": 0 if self._shared else address(slots)}
        if listed is not None:
            more |= {
                "list_offsets": address(listed.offsets),
                "list_columns": address(listed.columns),
                "flow_offsets": address(listed.flow_offsets),
            }
            flows = listed.flows
        numbers = None
        if step is not None:
            numbers = np.array([step.size, step.pseudocount], np.float32)
            more["step"] = address(numbers)
        return job.but((listed, flows, slots, numbers), flows=address(flows), **more)

    def _counting(self, counts: Params, steps: bool) -> Job:
        """Return the job that adds to ``counts``, and may take steps; it is kept."""
        places = (steps, *(address(counts[layer]) for layer in self._layers))
        if self._counted is not None and self._counted[0] == places:
            return self._counted[1]
        bank, spare = self.bank, None
        matrices = _places(counts, bank.matrices, 0)
        if steps:
            # Threads count where the first clusters do, which may lack roots that others have.
            matrices = matrices[: self.threads].copy()
            absent = matrices == 0
            spare = torch.zeros(int(absent.sum()), bank.width)
            matrices[absent] = address(spare) + 4 * bank.width * np.arange(len(spare))
        tables = _places(counts, bank.tables, 1)
        job = self._upward.but(
            (matrices, tables, spare),
            counts=1,
            weight_counts=address(matrices),
            table_counts=address(tables),
            turns=address(self._turns) if self._shared else 0,
        )
        self._counted = places, job
        return job

    @cached_property
    def _upward(self) -> Job:
        bank = self.bank
        return Job(
            segments.segment(bank.width),
            segments.SEGMENT,
            self._tasks,
            clusters=bank.clusters,
            columns=self.columns,
            nodes=bank.nodes,
            leaves=bank.tables.shape[1],
            matrices=self._matrices,
            width=bank.width,
            padded=row_size(bank.width),
            chunk=self._chunk,
            part=self._part,
            hot=self._hot,
            roots=address(bank.roots),
            parents=address(bank.parents),
            child_offsets=address(bank.children),
            children=address(bank.child),
            leaf_offsets=address(bank.leaves),
            views=address(self._views),
            tables=address(self._tables),
            weights=address(self._weights),
            packed_up=address(self._packed[0]),
            packed_down=address(self._packed[1]),
            faint=address(self._faint),
            reach=address(self._reach),
            mantissas=address(self.mantissas),
            exponents=address(self.exponents),
            rows=address(self._table_rows),
        )

    def _select(self, flow: torch.Tensor, skip: float) -> Listed:
        """List the columns of ``flow`` [roots, columns], but smallest ones of share ``skip``.

        The share is of the flow into all roots of a cluster.
        """
        bank = self.bank
        parts = -(-self.columns // _SELECT_COLUMNS)
        numbers = np.zeros((parts, bank.clusters, roots.BINS), np.int64)
        sums = np.zeros(numbers.shape)
        given = {
            "clusters": bank.clusters,
            "columns": self.columns,
            "step": _SELECT_COLUMNS,
            "roots": address(bank.roots),
            "flow": address(flow),
        }
        tasks = parts * bank.clusters
        self._run_select(tasks, given | {"numbers": address(numbers), "sums": address(sums)})
        above = sums.sum(0).cumsum(1)
        total = above[:, -1:]
        cuts = (
            1 + (above < (1 - skip) * total).sum(1) if skip else np.full(bank.clusters, roots.BINS)
        )
        kept = np.arange(roots.BINS) < cuts[:, None]
        sizes = (numbers * kept).sum(2)
        by_cluster = sizes.sum(0)
        offsets = np.concatenate([[0], np.cumsum(by_cluster)])
        flow_offsets = np.concatenate([[0], np.cumsum(by_cluster * np.diff(bank.roots))])
        starts = offsets[:-1] + np.cumsum(sizes, 0) - sizes
        found = Listed(
            offsets,
            torch.empty(int(offsets[-1]), dtype=torch.int32),
            flow_offsets,
            torch.empty(int(flow_offsets[-1])),
            float(total.sum()),
            float((sums.sum(0) * ~kept).sum()),
        )
        lists = {
            "list_offsets": address(found.offsets),
            "list_columns": address(found.columns),
            "flow_offsets": address(found.flow_offsets),
            "list_flows": address(found.flows),
        }
        places = {"numbers": address(starts), "cuts": address(cuts)}
        self._run_select(tasks, given | places | lists | {"fill": 1})
        return found

    def _run_select(self, tasks: int, given: dict[str, Any]) -> None:
        run([Job(roots.select, roots.SELECT, tasks, **given)])


@dataclass
class Listed:
    """Columns by cluster, with the flow into each; all flow, and what of it was skipped.

    Attributes:
        offsets: int64 [clusters + 1], where the ``columns`` of a cluster begin.
        columns: int32.
        flow_offsets: int64 [clusters + 1], where the ``flows`` of a cluster begin.
        flows: by cluster [roots, columns].
        total, skipped: sums over all.
    """

    offsets: Longs
    columns: torch.Tensor
    flow_offsets: Longs
    flows: torch.Tensor
    total: float
    skipped: float


def _places(tensors: Params, keys: Longs, axis: int) -> Longs:
    """Addresses of slices of tensors along an axis, 0 where there is no tensor.

    ``keys`` [..., 2]: the layer, -1 for none, and the number of the slice.
    """
    found = np.zeros(keys.shape[:-1], np.int64)
    for layer in np.unique(keys[..., 0]):
        tensor = tensors[layer] if layer >= 0 else None
        if tensor is not None:
            here = keys[..., 0] == layer
            size = tensor.stride(axis) * tensor.element_size()
            found[here] = address(tensor) + size * keys[here][:, 1]
    return found


def _rows_of(params: Params, tables: Longs) -> Longs:
    """Return the rows of the table that each leaf reads, [clusters, leaves]."""
    found = np.zeros(tables.shape[:-1], np.int64)
    for layer in np.unique(tables[..., 0]):
        table = params[layer]
        assert table is not None
        found[tables[..., 0] == layer] = table.shape[1]
    return found


def bank_jobs(cut: Cut, params: Params, workspace: Workspace, batch: int) -> list[BankJobs]:
    """Return the banks for a batch size: those of an earlier batch, where they still hold."""
    threads = torch.get_num_threads()
    places = (id(cut), threads, *(address(p) for p in params if p is not None))
    known = workspace.banks
    if known.get("key") != places:
        known.clear()
        known["key"] = places
    if batch not in known:
        known[batch] = [BankJobs(bank, params, batch, threads) for bank in cut.banks]
    found: list[BankJobs] = known[batch]
    return found
