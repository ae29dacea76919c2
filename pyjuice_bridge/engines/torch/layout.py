"""Which layers of a program compiled kernels can take, and how work on them is cut up.

All of it follows from the structure alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.engines.torch.program import (
    Blocks,
    InputPlan,
    ProductPlan,
    Program,
    SumPlan,
)

Longs = NDArray[np.int64]


@dataclass(frozen=True)
class Sets:
    """Blocks of a product layer, so that two sets never count into the same table.

    Attributes:
        offsets, blocks: int64 [sets + 1] and int64 [blocks].
        keys: int64 [blocks], the variable of each block's only input, -1 where it has none; None
            where a block has several, and the work on a set cannot be cut by the rows they read.
    """

    offsets: Longs
    blocks: Longs
    keys: Longs | None


@dataclass(frozen=True)
class Layout:
    """How the downward pass goes from layer to layer.

    Attributes:
        variables: by product layer, int64 [edges]: the variable of an input, else -1.
        sets: of the product layers whose downward pass is a kernel's.
        divided: sum layers that receive flow / value, in the place of their values.
        bare: product layers that receive flow / value, by the number of the buffer it is in.
    """

    variables: dict[int, Longs]
    sets: dict[int, Sets]
    divided: frozenset[int]
    bare: dict[int, int]


def layout(program: Program) -> Layout:
    """Work it out once for a program."""
    products = _hadamards(program)
    divided, down = _divided(program, products)
    variables = {i: _variables(program, plan) for i, plan in products.items()}
    sets = {i: _sets(program, products[i], variables[i]) for i in down}
    return Layout(variables, sets, divided, _bare(program, down))


def plain(plan: object) -> bool:
    """Whether it is a sum layer that is one matrix product, by groups."""
    return isinstance(plan, SumPlan) and plan.direct and plan.groups is None


def _hadamards(program: Program) -> dict[int, ProductPlan]:
    plans = enumerate(program.layers)
    return {i: p for i, p in plans if isinstance(p, ProductPlan) and p.kind == "hadamard"}


def _variables(program: Program, plan: ProductPlan) -> Longs:
    found = np.full(len(plan.edges.layers), -1, np.int64)
    for layer in np.unique(plan.edges.layers):
        source = program.layers[layer]
        if isinstance(source, InputPlan):
            here = plan.edges.layers == layer
            found[here] = source.variables.numpy()[plan.edges.blocks[here]]
    return found


def _divided(
    program: Program, products: dict[int, ProductPlan]
) -> tuple[frozenset[int], frozenset[int]]:
    """Sum layers that kernels can hand flow / value, and the product layers that do so.

    Each block of such a sum layer has one parent, and every parent is one of these products.
    """
    parents: dict[int, Counter[int]] = {}
    above: dict[int, set[int]] = {}
    for i, plan in products.items():
        for layer, block in zip(plan.edges.layers, plan.edges.blocks, strict=True):
            parents.setdefault(int(layer), Counter())[int(block)] += 1
            above.setdefault(int(layer), set()).add(i)
    elsewhere = {blocks.layer for blocks in program.roots}
    for plan in program.layers:
        if isinstance(plan, SumPlan):
            elsewhere |= {blocks.layer for blocks in plan.sources}
        elif isinstance(plan, ProductPlan):
            elsewhere |= {blocks.layer for slot in plan.slots for blocks in slot}
    sums = {
        i
        for i, plan in enumerate(program.layers)
        if plain(plan)
        and i not in elsewhere
        and parents.get(i) == Counter(range(program.sizes[i]))
    }
    while True:
        inputs = {i for i, plan in enumerate(program.layers) if isinstance(plan, InputPlan)}
        down = {i for i, p in products.items() if set(p.edges.layers.tolist()) <= sums | inputs}
        kept = {i for i in sums if above[i] <= down}
        if kept == sums:
            return frozenset(sums), frozenset(down)
        sums = kept


def _bare(program: Program, down: frozenset[int]) -> dict[int, int]:
    """Product layers whose only parents are the edges of one plain sum layer, with buffers.

    A buffer is in use from the parent's turn in the downward pass until the layer's own.
    """
    uses: dict[int, list[tuple[int, Blocks]]] = {i: [] for i in down}
    for i, plan in enumerate(program.layers):
        sources: tuple[Blocks, ...] = ()
        if isinstance(plan, SumPlan):
            sources = plan.sources
        elif isinstance(plan, ProductPlan):
            sources = tuple(f.source for f in plan.factors)
            sources += tuple(blocks for slot in plan.slots for blocks in slot)
        for blocks in sources:
            if blocks.layer in uses:
                uses[blocks.layer].append((i, blocks))
    for blocks in program.roots:
        if blocks.layer in uses:
            uses[blocks.layer].append((-1, blocks))
    parent = {
        i: used[0][0]
        for i, used in uses.items()
        if len(used) == 1 and used[0][1].whole and plain(program.layers[used[0][0]])
    }
    busy_until: list[int] = []
    places = {}
    for layer in sorted(parent, key=lambda i: -parent[i]):
        free = [n for n, last in enumerate(busy_until) if last >= parent[layer]]
        if not free:
            free = [len(busy_until)]
            busy_until.append(0)
        places[layer] = free[0]
        busy_until[free[0]] = layer
    return places


def _sets(program: Program, plan: ProductPlan, variables: Longs) -> Sets:
    """Connected components of blocks that share tables."""
    leader = list(range(plan.num_blocks))

    def find(block: int) -> int:
        while leader[block] != block:
            leader[block] = leader[leader[block]]
            block = leader[block]
        return block

    first: dict[tuple[int, int], int] = {}
    for block, (begin, end) in enumerate(pairwise(plan.edges.offsets.tolist())):
        for e in range(begin, end):
            source = program.layers[plan.edges.layers[e]]
            if isinstance(source, InputPlan):
                offset = int(source.offsets[plan.edges.blocks[e], 0])
                other = first.setdefault((int(plan.edges.layers[e]), offset), block)
                leader[find(block)] = find(other)
    leaders = np.array([find(block) for block in range(plan.num_blocks)])
    order = np.argsort(leaders, kind="stable")
    sizes = np.unique(leaders, return_counts=True)[1]
    block_of_edge = np.repeat(np.arange(plan.num_blocks), np.diff(plan.edges.offsets))
    inputs = variables >= 0
    keys = np.full(plan.num_blocks, -1, np.int64)
    keys[block_of_edge[inputs]] = variables[inputs]
    several = inputs.sum() > (keys >= 0).sum()
    return Sets(np.cumsum([0, *sizes]), order.astype(np.int64), None if several else keys)
