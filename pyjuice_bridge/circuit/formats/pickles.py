"""Pickles as data: an interpreter of the opcodes that plain values and arrays need.

Nothing is imported or called. A name that a file mentions is looked up in a list; what a listed
name would make is answered with a number, bytes, an array or an inert :class:`Record`, and every
other name or opcode is refused.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_STEPS = 20_000_000
"""Opcodes of a file, at most."""
_MARK = object()
_DTYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
_ARRAYS = {
    f"{package}.{name}"
    for package in ("numpy.core", "numpy._core")
    for name in ("multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
} | {"numpy.ndarray", "numpy.dtype", "_codecs.encode", "__builtin__.bytes"}


class Refused(Exception):  # noqa: N818, it is the answer to a file, not a fault
    """What in a pickle is not plain data."""


@dataclass(eq=False)
class Record:
    """An object of a listed class, as its name and its attributes.

    Attributes:
        name: ``module.Class``.
        state: its attributes.
    """

    name: str
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Name:
    name: str


@dataclass(eq=False)
class _Dtype:
    code: str
    order: str = "="


@dataclass(eq=False)
class _Array:
    value: NDArray[Any] | None = None


def read_pickle(data: bytes, records: Collection[str] = ()) -> Any:
    """Return the plain value in a pickle of protocol 2 to 5.

    Args:
        data: the file.
        records: classes, as ``module.Class``, whose objects are returned as records.

    Returns:
        Numbers, text, bytes, lists, tuples, dictionaries, read-only arrays and records.

    Raises:
        Refused: the pickle is damaged or asks for anything else.
    """
    machine = _Machine(records)
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if step > _MOST_STEPS:
                raise Refused(f"more than {_MOST_STEPS:,} steps")
            if opcode.name == "STOP":
                return _finished(machine.pop())
            machine.step(opcode.name, argument)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError):
        raise Refused("something that is no pickle, or a damaged one") from None
    raise Refused("a pickle without an end")


def _finished(value: Any) -> Any:
    """Return a value with its arrays in place of what was built up for them."""
    if isinstance(value, _Array):
        if value.value is None:
            raise Refused("an array without its contents")
        return value.value
    if isinstance(value, _Name | _Dtype):
        raise Refused("a bare name")
    return value


class _Machine:
    """The stack and memo of a pickle."""

    def __init__(self, records: Collection[str]) -> None:
        self._records = set(records)
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _NOTHING:
            return
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise Refused(f"the opcode {name}")

    def pop(self) -> Any:
        """Take the value at the top."""
        return self._stack.pop()

    def marked(self) -> list[Any]:
        """Take everything down to the last mark."""
        for i in range(len(self._stack) - 1, -1, -1):
            if self._stack[i] is _MARK:
                items = self._stack[i + 1 :]
                del self._stack[i:]
                return items
        raise Refused("a list without its beginning")

    def extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not list:
            raise Refused("items for something that is no list")
        target.extend(map(_finished_part, items))

    def update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise Refused("entries for something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise Refused("a key that is no text")
            target[key] = _finished_part(value)

    def tuple(self, items: list[Any]) -> None:
        self._stack.append(tuple(map(_finished_part, items)))

    def last(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise Refused("a damaged pickle")
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return items

    def memorise(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def recall(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def named(self, name: Any) -> None:
        if not isinstance(name, str) or (name not in _ARRAYS and name not in self._records):
            raise Refused(f"{str(name)[:80]!r}")
        self._stack.append(_Name(name))

    def call(self) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, _Name) or type(arguments) is not tuple:
            raise Refused("a call of something unnamed")
        short = called.name.rpartition(".")[2]
        if called.name in self._records:
            if arguments:
                raise Refused(f"{called.name} with arguments")
            self._stack.append(Record(called.name))
        elif short == "_reconstruct":
            self._stack.append(_Array())
        elif short == "dtype":
            self._stack.append(_dtype(arguments))
        elif short == "bytes" and not arguments:
            self._stack.append(b"")
        elif short == "encode":
            self._stack.append(_encoded(*arguments))
        elif short == "_frombuffer":
            raw, dtype, shape, order = arguments
            self._stack.append(_Array(_array(raw, dtype, shape, order)))
        elif short == "scalar":
            dtype, raw = arguments
            self._stack.append(_array(raw, dtype, (), "C").item())
        else:
            raise Refused(f"a call of {called.name!r}")

    def build(self) -> None:
        state, target = self.pop(), self._stack[-1]
        if isinstance(target, _Array):
            _, shape, dtype, fortran, raw = state
            target.value = _array(raw, dtype, shape, "F" if fortran else "C")
        elif isinstance(target, _Dtype):
            if state[1] not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
                raise Refused("an array of something other than numbers")
            target.order = state[1]
        elif isinstance(target, Record) and type(state) is dict:
            target.state.update(state)
        else:
            raise Refused("the state of something unnamed")


def _finished_part(value: Any) -> Any:
    """Return a part of a container; only calls see names and dtypes, in tuples of their own."""
    return value.value if isinstance(value, _Array) and value.value is not None else value


def _dtype(arguments: tuple[Any, ...]) -> _Dtype:
    if not arguments or arguments[0] not in _DTYPES:
        raise Refused("an array of something other than numbers")
    return _Dtype(arguments[0])


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("another encoding than latin1")
    return text.encode("latin1")


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray):
        raise Refused("an array of something other than numbers")
    sizes = [int(size) for size in shape]
    kind = np.dtype(dtype.order + dtype.code)
    if min(sizes, default=0) < 0 or math.prod(sizes) * kind.itemsize != len(raw):
        raise Refused(f"an array of shape {sizes} with {len(raw)} bytes")
    return np.frombuffer(bytes(raw), kind).reshape(sizes, order="F" if order == "F" else "C")


_NOTHING = {"PROTO", "FRAME"}
_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "APPENDS": lambda m, _: m.extend(m.marked()),
    "SETITEM": lambda m, _: m.update(m.last(2)),
    "SETITEMS": lambda m, _: m.update(m.marked()),
    "TUPLE": lambda m, _: m.tuple(m.marked()),
    "TUPLE1": lambda m, _: m.tuple(m.last(1)),
    "TUPLE2": lambda m, _: m.tuple(m.last(2)),
    "TUPLE3": lambda m, _: m.tuple(m.last(3)),
    "MEMOIZE": lambda m, _: m.memorise(None),
    "BINPUT": lambda m, place: m.memorise(place),
    "LONG_BINPUT": lambda m, place: m.memorise(place),
    "BINGET": lambda m, place: m.recall(place),
    "LONG_BINGET": lambda m, place: m.recall(place),
    "GLOBAL": lambda m, name: m.named(".".join(name.split(" "))),
    "STACK_GLOBAL": lambda m, _: m.named(".".join(m.last(2))),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
}
