"""PyJuice's ``.jpc`` files, read without running them and written as PyJuice reads them.

A file is a pickle of a list of dictionaries, children first and the root last: vectors of input,
product or sum nodes, in ``num_node_blocks`` blocks of ``block_size`` nodes.  A vector becomes one
block here if the whole circuit allows it (sums are dense, products pair equal places or all pairs);
else each of its blocks does, else each of its nodes.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pyjuice_bridge.circuit.formats.layering import Block, Leaf, Product, Sum
from pyjuice_bridge.circuit.formats.pickles import Record, Refused, read_pickle
from pyjuice_bridge.circuit.formats.trees import assembled, reached_blocks
from pyjuice_bridge.circuit.types import Circuit, InputLayer, ProductLayer, SumLayer
from pyjuice_bridge.circuit.validate import check
from pyjuice_bridge.errors import UserError, shown
from pyjuice_bridge.files import atomic_file

_HOME = "pyjuice.nodes.distributions"
_CLASSES = {
    f"{_HOME}.{name.lower()}.{name}": name
    for name in ("Categorical", "Bernoulli", "Indicator", "Literal")
}
_CLOSE = 1e-3
"""How far from one the rows of a file may sum; they are scaled to one."""
_MOST_EDGES = 1 << 24
"""Edges between single nodes, at most, where nothing larger fits."""

Grain = Literal["vector", "block", "node"]


def is_pickle(path: Path) -> bool:
    """Tell whether a file begins as a pickle does."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(1) == b"\x80"
    return False


def read_pyjuice(path: Path | str) -> Circuit:
    """Read a circuit that PyJuice saved.

    Hidden Markov models and hidden Chow-Liu trees are recognised: the former become the circuit of
    ``Hmm.circuit``, the latter name their latents ``z``.

    Raises:
        UserError: the file asks for anything but plain data, or is no valid circuit.
    """
    path = Path(path)
    try:
        nodes = _nodes(read_pickle(path.read_bytes()))
        blocks = _blocks(nodes)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except Refused as error:
        raise UserError(
            f"{path}: is not a PyJuice circuit that can be read safely (it holds {error})."
        ) from None
    except _Unfit as error:
        raise UserError(f"{path}: {error}.") from None
    num_vars = 1 + max(block.variable for block in blocks if isinstance(block, Leaf))
    circuit = assembled(num_vars, blocks, "PyJuice")
    check(circuit, str(path))
    return circuit


class _Unfit(Exception):  # noqa: N818, it ends in the reader
    """What in a file is no circuit, in words."""


@dataclass(eq=False)
class _Vector:
    """A vector of nodes, as a file describes it."""

    index: int
    kind: str
    count: int
    size: int
    children: tuple[int, ...]
    edges: NDArray[np.int64]
    params: NDArray[Any]
    scope: tuple[int, ...]
    family: str
    categories: int
    source: int

    @property
    def nodes(self) -> int:
        return self.count * self.size


def _nodes(entries: Any) -> list[_Vector]:
    """Check the entries of a file one by one, and return them with their ties resolved."""
    if not isinstance(entries, list) or not entries:
        raise _Unfit("holds no list of nodes")
    vectors: list[_Vector] = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or entry.get("type") not in ("Input", "Product", "Sum"):
            raise _Unfit(f"node {index} is no input, product or sum")
        vectors.append(_vector(index, entry, vectors))
    for vector, entry in zip(vectors, entries, strict=True):
        _resolve(vector, entry, vectors)
    for vector in vectors:
        seen = {vector.index}
        while vectors[vector.source].source != vector.source:
            vector.source = vectors[vector.source].source
            if vector.source in seen:
                raise _Unfit(f"node {vector.index} is tied to itself")
            seen.add(vector.source)
    for vector in vectors:
        source = vectors[vector.source]
        same = (source.kind, source.count, source.size, source.family)
        if same != (vector.kind, vector.count, vector.size, vector.family):
            raise _Unfit(f"node {vector.index} is tied to node {source.index}, another form")
        if vector.kind == "Sum" and not np.array_equal(source.edges, vector.edges):
            raise _Unfit(f"node {vector.index} is tied to node {source.index}, with other edges")
        vector.params, vector.categories = source.params, source.categories
    return vectors


def _whole(entry: dict[str, Any], names: Sequence[str], index: int) -> int:
    value = next((entry[name] for name in names if name in entry), None)
    if type(value) is not int or not 1 <= value < 2**31:
        raise _Unfit(f"node {index}: {names[0]} is {shown(value)}, must be a whole number")
    return value


def _vector(index: int, entry: dict[str, Any], earlier: Sequence[_Vector]) -> _Vector:
    if "external_params" in entry:
        raise _Unfit(f"node {index} has external parameters, which belong to no circuit")
    kind = entry["type"]
    count = _whole(entry, ("num_node_blocks", "num_node_groups", "num_nodes"), index)
    sizes = ("block_size", "group_size")
    size = _whole(entry, sizes, index) if any(name in entry for name in sizes) else 1
    children = entry.get("chs", ())
    whole = isinstance(children, tuple) and all(type(c) is int for c in children)
    if (
        not whole
        or any(not 0 <= c < index for c in children)
        or bool(children) == (kind == "Input")
    ):
        raise _Unfit(f"node {index}: chs must be earlier nodes, and none for an input")
    edges = _array(entry.get("edge_ids"), "iu", 2, index) if kind != "Input" else _NONE
    return _Vector(
        index, kind, count, size, children, edges.astype(np.int64), _NONE, (), "", 0, index
    )


_NONE: NDArray[Any] = np.empty((0, 0), np.int64)


def _array(value: Any, kinds: str, ndim: int, index: int) -> NDArray[Any]:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or value.ndim != ndim:
        raise _Unfit(f"node {index}: an array is missing, or of another type")
    return value


def _resolve(vector: _Vector, entry: dict[str, Any], vectors: Sequence[_Vector]) -> None:
    """Fill in what depends on other nodes: scope, parameters, ties."""
    index = vector.index
    if "source_node" in entry and vector.kind != "Product":
        source = entry["source_node"]
        if type(source) is not int or not 0 <= source < len(vectors):
            raise _Unfit(f"node {index}: source_node is {shown(source)}, must be a node")
        vector.source = source
    tied = vector.source != index
    if vector.kind == "Input":
        _input(vector, entry, tied)
    elif vector.kind == "Product":
        _check_product(vector, [vectors[c] for c in vector.children])
    else:
        _sum(vector, entry, tied, [vectors[c] for c in vector.children])


def _input(vector: _Vector, entry: dict[str, Any], tied: bool) -> None:
    index, scope = vector.index, entry.get("scope")
    if not isinstance(scope, list) or len(scope) != 1 or type(scope[0]) is not int:
        raise _Unfit(f"node {index}: an input must have a scope of one variable")
    if not 0 <= scope[0] < 2**31:
        raise _Unfit(f"node {index}: there is no variable {scope[0]}")
    dist = entry.get("dist")
    if not isinstance(dist, bytes):
        raise _Unfit(f"node {index}: dist must be the pickle of a distribution")
    record = read_pickle(dist, _CLASSES)
    if not isinstance(record, Record):
        raise _Unfit(f"node {index}: dist must be the pickle of a distribution")
    vector.scope, vector.family = (scope[0],), _CLASSES[record.name]
    if tied:
        return
    vector.params, vector.categories = _leaves(vector, entry, record.state)


def _leaves(
    vector: _Vector, entry: dict[str, Any], state: dict[str, Any]
) -> tuple[NDArray[Any], int]:
    """Return the rows float [nodes, categories] of an input, and its categories."""
    index, nodes = vector.index, vector.nodes
    if vector.family == "Literal":
        value = state.get("lit")
        if type(value) is not int or not 0 <= value < 2**16:
            raise _Unfit(f"node {index}: a literal must be a small number")
        return np.tile(np.eye(value + 1, dtype=np.float32)[value], (nodes, 1)), value + 1
    if "params" not in entry:
        raise _Unfit(f"node {index} has no parameters; initialise or train the circuit first")
    flat = _array(entry["params"], "f", 1, index)
    if vector.family == "Categorical":
        size = state.get("num_cats")
        if type(size) is not int or size < 1 or flat.size != nodes * size:
            raise _Unfit(f"node {index}: {flat.size} parameters for {nodes} nodes")
        return flat.reshape(nodes, size), size
    if flat.size != nodes or not np.isfinite(flat).all():
        raise _Unfit(f"node {index}: {flat.size} parameters for {nodes} nodes")
    if vector.family == "Bernoulli":
        return np.stack([1 - flat, flat], axis=1), 2
    values = flat.astype(np.int64)
    if (values != flat).any() or values.min() < 0 or values.max() >= 2**16:
        raise _Unfit(f"node {index}: indicators must be small whole numbers")
    size = int(values.max()) + 1
    return np.eye(size, dtype=np.float32)[values], size


def _check_product(vector: _Vector, children: Sequence[_Vector]) -> None:
    edges, index = vector.edges, vector.index
    if edges.shape[1] != len(children) or len(edges) not in (vector.count, vector.nodes):
        raise _Unfit(f"node {index}: edge_ids of shape {list(edges.shape)} do not fit")
    blocks = len(edges) == vector.count
    if blocks and any(child.size != vector.size for child in children):
        raise _Unfit(f"node {index}: its children have another block size")
    for j, child in enumerate(children):
        if edges[:, j].min() < 0 or edges[:, j].max() >= (child.count if blocks else child.nodes):
            raise _Unfit(f"node {index}: edge_ids name a block that child {j} lacks")


def _sum(vector: _Vector, entry: dict[str, Any], tied: bool, children: Sequence[_Vector]) -> None:
    edges, index = vector.edges, vector.index
    inner = children[0].size
    if any(child.size != inner for child in children):
        raise _Unfit(f"node {index}: its children differ in block size")
    total = sum(child.count for child in children)
    fits = len(edges) == 2 and edges.size and edges.min() >= 0
    if not fits or edges[0].max() >= vector.count or edges[1].max() >= total:
        raise _Unfit(f"node {index}: edge_ids name a block that is not there")
    if len(set(map(tuple, edges.T.tolist()))) < edges.shape[1]:
        raise _Unfit(f"node {index}: edge_ids hold an edge twice")
    if len(np.unique(edges[0])) < vector.count:
        raise _Unfit(f"node {index}: a block has no edge")
    if tied:
        return
    if "params" not in entry:
        raise _Unfit(f"node {index} has no parameters; initialise or train the circuit first")
    params = _array(entry["params"], "f", 3, index)
    if params.shape != (edges.shape[1], vector.size, inner):
        raise _Unfit(f"node {index}: parameters of shape {list(params.shape)} do not fit")
    if "zero_param_mask" in entry:
        mask = _array(entry["zero_param_mask"], "b", 3, index)
        if mask.shape != params.shape:
            raise _Unfit(f"node {index}: zero_param_mask has another shape than params")
        params = np.where(mask, params.dtype.type(0), params)
    vector.params = params


def _blocks(vectors: Sequence[_Vector]) -> list[Block]:
    """Turn vectors into blocks, the root last, as large ones as the whole circuit allows."""
    if vectors[-1].nodes != 1:
        raise _Unfit(f"its root has {vectors[-1].nodes} nodes; save a circuit with a single root")
    used = _used(vectors)
    grain: Grain = "node"
    if all(_fits(vectors[i], vectors, "vector") for i in used):
        grain = "vector"
    elif all(_fits(vectors[i], vectors, "block") for i in used):
        grain = "block"
    edges = sum(
        v.params.size if v.kind == "Sum" else v.nodes for v in map(vectors.__getitem__, used)
    )
    if grain == "node" and edges > _MOST_EDGES:
        raise _Unfit(
            f"its products pair single nodes, over {edges:,} edges; at most {_MOST_EDGES:,}"
        )
    sizes: dict[int, int] = {}
    for vector in (vectors[i] for i in used if vectors[i].kind == "Input"):
        variable = vector.scope[0]
        sizes[variable] = max(sizes.get(variable, 0), vector.categories)
    blocks: list[Block] = []
    places: dict[int, list[int]] = {}
    for i in used:
        made = _made(vectors[i], vectors, grain, places, sizes)
        places[i] = list(range(len(blocks), len(blocks) + len(made)))
        blocks += made
    for i, owner in _owners(vectors, used, sizes).items():
        for place, source in zip(places[i], places[owner], strict=True):
            block = blocks[place]
            if owner != i and not isinstance(block, Product):
                blocks[place] = replace(block, owner=source)
    return blocks


def _used(vectors: Sequence[_Vector]) -> list[int]:
    """List what the root reaches, in the file's order."""
    reached, waiting = {len(vectors) - 1}, [len(vectors) - 1]
    while waiting:
        for child in vectors[waiting.pop()].children:
            if child not in reached:
                reached.add(child)
                waiting.append(child)
    return sorted(reached)


def _owners(
    vectors: Sequence[_Vector], used: Sequence[int], sizes: dict[int, int]
) -> dict[int, int]:
    """Choose who holds the parameters of what is tied: the first one of the lowest depth.

    Leaves of variables with different numbers of values are filled up, so they cannot share.
    """
    depths: dict[int, int] = {}
    best: dict[tuple[int, int], int] = {}
    keys: dict[int, tuple[int, int]] = {}
    for i in used:
        vector = vectors[i]
        depths[i] = 1 + max((depths[c] for c in vector.children), default=-1)
        keys[i] = (vector.source, sizes[vector.scope[0]] if vector.scope else 0)
        if keys[i] not in best or depths[i] < depths[best[keys[i]]]:
            best[keys[i]] = i
    return {i: best[keys[i]] for i in used}


def _fits(vector: _Vector, vectors: Sequence[_Vector], grain: Grain) -> bool:
    """Tell whether a vector can be made of blocks of this grain."""
    children = [vectors[c] for c in vector.children]
    if vector.kind == "Product":
        if grain == "vector":
            return _pairing(vector, children) is not None
        return _by_block(vector, children) is not None
    if vector.kind == "Sum" and grain == "vector":
        same = len({child.nodes for child in children}) == 1
        return same and vector.edges.shape[1] == vector.count * sum(c.count for c in children)
    return True


def _node_edges(vector: _Vector) -> NDArray[np.int64]:
    """Return edge_ids of a product between nodes, int64 [nodes, children]."""
    if len(vector.edges) == vector.nodes:
        return vector.edges
    inside = np.arange(vector.size)
    return (vector.edges[:, None] * vector.size + inside[:, None]).reshape(vector.nodes, -1)


def _pairing(
    vector: _Vector, children: Sequence[_Vector]
) -> Literal["hadamard", "kronecker"] | None:
    """Return how a product pairs whole vectors, None if it does neither."""
    edges, places = _node_edges(vector), np.arange(vector.nodes)
    same = all(child.nodes == vector.nodes for child in children)
    if same and (edges == places[:, None]).all():
        return "hadamard"
    if len(children) == 2 and vector.nodes == children[0].nodes * children[1].nodes:
        inner = children[1].nodes
        if (edges[:, 0] == places // inner).all() and (edges[:, 1] == places % inner).all():
            return "kronecker"
    return None


def _by_block(vector: _Vector, children: Sequence[_Vector]) -> NDArray[np.int64] | None:
    """Return edge_ids of a product between blocks, None if it pairs single nodes."""
    if len(vector.edges) == vector.count:
        return vector.edges
    if any(child.size != vector.size for child in children):
        return None
    edges = vector.edges.reshape(vector.count, vector.size, -1)
    first = edges[:, 0] // vector.size
    expected = first[:, None] * vector.size + np.arange(vector.size)[:, None]
    return first if (edges == expected).all() else None


def _made(
    vector: _Vector,
    vectors: Sequence[_Vector],
    grain: Grain,
    places: dict[int, list[int]],
    sizes: dict[int, int],
) -> list[Block]:
    """Make the blocks of a vector; ``places`` are those of vectors before it."""
    children = [vectors[c] for c in vector.children]
    width = {"vector": vector.nodes, "block": vector.size, "node": 1}[grain]
    if vector.kind == "Input":
        rows = _scaled(vector.params.sum(axis=1, dtype=np.float64), vector)
        wide = np.pad(vector.params, [(0, 0), (0, sizes[vector.scope[0]] - vector.categories)])
        table = (wide / rows[:, None]).astype(vector.params.dtype)
        return [Leaf(vector.scope[0], part) for part in table.reshape(-1, width, table.shape[1])]
    if vector.kind == "Product":
        if grain == "vector":
            kind = _pairing(vector, children)
            assert kind is not None
            return [Product(kind, tuple(places[c][0] for c in vector.children), width)]
        edges = _by_block(vector, children) if grain == "block" else _node_edges(vector)
        assert edges is not None
        return [
            Product(
                "hadamard",
                tuple(places[c][e] for c, e in zip(vector.children, row, strict=True)),
                width,
            )
            for row in edges.tolist()
        ]
    flat = [place for c in vector.children for place in places[c]]
    params, edges = _normalised(vector), vector.edges
    inner = params.shape[2]
    if grain == "vector":
        dense = np.empty(
            (vector.count, edges.shape[1] // vector.count, *params.shape[1:]), params.dtype
        )
        dense[edges[0], edges[1]] = params
        table = dense.transpose(0, 2, 1, 3).reshape(vector.nodes, len(children), children[0].nodes)
        return [Sum(tuple(flat), np.ascontiguousarray(table.swapaxes(0, 1)))]
    if grain == "node":
        own = edges[0][:, None, None] * vector.size + np.arange(vector.size)[:, None]
        child = edges[1][:, None, None] * inner + np.arange(inner)
        own, child = np.broadcast_arrays(own, child)
        edges = np.stack([own.ravel(), child.ravel()])
        params = params.reshape(-1, 1, 1)
    order = np.argsort(edges[0], kind="stable")
    cuts = np.cumsum(np.bincount(edges[0]))[:-1]
    return [
        Sum(tuple(flat[c] for c in edges[1][part].tolist()), params[part])
        for part in np.split(order, cuts)
    ]


def _normalised(vector: _Vector) -> NDArray[Any]:
    """Return the parameters of a sum with rows over all edges of a block that sum to one."""
    edges, params = vector.edges, vector.params
    totals = np.zeros((vector.count, vector.size))
    np.add.at(totals, edges[0], params.sum(axis=2, dtype=np.float64))
    totals = _scaled(totals, vector)
    scaled: NDArray[Any] = params / totals[edges[0]][:, :, None]
    return scaled.astype(params.dtype)


def _scaled(totals: NDArray[np.float64], vector: _Vector) -> NDArray[np.float64]:
    """Return what rows are divided by: their sums, or one where rounding alone is off.

    Raises:
        _Unfit: a row is no distribution.
    """
    with np.errstate(invalid="ignore"):
        off = np.abs(totals - 1)
    if not (off <= _CLOSE).all() or not vector.params.min() >= 0:
        raise _Unfit(f"the rows of node {vector.index} are no distributions")
    return np.where(off <= 1e-6, 1.0, totals)


def write_pyjuice(circuit: Circuit, path: Path | str) -> None:
    """Write a circuit that ``pyjuice.load`` opens.

    Ties are kept; names of latents and the meta are not, since the format has no place for them.
    Leaves of every family are written as the tables of probabilities that they are.

    Raises:
        UserError: the circuit is not valid or has several roots, or the file cannot be written.
    """
    check(circuit, f"circuit for {path}")
    if len(circuit.roots) != 1:
        raise UserError(
            f"{path}: a PyJuice circuit has one root, this one {len(circuit.roots)}; choose one "
            "with Model.select(root)."
        )
    widths = [width for width in circuit.widths if width > 1]
    common = math.gcd(*widths) if widths else 1
    try:
        entries = _Writer(circuit, common & -common).entries()
    except _MixedSizes:
        entries = _Writer(circuit, 1).entries()
    with atomic_file(Path(path)) as file:
        pickle.dump(entries, file, protocol=4)


class _MixedSizes(Exception):  # noqa: N818, a second attempt follows
    """Vectors of one node meet larger ones where PyJuice wants one block size."""


@dataclass(frozen=True, eq=False)
class _Factor:
    """A vector in the file, and which of its nodes each node of a product takes."""

    entry: int
    nodes: NDArray[np.int64]


class _Writer:
    """The entries of a file, made block by block.

    Args:
        circuit: what is written.
        size: block size of vectors of more than one node.
    """

    def __init__(self, circuit: Circuit, size: int) -> None:
        self._circuit, self._size = circuit, size
        self._entries: list[dict[str, Any]] = []
        self._bases: dict[int, int] = {}
        self._factors: dict[int, list[_Factor]] = {}
        self._products: dict[int, int] = {}
        self._sources: dict[tuple[Any, ...], int] = {}
        self._widths: list[int] = []

    def entries(self) -> list[dict[str, Any]]:
        """Return the entries of everything that the root reaches, the root last."""
        root = int(self._circuit.roots[0])
        for block in reached_blocks(self._circuit):
            self._block(block)
        if root not in self._bases or isinstance(self._layer(root), InputLayer):
            self._mixed([(self._child(root), np.ones((1, 1), np.float32))], 1)
        return self._entries

    def _layer(self, block: int) -> Any:
        return self._circuit.layers[self._circuit.layer_of(block)]

    def _block(self, block: int) -> None:
        i = self._circuit.layer_of(block)
        layer, b = self._circuit.layers[i], block - int(self._circuit.starts[i])
        if isinstance(layer, InputLayer):
            self._bases[block] = self._input(layer, i, b)
        elif isinstance(layer, SumLayer):
            self._bases[block] = self._sum(layer, i, b)
        elif layer.kind != "concat":
            children = layer.children[layer.offsets[b] : layer.offsets[b + 1]].tolist()
            parts = [self._factors_of(child) for child in children]
            if layer.kind == "kronecker":
                counts = [len(part[0].nodes) for part in parts]
                rows, columns = np.divmod(np.arange(math.prod(counts)), counts[1])
                parts = [
                    [_Factor(f.entry, f.nodes[take]) for f in part]
                    for part, take in zip(parts, (rows, columns), strict=True)
                ]
            self._factors[block] = [factor for part in parts for factor in part]

    def _add(self, kind: str, width: int, **fields: Any) -> int:
        size = self._size_of(width)
        entry = {"type": kind, "num_node_blocks": width // size, "block_size": size, **fields}
        self._entries.append(entry)
        self._widths.append(width)
        return len(self._entries) - 1

    def _size_of(self, width: int) -> int:
        return 1 if width == 1 else self._size

    def _tied(self, key: tuple[Any, ...], make: dict[str, Any]) -> dict[str, Any]:
        """Return ``source_node`` where parameters were written before, else these."""
        if key in self._sources:
            return {"source_node": self._sources[key]}
        self._sources[key] = len(self._entries)
        return make

    def _input(self, layer: InputLayer, i: int, b: int) -> int:
        table = layer.params[layer.groups[b]].astype(np.float32)
        params = self._tied((i, int(layer.groups[b])), {"params": table.ravel()})
        dist = _categorical(layer.categories)
        scope = [int(layer.variables[b])]
        return self._add("Input", layer.width, chs=(), scope=scope, dist=dist, **params)

    def _sum(self, layer: SumLayer, i: int, b: int) -> int:
        edges = slice(layer.offsets[b], layer.offsets[b + 1])
        parts: list[tuple[int, NDArray[np.float32]]] = []
        for child, group in zip(layer.children[edges].tolist(), layer.groups[edges], strict=True):
            weights, first = layer.weights[group].astype(np.float32), 0
            for entry in self._children(child):
                width = self._widths[entry]
                parts.append((entry, weights[:, first : first + width]))
                first += width
        owner = i if layer.tied_to is None else layer.tied_to
        return self._mixed(parts, layer.width, (owner, *layer.groups[edges].tolist()))

    def _mixed(
        self,
        parts: Sequence[tuple[int, NDArray[np.float32]]],
        width: int,
        key: tuple[Any, ...] | None = None,
        **fields: Any,
    ) -> int:
        """Add a sum over vectors, dense; equal keys share their parameters."""
        size, inner = self._size_of(width), {self._size_of(self._widths[e]) for e, _ in parts}
        if len(inner) > 1:
            raise _MixedSizes
        within = inner.pop()
        whole = np.concatenate([weights for _, weights in parts], axis=1)
        rows, columns = width // size, whole.shape[1] // within
        params = whole.reshape(rows, size, columns, within).swapaxes(1, 2)
        edges = np.stack(np.divmod(np.arange(rows * columns), columns))
        filled = {"params": np.ascontiguousarray(params.reshape(-1, size, within)), **fields}
        if "zero_param_mask" in fields:
            filled["zero_param_mask"] = filled["params"] == 0
        if key is not None:
            filled = self._tied((*key, columns), filled)
        chs = tuple(entry for entry, _ in parts)
        return self._add("Sum", width, chs=chs, edge_ids=edges, **filled)

    def _children(self, block: int) -> list[int]:
        """Return the vectors that stand for a block below a sum, one after the other."""
        layer = self._layer(block)
        if isinstance(layer, ProductLayer) and layer.kind == "concat":
            b = block - int(self._circuit.starts[self._circuit.layer_of(block)])
            children = layer.children[layer.offsets[b] : layer.offsets[b + 1]].tolist()
            return [entry for child in children for entry in self._children(child)]
        return [self._child(block)]

    def _child(self, block: int) -> int:
        """Return the input or product vector of a block, a product of one factor for a sum."""
        if isinstance(self._layer(block), InputLayer):
            return self._bases[block]
        if block not in self._products:
            self._products[block] = self._product(self._factors_of(block))
        return self._products[block]

    def _factors_of(self, block: int) -> list[_Factor]:
        """Return a block as a product of inputs and sums."""
        if block in self._factors:
            return self._factors[block]
        if block not in self._bases:
            entries = self._children(block)
            total = sum(self._widths[entry] for entry in entries)
            cuts = np.cumsum([self._widths[entry] for entry in entries])[:-1]
            parts = np.split(np.eye(total, dtype=np.float32), cuts, axis=1)
            pairs = list(zip(entries, parts, strict=True))
            self._bases[block] = self._mixed(pairs, total, zero_param_mask=None)
        base = self._bases[block]
        return [_Factor(base, np.arange(self._widths[base]))]

    def _product(self, factors: Sequence[_Factor]) -> int:
        width = len(factors[0].nodes)
        sizes = {self._size_of(self._widths[factor.entry]) for factor in factors}
        if sizes != {self._size_of(width)}:
            raise _MixedSizes
        size = self._size_of(width)
        edges = np.stack([factor.nodes for factor in factors], axis=1)
        if (
            all(self._widths[f.entry] == width for f in factors)
            and (edges == np.arange(width)[:, None]).all()
        ):
            edges = edges[::size] // size
        chs = tuple(factor.entry for factor in factors)
        return self._add("Product", width, chs=chs, edge_ids=edges)


def _categorical(categories: int) -> bytes:
    """Write the pickle of PyJuice's ``Categorical``, without the class being here."""
    state = {"post_fw_fns": [], "post_bp_fns": [], "sampling_fns": [], "num_cats": categories}
    name = f"{_HOME}.categorical\nCategorical\n"
    return b"\x80\x02c" + name.encode() + b")\x81" + pickle.dumps(state, 2)[2:-1] + b"b."
