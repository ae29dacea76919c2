"""Other programs' files: what they hold, what is refused, and back again.

``pyjuice_files/*.jpc`` were saved by PyJuice 2.6.3; ``expected.json`` has the log-likelihoods of
the nodes that its own loader made of them.
"""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from random_circuits import random_circuit

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.formats import FORMATS, read_circuit, write_circuit
from pyjuice_bridge.circuit.formats.juice import read_juice, write_juice
from pyjuice_bridge.circuit.formats.pickles import Refused, read_pickle
from pyjuice_bridge.circuit.formats.pyjuice import read_pyjuice, write_pyjuice
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import Hmm, random_hmm
from pyjuice_bridge.circuit.types import SumLayer
from pyjuice_bridge.cli import convert
from pyjuice_bridge.cli.main import main
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.table import structures

HERE = Path(__file__).parent / "pyjuice_files"
EXPECTED = json.loads((HERE / "expected.json").read_text())
WRITERS = {"pyjuice": write_pyjuice, "juice": write_juice}
SINGLE = {name: circuit for name, circuit in structures().items() if len(circuit.roots) == 1}


def log_p(circuit: pj.Circuit, x: Any) -> np.ndarray:
    return np.array([oracle.log_likelihood(circuit, row)[0] for row in np.asarray(x)])


def some_rows(circuit: pj.Circuit, count: int = 8) -> np.ndarray:
    sizes = np.maximum(circuit.categories, 0)
    return np.random.default_rng(0).integers(-1, sizes, (count, circuit.num_vars))


@pytest.mark.parametrize("name", EXPECTED)
def test_pyjuice_files_hold_what_pyjuice_says(name: str) -> None:
    circuit = read_circuit(HERE / f"{name}.jpc")
    np.testing.assert_allclose(
        log_p(circuit, EXPECTED[name]["x"]), EXPECTED[name]["log_p"], rtol=1e-6
    )


def test_structures_are_recognised() -> None:
    hmm = pj.load(HERE / "hmm.jpc", engine="torch")
    assert Hmm.of(hmm.circuit).transition.shape == (6, 6)
    assert hmm.circuit.num_parameters == 6 * 3 + 36 + 6
    tree = read_circuit(HERE / "hclt.jpc")
    assert tree.meta == {"structure": "hclt", "latent_states": 12}
    model = pj.load(HERE / "hclt.jpc", engine="torch")
    posterior = model.posteriors(np.array(EXPECTED["hclt"]["x"]))["z"]
    assert posterior.shape == (8, 5, 12)
    np.testing.assert_allclose(posterior.sum(2), 1, rtol=1e-5)


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("name", SINGLE)
def test_every_structure_comes_back(form: str, name: str, tmp_path: Path) -> None:
    circuit = SINGLE[name]
    WRITERS[form](circuit, tmp_path / "model.jpc")
    again = pj.load(tmp_path / "model.jpc", engine="torch").circuit
    x = some_rows(circuit)
    np.testing.assert_allclose(log_p(again, x), log_p(circuit, x), rtol=1e-6, atol=1e-6)
    if name in ("HCLT", "HMM"):
        assert again.meta["structure"] == name.lower()
        assert again.num_parameters == circuit.num_parameters
        assert len(again.latents["z"]) == circuit.num_vars


@pytest.mark.parametrize("form", WRITERS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), size=st.integers(1, 4))
def test_any_circuit_comes_back(
    form: str, seed: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    circuit = random_circuit(seed, size, np.float32)
    path = tmp_path_factory.mktemp("any") / "model.jpc"
    WRITERS[form](circuit, path)
    x = some_rows(circuit)
    np.testing.assert_allclose(
        log_p(read_circuit(path), x), log_p(circuit, x), rtol=1e-5, atol=1e-6
    )


def test_mixtures_and_products_are_written(tmp_path: Path) -> None:
    parts = [hclt([-1, 0, 0], 4, 3, seed=0), random_hmm(4, 3, 1).circuit(3)]
    for circuit in (pj.mixture(parts, [0.25, 0.75]), pj.product(parts)):
        x = some_rows(circuit)
        for form, write in WRITERS.items():
            write(circuit, tmp_path / form)
            np.testing.assert_allclose(
                log_p(read_circuit(tmp_path / form), x), log_p(circuit, x), rtol=1e-6, atol=1e-6
            )


def test_pyjuice_opens_what_is_written(tmp_path: Path) -> None:
    pyjuice = pytest.importorskip("pyjuice")
    for name, circuit in SINGLE.items():
        path = tmp_path / f"{name}.jpc"
        write_pyjuice(circuit, path)
        x = some_rows(circuit)
        found = [_pyjuice_log_p(pyjuice.load(str(path)), row) for row in x]
        np.testing.assert_allclose(found, log_p(circuit, x), rtol=1e-5)


def _pyjuice_log_p(root: Any, row: np.ndarray) -> float:
    """Evaluate PyJuice's nodes one by one."""
    values: dict[Any, np.ndarray] = {}
    for node in root:
        source = node.get_source_ns()
        if node.is_input():
            table = source._params.numpy().reshape(node.num_nodes, -1).astype(float)
            value = row[node.scope.to_list()[0]]
            values[node] = table[:, value] if value >= 0 else np.ones(node.num_nodes)
        elif node.is_prod():
            edges = node.edge_ids.numpy()
            if len(edges) < node.num_nodes:
                inside = np.arange(node.block_size)[None, :, None]
                edges = (edges[:, None] * node.block_size + inside).reshape(node.num_nodes, -1)
            values[node] = np.prod([values[c][edges[:, j]] for j, c in enumerate(node.chs)], axis=0)
        else:
            below = np.concatenate([values[c] for c in node.chs]).reshape(-1, node.ch_block_size)
            out = np.zeros((node.num_node_blocks, node.block_size))
            for edge, (own, child) in enumerate(node.edge_ids.numpy().T):
                out[own] += source._params.numpy()[edge].astype(float) @ below[child]
            values[node] = out.ravel()
    return float(np.log(values[root][0]))


class Evil:
    """What a hostile pickle runs when it is opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched"),))


def entry(**changes: Any) -> dict[str, Any]:
    """An input of two nodes over a variable of two values."""
    dist = {"num_cats": 2}
    name = b"\x80\x02cpyjuice.nodes.distributions.categorical\nCategorical\n"
    raw = name + b")\x81" + pickle.dumps(dist, 2)[2:-1] + b"b."
    plain = {
        "type": "Input",
        "num_node_blocks": 2,
        "block_size": 1,
        "chs": (),
        "scope": [0],
        "dist": raw,
        "params": np.array([0.5, 0.5, 0.1, 0.9], np.float32),
    }
    return {k: v for k, v in {**plain, **changes}.items() if v is not None}


def top(**changes: Any) -> dict[str, Any]:
    plain = {
        "type": "Sum",
        "num_node_blocks": 1,
        "block_size": 1,
        "chs": (0,),
        "edge_ids": np.array([[0, 0], [0, 1]]),
        "params": np.array([0.25, 0.75], np.float32).reshape(2, 1, 1),
    }
    return {k: v for k, v in {**plain, **changes}.items() if v is not None}


def test_a_file_made_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.jpc").write_bytes(pickle.dumps([entry(), top()]))
    circuit = read_circuit(tmp_path / "x.jpc")
    np.testing.assert_allclose(np.exp(log_p(circuit, [[0], [1]])), [0.2, 0.8], rtol=1e-6)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_of_every_protocol_are_read(protocol: int) -> None:
    shared = [1, -5, 2**70, 0.5, None, True, "é", b"\0\xff"]
    value = {"list": shared, "again": shared, "tuple": (1, (2, 3), ()), "n": np.int64(7)}
    found = read_pickle(pickle.dumps(value, protocol))
    assert found == value and found["list"] is found["again"]
    for array in (np.arange(6.0).reshape(2, 3).T, np.zeros((0, 3), "f4"), np.array([True])):
        again = read_pickle(pickle.dumps({"a": array}, protocol))["a"]
        np.testing.assert_array_equal(again, array)
        assert again.dtype == array.dtype


@pytest.mark.parametrize(
    "raw",
    [
        pickle.dumps([Evil()]),
        pickle.dumps([entry(dist=pickle.dumps(Evil())), top()]),
        pickle.dumps([entry(params=np.array([Evil()], object)), top()]),
        pickle.dumps(print),
        pickle.dumps({1, 2}),
        pickle.dumps(np.array(["a"])),
        b"\x80\x04Ppersistent\n.",
        b"\x80\x04" + b"(" * 5 + b".",
        b"\x80\x04r" + struct.pack("<I", 2**31) + b".",
        b"\x80\x04]" + b"2" * 10 + b"t.",
        b"\x80",
    ],
)
def test_anything_but_data_is_refused_and_nothing_runs(
    raw: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.jpc").write_bytes(raw)
    with pytest.raises(UserError, match=r"^x\.jpc: [^\n]+$"):
        read_circuit("x.jpc")
    assert [path.name for path in tmp_path.iterdir()] == ["x.jpc"]


@pytest.mark.parametrize(
    ("nodes", "problem"),
    [
        ([], "no list of nodes"),
        ([{"type": "Leaf"}], "node 0 is no input"),
        ([entry(num_node_blocks=None), top()], "num_node_blocks is None"),
        ([entry(params=None), top()], "node 0 has no parameters"),
        ([entry(params=np.ones(3, "f4")), top()], "3 parameters for 2 nodes"),
        ([entry(params=np.ones(4, "f4")), top()], "rows of node 0"),
        ([entry(params=np.array([2, -1, 1, 0], "f4")), top()], "rows of node 0"),
        ([entry(params=np.full(4, np.nan, "f4")), top()], "rows of node 0"),
        ([entry(scope=[0, 1]), top()], "a scope of one variable"),
        ([entry(dist=b"no"), top()], "read safely"),
        ([entry(), top(chs=(1,))], "chs must be earlier nodes"),
        ([entry(), top(chs=())], "chs must be earlier nodes"),
        ([entry(), top(edge_ids=np.array([[0, 0], [0, 2]]))], "a block that is not there"),
        ([entry(), top(edge_ids=np.array([[0, 0], [1, 1]]))], "an edge twice"),
        ([entry(), top(params=np.ones((2, 1, 1), "f4"))], "rows of node 1"),
        ([entry(), top(external_params=b"x")], "external parameters"),
        ([entry(), top(source_node=7)], "source_node is 7"),
        ([entry(), top(source_node=0)], "another form"),
        ([entry()], "its root has 2 nodes"),
    ],
)
def test_what_is_no_circuit_is_one_sentence(nodes: Any, problem: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpc").write_bytes(pickle.dumps(nodes))
    with pytest.raises(UserError, match=problem) as caught:
        read_pyjuice(tmp_path / "x.jpc")
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_never_ends_in_a_traceback(data: Any) -> None:
    raw = bytearray((HERE / "hmm.jpc").read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[place] = data.draw(st.integers(0, 255))
    else:
        del raw[place:]
    try:
        read_pickle(bytes(raw))
    except Refused:
        return


@pytest.mark.parametrize("cut", range(0, 2400, 61))
def test_truncated_files_are_refused(cut: int, tmp_path: Path) -> None:
    raw = (HERE / "hmm.jpc").read_bytes()[:cut]
    (tmp_path / "x.jpc").write_bytes(raw)
    with pytest.raises(UserError):
        read_circuit(tmp_path / "x.jpc")


JUICE = """\
c a comment
jpc 7
L 0 0 1
L 1 0 -1
I 2 0 2 0
C 3 0 2 -0.6931471805599453 -0.6931471805599453
P 4 0 2 0 2
P 5 0 2 1 3
S 6 0 2 4 -1.3862943611198906 5 -0.2876820724517809
"""


def test_juice_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.jpc").write_text(JUICE)
    (tmp_path / "x.jpc.gz").write_bytes(gzip.compress(JUICE.encode()))
    for name in ("x.jpc", "x.jpc.gz"):
        circuit = pj.load(tmp_path / name, engine="torch").circuit
        x = [[1, 0], [1, 1], [0, 0], [0, 1]]
        np.testing.assert_allclose(
            np.exp(log_p(circuit, x)), [0.25, 0, 0.375, 0.375], rtol=1e-6, atol=1e-12
        )


@pytest.mark.parametrize("keep", [1, 10, 40, -4])
def test_a_damaged_archive_is_one_sentence(keep: int, tmp_path: Path) -> None:
    (tmp_path / "x.jpc.gz").write_bytes(gzip.compress(JUICE.encode())[:keep])
    with pytest.raises(UserError, match=r"x\.jpc\.gz"):
        read_circuit(tmp_path / "x.jpc.gz")


def test_binomial_leaves_become_categorical(tmp_path: Path) -> None:
    (tmp_path / "x.jpc").write_text(f"jpc 1\nB 0 0 1 4 {np.log(0.3)}\n")
    found = np.exp(log_p(read_juice(tmp_path / "x.jpc"), np.arange(5)[:, None]))
    from scipy.stats import binom

    np.testing.assert_allclose(found, binom.pmf(range(5), 4, 0.3), rtol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("L 0 0 1", "B 0 0 1 3 1000", "line 3"),
        ("jpc 7", "jpc 8", "says 8 nodes, but holds 7"),
        ("L 1", "L 2", "line 4: is no node of a Juice circuit with id 1"),
        ("P 4 0 2 0 2", "P 4 0 2 0 9", "line 7"),
        ("P 4 0 2 0 2", "P 4 0 3 0 2", "line 7"),
        ("L 0 0 1", "L 0 0 0", "line 3"),
        ("L 0 0 1", "X 0 0 1", "line 3"),
        ("-0.2876820724517809", "0.5", "line 9"),
        ("-0.2876820724517809", "nan", "line 9"),
        ("-0.2876820724517809", "-0.1", "line 9"),
        ("P 4 0 2 0 2", "P 4 0 2 0 1", "not decomposable|share|overlap|scope"),
    ],
)
def test_damaged_juice_text_is_one_sentence(
    old: str, new: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "x.jpc").write_text(JUICE.replace(old, new))
    with pytest.raises(UserError, match=problem) as caught:
        read_circuit(tmp_path / "x.jpc")
    assert "\n" not in str(caught.value)


def test_ties_survive_pyjuice_and_are_spelled_out_for_juice(tmp_path: Path) -> None:
    circuit = SINGLE["glued patches"]
    write_pyjuice(circuit, tmp_path / "p.jpc")
    write_juice(circuit, tmp_path / "j.jpc")
    tied, spelled = read_circuit(tmp_path / "p.jpc"), read_circuit(tmp_path / "j.jpc")
    assert tied.num_parameters < spelled.num_parameters
    inner = [layer for layer in tied.layers if isinstance(layer, SumLayer)]
    assert any(len(set(layer.groups.tolist())) < len(layer.groups) for layer in inner)


def test_ctrlg_folders_are_opened_and_written(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    hmm = random_hmm(4, 6, seed=0)
    circuit = hmm.circuit(5)
    with pytest.raises(UserError, match="end in a token of their own"):
        write_circuit(circuit, tmp_path / "model", "ctrlg")
    named = pj.Circuit(circuit.num_vars, circuit.layers, circuit.roots, circuit.latents, {"end": 5})
    write_circuit(named, tmp_path / "model", "ctrlg")
    opened = pj.load(tmp_path / "model", engine="torch")
    assert opened.text.hmm.states == 4 and opened.circuit.meta["end"] == 5
    np.testing.assert_allclose(opened.text.hmm.transition, hmm.transition, rtol=1e-5)


def test_the_command_converts_by_content(tmp_path: Path) -> None:
    circuit = SINGLE["HCLT"]
    x = some_rows(circuit)
    pj.Model(circuit).save(tmp_path / "model.h5")
    steps = [("model.h5", "p.jpc", "pyjuice"), ("p.jpc", "j.jpc", "juice"), ("j.jpc", "b.h5", "")]
    for source, out, form in steps:
        options = ["--to", form] if form else []
        arguments = ["convert", str(tmp_path / source), str(tmp_path / out), *options]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0 and "hclt of 4 variables" in done.output
    again = pj.load(tmp_path / "b.h5", engine="torch").circuit
    np.testing.assert_allclose(log_p(again, x), log_p(circuit, x), rtol=1e-6, atol=1e-6)
    refused = CliRunner().invoke(main, ["convert", str(tmp_path / "b.h5"), str(tmp_path / "c.jpc")])
    assert refused.exit_code == 1 and not (tmp_path / "c.jpc").exists()


def test_several_roots_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    bundle = structures()["patch bundle"]
    for write in WRITERS.values():
        with pytest.raises(UserError, match="one root"):
            write(bundle, tmp_path / "x.jpc")
    with pytest.raises(UserError, match=f"is not one of {', '.join(FORMATS)}"):
        write_circuit(bundle, tmp_path / "x.jpc", "onnx")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_the_command_knows_every_format() -> None:
    assert convert.FORMATS == FORMATS
