"""Rows of up to ``WIDEST`` values as vectors: the inner loops of ``segments``.

A *row* is a block's values for one sample.  In scratch memory its ``width`` values are padded with
zeros to whole vectors (``row_size``), so that a row is a few registers; in tables it is not padded.
Every function is generated for its width, which must be a constant where it is called.  A compiler
left to itself makes none of these loops: it neither keeps a tile of sums in registers nor finds the
maxima of sixteen rows at once.

Addresses and counts are int64; ``index`` is the address of int32 row numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from pyjuice_bridge.engines.torch.backward import LARGEST_RATIO
from pyjuice_bridge.engines.torch.fused.vectors import (
    ACROSS,
    FLOAT,
    INT,
    LINE,
    LONG,
    SUMS,
    TINY,
    Rows,
    emits,
)

WIDEST = 64
"""Wider matrix products are faster in a BLAS."""
ROWS = 48
"""Scratch memory holds a multiple of so many rows; those behind the last sample hold anything."""
LIFT = 60
"""The exponent to which ``rescale`` raises the maxima of rows."""

FAINT = 2.0 ** (-126 * 3 / 4)
"""Sums below it may lack terms that underflowed."""

_Loads = Callable[[Any], Callable[[int], Any]]
"""Of a row's number what loads a vector of it."""


def _own(r: Rows, rows: Any) -> _Loads:
    def of(i: Any) -> Callable[[int], Any]:
        row = r.row(rows, i)
        return lambda v: r.load(row, v)

    return of


def _taken(r: Rows, table: Any, index: Any) -> _Loads:
    def of(i: Any) -> Callable[[int], Any]:
        row = r.row(table, r.number(index, i), plain=True)
        return lambda v: r.load_plain(row, v)

    return of


def _set(r: Rows, out: Any, count: Any, *factors: _Loads) -> None:
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


@emits()
def take(r: Rows, out: Any, table: Any, index: Any, count: Any) -> None:
    """Copy rows of a table."""
    _set(r, out, count, _taken(r, table, index))


@emits()
def take_times(r: Rows, out: Any, table: Any, index: Any, rows: Any, count: Any) -> None:
    """Multiply rows of a table by others."""
    _set(r, out, count, _taken(r, table, index), _own(r, rows))


@emits()
def fetch(r: Rows, table: Any, index: Any, count: Any) -> None:
    """Have the processor bring rows of a table into its second cache."""
    place = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [place, INT, INT, INT])
    function = cgutils.get_or_insert_function(r.builder.module, kind, "llvm.prefetch.p0")
    how = [ir.Constant(INT, n) for n in (0, 2, 1)]

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        row = r.row(table, r.number(index, i), plain=True)
        for offset in range(0, 4 * r.width, LINE):
            r.builder.call(function, [r.at(row, offset, ir.IntType(8)), *how])
        return ()

    r.loop(count, body)


@emits()
def times_taken(r: Rows, out: Any, table: Any, index: Any, count: Any) -> None:
    """Multiply by rows of a table."""
    _set(r, out, count, _own(r, out), _taken(r, table, index))


@emits()
def add_taken(r: Rows, table: Any, index: Any, rows: Any, count: Any) -> None:
    """Add rows to those of a table."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        target, source = r.row(table, r.number(index, i), plain=True), r.row(rows, i)
        for v in range(r.count):
            total = r.builder.fadd(r.load_plain(target, v), r.load(source, v))
            r.store_plain(total, target, v)
        return ()

    r.loop(count, body)


@emits()
def copy(r: Rows, out: Any, rows: Any, count: Any) -> None:
    """Copy rows."""
    _set(r, out, count, _own(r, rows))


@emits()
def times(r: Rows, out: Any, rows: Any, count: Any) -> None:
    """Multiply by rows."""
    _set(r, out, count, _own(r, out), _own(r, rows))


@emits()
def ratio(r: Rows, out: Any, flow: Any, value: Any, count: Any) -> None:
    """Divide flow by value; where the value is zero, so is the flow."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        target, above, below = r.row(out, i), r.row(flow, i), r.row(value, i)
        for v in range(r.count):
            least = r.larger(r.load(below, v), r.splat(TINY))
            r.store(r.builder.fmul(r.load(above, v), r.inverse(least)), target, v)
        return ()

    r.loop(count, body)


@emits(types.int64)
def rescale(r: Rows, rows: Any, exponents: Any, count: Any) -> Any:
    """Bring the maximum of every row near 2^LIFT by a power of two, or as near as float32 can.

    ``exponents`` int32: what the rows are to be multiplied by, as a power of two.

    Returns:
        Not 0 if some value is below the smallest normal number, before or after.
    """
    builder, whole = r.builder, ir.VectorType(INT, r.lanes)
    factors = cgutils.alloca_once(builder, r.vector)
    place = builder.ptrtoint(factors, LONG)

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
                # In this order, what is no number behind the last sample is passed over.
                least[v] = r.smaller(r.smaller(before, after), least[v])
        return least

    least = r.loop(count, body, [r.splat(1.0)] * r.count, step=r.lanes)
    found = ir.Constant(r.mask, [0] * r.lanes)
    for v in range(r.count):
        low = builder.fcmp_ordered("<", least[v], r.splat(TINY))
        found = builder.or_(found, builder.and_(low, ir.Constant(r.mask, r.inside(v))))
    return builder.zext(builder.bitcast(found, ir.IntType(r.lanes)), LONG)


def _products(
    r: Rows, out: Any, rows: Any, matrix: Any, count: Any, finish: Callable[..., Any]
) -> None:
    """Rows times a matrix [width, padded], a tile of sums in registers at a time."""
    builder = r.builder
    for first in range(0, r.count, ACROSS):
        vectors = range(first, min(r.count, first + ACROSS))
        height = SUMS // len(vectors)

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


@emits()
def product(r: Rows, out: Any, rows: Any, matrix: Any, count: Any) -> None:
    """Multiply rows by a matrix [width, padded]."""
    _products(r, out, rows, matrix, count, lambda total, number, vector: total)


@emits()
def times_product(r: Rows, out: Any, rows: Any, matrix: Any, count: Any) -> None:
    """Multiply ``out`` by the products of rows with a matrix [width, padded]."""

    def finish(total: Any, number: Any, vector: int) -> Any:
        return r.builder.fmul(r.finite(total), r.load(r.row(out, number), vector))

    _products(r, out, rows, matrix, count, finish)


@emits()
def add_outer(r: Rows, matrix: Any, left: Any, right: Any, count: Any) -> None:
    """Add the products of pairs of rows to a matrix [width, width], which is not padded."""
    for first in range(0, r.count, ACROSS):
        vectors = range(first, min(r.count, first + ACROSS))
        most = SUMS // len(vectors)
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


@emits()
def dots(r: Rows, out: Any, rows: Any, weights: Any, count: Any) -> None:
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


@emits()
def add_spread(
    r: Rows, out: Any, rows: Any, weights: Any, factors: Any, counts: Any, count: Any
) -> None:
    """Add weights times a number each to rows ``out``; add ``rows`` times it to ``counts``."""
    kept = [r.load(weights, v) for v in range(r.count)]

    def body(i: Any, sums: list[Any]) -> Sequence[Any]:
        factor = r.broadcast(factors, r.builder.mul(i, r.long(4)))
        target, row = r.row(out, i), r.row(rows, i)
        changed = []
        for v in range(r.count):
            changed.append(r.fma(r.load(row, v), factor, sums[v]))
            r.store(r.fma(factor, kept[v], r.load(target, v)), target, v)
        return changed

    sums = r.loop(count, body, [r.splat(0.0)] * r.count)
    for v in range(r.count):
        r.store_plain(r.builder.fadd(r.load_plain(counts, v), sums[v]), counts, v)


@emits()
def times_finite(r: Rows, out: Any, rows: Any, count: Any) -> None:
    """Multiply by rows; what overflowed there is a large number."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        target, row = r.row(out, i), r.row(rows, i)
        for v in range(r.count):
            r.store(r.builder.fmul(r.load(target, v), r.finite(r.load(row, v))), target, v)
        return ()

    r.loop(count, body)


@emits()
def tops(r: Rows, out: Any, rows: Any, count: Any) -> None:
    """Find the maxima of rows, float32."""

    def body(start: Any, _: list[Any]) -> Sequence[Any]:
        found = []
        for j in range(r.lanes):
            row = r.row(rows, r.builder.add(start, r.long(j)))
            found.append(r.top(row))
        target = r.at(out, r.builder.mul(start, r.long(4)))
        r.builder.store(r.across(found, r.larger), target, align=4)
        return ()

    r.loop(count, body, step=r.lanes)


@emits()
def tops_taken(r: Rows, out: Any, table: Any, index: Any, count: Any) -> None:
    """Find the maxima of rows of a table, float32."""
    name = f"llvm.vector.reduce.fmax.v{r.lanes}f32"
    kind = ir.FunctionType(FLOAT, [r.vector])
    function = cgutils.get_or_insert_function(r.builder.module, kind, name)

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        top = r.top(r.row(table, r.number(index, i), plain=True), plain=True)
        found = r.builder.call(function, [top], fastmath=("nnan", "nsz"))
        r.builder.store(found, r.at(out, r.builder.mul(i, r.long(4)), FLOAT), align=4)
        return ()

    r.loop(count, body)


def _mark_at(r: Rows, marks: Any, number: Any) -> Any:
    return r.at(marks, r.builder.mul(number, r.long(8)), LONG)


@emits()
def mark(r: Rows, marks: Any, rows: Any, count: Any) -> None:
    """Clear the bits of values that are zero, in an int64 per row."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        at = _mark_at(r, marks, i)
        alive = r.bits(r.row(rows, i), ">", 0.0)
        r.builder.store(r.builder.and_(r.builder.load(at), alive), at)
        return ()

    r.loop(count, body)


@emits()
def mark_taken(r: Rows, marks: Any, table: Any, index: Any, count: Any) -> None:
    """Clear the bits of values of a table that are zero, in an int64 per row."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        at = _mark_at(r, marks, i)
        alive = r.bits(r.row(table, r.number(index, i), plain=True), ">", 0.0, plain=True)
        r.builder.store(r.builder.and_(r.builder.load(at), alive), at)
        return ()

    r.loop(count, body)


@emits()
def flag_low(r: Rows, flags: Any, rows: Any, marks: Any, count: Any) -> None:
    """Set the int32 flags of rows with a value whose bit is set but that is no normal number."""

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        low = r.bits(r.row(rows, i), "<", TINY)
        bad = r.builder.and_(low, r.builder.load(_mark_at(r, marks, i)))
        r.set_flag(flags, i, r.builder.icmp_signed("!=", bad, r.long(0)))
        return ()

    r.loop(count, body)


@emits()
def flag_faint(r: Rows, flags: Any, sums: Any, rows: Any, reach: Any, count: Any) -> None:
    """Set the int32 flags of rows with a sum below ``FAINT`` to which some term is not zero.

    ``reach`` int64 [width]: by sum, the bits of the values that its weights are not zero for.
    """
    builder = r.builder
    eight = ir.VectorType(LONG, 8)

    def body(i: Any, _: list[Any]) -> Sequence[Any]:
        low = r.bits(r.row(sums, i), "<", FAINT)
        alive = r.splat(r.bits(r.row(rows, i), ">", 0.0), eight)
        reached = r.long(0)
        for start in range(0, r.width, 8):
            own = builder.load(r.at(reach, 8 * start, eight), align=8)
            some = builder.icmp_signed("!=", builder.and_(own, alive), r.splat(0, eight))
            part = builder.zext(builder.bitcast(some, ir.IntType(8)), LONG)
            reached = builder.or_(reached, builder.shl(part, r.long(start)))
        r.set_flag(flags, i, builder.icmp_signed("!=", builder.and_(low, reached), r.long(0)))
        return ()

    r.loop(count, body)


@emits()
def step_table(r: Rows, theta: Any, counts: Any, step: Any, count: Any) -> None:
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

    share = builder.fdiv(pseudocount, r.splat(builder.sitofp(categories, FLOAT)))
    keeps, rates, more = [], [], []
    for total in r.loop(categories, add, [r.splat(0.0)] * r.count):
        seen = builder.fcmp_ordered(">=", total, r.splat(TINY))
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


@emits()
def step_rows(r: Rows, theta: Any, counts: Any, step: Any, count: Any) -> None:
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
        seen = builder.fcmp_ordered(">=", total, r.splat(TINY))
        rate = builder.fdiv(size, builder.fadd(total, pseudocount))
        more = builder.fmul(rate, share)
        for v in range(r.count):
            fresh = r.fma(rate, found[v], more)
            after = r.fma(keep, before[v], fresh)
            r.store_plain(builder.select(seen, after, before[v]), row, v)
            r.store_plain(r.splat(0.0), own, v)
        return ()

    r.loop(count, body)
