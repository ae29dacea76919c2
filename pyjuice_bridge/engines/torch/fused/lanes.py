"""Rows of up to ``WIDEST`` values as vectors: the inner loops of ``segments``.

A *row* is a block's values for one sample.  In scratch memory its ``width`` values are padded with
zeros to whole vectors (``padded``), so that a row is a few registers; in tables it is not padded.
Every function is generated for its width, which must be a constant where it is called.  A compiler
left to itself makes none of these loops: it neither keeps a tile of sums in registers nor finds the
maxima of sixteen rows at once.

Addresses and counts are int64; ``index`` is the address of int32 row numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pyjuice_bridge.engines.torch.backward import LARGEST_RATIO

WIDEST = 64
"""Wider matrix products are faster in a BLAS."""
ROWS = 48
"""Scratch memory holds a multiple of so many rows; those behind the last sample hold anything
finite."""
LIFT = 60
"""The exponent to which ``rescale`` raises the maxima of rows."""

FAINT = 2.0 ** (-126 * 3 / 4)
"""Sums below it may lack terms that underflowed."""

_WIDE = bool(dict(llvm.get_host_cpu_features()).get("avx512f"))
_LANES, _SUMS, _ACROSS = (16, 24, 4) if _WIDE else (8, 12, 2)
"""Values in a vector, vectors of sums in a tile, vectors across it."""

_FLOAT, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_TINY, _LARGE, _LINE = 2.0**-126, 2.0**127, 64


def lanes_of(width: int) -> int:
    """Values of a row that one vector holds."""
    return _LANES if width > 8 else 8


def padded(width: int) -> int:
    """The values of a row in scratch memory."""
    lanes = lanes_of(width)
    return -(-width // lanes) * lanes


class _Rows:
    """Emits code for rows of one width."""

    def __init__(self, builder: Any, width: int) -> None:
        self.builder, self.width = builder, width
        self.lanes, self.padded = lanes_of(width), padded(width)
        self.count = self.padded // self.lanes
        self.vector = ir.VectorType(_FLOAT, self.lanes)
        self.mask = ir.VectorType(ir.IntType(1), self.lanes)

    def long(self, value: int) -> Any:
        return ir.Constant(_LONG, value)

    def at(self, base: Any, offset: Any, kind: Any = None) -> Any:
        """A pointer to a vector ``offset`` bytes behind an address."""
        offset = self.long(offset) if isinstance(offset, int) else offset
        place = self.builder.add(base, offset)
        return self.builder.inttoptr(place, (kind or self.vector).as_pointer())

    def row(self, base: Any, number: Any, plain: bool = False) -> Any:
        """The address of a row; in a table, rows are ``plain``."""
        size = 4 * (self.width if plain else self.padded)
        return self.builder.add(base, self.builder.mul(number, self.long(size)))

    def number(self, base: Any, position: Any) -> Any:
        """The int32 at a position, as int64."""
        offset = self.builder.mul(position, self.long(4))
        found = self.builder.load(self.at(base, offset, _INT), align=4)
        return self.builder.sext(found, _LONG)

    def load(self, row: Any, vector: int) -> Any:
        return self.builder.load(self.at(row, 4 * self.lanes * vector), align=4)

    def store(self, value: Any, row: Any, vector: int) -> None:
        self.builder.store(value, self.at(row, 4 * self.lanes * vector), align=4)

    def inside(self, vector: int) -> list[int]:
        """By lane, whether it belongs to the row."""
        first = vector * self.lanes
        return [int(first + lane < self.width) for lane in range(self.lanes)]

    def load_plain(self, row: Any, vector: int) -> Any:
        """Part of a table's row; zeros where it ends."""
        if all(self.inside(vector)):
            return self.load(row, vector)
        pointer = self.at(row, 4 * self.lanes * vector)
        name = f"llvm.masked.load.v{self.lanes}f32.p0"
        kind = ir.FunctionType(self.vector, [pointer.type, _INT, self.mask, self.vector])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        mask = ir.Constant(self.mask, self.inside(vector))
        align = ir.Constant(_INT, 4)
        return self.builder.call(function, [pointer, align, mask, self.splat(0.0)])

    def store_plain(self, value: Any, row: Any, vector: int) -> None:
        if all(self.inside(vector)):
            self.store(value, row, vector)
            return
        pointer = self.at(row, 4 * self.lanes * vector)
        name = f"llvm.masked.store.v{self.lanes}f32.p0"
        kind = ir.FunctionType(ir.VoidType(), [self.vector, pointer.type, _INT, self.mask])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        mask = ir.Constant(self.mask, self.inside(vector))
        self.builder.call(function, [value, pointer, ir.Constant(_INT, 4), mask])

    def splat(self, value: Any, kind: Any = None) -> Any:
        """A vector of one number, a constant or a scalar."""
        kind = kind or self.vector
        if isinstance(value, (int, float)):
            return ir.Constant(kind, [value] * kind.count)
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(_INT, 0))
        zeros = ir.Constant(ir.VectorType(_INT, kind.count), [0] * kind.count)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def broadcast(self, base: Any, offset: Any) -> Any:
        """A vector of the number that stands at an address."""
        return self.splat(self.builder.load(self.at(base, offset, _FLOAT), align=4))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        name = f"llvm.fmuladd.v{self.lanes}f32"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    def inverse(self, value: Any) -> Any:
        """One over a vector of normal numbers, to the last bit or two."""
        if not _WIDE:
            return self.builder.fdiv(self.splat(1.0), value)
        # A division takes as long as two matrix products of 16 x 16.
        some = ir.IntType(self.lanes)
        name = f"llvm.x86.avx512.rcp14.ps.{32 * self.lanes}"
        kind = ir.FunctionType(self.vector, [self.vector, self.vector, some])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        near = self.builder.call(function, [value, value, ir.Constant(some, -1)])
        error = self.fma(self.builder.fneg(value), near, self.splat(1.0))
        return self.fma(near, error, near)

    def added(self, values: Any) -> Any:
        """The sum of a vector's values."""
        name = f"llvm.vector.reduce.fadd.v{self.lanes}f32"
        kind = ir.FunctionType(_FLOAT, [_FLOAT, self.vector])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        zero = ir.Constant(_FLOAT, 0.0)
        return self.builder.call(function, [zero, values], fastmath=("reassoc",))

    def finite(self, value: Any) -> Any:
        """A vector that has a product with zero: what is left of an overflow is large."""
        return self.smaller(value, self.splat(_LARGE))

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def smaller(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def across(self, rows: Sequence[Any], combine: Callable[[Any, Any], Any]) -> Any:
        """One vector with a number per row: its values combined."""
        size = self.lanes
        found = list(rows)
        while len(found) > 1:
            half = size // 2
            lows = [g * size + i for g in range(self.lanes // size) for i in range(half)]
            lows += [self.lanes + i for i in lows]
            kind = ir.VectorType(_INT, self.lanes)
            low = ir.Constant(kind, lows)
            high = ir.Constant(kind, [i + half for i in lows])
            found = [
                combine(
                    self.builder.shuffle_vector(a, b, low), self.builder.shuffle_vector(a, b, high)
                )
                for a, b in zip(found[::2], found[1::2], strict=True)
            ]
            size = half
        return found[0]

    def top(self, row: Any, plain: bool = False) -> Any:
        """By lane, the maximum of a row's vectors."""
        load = self.load_plain if plain else self.load
        found = load(row, 0)
        for v in range(1, self.count):
            found = self.larger(found, load(row, v))
        return found

    def bits(self, row: Any, compare: str, limit: float, plain: bool = False) -> Any:
        """An int64 with a bit for each value of a row, set where it compares to ``limit`` so."""
        builder = self.builder
        found = self.long(0)
        for v in range(self.count):
            value = self.load_plain(row, v) if plain else self.load(row, v)
            holds = builder.fcmp_ordered(compare, value, self.splat(limit))
            holds = builder.and_(holds, ir.Constant(self.mask, self.inside(v)))
            part = builder.zext(builder.bitcast(holds, ir.IntType(self.lanes)), _LONG)
            found = builder.or_(found, builder.shl(part, self.long(v * self.lanes)))
        return found

    def set_flag(self, base: Any, number: Any, flag: Any) -> None:
        """Set an int32 to one where ``flag`` holds."""
        builder = self.builder
        at = self.at(base, builder.mul(number, self.long(4)), _INT)
        builder.store(builder.or_(builder.load(at), builder.zext(flag, _INT)), at)

    def loop(
        self,
        count: Any,
        body: Callable[[Any, list[Any]], Sequence[Any]],
        carried: Sequence[Any] = (),
        step: int = 1,
    ) -> list[Any]:
        """``body(i, carried)`` for i = 0, ``step``, … below ``count``; what is carried at last."""
        builder = self.builder
        count = self.long(count) if isinstance(count, int) else count
        before = builder.block
        head, inner, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(_LONG)
        index.add_incoming(self.long(0), before)
        kept = []
        for value in carried:
            phi = builder.phi(value.type)
            phi.add_incoming(value, before)
            kept.append(phi)
        builder.cbranch(builder.icmp_signed("<", index, count), inner, done)
        builder.position_at_end(inner)
        changed = body(index, list(kept))
        index.add_incoming(builder.add(index, self.long(step)), builder.block)
        for phi, value in zip(kept, changed, strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(done)
        return kept


def _rows(result: Any = types.void) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic, of a constant width and of int64 numbers, of what emits its code."""

    def decorate(emit: Callable[..., Any]) -> Any:
        def typed(typing_context: Any, width: Any, *given: Any) -> Any:
            if not isinstance(width, types.IntegerLiteral):
                return None
            size = width.literal_value

            def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                found = emit(_Rows(builder, size), *args[1:])
                return context.get_dummy_value() if found is None else found

            return result(width, *([types.int64] * len(given))), generate

        names = ("typing_context", "width", *list(inspect.signature(emit).parameters)[1:])
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        shape = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        setattr(typed, "__signature__", shape)  # noqa: B010 (numba reads it)
        typed.__name__ = typed.__qualname__ = emit.__name__
        typed.__doc__ = emit.__doc__
        return intrinsic(prefer_literal=True)(typed)

    return decorate


_Loads = Callable[[Any], Callable[[int], Any]]
"""Of a row's number what loads a vector of it."""


def _own(r: _Rows, rows: Any) -> _Loads:
    def of(i: Any) -> Callable[[int], Any]:
        row = r.row(rows, i)
        return lambda v: r.load(row, v)

    return of


def _taken(r: _Rows, table: Any, index: Any) -> _Loads:
    def of(i: Any) -> Callable[[int], Any]:
        row = r.row(table, r.number(index, i), plain=True)
        return lambda v: r.load_plain(row, v)

    return of


def _set(r: _Rows, out: Any, count: Any, *factors: _Loads) -> None:
    """Make rows the products of others."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        first, *others = (of(i) for of in factors)
        target = r.row(out, i)
        for v in range(r.count):
            value = first(v)
            for load in others:
                value = r.builder.fmul(value, load(v))
            r.store(value, target, v)
        return ()

    r.loop(count, body)


@_rows()
def take(r: _Rows, out: Any, table: Any, index: Any, count: Any) -> None:
    """Copy rows of a table."""
    _set(r, out, count, _taken(r, table, index))


@_rows()
def take_times(r: _Rows, out: Any, table: Any, index: Any, rows: Any, count: Any) -> None:
    """Multiply rows of a table by others."""
    _set(r, out, count, _taken(r, table, index), _own(r, rows))


@_rows()
def fetch(r: _Rows, table: Any, index: Any, count: Any) -> None:
    """Have the processor bring rows of a table into its second cache."""
    place = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [place, _INT, _INT, _INT])
    function = cgutils.get_or_insert_function(r.builder.module, kind, "llvm.prefetch.p0")
    how = [ir.Constant(_INT, n) for n in (0, 2, 1)]

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        row = r.row(table, r.number(index, i), plain=True)
        for offset in range(0, 4 * r.width, _LINE):
            r.builder.call(function, [r.at(row, offset, ir.IntType(8)), *how])
        return ()

    r.loop(count, body)


@_rows()
def times_taken(r: _Rows, out: Any, table: Any, index: Any, count: Any) -> None:
    """Multiply by rows of a table."""
    _set(r, out, count, _own(r, out), _taken(r, table, index))


@_rows()
def add_taken(r: _Rows, table: Any, index: Any, rows: Any, count: Any) -> None:
    """Add rows to those of a table."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        target, source = r.row(table, r.number(index, i), plain=True), r.row(rows, i)
        for v in range(r.count):
            total = r.builder.fadd(r.load_plain(target, v), r.load(source, v))
            r.store_plain(total, target, v)
        return ()

    r.loop(count, body)


@_rows()
def copy(r: _Rows, out: Any, rows: Any, count: Any) -> None:
    """Copy rows."""
    _set(r, out, count, _own(r, rows))


@_rows()
def times(r: _Rows, out: Any, rows: Any, count: Any) -> None:
    """Multiply by rows."""
    _set(r, out, count, _own(r, out), _own(r, rows))


@_rows()
def ratio(r: _Rows, out: Any, flow: Any, value: Any, count: Any) -> None:
    """Divide flow by value; where the value is zero, so is the flow."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        target, above, below = r.row(out, i), r.row(flow, i), r.row(value, i)
        for v in range(r.count):
            least = r.larger(r.load(below, v), r.splat(_TINY))
            r.store(r.builder.fmul(r.load(above, v), r.inverse(least)), target, v)
        return ()

    r.loop(count, body)


@_rows(types.int64)
def rescale(r: _Rows, rows: Any, exponents: Any, count: Any) -> Any:
    """Bring the maximum of every row near 2^LIFT by a power of two, or as near as float32 can.

    ``exponents`` int32: what the rows are to be multiplied by, as a power of two.

    Returns:
        Not 0 if some value is below the smallest normal number, before or after.
    """
    builder, whole = r.builder, ir.VectorType(_INT, r.lanes)
    factors = cgutils.alloca_once(builder, r.vector)
    place = builder.ptrtoint(factors, _LONG)

    def body(start: Any, least: list[Any]) -> Sequence[Any]:
        tops = []
        for j in range(r.lanes):
            row = r.row(rows, builder.add(start, r.long(j)))
            tops.append(r.top(row))
        bits = builder.bitcast(r.across(tops, r.larger), whole)
        biased = builder.lshr(bits, r.splat(23, whole))
        factor = builder.sub(r.splat(2 * 127 + LIFT - 1, whole), biased)
        most = r.splat(254, whole)
        factor = builder.select(builder.icmp_signed("<", factor, most), factor, most)
        at = r.at(exponents, builder.mul(start, r.long(4)), whole)
        raised = builder.sub(factor, r.splat(127, whole))
        builder.store(builder.sub(builder.load(at, align=4), raised), at, align=4)
        scale = builder.bitcast(builder.shl(factor, r.splat(23, whole)), r.vector)
        builder.store(scale, factors)
        for j in range(r.lanes):
            row = r.row(rows, builder.add(start, r.long(j)))
            by = r.broadcast(place, 4 * j)
            for v in range(r.count):
                before = r.load(row, v)
                after = builder.fmul(before, by)
                r.store(after, row, v)
                least[v] = r.smaller(least[v], r.smaller(before, after))
        return least

    least = r.loop(count, body, [r.splat(1.0)] * r.count, step=r.lanes)
    found = ir.Constant(r.mask, [0] * r.lanes)
    for v in range(r.count):
        low = builder.fcmp_ordered("<", least[v], r.splat(_TINY))
        found = builder.or_(found, builder.and_(low, ir.Constant(r.mask, r.inside(v))))
    return builder.zext(builder.bitcast(found, ir.IntType(r.lanes)), _LONG)


def _products(
    r: _Rows, out: Any, rows: Any, matrix: Any, count: Any, finish: Callable[..., Any]
) -> None:
    """Rows times a matrix [width, padded], a tile of sums in registers at a time."""
    builder = r.builder
    for first in range(0, r.count, _ACROSS):
        vectors = range(first, min(r.count, first + _ACROSS))
        height = _SUMS // len(vectors)

        def body(
            start: Any, _: list[Any], vectors: range = vectors, height: int = height
        ) -> Sequence[Any]:
            left = r.row(rows, start)

            def inner(k: Any, sums: list[Any]) -> Sequence[Any]:
                line = r.row(matrix, k)
                right = [r.load(line, v) for v in vectors]
                offset = builder.mul(k, r.long(4))
                changed = []
                for m in range(height):
                    at = builder.add(offset, r.long(4 * m * r.padded))
                    factor = r.broadcast(left, at)
                    for n in range(len(vectors)):
                        changed.append(r.fma(factor, right[n], sums[m * len(vectors) + n]))
                return changed

            sums = r.loop(r.width, inner, [r.splat(0.0)] * (height * len(vectors)))
            for m in range(height):
                number = builder.add(start, r.long(m))
                target = r.row(out, number)
                for n, v in enumerate(vectors):
                    r.store(finish(sums[m * len(vectors) + n], number, v), target, v)
            return ()

        r.loop(count, body, step=height)


@_rows()
def product(r: _Rows, out: Any, rows: Any, matrix: Any, count: Any) -> None:
    """Multiply rows by a matrix [width, padded]."""
    _products(r, out, rows, matrix, count, lambda total, number, vector: total)


@_rows()
def times_product(r: _Rows, out: Any, rows: Any, matrix: Any, count: Any) -> None:
    """Multiply ``out`` by the products of rows with a matrix [width, padded]."""

    def finish(total: Any, number: Any, vector: int) -> Any:
        return r.builder.fmul(r.finite(total), r.load(r.row(out, number), vector))

    _products(r, out, rows, matrix, count, finish)


@_rows()
def add_outer(r: _Rows, matrix: Any, left: Any, right: Any, count: Any) -> None:
    """Add the products of pairs of rows to a matrix [width, width], which is not padded."""
    for first in range(0, r.count, _ACROSS):
        vectors = range(first, min(r.count, first + _ACROSS))
        most = _SUMS // len(vectors)
        tiles = -(-r.width // most)
        height = -(-r.width // tiles)
        whole = r.width // height * height

        def tile(start: Any, height: int, vectors: range = vectors) -> None:
            offset = r.builder.mul(start, r.long(4))

            def inner(s: Any, sums: list[Any]) -> Sequence[Any]:
                base = r.builder.add(r.row(left, s), offset)
                values = [r.load(r.row(right, s), v) for v in vectors]
                changed = []
                for m in range(height):
                    factor = r.broadcast(base, 4 * m)
                    for n in range(len(vectors)):
                        changed.append(r.fma(factor, values[n], sums[m * len(vectors) + n]))
                return changed

            sums = r.loop(count, inner, [r.splat(0.0)] * (height * len(vectors)))
            for m in range(height):
                target = r.row(matrix, r.builder.add(start, r.long(m)), plain=True)
                for n, v in enumerate(vectors):
                    total = r.builder.fadd(r.load_plain(target, v), sums[m * len(vectors) + n])
                    r.store_plain(total, target, v)

        def body(start: Any, _: list[Any]) -> Sequence[Any]:
            tile(start, height)  # noqa: B023
            return ()

        r.loop(whole, body, step=height)
        if whole < r.width:
            tile(r.long(whole), r.width - whole)


@_rows()
def dots(r: _Rows, out: Any, rows: Any, weights: Any, count: Any) -> None:
    """Weighted sums of rows, float32; ``weights`` [padded]."""
    kept = [r.load(weights, v) for v in range(r.count)]

    def body(start: Any, _: list[Any]) -> Sequence[Any]:
        sums = []
        for j in range(r.lanes):
            row = r.row(rows, r.builder.add(start, r.long(j)))
            total = r.builder.fmul(r.load(row, 0), kept[0])
            for v in range(1, r.count):
                total = r.fma(r.load(row, v), kept[v], total)
            sums.append(total)
        target = r.at(out, r.builder.mul(start, r.long(4)))
        r.builder.store(r.across(sums, r.builder.fadd), target, align=4)
        return ()

    r.loop(count, body, step=r.lanes)


@_rows()
def spread_dots(r: _Rows, rows: Any, weights: Any, factors: Any, counts: Any, count: Any) -> None:
    """Multiply rows by weights and by a number each; add rows times numbers to ``counts``."""
    kept = [r.load(weights, v) for v in range(r.count)]

    def body(i: Any, sums: list[Any]) -> Sequence[Any]:
        factor = r.broadcast(factors, r.builder.mul(i, r.long(4)))
        row = r.row(rows, i)
        changed = []
        for v in range(r.count):
            value = r.load(row, v)
            changed.append(r.fma(value, factor, sums[v]))
            r.store(r.builder.fmul(value, r.finite(r.builder.fmul(factor, kept[v]))), row, v)
        return changed

    sums = r.loop(count, body, [r.splat(0.0)] * r.count)
    for v in range(r.count):
        r.store_plain(r.builder.fadd(r.load_plain(counts, v), sums[v]), counts, v)


@_rows()
def tops(r: _Rows, out: Any, rows: Any, count: Any) -> None:
    """The maxima of rows, float32."""

    def body(start: Any, _: list[Any]) -> Sequence[Any]:
        found = []
        for j in range(r.lanes):
            row = r.row(rows, r.builder.add(start, r.long(j)))
            found.append(r.top(row))
        target = r.at(out, r.builder.mul(start, r.long(4)))
        r.builder.store(r.across(found, r.larger), target, align=4)
        return ()

    r.loop(count, body, step=r.lanes)


@_rows()
def tops_taken(r: _Rows, out: Any, table: Any, index: Any, count: Any) -> None:
    """The maxima of rows of a table, float32."""
    name = f"llvm.vector.reduce.fmax.v{r.lanes}f32"
    kind = ir.FunctionType(_FLOAT, [r.vector])
    function = cgutils.get_or_insert_function(r.builder.module, kind, name)

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        top = r.top(r.row(table, r.number(index, i), plain=True), plain=True)
        found = r.builder.call(function, [top], fastmath=("nnan", "nsz"))
        r.builder.store(found, r.at(out, r.builder.mul(i, r.long(4)), _FLOAT), align=4)
        return ()

    r.loop(count, body)


def _mark_at(r: _Rows, marks: Any, number: Any) -> Any:
    return r.at(marks, r.builder.mul(number, r.long(8)), _LONG)


@_rows()
def mark(r: _Rows, marks: Any, rows: Any, count: Any) -> None:
    """Clear the bits of values that are zero, in an int64 per row."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        at = _mark_at(r, marks, i)
        alive = r.bits(r.row(rows, i), ">", 0.0)
        r.builder.store(r.builder.and_(r.builder.load(at), alive), at)
        return ()

    r.loop(count, body)


@_rows()
def mark_taken(r: _Rows, marks: Any, table: Any, index: Any, count: Any) -> None:
    """Clear the bits of values of a table that are zero, in an int64 per row."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        at = _mark_at(r, marks, i)
        alive = r.bits(r.row(table, r.number(index, i), plain=True), ">", 0.0, plain=True)
        r.builder.store(r.builder.and_(r.builder.load(at), alive), at)
        return ()

    r.loop(count, body)


@_rows()
def flag_low(r: _Rows, flags: Any, rows: Any, marks: Any, count: Any) -> None:
    """Set the int32 flags of rows with a value whose bit is set but that is no normal number."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        low = r.bits(r.row(rows, i), "<", _TINY)
        bad = r.builder.and_(low, r.builder.load(_mark_at(r, marks, i)))
        r.set_flag(flags, i, r.builder.icmp_signed("!=", bad, r.long(0)))
        return ()

    r.loop(count, body)


@_rows()
def flag_faint(r: _Rows, flags: Any, sums: Any, rows: Any, reach: Any, count: Any) -> None:
    """Set the int32 flags of rows with a sum below ``FAINT`` to which some term is not zero.

    ``reach`` int64 [width]: by sum, the bits of the values that its weights are not zero for.
    """
    builder = r.builder
    eight = ir.VectorType(_LONG, 8)

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        low = r.bits(r.row(sums, i), "<", FAINT)
        alive = r.splat(r.bits(r.row(rows, i), ">", 0.0), eight)
        reached = r.long(0)
        for start in range(0, r.width, 8):
            own = builder.load(r.at(reach, 8 * start, eight), align=8)
            some = builder.icmp_signed("!=", builder.and_(own, alive), r.splat(0, eight))
            part = builder.zext(builder.bitcast(some, ir.IntType(8)), _LONG)
            reached = builder.or_(reached, builder.shl(part, r.long(start)))
        r.set_flag(flags, i, builder.icmp_signed("!=", builder.and_(low, reached), r.long(0)))
        return ()

    r.loop(count, body)


@_rows()
def step_table(r: _Rows, theta: Any, counts: Any, step: Any, count: Any) -> None:
    """Take the M-step of a table (``em.m_step``), whose row 0 is for missing values.

    ``step`` float32 [2]: η and the pseudocount.  The counts become zero.
    """
    builder, one = r.builder, r.splat(1.0)
    size, pseudocount = r.broadcast(step, 0), r.broadcast(step, 4)
    missing, categories = counts, builder.sub(count, r.long(1))
    theta, counts = (builder.add(at, r.long(4 * r.width)) for at in (theta, counts))

    def add(i: Any, sums: list[Any]) -> Sequence[Any]:
        row = r.row(counts, i, plain=True)
        return [builder.fadd(total, r.load_plain(row, v)) for v, total in enumerate(sums)]

    share = builder.fdiv(pseudocount, r.splat(builder.sitofp(categories, _FLOAT)))
    keeps, rates, more = [], [], []
    for total in r.loop(categories, add, [r.splat(0.0)] * r.count):
        seen = builder.fcmp_ordered(">=", total, r.splat(_TINY))
        rate = builder.fdiv(size, builder.fadd(total, pseudocount))
        rates.append(builder.select(seen, rate, r.splat(0.0)))
        keeps.append(builder.select(seen, builder.fsub(one, size), one))
        more.append(builder.fmul(rates[-1], share))

    def blend(i: Any, _: list[Any]) -> Sequence[Any]:
        row, own = r.row(theta, i, plain=True), r.row(counts, i, plain=True)
        for v in range(r.count):
            fresh = r.fma(rates[v], r.load_plain(own, v), more[v])
            r.store_plain(r.fma(keeps[v], r.load_plain(row, v), fresh), row, v)
            r.store_plain(r.splat(0.0), own, v)
        return ()

    r.loop(categories, blend)
    for v in range(r.count):
        r.store_plain(r.splat(0.0), missing, v)


@_rows()
def step_rows(r: _Rows, theta: Any, counts: Any, step: Any, count: Any) -> None:
    """Take the M-step of rows of weights, whose counts lack their factor and become zero.

    ``step`` float32 [2]: η and the pseudocount.
    """
    builder, one = r.builder, r.splat(1.0)
    size, pseudocount = r.broadcast(step, 0), r.broadcast(step, 4)
    keep, share = builder.fsub(one, size), builder.fmul(pseudocount, r.splat(1 / r.width))

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        row, own = r.row(theta, i, plain=True), r.row(counts, i, plain=True)
        before = [r.load_plain(row, v) for v in range(r.count)]
        found = []
        for v in range(r.count):
            limited = r.smaller(r.load_plain(own, v), r.splat(LARGEST_RATIO))
            found.append(builder.fmul(limited, before[v]))
        part = found[0]
        for value in found[1:]:
            part = builder.fadd(part, value)
        total = r.splat(r.added(part))
        seen = builder.fcmp_ordered(">=", total, r.splat(_TINY))
        rate = builder.fdiv(size, builder.fadd(total, pseudocount))
        more = builder.fmul(rate, share)
        for v in range(r.count):
            fresh = r.fma(rate, found[v], more)
            after = r.fma(keep, before[v], fresh)
            r.store_plain(builder.select(seen, after, before[v]), row, v)
            r.store_plain(r.splat(0.0), own, v)
        return ()

    r.loop(count, body)
