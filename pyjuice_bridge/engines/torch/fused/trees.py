"""Which parts of a program are small trees, to be evaluated depth first.

A *tree* here is a Hadamard product and all that is below it: products of leaves and of sums with
one child each, all of one width, every block with one parent.  Above it are its *roots*, sums of
width 1.  Patch circuits are such trees, one for each cluster and position, and so is a whole hidden
Chow-Liu tree; those of growing circuits have several roots.  Trees of one shape form a *bank*;
those among them that share their parameters are one *cluster*, read at several places.

What reads the roots of trees stays with the other passes: the *rest* of the program, in which a
bank's roots are values given from outside.  Programs are cut only at whole layers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pyjuice_bridge.circuit.families.categorical import Categorical
from pyjuice_bridge.engines.torch.fused.lanes import WIDEST
from pyjuice_bridge.engines.torch.program import (
    AbsentPlan,
    GivenPlan,
    InputPlan,
    LayerPlan,
    ProductPlan,
    Program,
    SumPlan,
)

Longs = NDArray[np.int64]
_FEW = 1 << 16
_WIDE, _MOST_WIDE = 32, 256
"""Trees of wider blocks and more nodes are faster level by level: their tables are in no cache."""


@dataclass(frozen=True)
class Bank:
    """Trees of one shape; their nodes are the products, children before parents, the top last.

    Attributes:
        target: the layer that is given the roots: a concat that lists them, or their own layer.
        width: values of a block.
        parents: int64 [nodes], -1 for the top.
        children, leaves: int64 [nodes + 1], offsets into ``child`` (nodes) and into the leaves.
        variables: int64 [clusters, leaves, places], what each leaf reads.
        tables: int64 [clusters, leaves, 2], the input layer and the row where the table begins.
        roots: int64 [clusters + 1], where the roots of a cluster begin in the list of all.
        matrices: int64 [clusters, matrices, 2], the layer that owns the weights of the sum above a
            node, and the matrix in it; after those of all nodes but the top, one for each root.
            -1 where a cluster has fewer roots.
        blocks: int64 [blocks], those of the target that are given something.
        slots: int64 [blocks, slots, 2], by slot of these blocks the root and the place.
    """

    target: int
    width: int
    parents: Longs
    children: Longs
    child: Longs
    leaves: Longs
    variables: Longs
    tables: Longs
    roots: Longs
    matrices: Longs
    blocks: Longs
    slots: Longs

    @property
    def clusters(self) -> int:
        return len(self.tables)

    @property
    def places(self) -> int:
        return int(self.variables.shape[2])

    @property
    def nodes(self) -> int:
        return len(self.parents)


@dataclass(frozen=True)
class Cut:
    """A program's banks, and the rest of it."""

    banks: tuple[Bank, ...]
    rest: Program
    inside: frozenset[int]
    """Layers that are parts of trees."""
    categorical: bool
    """Whether all leaves of trees are; an M-step of other families needs a layer's counts."""


def cut(program: Program) -> Cut | None:
    """Find the banks of a program; None if there are none, or if layers would have to be split."""
    finder = _Finder(program)
    banks: list[Bank] = []
    for target, blocks, roots in finder.targets():
        bank = finder.bank(target, blocks, roots)
        if bank is None or (bank.width > _WIDE and bank.nodes > _MOST_WIDE):
            return None
        banks.append(bank)
    inside = {layer for layer, seen in enumerate(finder.covered) if seen.any()}
    if not banks or not all(finder.covered[layer].all() for layer in inside):
        return None
    if _share_parameters(banks):
        return None
    given = {bank.target for bank in banks}
    plans: list[LayerPlan] = []
    for layer, plan in enumerate(program.layers):
        if layer in given:
            plans.append(GivenPlan(program.sizes[layer], program.widths[layer]))
        else:
            plans.append(AbsentPlan() if layer in inside else plan)
    leaves = (plan for plan in program.layers if isinstance(plan, InputPlan))
    categorical = all(plan.family == Categorical() for plan in leaves)
    rest = replace(program, layers=tuple(plans))
    return Cut(tuple(banks), rest, frozenset(inside), categorical)


def _share_parameters(banks: list[Bank]) -> bool:
    """Return True if two nodes, of one tree or of several clusters, read the same parameters."""
    for part in ("tables", "matrices"):
        keys = np.concatenate([getattr(bank, part).reshape(-1, 2) for bank in banks])
        keys = keys[keys[:, 0] >= 0]
        if len(np.unique(keys, axis=0)) < len(keys):
            return True
    return False


def _distinct(rows: Longs) -> tuple[Longs, Longs]:
    """Return the distinct rows [n, k] of numbers from -1, in order, and which one each row is."""
    base, columns = int(rows.max(initial=-1)) + 2, rows.shape[1]
    if base**columns > _FEW:
        lines, places = np.unique(rows, axis=0, return_inverse=True)
        return lines, places.reshape(-1)
    # There are millions of rows of few kinds: counting them is faster than sorting.
    powers = base ** np.arange(columns - 1, -1, -1)
    keys = (rows + 1) @ powers
    counts = np.bincount(keys, minlength=base**columns)
    found = np.flatnonzero(counts)
    return found[:, None] // powers % base - 1, (np.cumsum(counts > 0) - 1)[keys]


class _Finder:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.covered = [np.zeros(size, bool) for size in program.sizes]
        self.parents = self._count_parents()
        self.shapes: list[Longs] = []
        """By layer, a number that is the same for blocks above equal trees; -1 where there is
        none.  Of these blocks only products may have several parents, which are roots then."""
        self.known: dict[tuple[int, ...], int] = {}
        self.tops: set[int] = set()
        """Shapes of sums that are narrower than what they mix: roots, or no part of a tree."""
        for layer, plan in enumerate(program.layers):
            found = self._shapes(layer, plan)
            if not isinstance(plan, ProductPlan):
                found[self.parents[layer] > 1] = -1
            self.shapes.append(found)

    def _count_parents(self) -> list[Longs]:
        counts = [np.zeros(size, np.int64) for size in self.program.sizes]
        for plan in self.program.layers:
            if isinstance(plan, ProductPlan):
                for layer in np.unique(plan.edges.layers):
                    here = plan.edges.layers == layer
                    np.add.at(counts[layer], plan.edges.blocks[here], 1)
            elif isinstance(plan, SumPlan):
                for blocks in plan.sources:
                    np.add.at(counts[blocks.layer], _numbers(blocks.index), 1)
        for blocks in self.program.roots:
            np.add.at(counts[blocks.layer], _numbers(blocks.index), 1)
        return counts

    def _number(self, key: tuple[int, ...]) -> int:
        return self.known.setdefault(key, len(self.known))

    def _shapes(self, layer: int, plan: LayerPlan) -> Longs:
        size, width = self.program.sizes[layer], self.program.widths[layer]
        none = np.full(size, -1, np.int64)
        if width > WIDEST:
            return none
        if isinstance(plan, InputPlan):
            return np.full(size, self._number((0, width)), np.int64)
        if isinstance(plan, SumPlan):
            return self._sum_shapes(plan, width, none)
        if isinstance(plan, ProductPlan) and plan.kind == "hadamard":
            return self._product_shapes(plan, none)
        return none

    def _sum_shapes(self, plan: SumPlan, width: int, none: Longs) -> Longs:
        source = plan.sources[0]
        below = self.program.layers[source.layer]
        single = len(plan.block_of_edge) == plan.num_blocks and len(plan.sources) == 1
        fits = width in (1, self.program.widths[source.layer])
        if not single or not fits or not isinstance(below, ProductPlan):
            return none
        numbers = _numbers(source.index)
        child = self.shapes[source.layer][numbers][:, None]
        shared = self.parents[source.layer][numbers] > 1
        top = shared | (width < below.width)
        found = np.where(top, self._named(child, (3, width)), self._named(child, (2, width)))
        if width > 1:
            found[shared] = -1
        self.tops.update(found[top & (found >= 0)].tolist())
        return found

    def _product_shapes(self, plan: ProductPlan, none: Longs) -> Longs:
        below, width = np.empty(len(plan.edges.layers), np.int64), plan.width
        for layer in np.unique(plan.edges.layers):
            here = plan.edges.layers == layer
            source = self.program.layers[layer]
            fits = isinstance(source, (InputPlan, SumPlan)) and width == self.program.widths[layer]
            below[here] = self.shapes[layer][plan.edges.blocks[here]] if fits else -1
        below[np.isin(below, list(self.tops))] = -1
        arity = np.diff(plan.edges.offsets)
        found = none
        for size in np.unique(arity):
            blocks = np.flatnonzero(arity == size)
            edges = plan.edges.offsets[blocks][:, None] + np.arange(size)
            found[blocks] = self._named(below[edges], (1, width))
        return found

    def _named(self, children: Longs, kind: tuple[int, ...]) -> Longs:
        """Return a number for each row of children; -1 where one of these has none."""
        lines, places = _distinct(children)
        names = [-1 if min(line) < 0 else self._number((*kind, *line)) for line in lines.tolist()]
        return np.array(names, np.int64)[places]

    def targets(self) -> list[tuple[int, Longs, Longs]]:
        """Layers that may be given roots, which blocks, and the roots [blocks, slots, 2]."""
        found: list[tuple[int, Longs, Longs]] = []
        for layer, plan in enumerate(self.program.layers):
            if not isinstance(plan, ProductPlan) or plan.kind != "concat":
                continue
            edges = plan.edges
            arity = np.diff(edges.offsets)
            if (arity == arity[0]).all() and all(map(self._is_root, edges.layers, edges.blocks)):
                pairs = np.stack([edges.layers, edges.blocks], 1)
                blocks = np.arange(plan.num_blocks)
                found.append((layer, blocks, pairs.reshape(plan.num_blocks, -1, 2)))
        for root in self.program.roots:
            numbers = _numbers(root.index)
            if all(self._is_root(root.layer, number) for number in numbers):
                pairs = np.stack([np.full_like(numbers, root.layer), numbers], 1)
                found.append((root.layer, numbers, pairs[:, None]))
        return found

    def _is_root(self, layer: int, block: int) -> bool:
        plan = self.program.layers[layer]
        return (
            isinstance(plan, SumPlan)
            and self.program.widths[layer] == 1
            and bool(self.shapes[layer][block] >= 0)
        )

    def bank(self, target: int, blocks: Longs, roots: Longs) -> Bank | None:
        """Return the trees below some roots; None if shapes differ or they have other parents."""
        flat = roots.reshape(-1, 2)
        weights, products = self.below_sums(flat)
        trees, tree = np.unique(products, axis=0, return_inverse=True)
        tree = tree.reshape(-1)
        numbers = np.bincount(tree)
        shapes = {int(self.shapes[layer][block]) for layer, block in trees.tolist()}
        parents = [int(self.parents[layer][block]) for layer, block in trees.tolist()]
        if len(shapes) > 1 or not np.array_equal(numbers, parents):
            return None
        walk = _Walk(self, trees)
        order = np.lexsort((weights[:, 1], weights[:, 0], tree))
        rank = np.empty_like(tree)
        rank[order] = np.arange(len(flat)) - np.repeat(np.cumsum(numbers) - numbers, numbers)
        tops = np.full((len(trees), int(numbers.max()), 2), -1)
        tops[tree, rank] = weights
        matrices = np.concatenate([*(m[:, None] for m in walk.matrices), tops], 1)
        key = np.concatenate([*walk.tables, matrices.reshape(len(trees), -1)], 1)
        _, first, cluster = np.unique(key, axis=0, return_index=True, return_inverse=True)
        by_first = np.argsort(np.argsort(first))
        cluster = by_first[cluster.reshape(-1)]
        ends = np.cumsum(np.bincount(cluster))[:-1]
        members = np.split(np.argsort(cluster, kind="stable"), ends)
        if len({len(m) for m in members}) > 1:
            return None
        chosen = np.stack(members)
        place = np.empty(len(trees), np.int64)
        place[chosen] = np.arange(chosen.shape[1])
        lead = chosen[:, 0]
        starts = np.concatenate([[0], np.cumsum(numbers[lead])]).astype(np.int64)
        slots = np.stack([starts[cluster[tree]] + rank, place[tree]], 1)
        return Bank(
            target,
            walk.width,
            np.array(walk.parents, np.int64),
            np.cumsum([0, *map(len, walk.children)]).astype(np.int64),
            np.array([c for some in walk.children for c in some], np.int64),
            np.cumsum([0, *walk.leaf_counts]).astype(np.int64),
            np.ascontiguousarray(np.stack(walk.variables, 1)[chosen].transpose(0, 2, 1)),
            np.stack(walk.tables, 1)[lead],
            starts,
            np.ascontiguousarray(matrices[lead]),
            blocks,
            slots.reshape(roots.shape),
        )

    def below_sums(self, sums: Longs) -> tuple[Longs, Longs]:
        """Matrices [sums, 2] and the products [sums, 2]."""
        matrices, products = np.empty_like(sums), np.empty_like(sums)
        for layer in np.unique(sums[:, 0]):
            here = sums[:, 0] == layer
            plan, blocks = self.program.layers[layer], sums[here, 1]
            assert isinstance(plan, SumPlan)
            self.covered[layer][blocks] = True
            if plan.groups is None:
                groups = np.arange(plan.num_blocks) // (plan.num_blocks // plan.num_groups)
            else:
                groups = plan.groups.numpy()
            source = plan.sources[0]
            matrices[here, 0], matrices[here, 1] = self.program.owners[layer], groups[blocks]
            products[here, 0] = source.layer
            products[here, 1] = _numbers(source.index)[blocks]
        return matrices, products


class _Walk:
    """All trees of one shape at once, children before parents; ``matrices`` lack the tops'."""

    def __init__(self, finder: _Finder, tops: Longs) -> None:
        self.finder, self.program = finder, finder.program
        self.variables: list[Longs] = []
        self.tables: list[Longs] = []
        self.matrices: list[Longs] = []
        self.parents: list[int] = []
        self.children: list[list[int]] = []
        self.leaf_counts: list[int] = []
        self.width = 0
        # Depth first without recursion: trees may be as deep as there are variables.
        found: list[tuple[Longs | None, int, list[Longs]]] = []
        stack: list[tuple[Longs, Longs | None, int]] = [(tops, None, -1)]
        while stack:
            products, matrices, parent = stack.pop()
            leaves, sums = self._below_products(products)
            number = len(found)
            found.append((matrices, parent, leaves))
            for child in sums:
                weights, below = finder.below_sums(child)
                stack.append((below, weights, number))
        count = len(found)
        self.children = [[] for _ in found]
        for number in reversed(range(count)):
            matrices, parent, leaves = found[number]
            node = count - 1 - number
            if matrices is not None:
                self.matrices.append(matrices)
            self.parents.append(count - 1 - parent if parent >= 0 else -1)
            if parent >= 0:
                self.children[count - 1 - parent].append(node)
            self.leaf_counts.append(len(leaves))
            for leaf in leaves:
                self._leaf(leaf)

    def _below_products(self, products: Longs) -> tuple[list[Longs], list[Longs]]:
        """Leaves and sums, each [trees, 2]."""
        columns: list[Longs] = []
        for layer in np.unique(products[:, 0]):
            here = products[:, 0] == layer
            plan, blocks = self.program.layers[layer], products[here, 1]
            assert isinstance(plan, ProductPlan)
            self.finder.covered[layer][blocks] = True
            self.width = plan.width
            begin = plan.edges.offsets[blocks]
            arity = int(plan.edges.offsets[blocks[0] + 1] - begin[0])
            if not columns:
                columns = [np.empty_like(products) for _ in range(arity)]
            for slot, column in enumerate(columns):
                column[here, 0] = plan.edges.layers[begin + slot]
                column[here, 1] = plan.edges.blocks[begin + slot]
        inputs = [isinstance(self.program.layers[int(c[0, 0])], InputPlan) for c in columns]
        return (
            [c for c, leaf in zip(columns, inputs, strict=True) if leaf],
            [c for c, leaf in zip(columns, inputs, strict=True) if not leaf],
        )

    def _leaf(self, leaf: Longs) -> None:
        variables, tables = np.empty(len(leaf), np.int64), np.empty_like(leaf)
        for layer in np.unique(leaf[:, 0]):
            here = leaf[:, 0] == layer
            plan, blocks = self.program.layers[layer], leaf[here, 1]
            assert isinstance(plan, InputPlan)
            self.finder.covered[layer][blocks] = True
            variables[here] = plan.variables.numpy()[blocks]
            tables[here, 0], tables[here, 1] = layer, plan.offsets.numpy()[blocks, 0]
        self.variables.append(variables)
        self.tables.append(tables)


def _numbers(index: slice | torch.Tensor) -> Longs:
    """Return the blocks an index names."""
    if isinstance(index, slice):
        return np.arange(index.start, index.stop)
    found: Longs = index.numpy()
    return found
