"""Damage of every kind to files: changed bytes, and HDF5 items that are other things.

As a program (``python mutations.py``) it walks through all damage to a circuit file, a checkpoint
and a region graph, and prints what readers said.  It is started as one since the HDF5 library
itself could crash.
"""

from __future__ import annotations

import collections
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from random_circuits import random_circuit

from pyjuice_bridge.circuit import Circuit, check, load, save
from pyjuice_bridge.circuit.h5_files import write_attribute
from pyjuice_bridge.circuit.region_graph import load_region_graph, random_region_graph
from pyjuice_bridge.engines.base import FitOptions
from pyjuice_bridge.engines.torch import TorchEngine
from pyjuice_bridge.errors import UserError

Damage = Callable[[h5py.File], None]


def changed_bytes(whole: bytes, seed: int, count: int) -> Iterator[bytes]:
    """``count`` copies with one to three other bytes each, and some that end early."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        broken = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(0, len(broken), rng.integers(1, 4))
        broken[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
        yield broken.tobytes()
    for size in rng.integers(0, len(whole), count // 10):
        yield whole[:size]


ATTRIBUTES: dict[str, object] = {
    "a text": "x",
    "a long text": "9" * 5000,
    "minus one": -1,
    "a large number": 2**62,
    "a fraction": 0.5,
    "not a number": np.nan,
    "a list": [1, 2],
    "bytes": np.void(b"\0\1"),
    "a complex number": 1j,
}

ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "text": lambda a: "x",
    "nothing": lambda a: a[:0],
    "short": lambda a: a[:-1],
    "double": lambda a: np.concatenate([a, a]),
    "flat": lambda a: a.ravel()[None],
    "deep": lambda a: a[..., None],
    "half": lambda a: a.astype("f2"),
    "whole": lambda a: a.astype("i8"),
    "complex": lambda a: a.astype("c16"),
    "negative": lambda a: -a - 1,
    "large": lambda a: (a + 1) * 2_000_000,
    "twelve times": lambda a: (a * 12).astype(a.dtype),
    "not a number": lambda a: (a * np.nan) if a.dtype.kind == "f" else a + 2**30,
    "infinite": lambda a: (a + np.inf) if a.dtype.kind == "f" else a - 2**30,
}


def damages(path: Path) -> Iterator[tuple[str, Damage]]:
    """Every attribute and every item of an HDF5 file: gone, or another thing."""
    names: list[str] = ["/"]
    with h5py.File(path) as file:
        file.visit(names.append)
        found = {
            name: (list(file[name].attrs), isinstance(file[name], h5py.Dataset)) for name in names
        }
    for name, (attributes, is_array) in found.items():
        for key in attributes:
            yield f"{name}@{key} gone", lambda f, n=name, k=key: f[n].attrs.pop(k)
            for label, value in ATTRIBUTES.items():
                yield f"{name}@{key} {label}", lambda f, n=name, k=key, v=value: set_(f[n], k, v)
        if name == "/":
            continue
        yield f"{name} gone", lambda f, n=name: f.pop(n)
        yield f"{name} a number", lambda f, n=name: put(f, n, 3)
        yield f"{name} a group", lambda f, n=name: put(f, n, None)
        yield f"{name} a link", lambda f, n=name: put(f, n, h5py.SoftLink("/"))
        if is_array:
            yield f"{name} elsewhere", lambda f, n=name: outside(f, n)
            for label, change in ARRAYS.items():
                yield f"{name} {label}", lambda f, n=name, c=change: put(f, n, c(f[n][()]))


def set_(item: Any, key: str, value: object) -> None:
    if isinstance(value, str):
        write_attribute(item, key, value)
    else:
        item.attrs[key] = value


def put(file: h5py.File, name: str, value: Any) -> None:
    del file[name]
    if value is None:
        file.create_group(name)
    elif isinstance(value, np.ndarray):
        file.create_dataset(name, data=value)
    else:
        file[name] = value


def outside(file: h5py.File, name: str) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    size = int(np.prod(shape)) * dtype.itemsize
    del file[name]
    file.create_dataset(name, shape, dtype, external=[("/dev/zero", 0, size)])


def circuit_file(folder: Path) -> tuple[Path, Callable[[Path], Circuit]]:
    path = folder / "circuit.h5"
    save(random_circuit(5, 3), path)
    return path, load


def variable_text(folder: Path) -> tuple[Path, Callable[[Path], Circuit]]:
    """As other programs may write it: no checksums, and text of variable length."""
    path = folder / "variable.h5"
    save(random_circuit(5, 2), folder / "circuit.h5")
    with h5py.File(folder / "circuit.h5") as source, h5py.File(path, "w") as target:
        for name in source:
            source.copy(name, target)
        target.attrs.update(source.attrs)
        target.attrs["format"] = "juice-bridge-circuit"
        target["layers/0"].attrs["kind"] = "input"
    return path, load


class StoppedError(Exception):
    pass


def checkpoint_file(optimizer: Any, folder: Path) -> tuple[Path, Callable[[Path], Circuit]]:
    """A checkpoint after two of three epochs, of which the first was the best."""
    path = folder / f"{optimizer}.h5"
    engine, circuit = TorchEngine(), random_circuit(5, 2)
    rng = np.random.default_rng(0)
    x, valid = (rng.integers(0, circuit.categories, (n, 2)) for n in (30, 1))
    options = FitOptions(optimizer, epochs=3, batch_size=10, pseudocount=0.0, seed=1)

    def fit(checkpoint: Path, stop: bool = False) -> Circuit:
        def on_epoch(epoch: Any) -> None:
            if stop and epoch.epoch == 1:
                raise StoppedError

        return engine.fit(
            circuit, x, options, valid=valid, checkpoint=checkpoint, on_epoch=on_epoch
        ).circuit

    try:
        fit(path, stop=True)
    except StoppedError:
        return path, fit
    raise AssertionError("the training was not stopped")


JSON_VALUES = (
    "9" * 5000,
    "9" * 4000,
    "-1",
    "1e999",
    "NaN",
    "null",
    "true",
    "{}",
    "[]",
    '"x"',
    "[" * 100_000,
)


def region_graphs() -> Iterator[str]:
    """A region graph in which every value, key and bracket is another thing in turn."""
    text = random_region_graph(5, 2, 2, seed=0).to_json()
    tokens = json.JSONDecoder().decode(text)

    def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        yield at
        if isinstance(value, dict | list):
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            for key, entry in inner:
                yield from places(entry, (*at, key))

    mark = "@@"
    for at in places(tokens):
        copy = json.loads(text)
        if not at:
            yield from JSON_VALUES
            continue
        holder = copy
        for key in at[:-1]:
            holder = holder[key]
        holder[at[-1]] = mark
        for value in JSON_VALUES:
            yield json.dumps(copy).replace(f'"{mark}"', value)
        del holder[at[-1]]
        yield json.dumps(copy)


def walk(told: collections.Counter[str], name: str, read: Callable[[], object]) -> None:
    """Read once: what comes is a sentence that names the file, or a valid circuit."""
    try:
        found = read()
        if isinstance(found, Circuit):
            check(found)
        told["read"] += 1
    except UserError as error:
        sentence = str(error)
        good = "\n" not in sentence and sentence.endswith(".") and len(sentence) < 600
        told["refused" if good else f"{name}: {sentence[:300]}"] += 1
    except BaseException:
        told[f"{name}: {traceback.format_exc()[-400:]}"] += 1


def main(kind: str, count: int) -> None:
    folder = Path(tempfile.mkdtemp())
    bad = folder / "bad"
    told: collections.Counter[str] = collections.Counter()
    if kind == "region graph":
        whole = random_region_graph(5, 2, 2, seed=0).to_json().encode()
        texts = (text.encode() for text in region_graphs())
        for content in (*texts, *changed_bytes(whole, 0, count)):
            bad.write_bytes(content)
            walk(told, repr(content[:80]), lambda: load_region_graph(bad))
    else:
        makers: dict[str, Any] = {"circuit": circuit_file, "variable text": variable_text}
        if kind in makers:
            path, read = makers[kind](folder)
        else:
            path, read = checkpoint_file(kind, folder)
        whole = path.read_bytes()
        bad.write_bytes(whole)
        read(bad)
        for name, damage in damages(path) if kind != "variable text" else ():
            bad.write_bytes(whole)
            with h5py.File(bad, "r+") as file:
                damage(file)
            walk(told, name, lambda: read(bad))
        for number, content in enumerate(changed_bytes(whole, 1, count)):
            bad.write_bytes(content)
            walk(told, f"bytes {number}", lambda: read(bad))
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
