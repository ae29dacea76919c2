"""Circuit files: round trip, what a reader refuses, atomic writing, and the specification."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from oracle import enumerate_log_likelihood
from random_circuits import circuits, random_circuit

from pyjuice_bridge.circuit import Circuit, ProductLayer, load, save
from pyjuice_bridge.circuit.h5_files import atomic_h5, open_checked, write_attribute
from pyjuice_bridge.errors import UserError

SPECIFICATION = Path(__file__).parents[2] / "docs" / "format.md"


def assert_identical(a: Circuit, b: Circuit) -> None:
    assert (a.num_vars, dict(a.meta)) == (b.num_vars, dict(b.meta))
    assert [type(a.meta[name]) for name in a.meta] == [type(b.meta[name]) for name in a.meta]
    pairs = [(a.roots, b.roots), *((a.latents[name], b.latents[name]) for name in a.latents)]
    assert set(a.latents) == set(b.latents)
    for old, new in zip(a.layers, b.layers, strict=True):
        assert type(old) is type(new)
        pairs += [(getattr(old, f.name), getattr(new, f.name)) for f in fields(old)]
    for old, new in pairs:
        if not isinstance(old, np.ndarray):
            assert old == new
        else:
            assert old.dtype == new.dtype
            assert old.shape == new.shape
            assert old.tobytes() == new.tobytes()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(circuit=circuits())
def test_what_is_loaded_is_bit_for_bit_what_was_saved(
    circuit: Circuit, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("round") / "c.h5"
    save(circuit, path)
    assert_identical(circuit, load(path))


def test_metadata_keeps_its_types_and_any_text(tmp_path: Path) -> None:
    circuit = random_circuit(0, 2)
    meta = {"text": "π ≈ 3.14", "empty": "", "long": "é" * 100_000, "least": -(2**63), "x": 1e-300}
    saved = Circuit(circuit.num_vars, circuit.layers, circuit.roots, {}, {**meta, "a/b": "slash"})
    save(saved, tmp_path / "c.h5")
    assert_identical(saved, load(tmp_path / "c.h5"))


def test_equal_circuits_make_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(random_circuit(3, 3), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_save_refuses_an_invalid_circuit_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    save(random_circuit(1, 2), path)
    before = path.read_bytes()
    good = random_circuit(1, 2)
    with pytest.raises(UserError, match=r"circuit for .*c\.h5: /roots"):
        save(Circuit(2, good.layers, np.array([10_000], np.int32)), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.h5"]


def replace_data(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable:
    def damage(file: h5py.File) -> None:
        data = change(file[name][()])
        del file[name]
        file.create_dataset(name, data=data)

    return damage


def set_attribute(name: str, key: str, value: object) -> Callable:
    def damage(file: h5py.File) -> None:
        file[name].attrs[key] = value

    return damage


def put(name: str, make: Callable[[h5py.File], object]) -> Callable:
    def damage(file: h5py.File) -> None:
        if name in file:
            del file[name]
        made = make(file)
        if made is not None:
            file[name] = made

    return damage


def shifted(values: np.ndarray) -> np.ndarray:
    values[..., 0] += 0.25
    return values


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((1,), np.dtype("<i4"))
    layout[:] = h5py.VirtualSource("elsewhere.h5", "roots", (1,))
    file.create_virtual_dataset("roots", layout)


def external(file: h5py.File) -> None:
    file.create_dataset("roots", (1,), "<i4", external=[("/etc/hostname", 0, 4)])


DAMAGE = {
    "other format": (set_attribute("/", "format", "other"), "format is 'other'"),
    "format is a number": (set_attribute("/", "format", 3), "attribute 'format' is 3"),
    "no format": (lambda f: f.attrs.pop("format"), "attribute 'format' is missing"),
    "newer version": (set_attribute("/", "version", 2), "version 2 of juice-bridge-circuit"),
    "no num_vars": (lambda f: f.attrs.pop("num_vars"), "attribute 'num_vars' is missing"),
    "too many variables": (set_attribute("/", "num_vars", 2**40), "num_vars is 1099511627776"),
    "list in an attribute": (set_attribute("/meta", "a", [1, 2]), "/meta: attribute 'a' must be"),
    "unknown layer": (set_attribute("/layers/0", "kind", "max"), "/layers/0: kind 'max'"),
    "no kind": (lambda f: f["layers/0"].attrs.pop("kind"), "/layers/0: attribute 'kind'"),
    "no layers": (put("layers", lambda f: None), "/layers: the group is missing"),
    "gap": (lambda f: f.move("layers/1", "layers/99"), "/layers: must hold the groups 0, 1, 2"),
    "no params": (put("layers/0/params", lambda f: None), "/layers/0/params: the dataset is miss"),
    "no roots": (put("roots", lambda f: None), "/roots: the dataset is missing"),
    "group for a dataset": (put("roots", lambda f: f.create_group("x")), "/roots: the dataset is"),
    "dataset for a group": (put("latents", lambda f: 3), "/latents: the group is missing"),
    "float ids": (replace_data("roots", lambda a: a.astype(float)), "/roots: has type float64"),
    "int64 ids": (replace_data("roots", lambda a: a.astype("i8")), "/roots: has type int64"),
    "big-endian": (replace_data("roots", lambda a: a.astype(">i4")), "/roots: has type >i4"),
    "half precision": (
        replace_data("layers/0/params", lambda a: a.astype("f2")),
        "/layers/0/params: has type float16",
    ),
    "flat params": (
        replace_data("layers/0/params", lambda a: a.ravel()),
        "/layers/0/params: has shape",
    ),
    "NaN": (replace_data("layers/0/params", lambda a: a * np.nan), "/layers/0/params: holds nan"),
    "row sums": (replace_data("layers/0/params", shifted), "/layers/0/params: row 0 of group 0"),
    "cycle": (replace_data("layers/2/children", lambda a: a * 0 + 9), "/layers/2/children: names"),
    "latent": (replace_data("latents/z", lambda a: a + 1000), "/latents/z: names block"),
    "tied to itself": (set_attribute("/layers/8", "tied_to", 8), "/layers/8: tied_to is 8"),
    "tied to leaves": (set_attribute("/layers/8", "tied_to", 0), "/layers/8: tied_to is 0"),
    "soft link": (put("roots", lambda f: h5py.SoftLink("/latents/z")), "/roots: is a soft link"),
    "external link": (
        put("layers/0/params", lambda f: h5py.ExternalLink("b.h5", "/params")),
        "/layers/0/params: is an external link",
    ),
    "link in meta": (put("meta/x", lambda f: h5py.SoftLink("/")), "/meta/x: is a soft link"),
    "virtual": (put("roots", virtual), "/roots: its data lies in another file"),
    "external data": (put("roots", external), "/roots: its data lies in another file"),
    "terabytes of nothing": (
        put("roots", lambda f: f.create_dataset("r", (2**45,), "<i4", chunks=(2**20,))),
        "/roots: shape (35184372088832,) needs more bytes",
    ),
    "compressed nothing": (
        put("roots", lambda f: f.create_dataset("r", (2**45,), "<i4", compression="gzip")),
        "/roots: shape (35184372088832,) needs more bytes",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_refuses_damage_in_one_sentence_naming_file_and_dataset(case: str, tmp_path: Path) -> None:
    damage, message = DAMAGE[case]
    path = tmp_path / "c.h5"
    save(random_circuit(5, 3), path)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and text.endswith(".") and "\n" not in text


def test_refuses_what_is_not_a_whole_hdf5_file(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    with pytest.raises(UserError, match="there is no such file"):
        load(path)
    path.write_text("layers: []")
    with pytest.raises(UserError, match=r"not an HDF5 file"):
        load(path)
    save(random_circuit(5, 2), path)
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 25).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"not an HDF5 file|truncated or damaged"):
            load(path)


def test_a_group_that_contains_itself_does_not_trap_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    save(random_circuit(5, 2), path)
    with h5py.File(path, "r+") as file:
        file["meta/self"] = file["meta"]
    assert load(path).num_vars == 2


def test_any_changed_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    """In a process of its own: the HDF5 library itself is what could crash."""
    path = tmp_path / "c.h5"
    save(random_circuit(7, 2), path)
    script = """
import sys
import numpy as np
from pyjuice_bridge.circuit import load
from pyjuice_bridge.errors import UserError
path, rng, refused = sys.argv[1], np.random.default_rng(0), 0
whole = np.fromfile(path, np.uint8)
for place in rng.integers(0, len(whole), 150):
    broken = whole.copy()
    broken[place] ^= rng.integers(1, 256, dtype=np.uint8)
    broken.tofile(path)
    try:
        load(path)
    except UserError as error:
        refused += str(error).startswith(path)
assert refused > 75, refused
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=120)


def test_compressed_files_and_other_strings_are_read_too(tmp_path: Path) -> None:
    """As another HDF5 library may write them: chunked, compressed, variable-length text."""
    path = tmp_path / "c.h5"
    circuit = random_circuit(5, 3)
    save(circuit, path)
    with h5py.File(path, "r+") as file:
        data = file["layers/0/params"][()]
        del file["layers/0/params"]
        file.create_dataset("layers/0/params", data=data, compression="gzip", shuffle=True)
        file.attrs["format"] = "juice-bridge-circuit"
        file["layers/0"].attrs["kind"] = "input"
        file.attrs["unknown"] = [1, 2, 3]
    assert_identical(circuit, load(path))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_h5(path) as file:
        file["x"] = 1 // 0
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]
    with pytest.raises(UserError, match=r"folder .*missing does not exist"):
        save(random_circuit(0, 1), tmp_path / "missing" / "a.h5")


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a POSIX feature")
def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
import numpy as np
from pyjuice_bridge.circuit.h5_files import atomic_h5
from pyjuice_bridge.errors import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    with atomic_h5(sys.argv[1]) as file:
        file["x"] = np.ones(100_000)
except UserError as error:
    assert "cannot be written" in str(error), error
else:
    raise SystemExit("nothing was refused")
"""
    path = tmp_path / "a.h5"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def test_open_checked_serves_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with atomic_h5(path) as file:
        write_attribute(file, "format", "something-else")
        write_attribute(file, "version", 3)
    with open_checked(path, "something-else", 3) as file:
        assert dict(file) == {}
    with pytest.raises(UserError, match="'juice-bridge-circuit' is needed"):
        load(path)


def test_the_specification_names_everything_the_writer_emits(tmp_path: Path) -> None:
    text = SPECIFICATION.read_text()
    emitted: set[str] = set()
    for seed in range(20):
        save(random_circuit(seed, 4), tmp_path / "c.h5")
        with h5py.File(tmp_path / "c.h5") as file:
            emitted |= {*file.attrs, *file}
            for layer in file["layers"].values():
                emitted |= {*layer, *layer.attrs, layer.attrs["kind"].decode()}
    kinds = {"input", "sum", "hadamard", "kronecker", "concat"}
    assert kinds <= emitted
    assert {
        name for name in emitted if f"`{name}`" not in text and f"`/{name}`" not in text
    } == set()


def test_the_example_of_the_specification_is_a_circuit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", SPECIFICATION.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, "docs/format.md", "exec"), {})
    circuit = load(tmp_path / "example.h5")
    assert any(isinstance(layer, ProductLayer) for layer in circuit.layers)
    assert enumerate_log_likelihood(circuit) == pytest.approx(0, abs=1e-6)
