"""Which layers of a program compiled kernels take, and how work on them is cut up.

All of it follows from the structure alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.engines.torch.fused.upward import PRODUCT, SUM
from pyjuice_bridge.engines.torch.program import (
    Blocks,
    GivenPlan,
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
        keys: int64 [blocks], the variable of each block's only input, negative where it has none;
            None where a block has several: work on a set is then not cut by the rows they read.
    """

    offsets: Longs
    blocks: Longs
    keys: Longs | None


@dataclass(frozen=True)
class Layout:
    """How the passes go from layer to layer.

    Attributes:
        variables, widths: by product layer, int64 [edges]: the variable of an input, else what
            the factor is (``products.SUM``, ``products.PRODUCT``), and its width.
        sums: sum layers that are matrix products of consecutive blocks of one product layer.
        above: by product layer that only one of ``sums`` reads, and reads whole: that one.
        sets: of the product layers whose downward pass is a kernel's.
        flow_targets: layers that receive what such a kernel hands down: sums flow / value, in the
            place of their values; products their flow.
        ratio_targets: product layers that one of ``sums`` hands flow / value.
        independent: those of ``ratio_targets`` of which different sets share no weights either.
        places: by product layer among the targets, the number of the buffer it is in.
    """

    variables: dict[int, Longs]
    widths: dict[int, Longs]
    sums: frozenset[int]
    above: dict[int, int]
    sets: dict[int, Sets]
    flow_targets: frozenset[int]
    ratio_targets: frozenset[int]
    independent: frozenset[int]
    places: dict[int, int]


def layout(program: Program) -> Layout:
    """Work it out once for a program."""
    products = {i: p for i, p in enumerate(program.layers) if isinstance(p, ProductPlan)}
    sums = frozenset(i for i in range(len(program.layers)) if _simple(program, i))
    uses = _uses(program)
    flow_targets, down = _flow_targets(program, products, sums)
    read = [i for i, p in enumerate(program.layers) if isinstance(p, (ProductPlan, GivenPlan))]
    above = {i: s for i in read if (s := _only_parent(sums, uses[i])) is not None}
    ratio_targets = down & above.keys()
    parents = {i: above[i] for i in ratio_targets}
    for i, plan in products.items():
        for child in set(plan.edges.layers.tolist()) & flow_targets & products.keys():
            parents[child] = max(parents.get(child, 0), i)
    variables = {i: _variables(program, plan) for i, plan in products.items()}
    widths = {i: np.array(program.widths)[plan.edges.layers] for i, plan in products.items()}
    sets = {i: _sets(program, products[i], variables[i]) for i in down}
    return Layout(
        variables,
        widths,
        sums,
        above,
        sets,
        flow_targets,
        ratio_targets,
        frozenset(i for i in ratio_targets if _independent(program.layers[above[i]], sets[i])),
        _places(parents),
    )


def _simple(program: Program, layer: int) -> bool:
    plan = program.layers[layer]
    if not isinstance(plan, SumPlan) or plan.groups is not None or len(plan.sources) > 1:
        return False
    source = plan.sources[0]
    below = program.layers[source.layer]
    return isinstance(below, (ProductPlan, GivenPlan)) and isinstance(source.index, slice)


def _variables(program: Program, plan: ProductPlan) -> Longs:
    found = np.full(len(plan.edges.layers), SUM, np.int64)
    for layer in np.unique(plan.edges.layers):
        source, here = program.layers[layer], plan.edges.layers == layer
        if isinstance(source, InputPlan):
            found[here] = source.variables.numpy()[plan.edges.blocks[here]]
        elif isinstance(source, ProductPlan):
            found[here] = PRODUCT
    return found


def _uses(program: Program) -> list[list[tuple[int, Blocks | None]]]:
    """By layer, who reads it, and which blocks if it is a sum layer; roots are read by -1."""
    uses: list[list[tuple[int, Blocks | None]]] = [[] for _ in program.layers]
    for i, plan in enumerate(program.layers):
        if isinstance(plan, SumPlan):
            for blocks in plan.sources:
                uses[blocks.layer].append((i, blocks))
        elif isinstance(plan, ProductPlan):
            for layer in np.unique(plan.edges.layers):
                uses[layer].append((i, None))
    for blocks in program.roots:
        uses[blocks.layer].append((-1, None))
    return uses


def _only_parent(sums: frozenset[int], uses: list[tuple[int, Blocks | None]]) -> int | None:
    """Return the one of ``sums`` that alone reads a layer, all of it; None if that is not so."""
    if len(uses) == 1 and uses[0][0] in sums:
        parent, blocks = uses[0]
        if blocks is not None and blocks.whole:
            return parent
    return None


def _flow_targets(
    program: Program, products: dict[int, ProductPlan], sums: frozenset[int]
) -> tuple[frozenset[int], frozenset[int]]:
    """Layers that kernels can hand down to, and the product layers whose kernels do so.

    Each block of the former has one parent, which is a block of the latter.
    """
    parents: dict[int, Counter[int]] = {}
    above: dict[int, set[int]] = {}
    for i, plan in products.items():
        for layer in np.unique(plan.edges.layers):
            blocks = plan.edges.blocks[plan.edges.layers == layer].tolist()
            parents.setdefault(int(layer), Counter()).update(blocks)
            above.setdefault(int(layer), set()).add(i)
    elsewhere = {blocks.layer for blocks in program.roots}
    for layer_plan in program.layers:
        if isinstance(layer_plan, SumPlan):
            elsewhere |= {blocks.layer for blocks in layer_plan.sources}
    flow_targets = {
        i
        for i in sums | products.keys()
        if i not in elsewhere and parents.get(i) == Counter(range(program.sizes[i]))
    }
    inputs = {i for i, plan in enumerate(program.layers) if isinstance(plan, InputPlan)}
    while True:
        down = {
            i for i, p in products.items() if set(p.edges.layers.tolist()) <= flow_targets | inputs
        }
        kept = {i for i in flow_targets if above[i] <= down}
        if kept == flow_targets:
            return frozenset(flow_targets), frozenset(down)
        flow_targets = kept


def _independent(above: object, sets: Sets) -> bool:
    """Whether the edges of a group of weights all lead to blocks of one set."""
    assert isinstance(above, SumPlan) and above.groups is None
    member = np.empty(len(sets.blocks), np.int64)
    member[sets.blocks] = np.repeat(np.arange(len(sets.offsets) - 1), np.diff(sets.offsets))
    by_group = member.reshape(above.num_groups, -1)
    return bool((by_group == by_group[:, :1]).all())


def _places(parents: dict[int, int]) -> dict[int, int]:
    """Buffers for layers by number; one is in use from the parent's turn until the layer's own."""
    last_use: list[int] = []
    places = {}
    for layer in sorted(parents, key=lambda i: -parents[i]):
        free = [n for n, last in enumerate(last_use) if last > parents[layer]]
        if not free:
            free = [len(last_use)]
            last_use.append(0)
        places[layer] = free[0]
        last_use[free[0]] = layer
    return places


def _sets(program: Program, plan: ProductPlan, variables: Longs) -> Sets:
    """Return connected components of blocks that share tables."""
    leader = list(range(plan.num_blocks))

    def find(block: int) -> int:
        while leader[block] != block:
            leader[block] = leader[leader[block]]
            block = leader[block]
        return block

    offsets = {
        layer: source.offsets[:, 0].tolist()
        for layer in np.unique(plan.edges.layers).tolist()
        if isinstance(source := program.layers[layer], InputPlan)
    }
    layers, blocks = plan.edges.layers.tolist(), plan.edges.blocks.tolist()
    first: dict[tuple[int, int], int] = {}
    for block, (begin, end) in enumerate(pairwise(plan.edges.offsets.tolist())):
        for e in range(begin, end):
            if layers[e] in offsets:
                table = layers[e], offsets[layers[e]][blocks[e]]
                leader[find(block)] = find(first.setdefault(table, block))
    leaders = np.array([find(block) for block in range(plan.num_blocks)])
    order = np.argsort(leaders, kind="stable")
    sizes = np.unique(leaders, return_counts=True)[1]
    inputs = variables >= 0
    keys = np.full(plan.num_blocks, -1, np.int64)
    keys[np.repeat(np.arange(plan.num_blocks), np.diff(plan.edges.offsets))[inputs]] = variables[
        inputs
    ]
    several = inputs.sum() > (keys >= 0).sum()
    return Sets(np.cumsum([0, *sizes]), order.astype(np.int64), None if several else keys)
