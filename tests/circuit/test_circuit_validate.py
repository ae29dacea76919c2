"""What ``check`` accepts and what it refuses."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import enumerate_log_likelihood, scopes
from random_circuits import circuits

from pyjuice_bridge.circuit import Circuit, InputLayer, ProductLayer, SumLayer, check
from pyjuice_bridge.errors import UserError


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def rows(*shape: int) -> np.ndarray:
    return np.full(shape, 1 / shape[-1])


def base() -> Circuit:
    """Two variables; layer 2 mixes two hadamard blocks (4, 5) with tied weights into 6 and 7."""
    return Circuit(
        3,
        (
            InputLayer(ints(0, 0, 1, 1), ints(0, 1, 0, 1), rows(2, 2, 3)),
            ProductLayer("hadamard", ints(0, 2, 4), ints(0, 2, 1, 3)),
            SumLayer(ints(0, 2, 4), ints(4, 5, 5, 4), ints(0, 1, 0, 1), rows(2, 1, 2) / 2),
            SumLayer(ints(0, 2), ints(6, 7), ints(0, 1), rows(2, 1, 1) / 2),
        ),
        ints(8),
        {"z": ints(4)},
    )


def change(layer: int, **arrays: object) -> Circuit:
    circuit = base()
    layers = list(circuit.layers)
    layers[layer] = replace(layers[layer], **arrays)
    return replace(circuit, layers=tuple(layers))


def spoilt(layer: int, array: str, index: tuple[int, ...], value: float) -> Circuit:
    values = getattr(base().layers[layer], array).copy()
    values[index] = value
    return change(layer, **{array: values})


KRONECKER = ProductLayer("kronecker", ints(0, 2, 5), ints(0, 2, 1, 3, 2))
WIDE_ROOT = SumLayer(ints(0, 2), ints(6, 7), ints(0, 1), rows(2, 2, 1) / 2)


def tied(**changes: object) -> Circuit:
    """Layer 3 mixes two blocks as layer 2 does: 8 like 7, 9 like 6."""
    first = SumLayer(ints(0, 1, 3), ints(4, 4, 5), ints(0, 1, 2), rows(3, 2, 2) / 2)
    first.weights[0] *= 2
    second = SumLayer(ints(0, 2, 3), ints(6, 7, 7), ints(1, 2, 0), first.weights, 2)
    root = SumLayer(ints(0, 2), ints(8, 9), ints(0, 1), rows(2, 1, 2) / 2)
    layers = (*base().layers[:2], first, replace(second, **changes), root)
    return replace(base(), layers=layers, roots=ints(10))


REFUSED = {
    "tied to a later layer": (tied(tied_to=4), "/layers/3/tied_to: names layer 4"),
    "tied to a product": (tied(tied_to=1), "/layers/3/tied_to: names layer 1"),
    "tied, but other weights": (
        tied(weights=tied().layers[2].weights.copy()),
        "/layers/3/weights: must be the very array of layer 2",
    ),
    "tied to half a list": (
        tied(offsets=ints(0, 1, 3), groups=ints(1, 2, 0)),
        "/layers/3/groups: the list of groups of block 8",
    ),
    "tied in another place": (
        tied(groups=ints(2, 1, 0)),
        "/layers/3/groups: the list of groups of block 8",
    ),
    "no variables": (replace(base(), num_vars=0), "num_vars is 0"),
    "no layers": (replace(base(), layers=()), "/layers: there is no layer"),
    "no leaves": (replace(base(), layers=base().layers[1:]), "no input layer"),
    "ids are int64": (change(1, children=np.array([0, 2, 1, 3])), "/layers/1/children: has type"),
    "params are integers": (change(0, params=np.ones((2, 2, 3), int)), "/layers/0/params: has"),
    "params have no width": (change(0, params=np.ones((2, 3))), "/layers/0/params: has shape"),
    "no categories": (change(0, params=np.ones((2, 2, 0))), "/layers/0/params: has shape"),
    "unknown family": (change(0, family="gamma"), "/layers/0: family is 'gamma'"),
    "unknown kind": (change(1, kind="outer"), "/layers/1: kind 'outer'"),
    "groups too short": (change(0, groups=ints(0, 1, 0)), "/layers/0/groups: has 3 entries"),
    "edge groups short": (change(2, groups=ints(0, 1, 0)), "/layers/2/groups: has 3 entries"),
    "unknown group": (change(0, groups=ints(0, 2, 0, 1)), "/layers/0/groups: names group 2"),
    "unused group": (change(0, groups=ints(0, 0, 0, 0)), "/layers/0/params: group 1 is used"),
    "unknown variable": (change(0, variables=ints(0, 0, 3, 3)), "/layers/0/variables: names var"),
    "negative variable": (change(0, variables=ints(0, 0, -1, 1)), "/layers/0/variables: names"),
    "offsets fall": (change(1, offsets=ints(0, 5, 4)), "/layers/1/offsets: must rise"),
    "childless block": (change(1, offsets=ints(0, 0, 4)), "/layers/1/offsets: must rise"),
    "offsets end early": (change(1, offsets=ints(0, 2, 3)), "/layers/1/offsets: must rise"),
    "child of the same layer": (change(2, children=ints(4, 5, 6, 4)), "names block 6"),
    "child of a later layer": (change(1, children=ints(0, 2, 8, 3)), "names block 8"),
    "negative child": (change(2, children=ints(4, -1, 5, 4)), "/layers/2/children: names block -1"),
    "NaN": (spoilt(0, "params", (0, 1, 2), np.nan), "/layers/0/params: holds nan at [0, 1, 2]"),
    "negative": (spoilt(2, "weights", (1, 0, 0), -0.1), "/layers/2/weights: holds -0.1 at"),
    "infinite": (spoilt(0, "params", (0, 0, 0), np.inf), "/layers/0/params: row 0 of group 0"),
    "leaf row": (spoilt(0, "params", (1, 1, 1), 0.4), "/layers/0/params: row 1 of group 1"),
    "sum row": (spoilt(2, "weights", (1, 0, 1), 0.5), "/layers/2/weights: row 0 of group 0"),
    "half tied": (
        change(2, groups=ints(0, 1, 0, 2), weights=rows(3, 1, 2) / 2),
        "/layers/2/groups: blocks 6 and 7 share group 0",
    ),
    "tied in another order": (change(2, groups=ints(0, 1, 1, 0)), "blocks 6 and 7 share group"),
    "tied to a part": (
        change(2, offsets=ints(0, 2, 3), children=ints(4, 5, 5), groups=ints(0, 1, 0)),
        "blocks 6 and 7 share group 0",
    ),
    "group twice": (
        change(2, groups=ints(0, 0, 1, 2), weights=rows(3, 1, 2) / 2),
        "/layers/2/groups: block 6 names group 0 twice",
    ),
    "not smooth": (change(3, children=ints(6, 4)), "has another width"),
    "sum over other scopes": (
        change(2, children=ints(4, 5, 5, 0)),
        "/layers/2/children: block 7 is not smooth",
    ),
    "concat over other scopes": (
        change(1, kind="concat"),
        "/layers/1/children: block 4 is not smooth",
    ),
    "overlap": (
        change(1, children=ints(0, 1, 1, 0)),
        "/layers/1/children: block 4 is not decomposable: variable 0",
    ),
    "kronecker of three": (
        replace(base(), layers=(base().layers[0], KRONECKER)),
        "/layers/1/offsets: every kronecker",
    ),
    "wide root": (
        replace(base(), layers=(*base().layers[:3], WIDE_ROOT)),
        "/roots: block 8 has width 2",
    ),
    "no root": (replace(base(), roots=ints()), "/roots: has shape (0,)"),
    "root out of range": (replace(base(), roots=ints(9)), "/roots: names block 9"),
    "latent out of range": (replace(base(), latents={"z": ints(-2)}), "/latents/z: names block -2"),
    "latent name": (replace(base(), latents={"a/b": ints(4)}), "/latents: the name 'a/b'"),
    "meta value": (replace(base(), meta={"a": [1]}), "/meta: 'a' must be"),
    "meta too large": (replace(base(), meta={"a": 2**63}), "/meta: 'a' must be"),
    "meta name": (replace(base(), meta={"": 1}), "the name ''"),
}


def test_the_circuit_that_the_damage_starts_from_is_valid() -> None:
    check(base())
    assert enumerate_log_likelihood(base()) == pytest.approx(0)
    check(tied())
    assert enumerate_log_likelihood(tied()) == pytest.approx(0)
    check(tied(offsets=ints(0, 1, 2), children=ints(6, 7), groups=ints(0, 0)))


@pytest.mark.parametrize("case", REFUSED)
def test_refuses_in_one_sentence_naming_the_array(case: str) -> None:
    circuit, message = REFUSED[case]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check(circuit, "some.h5")
    text = str(caught.value)
    assert text.startswith("some.h5: ") and text.endswith(".") and "\n" not in text


def test_refuses_mixed_widths_in_a_layer() -> None:
    leaves = (
        InputLayer(ints(0), ints(0), rows(1, 2, 3)),
        InputLayer(ints(1), ints(0), rows(1, 3, 3)),
    )
    for kind in ("hadamard", "concat", "kronecker"):
        offsets = ints(0, 1, 2) if kind != "kronecker" else ints(0, 2)
        layer = ProductLayer(kind, offsets, ints(0, 1))
        circuit = Circuit(2, (*leaves, layer), ints(0))
        expected = "/roots" if kind == "kronecker" else "/layers/2/children: the"
        with pytest.raises(UserError, match=expected):
            check(circuit)


def test_refuses_two_numbers_of_categories_for_one_variable() -> None:
    leaves = (
        InputLayer(ints(0), ints(0), rows(1, 1, 2)),
        InputLayer(ints(0), ints(0), rows(1, 1, 3)),
    )
    with pytest.raises(UserError, match="/layers/1/params: gives variable 0 3 categories"):
        check(Circuit(1, leaves, ints(0)))


def test_roots_may_overlap_in_part_but_their_products_may_not() -> None:
    """Roots over {0, 1} and {1, 2}: counting all variables at once cannot settle this one."""
    leaves = InputLayer(ints(0, 1, 2), ints(0, 0, 0), rows(1, 1, 2))
    roots = ProductLayer("hadamard", ints(0, 2, 4), ints(0, 1, 1, 2))
    check(Circuit(3, (leaves, roots), ints(3, 4)))
    wrong = ProductLayer("hadamard", ints(0, 2, 5), ints(0, 1, 1, 2, 1))
    with pytest.raises(UserError, match="block 4 is not decomposable: variable 1"):
        check(Circuit(3, (leaves, wrong), ints(3, 4)))


def test_repeated_squaring_does_not_overflow_the_count() -> None:
    """Block 64 counts 2^64 leaves, zero in 64 bits; with one leaf more it would look sound."""
    layers: list = [InputLayer(ints(0), ints(0), rows(1, 1, 2))]
    layers += [ProductLayer("hadamard", ints(0, 2), ints(i, i)) for i in range(64)]
    layers.append(ProductLayer("hadamard", ints(0, 2), ints(64, 0)))
    with pytest.raises(UserError, match="block 1 is not decomposable"):
        check(Circuit(1, tuple(layers), ints(65)))


@settings(max_examples=40, deadline=None)
@given(circuits())
def test_random_circuits_pass_and_are_distributions(circuit: Circuit) -> None:
    check(circuit)
    assert enumerate_log_likelihood(circuit) == pytest.approx(0, abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(circuits(), st.data())
def test_rewired_children_are_judged_as_by_explicit_scopes(
    circuit: Circuit, data: st.DataObject
) -> None:
    """Point one child somewhere else: ``check`` must refuse exactly what explicit sets refuse."""
    inner = [i for i, a in enumerate(circuit.layers) if not isinstance(a, InputLayer)]
    i = data.draw(st.sampled_from(inner))
    layer = circuit.layers[i]
    e = data.draw(st.integers(0, len(layer.children) - 1))
    children = layer.children.copy()
    old = circuit.widths[circuit.layer_of(int(children[e]))]
    same = [b for b in range(circuit.starts[i]) if circuit.widths[circuit.layer_of(b)] == old]
    children[e] = data.draw(st.sampled_from(same))
    layers = (*circuit.layers[:i], replace(layer, children=children), *circuit.layers[i + 1 :])
    changed = replace(circuit, layers=layers)
    if valid_scopes(changed):
        check(changed)
    else:
        with pytest.raises(UserError, match=r"not smooth|not decomposable"):
            check(changed)


def valid_scopes(circuit: Circuit) -> bool:
    found = scopes(circuit)
    for layer in circuit.layers:
        if isinstance(layer, InputLayer):
            continue
        for b in range(layer.num_blocks):
            below = [found[c] for c in layer.children[layer.offsets[b] : layer.offsets[b + 1]]]
            mixes = isinstance(layer, SumLayer) or layer.kind == "concat"
            if mixes and len(set(below)) > 1:
                return False
            if not mixes and sum(map(len, below)) != len(frozenset().union(*below)):
                return False
    return True
