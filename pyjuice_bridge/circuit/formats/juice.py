"""Juice.jl's ``.jpc`` files: one line of text for every node, children first and the root last.

Single nodes are put together again: the children of a sum are a block, and so are the nodes that
its products take from each side.  What shares no such form becomes blocks of one node.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.formats.layering import Block, Leaf, Product, Sum
from pyjuice_bridge.circuit.formats.trees import assembled, reached_blocks
from pyjuice_bridge.circuit.types import Circuit, InputLayer, SumLayer
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.files import atomic_file

_CLOSE = 1e-3
"""How far from one the rows of a file may sum; they are scaled to one."""
_MOST_VALUES = 1 << 16
_HEADER = """\
c this file was saved by pyjuice_bridge
c ids of jpc nodes start at 0
c jpc nodes appear bottom-up, children before parents
c
c file syntax:
c jpc count-of-jpc-nodes
c C id-of-jpc-node id-of-vtree variable {log-probability}+
c P id-of-jpc-node id-of-vtree number-of-children {child-id}+
c S id-of-jpc-node id-of-vtree number-of-children {child-id log-probability}+
c
"""


@dataclass(frozen=True, eq=False)
class _Node:
    """A line: a leaf with its probabilities, a product, or a sum with its weights."""

    variable: int
    children: tuple[int, ...]
    numbers: NDArray[np.float64] | None


def is_juice(path: Path) -> bool:
    """Tell whether a file begins as Juice's do: comments, then ``jpc`` and a number."""
    with suppress(OSError, EOFError, zlib.error), _opened(path) as file:
        for line in file:
            if not line.startswith(b"c"):
                return bytes(line).startswith(b"jpc ")
    return False


def read_juice(path: Path | str) -> Circuit:
    """Read a circuit that Juice.jl saved as ``.jpc`` or ``.jpc.gz``.

    Raises:
        UserError: a line is damaged, or the whole is no valid circuit.
    """
    path = Path(path)
    try:
        with _opened(path) as file:
            nodes = _parse(file, path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    blocks = _Blocks(nodes).all()
    num_vars = 1 + max(node.variable for node in nodes)
    circuit = assembled(num_vars, blocks, "Juice")
    check(circuit, str(path))
    return circuit


def write_juice(circuit: Circuit, path: Path | str) -> None:
    """Write a circuit that Juice.jl reads; a path that ends in ``.gz`` is compressed.

    The format knows neither ties nor latents: shared parameters are written at every place.

    Raises:
        UserError: the circuit is not valid, has several roots or other leaves than categorical
            ones, or the file cannot be written.
    """
    path = Path(path)
    check(circuit, f"circuit for {path}")
    if len(circuit.roots) != 1:
        raise UserError(
            f"{path}: a Juice circuit has one root, this one {len(circuit.roots)}; choose one with "
            "Model.select(root)."
        )
    lines = list(_lines(circuit))
    with atomic_file(path) as file:
        text = (_HEADER + f"jpc {len(lines)}\n" + "\n".join(lines) + "\n").encode()
        file.write(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def _opened(path: Path) -> Any:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")


def _parse(lines: Any, path: Path) -> list[_Node]:
    """Read every line; ids count up from 0."""
    nodes: list[_Node] = []
    sizes: dict[int, int] = {}
    expected = -1
    for number, line in enumerate(lines, 1):
        tokens = line.split()
        if not tokens or tokens[0][:1] == b"c":
            continue
        try:
            if tokens[0] == b"jpc" and expected < 0 and len(tokens) == 2:
                expected = int(tokens[1])
                continue
            node = _node(tokens, len(nodes))
        except (ValueError, OverflowError):
            raise UserError(
                f"{path}, line {number}: is no node of a Juice circuit with id {len(nodes)}."
            ) from None
        if node.numbers is not None and not node.children:
            sizes[node.variable] = max(sizes.get(node.variable, 0), len(node.numbers))
        nodes.append(node)
    if expected != len(nodes) or not nodes:
        raise UserError(f"{path}: says {max(expected, 0)} nodes, but holds {len(nodes)}.")
    return [_filled(node, sizes.get(node.variable, 0)) for node in nodes]


def _node(tokens: Sequence[bytes], index: int) -> _Node:
    """Read a node, or raise ValueError."""
    kind, rest = tokens[0], tokens[3:]
    if int(tokens[1]) != index or int(tokens[2]) < 0:
        raise ValueError
    if kind in (b"P", b"S"):
        step = 1 if kind == b"P" else 2
        if len(rest) != 1 + step * int(rest[0]) or len(rest) < 2:
            raise ValueError
        children = tuple(map(int, rest[1::step]))
        if min(children) < 0 or max(children) >= index:
            raise ValueError
        if kind == b"P":
            return _Node(-1, children, None)
        # A child may be listed twice: its weights add up.
        each, place = np.unique(children, return_inverse=True)
        own = _row(np.array(rest[2::2], np.float64))
        weights = np.bincount(place, own).astype(np.float64)
        if len(each) == len(children):
            return _Node(-1, children, own)
        return _Node(-1, tuple(each.tolist()), weights)
    first = int(rest[0])
    if kind == b"L" and len(rest) == 1 and first:
        return _Node(_variable(abs(first)), (), np.eye(2, dtype=np.float64)[int(first > 0)])
    if kind == b"I" and len(rest) == 2 and 0 <= int(rest[1]) < _MOST_VALUES:
        value = int(rest[1])
        return _Node(_variable(first), (), np.eye(1, value + 1, value, np.float64)[0])
    if kind == b"B" and len(rest) == 3 and 1 <= int(rest[1]) < _MOST_VALUES:
        return _Node(_variable(first), (), _binomial(int(rest[1]), float(rest[2])))
    if kind == b"C" and len(rest) > 1:
        return _Node(_variable(first), (), _row(np.array(rest[1:], np.float64)))
    raise ValueError


def _variable(number: int) -> int:
    if not 1 <= number < 2**31:
        raise ValueError
    return number - 1


def _row(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return probabilities from logs, scaled to sum to one."""
    if np.isnan(logs).any() or logs.max() > _CLOSE:
        raise ValueError
    row = np.exp(logs)
    if abs(row.sum() - 1) > _CLOSE:
        raise ValueError
    scaled: NDArray[np.float64] = row / row.sum()
    return scaled


def _binomial(trials: int, log_p: float) -> NDArray[np.float64]:
    """Return the probabilities of 0 … trials successes."""
    p = math.exp(log_p)
    if not 0 <= p <= 1:
        raise ValueError
    if p in (0, 1):
        sure: NDArray[np.float64] = np.eye(trials + 1, dtype=np.float64)[trials if p else 0]
        return sure
    k = np.arange(trials + 1)
    factorial = np.array([math.lgamma(n + 1) for n in range(trials + 1)])
    chosen = factorial[-1] - factorial - factorial[::-1]
    return _row(chosen + k * log_p + (trials - k) * math.log1p(-p))


def _filled(node: _Node, size: int) -> _Node:
    """Fill up the probabilities of a leaf with zeros."""
    if node.children or node.numbers is None:
        return node
    return _Node(node.variable, (), np.pad(node.numbers, (0, size - len(node.numbers))))


Names = tuple[int, ...]


class _Blocks:
    """Blocks made of nodes that are asked for together."""

    def __init__(self, nodes: Sequence[_Node]) -> None:
        self._nodes = nodes
        self._scopes = _scopes(nodes)
        self._made: dict[Names, int] = {}
        self._blocks: list[Block] = []

    def all(self) -> list[Block]:
        """Return the blocks that the root needs, children first, the root last."""
        waiting: list[Names] = [(len(self._nodes) - 1,)]
        while waiting:
            names = waiting[-1]
            needs, make = self._plan(names)
            missing = [need for need in needs if need not in self._made]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if names not in self._made:
                self._made[names] = len(self._blocks)
                self._blocks.append(make(tuple(self._made[need] for need in needs)))
        return self._blocks

    def _plan(self, names: Names) -> tuple[list[Names], Any]:
        """Return the blocks that a block of nodes is made of, and how."""
        nodes = [self._nodes[name] for name in names]
        first = nodes[0]
        if all(not node.children and node.variable == first.variable for node in nodes):
            rows = np.stack([node.numbers for node in nodes if node.numbers is not None])
            return [], lambda _: Leaf(first.variable, rows)
        sums = all(node.children and node.numbers is not None for node in nodes)
        if sums and all(node.children == first.children for node in nodes):
            weights = np.stack([node.numbers for node in nodes if node.numbers is not None])
            return [first.children], lambda parts: Sum(parts, weights[None])
        products = all(node.children and node.numbers is None for node in nodes)
        if products and all(len(node.children) == len(first.children) for node in nodes):
            return self._factors(names, nodes)
        return [(name,) for name in names], lambda parts: Product("concat", parts, len(names))

    def _factors(self, names: Names, nodes: Sequence[_Node]) -> tuple[list[Names], Any]:
        """Plan a block of products: place by place, or all pairs of two blocks."""
        sides = list(zip(*(node.children for node in nodes), strict=True))
        splits = {
            name: tuple(self._scopes[child] for child in node.children)
            for name, node in zip(names, nodes, strict=True)
        }
        if len(set(splits.values())) > 1:
            # Several partitions of one scope: a block for each run of nodes with one of them.
            runs = [tuple(run) for _, run in groupby(names, splits.__getitem__)]
            return runs, lambda parts: Product("concat", parts, len(names))
        if len(names) == 1:
            return sides, lambda parts: Product("hadamard", parts, 1)
        if len(sides) == 2:
            left, right = (tuple(dict.fromkeys(side)) for side in sides)
            pairs = [(a, b) for a in left for b in right]
            if len(left) > 1 and len(right) > 1 and pairs == list(zip(*sides, strict=True)):
                return [left, right], lambda parts: Product("kronecker", parts, len(names))
        if any(len(set(side)) < len(side) for side in sides):
            return [(name,) for name in names], lambda parts: Product("concat", parts, len(names))
        return sides, lambda parts: Product("hadamard", parts, len(names))


def _scopes(nodes: Sequence[_Node]) -> list[int]:
    """Return a number for the scope of every node; equal scopes have equal ones."""
    numbers: dict[frozenset[int], int] = {}
    sets: list[frozenset[int]] = []
    found: list[int] = []
    for node in nodes:
        if node.children:
            below = {found[c] for c in node.children}
            scope = frozenset[int]().union(*(sets[number] for number in below))
        else:
            scope = frozenset((node.variable,))
        number = numbers.setdefault(scope, len(numbers))
        if number == len(sets):
            sets.append(scope)
        found.append(number)
    return found


def _lines(circuit: Circuit) -> Iterator[str]:
    """Write a line for every node of the circuit that the root reaches."""
    ids: dict[int, list[int]] = {}
    count = 0
    for block in reached_blocks(circuit):
        i = circuit.layer_of(block)
        layer, b = circuit.layers[i], block - int(circuit.starts[i])
        if isinstance(layer, InputLayer):
            with np.errstate(divide="ignore"):
                logs = np.log(layer.params[layer.groups[b]].astype(np.float64)).tolist()
            for j, row in enumerate(logs):
                yield f"C {count + j} 0 {layer.variables[b] + 1} {' '.join(map(_number, row))}"
            ids[block] = list(range(count, count + layer.width))
            count += layer.width
            continue
        edges = slice(layer.offsets[b], layer.offsets[b + 1])
        children = [ids[child] for child in layer.children[edges].tolist()]
        if isinstance(layer, SumLayer):
            flat = [child for part in children for child in part]
            whole = np.concatenate(list(layer.weights[layer.groups[edges]]), axis=1)
            for j, row in enumerate(whole.astype(np.float64)):
                pairs = [f"{flat[k]} {_number(math.log(row[k]))}" for k in np.flatnonzero(row)]
                yield f"S {count + j} 0 {len(pairs)} {' '.join(pairs)}"
            ids[block] = list(range(count, count + len(whole)))
            count += len(whole)
            continue
        if layer.kind == "concat":
            ids[block] = [child for part in children for child in part]
            continue
        if layer.kind == "hadamard":
            products = list(zip(*children, strict=True))
        else:
            products = [(a, b) for a in children[0] for b in children[1]]
        for j, factors in enumerate(products):
            yield f"P {count + j} 0 {len(factors)} {' '.join(map(str, factors))}"
        ids[block] = list(range(count, count + len(products)))
        count += len(products)


def _number(value: float) -> str:
    return "-Inf" if value == -math.inf else repr(value)
