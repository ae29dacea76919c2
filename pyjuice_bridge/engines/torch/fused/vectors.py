"""Emit vector code for rows of one width (see ``lanes``).

Values of a row are in vectors of 16 where processors have them, else of 8.  Addresses and counts
are int64.
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

WIDE = bool(dict(llvm.get_host_cpu_features()).get("avx512f"))
LANES, SUMS, ACROSS = (16, 24, 4) if WIDE else (8, 12, 2)
"""Values in a vector, vectors of sums in a tile, vectors across it."""

FLOAT, INT, LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
TINY, LARGE, LINE = 2.0**-126, 2.0**127, 64


def lanes_of(width: int) -> int:
    """Return how many values of a row one vector holds."""
    return LANES if width > 8 else 8


def row_size(width: int) -> int:
    """Return the size of a row in scratch memory, whole vectors."""
    lanes = lanes_of(width)
    return -(-width // lanes) * lanes


class Rows:
    """Emitter of code for rows of one width."""

    def __init__(self, builder: Any, width: int) -> None:
        self.builder, self.width = builder, width
        self.lanes, self.padded = lanes_of(width), row_size(width)
        self.count = self.padded // self.lanes
        self.vector = ir.VectorType(FLOAT, self.lanes)
        self.mask = ir.VectorType(ir.IntType(1), self.lanes)

    def long(self, value: int) -> Any:
        return ir.Constant(LONG, value)

    def at(self, base: Any, offset: Any, kind: Any = None) -> Any:
        """Return a pointer to a vector ``offset`` bytes behind an address."""
        offset = self.long(offset) if isinstance(offset, int) else offset
        place = self.builder.add(base, offset)
        return self.builder.inttoptr(place, (kind or self.vector).as_pointer())

    def row(self, base: Any, number: Any, plain: bool = False) -> Any:
        """Return the address of a row; in a table, rows are ``plain``."""
        size = 4 * (self.width if plain else self.padded)
        return self.builder.add(base, self.builder.mul(number, self.long(size)))

    def number(self, base: Any, position: Any) -> Any:
        """Load the int32 at a position as int64."""
        offset = self.builder.mul(position, self.long(4))
        found = self.builder.load(self.at(base, offset, INT), align=4)
        return self.builder.sext(found, LONG)

    def load(self, row: Any, vector: int) -> Any:
        return self.builder.load(self.at(row, 4 * self.lanes * vector), align=4)

    def store(self, value: Any, row: Any, vector: int) -> None:
        self.builder.store(value, self.at(row, 4 * self.lanes * vector), align=4)

    def inside(self, vector: int) -> list[int]:
        """Return by lane whether it belongs to the row."""
        first = vector * self.lanes
        return [int(first + lane < self.width) for lane in range(self.lanes)]

    def load_plain(self, row: Any, vector: int) -> Any:
        """Load part of a table's row, zeros behind its end."""
        if all(self.inside(vector)):
            return self.load(row, vector)
        pointer = self.at(row, 4 * self.lanes * vector)
        name = f"llvm.masked.load.v{self.lanes}f32.p0"
        kind = ir.FunctionType(self.vector, [pointer.type, INT, self.mask, self.vector])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        mask = ir.Constant(self.mask, self.inside(vector))
        align = ir.Constant(INT, 4)
        return self.builder.call(function, [pointer, align, mask, self.splat(0.0)])

    def store_plain(self, value: Any, row: Any, vector: int) -> None:
        if all(self.inside(vector)):
            self.store(value, row, vector)
            return
        pointer = self.at(row, 4 * self.lanes * vector)
        name = f"llvm.masked.store.v{self.lanes}f32.p0"
        kind = ir.FunctionType(ir.VoidType(), [self.vector, pointer.type, INT, self.mask])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        mask = ir.Constant(self.mask, self.inside(vector))
        self.builder.call(function, [value, pointer, ir.Constant(INT, 4), mask])

    def splat(self, value: Any, kind: Any = None) -> Any:
        """Repeat one number in a vector, a constant or a scalar."""
        kind = kind or self.vector
        if isinstance(value, (int, float)):
            return ir.Constant(kind, [value] * kind.count)
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(INT, 0))
        zeros = ir.Constant(ir.VectorType(INT, kind.count), [0] * kind.count)
        return self.builder.shuffle_vector(first, undefined, zeros)

    def broadcast(self, base: Any, offset: Any) -> Any:
        """Repeat the number at an address in a vector."""
        return self.splat(self.builder.load(self.at(base, offset, FLOAT), align=4))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        name = f"llvm.fmuladd.v{self.lanes}f32"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [a, b, c])

    def inverse(self, value: Any) -> Any:
        """Invert a vector of normal numbers, to the last bit or two."""
        if not WIDE:
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
        """Add up a vector's values."""
        name = f"llvm.vector.reduce.fadd.v{self.lanes}f32"
        kind = ir.FunctionType(FLOAT, [FLOAT, self.vector])
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        zero = ir.Constant(FLOAT, 0.0)
        return self.builder.call(function, [zero, values], fastmath=("reassoc",))

    def finite(self, value: Any) -> Any:
        """Replace what overflowed by a large number, whose product with zero is zero."""
        return self.smaller(value, self.splat(LARGE))

    def larger(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def smaller(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def across(self, rows: Sequence[Any], combine: Callable[[Any, Any], Any]) -> Any:
        """Combine the values of each row; return one vector with a number per row."""
        size = self.lanes
        found = list(rows)
        while len(found) > 1:
            half = size // 2
            lows = [g * size + i for g in range(self.lanes // size) for i in range(half)]
            lows += [self.lanes + i for i in lows]
            kind = ir.VectorType(INT, self.lanes)
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
        """Return by lane the maximum of a row's vectors."""
        load = self.load_plain if plain else self.load
        found = load(row, 0)
        for v in range(1, self.count):
            found = self.larger(found, load(row, v))
        return found

    def bits(self, row: Any, compare: str, limit: float, plain: bool = False) -> Any:
        """Return an int64 with a bit for each value of a row: whether it compares so."""
        builder = self.builder
        found = self.long(0)
        for v in range(self.count):
            value = self.load_plain(row, v) if plain else self.load(row, v)
            holds = builder.fcmp_ordered(compare, value, self.splat(limit))
            holds = builder.and_(holds, ir.Constant(self.mask, self.inside(v)))
            part = builder.zext(builder.bitcast(holds, ir.IntType(self.lanes)), LONG)
            found = builder.or_(found, builder.shl(part, self.long(v * self.lanes)))
        return found

    def set_flag(self, base: Any, number: Any, flag: Any) -> None:
        """Set an int32 to one where ``flag`` holds."""
        builder = self.builder
        at = self.at(base, builder.mul(number, self.long(4)), INT)
        builder.store(builder.or_(builder.load(at), builder.zext(flag, INT)), at)

    def loop(
        self,
        count: Any,
        body: Callable[[Any, list[Any]], Sequence[Any]],
        carried: Sequence[Any] = (),
        step: int = 1,
    ) -> list[Any]:
        """Emit ``body(i, carried)`` for i = 0, ``step``, … below ``count``."""
        builder = self.builder
        count = self.long(count) if isinstance(count, int) else count
        before = builder.block
        head, inner, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(LONG)
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


def emits(result: Any = types.void) -> Callable[[Callable[..., Any]], Any]:
    """Make an intrinsic, of a constant width and of int64 numbers, of what emits its code."""

    def decorate(emit: Callable[..., Any]) -> Any:
        def typed(typing_context: Any, width: Any, *given: Any) -> Any:
            if not isinstance(width, types.IntegerLiteral):
                return None
            size = width.literal_value

            def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                found = emit(Rows(builder, size), *args[1:])
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
