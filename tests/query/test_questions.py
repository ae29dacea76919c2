"""What may be asked with: arrays, tensors, frames and numbers of any kind, or one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch

import pyjuice_bridge as pj
from pyjuice_bridge.circuit.hclt import hclt
from pyjuice_bridge.circuit.hmm import random_hmm
from pyjuice_bridge.codecs import ImageCodec, TableCodec, TextCodec
from pyjuice_bridge.codecs.text import Vocabulary
from pyjuice_bridge.data.colour import COLOURS, get_colour
from pyjuice_bridge.engines import get_engine
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.query.model import Model
from pyjuice_bridge.query.text import TextModel

ENGINE = get_engine("torch", "cpu")


def colour_model(colour: str) -> Model:
    """Two pixels; leaves are sharp, so that a wrong code shows."""
    sizes = np.tile(get_colour(colour).categories, 2)
    circuit = hclt(np.arange(-1, 5), 2, sizes, seed=3)
    shape = {"image_height": 1, "image_width": 2, "image_channels": 3, "colour": colour}
    return Model(replace(circuit, meta=shape), ENGINE)


def grey_model() -> Model:
    return Model(hclt([-1, 0, 1, 2], 2, 3, seed=0), ENGINE, image_shape=(2, 2, 1))


def table_model(**named: Any) -> Model:
    circuit = hclt([-1, 0, 1], 2, [2, 3, 4], seed=0)
    return Model(circuit, ENGINE, codec=TableCodec(circuit.categories, **named))


# Images with missing pixels are the same question as rows.


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_images_and_rows_are_one_question_under_every_colour(colour: str, dtype: Any) -> None:
    model = colour_model(colour)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 128, (4, 1, 2, 3))
    hidden = np.array([[[True, False]], [[False, True]], [[True, True]], [[False, False]]])
    images = np.where(hidden[..., None], -1, pixels).astype(dtype)
    codes = get_colour(colour).encode(pixels.astype(np.uint8)).astype(np.int64)
    rows = np.where(hidden[..., None], -1, codes).reshape(4, 6)
    expected = [oracle.log_likelihood(model.circuit, row)[0] for row in rows]
    np.testing.assert_allclose(model.log_likelihood(images), expected, rtol=1e-5, atol=1e-5)
    for ask in (
        lambda x: model.log_likelihood(x),
        lambda x: model.mpe(x)[1],
        lambda x: model.posteriors(x)["z"],
        lambda x: model.marginals(x),
        lambda x: model.map_approximate(x, samples=2, sweeps=0).log_p,
        lambda x: model.conditional(x[3:].repeat(4, axis=0), x),
    ):
        np.testing.assert_array_equal(ask(images), ask(rows))
    drawn = model.sample(3, images, seed=1)
    from_rows = model.codec.decode(model.sample(3, rows, seed=1))
    unknown = hidden[:, None, ..., None] & np.ones_like(drawn, bool)
    np.testing.assert_array_equal(drawn[unknown], from_rows[unknown])
    np.testing.assert_array_equal(drawn[~unknown], images[:, None].repeat(3, 1)[~unknown])


@pytest.mark.parametrize("colour", ["ycbcr_lossy", "ycocg_lossy"])
def test_inpainting_under_a_lossy_colour_draws_many_colours(colour: str) -> None:
    model = colour_model(colour)
    images = np.zeros((200, 1, 2, 3), np.uint8)
    filled = model.inpaint(images, np.array([[True, False]]), seed=0)
    assert len(np.unique(filled[:, 0, 0], axis=0)) > 100
    assert (filled[:, 0, 1] == 0).all()


def test_unsigned_arrays_of_every_width_hold_no_missing_values() -> None:
    """Against -1 in another array of the same question, which would become floats or 255."""
    model = grey_model()
    x = np.array([[0, 1, 2, 0]])
    given = np.array([[-1, 1, -1, -1]])
    expected = model.conditional(x, given)
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        np.testing.assert_array_equal(model.conditional(x.astype(dtype), given), expected)
        images = x.astype(dtype).reshape(1, 2, 2, 1)
        filled = model.inpaint(images, np.array([[True, False], [False, True]]), seed=2)
        assert filled[0, 0, 1, 0] == 1 and filled[0, 1, 0, 0] == 2 and filled.max() < 3
    with pytest.raises(UserError, match="out of range"):
        model.log_likelihood(np.array([[2**63, 0, 0, 0]], np.uint64))


def test_float_images_are_refused_by_every_query() -> None:
    for model, sides in ((grey_model(), (2, 2, 1)), (colour_model("ycocg_r"), (1, 2, 3))):
        images = np.full((2, *sides), 0.5)
        mask = np.zeros(sides[:2], bool)
        for ask in (
            model.log_likelihood,
            model.bits_per_dim,
            model.evaluate,
            model.mpe,
            model.posteriors,
            model.marginals,
            lambda x, m=model: m.sample(1, x),
            lambda x, m=model, hidden=mask: m.inpaint(x, hidden),
            lambda x, m=model: m.conditional(x, x),
        ):
            for floats in (images, images.astype(np.float32), torch.tensor(images).bfloat16()):
                with pytest.raises(UserError, match="images: expected integers 0 … 255"):
                    ask(floats)


def test_grey_images_may_leave_their_channel_out() -> None:
    model = grey_model()
    images = np.array([[[0, 1], [2, 0]], [[-1, 1], [2, -1]]])
    np.testing.assert_array_equal(
        model.log_likelihood(images), model.log_likelihood(images[..., None])
    )
    full = np.abs(images)
    assert model.bits_per_dim(full) == model.bits_per_dim(full[..., None])
    drawn = model.sample(2, images, seed=0)
    assert drawn.shape == (2, 2, 2, 2) and drawn.dtype == np.uint8
    assert (drawn[1, :, 0, 1] == 1).all()
    mask = np.array([[[True, False], [False, False]], [[False, False], [False, True]]])
    each = model.inpaint(full, mask, seed=0)
    assert each.shape == (2, 2, 2)
    np.testing.assert_array_equal(each, model.inpaint(full[..., None], mask, seed=0)[..., 0])
    np.testing.assert_array_equal(each[~mask], full[~mask])


def test_a_mask_per_image_gives_each_its_own_conditional() -> None:
    """Frequencies of the one hidden pixel of each image against enumeration."""
    model = grey_model()
    images = np.array([[0, 1, 2, 0], [2, 2, 1, 0]], np.uint8).repeat(8000, axis=0)
    mask = np.zeros((16000, 2, 2), bool)
    mask[:8000, 0, 0] = mask[8000:, 1, 1] = True
    filled = model.inpaint(images.reshape(-1, 2, 2), mask, seed=0).reshape(-1, 4)
    for rows, row, place in ((filled[:8000], [0, 1, 2, 0], 0), (filled[8000:], [2, 2, 1, 0], 3)):
        logs = []
        for value in range(3):
            row[place] = value
            logs.append(oracle.log_likelihood(model.circuit, row)[0])
        p = np.exp(logs) / np.exp(logs).sum()
        shares = np.bincount(rows[:, place], minlength=3) / len(rows)
        np.testing.assert_allclose(shares, p, atol=5 * np.sqrt(0.25 / 8000))


# Arrays of any kind.


def test_masked_arrays_keep_their_mask() -> None:
    model = grey_model()
    gaps = np.array([[0, -1, 2, 0]])
    expected = model.log_likelihood(gaps)
    for dtype in (np.uint8, np.int8, np.int64):
        masked = np.ma.masked_array(np.array([[0, 1, 2, 0]], dtype), [[False, True, False, False]])
        np.testing.assert_array_equal(model.log_likelihood(masked), expected)
        images = masked.reshape(1, 2, 2, 1)
        np.testing.assert_array_equal(model.log_likelihood(images), expected)
        assert (model.sample(5, images, seed=0)[0, :, 0, 0, 0] == 0).all()


def test_tables_take_floats_with_nan_booleans_and_masks() -> None:
    model = table_model()
    expected = model.log_likelihood(np.array([[1, -1, 3], [0, 2, -1]]))
    floats = np.array([[1.0, np.nan, 3.0], [0.0, 2.0, np.nan]])
    for x in (
        floats,
        floats.astype(np.float32),
        torch.tensor(floats).bfloat16(),
        np.ma.masked_invalid(floats),
        floats.tolist(),
    ):
        np.testing.assert_array_equal(model.log_likelihood(x), expected)
    bits = np.array([[True, False, True]])
    np.testing.assert_array_equal(
        model.log_likelihood(bits), model.log_likelihood(bits.astype(int))
    )
    for wrong in (0.5, np.inf, -np.inf, 1e300):
        with pytest.raises(UserError, match=r"x: the value at \[0, 1\] is"):
            model.log_likelihood(np.array([[0.0, wrong, 0.0]]))
    with pytest.raises(UserError, match="row 0, variable 1 is 3"):
        model.log_likelihood(np.array([[0.0, 3.0, 0.0]]))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[0, 1, 2], [0, 1]], "differ in length"),
        ("cat", "expected integers.*got strings"),
        ([["a", "b", "c"]], "expected integers.*got strings"),
        (None, "expected integers.*got objects"),
        (np.array([[0, None, 1]], object), "expected integers.*got objects"),
        (3, "expected shape"),
        (np.zeros((1, 3), complex), "expected integers.*got complex128"),
        (np.zeros((1, 3), "datetime64[s]"), "expected integers.*got datetime64"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_array_is_refused_in_one_sentence(x: Any, message: str) -> None:
    model = table_model()
    for ask in (model.log_likelihood, model.mpe, model.marginals):
        with pytest.raises(UserError, match=message):
            ask(x)


# Numbers of any kind.

INTEGERS = [np.int64, np.int32, np.uint8, torch.tensor, np.array]


@pytest.mark.parametrize("kind", INTEGERS, ids=lambda kind: kind.__name__)
def test_integers_of_every_kind(kind: Callable[[int], Any]) -> None:
    model, text = grey_model(), Model(random_hmm(2, 4, 0).circuit(5), ENGINE).text
    np.testing.assert_array_equal(model.sample(kind(2), seed=kind(3)), model.sample(2, seed=3))
    found = model.map_approximate([[-1] * 4], samples=kind(2), sweeps=kind(1), seed=kind(0))
    assert found.x.shape == (1, 4)
    x = np.array([[0, -1, 2]])
    np.testing.assert_array_equal(text.infill(x, kind(2), seed=kind(1)), text.infill(x, 2, seed=1))
    constraint = pj.Constraint.any_of([[1, 2]], kind(3), eos=kind(3), min_length=kind(1))
    assert constraint == pj.Constraint.any_of([[1, 2]], 3, eos=3, min_length=1)
    processor = text.processor(constraint, prompt_length=kind(2), skip=kind(1))
    ids = torch.tensor([[0, 1]])
    expected = text.processor(constraint, prompt_length=2, skip=1)(ids, torch.zeros(1, 4))
    assert torch.equal(processor(ids, torch.zeros(1, 4)), expected)


PHRASE = pj.Constraint.any_of([[1]], 3)
NO_NUMBERS = [2.5, "3", True, np.bool_(True), [2], np.array([1, 2]), torch.tensor(True), np.nan]


def number_questions() -> dict[str, Callable[[Any], Any]]:
    model, text = grey_model(), Model(random_hmm(2, 4, 0).circuit(5), ENGINE).text
    blank, gap = np.full((1, 4), -1), np.array([[0, -1, 2]])
    images, mask = np.zeros((1, 2, 2), int), np.eye(2) > 0
    return {
        "n": model.sample,
        "n ": lambda n: text.infill(gap, n),
        "samples": lambda n: model.map_approximate(blank, samples=n),
        "sweeps": lambda n: model.map_approximate(blank, sweeps=n),
        "root": model.select,
        "seed": lambda n: model.sample(1, seed=n),
        "seed ": lambda n: text.infill(gap, seed=n),
        "seed  ": lambda n: model.inpaint(images, mask, seed=n),
        "tokens": lambda n: pj.Constraint.any_of([[1]], n),
        "eos": lambda n: pj.Constraint.any_of([[1]], 3, eos=n),
        "min_length": lambda n: pj.Constraint.any_of([[1]], 3, eos=2, min_length=n),
        "max_length": lambda n: pj.Constraint.any_of([[1]], 3, eos=2, max_length=n),
        "prompt_length": lambda n: text.processor(PHRASE, prompt_length=n),
        "skip": lambda n: text.processor(PHRASE, prompt_length=2, skip=[n]),
    }


@pytest.mark.parametrize("wrong", NO_NUMBERS, ids=repr)
def test_what_is_no_whole_number_is_refused_in_one_sentence(wrong: Any) -> None:
    for name, ask in number_questions().items():
        with pytest.raises(UserError, match=rf"{name.strip()} is .* must be a whole number"):
            ask(wrong)


def test_numbers_out_of_range_are_refused_in_one_sentence() -> None:
    questions = number_questions()
    for name, ask in questions.items():
        with pytest.raises(UserError, match=rf"^{name.strip()} is -1, must be a whole number from"):
            ask(-1)
    for name in ("n", "n ", "samples", "seed", "tokens", "max_length"):
        with pytest.raises(UserError, match=r"is 1[0,]+,? (more|must)"):
            questions[name](10**23)
    for ask in (questions["n"], questions["n "]):
        with pytest.raises(UserError, match="n is 0"):
            ask(0)
    with pytest.raises(UserError, match="tokens is 0, must be a whole number from 1"):
        questions["tokens"](0)
    with pytest.raises(UserError, match="skip is 3, must be a whole number from 0 to 2"):
        questions["skip"](3)


def odd_tensors() -> dict[str, torch.Tensor]:
    ones = torch.ones(2, 4)
    return {
        "sparse": ones.to_sparse(),
        "float8": ones.to(torch.float8_e4m3fn),
        "without values": torch.ones(2, 4, device="meta", dtype=torch.int64),
    }


@pytest.mark.parametrize("kind", odd_tensors())
def test_tensors_that_are_no_arrays_are_refused_in_one_sentence(kind: str) -> None:
    model = grey_model()
    for ask in (model.log_likelihood, model.mpe, lambda x: model.sample(1, x)):
        with pytest.raises(
            UserError, match=r"a tensor of torch.* cannot be read; give a dense one"
        ):
            ask(odd_tensors()[kind])


def test_what_is_no_circuit_path_or_list_is_refused_in_one_sentence(tmp_path: Path) -> None:
    model, x = grey_model(), np.zeros((1, 4), int)
    for wrong in (3, "model.h5", None):
        with pytest.raises(UserError, match="must be a Circuit"):
            pj.Model(wrong)  # type: ignore[arg-type]
    for wrong in (3, None, b"model.h5", "a\0b"):
        for ask in (pj.load, model.save):
            with pytest.raises(UserError, match="must be the path of a file or a run's folder"):
                ask(wrong)  # type: ignore[operator]
    with pytest.raises(UserError, match="variables is 3, must be a list"):
        model.marginals(x, 3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="latents is 3, must map the names of latents to arrays"):
        model.log_likelihood(x, 3)  # type: ignore[arg-type]
    for make in (pj.Constraint.any_of, pj.Constraint.all_of):
        for phrases in (3, "cat", None):
            with pytest.raises(UserError, match=r"phrases is .*, must be a list of phrases"):
                make(phrases, 3)  # type: ignore[arg-type]


def test_lone_surrogates_in_questions_and_vocabularies_are_refused() -> None:
    with pytest.raises(UserError, match=r"vocabulary: character 0 of .* lone surrogate"):
        Vocabulary(("a", "\ud800"))
    model = Model(random_hmm(2, 3, 0).circuit(2), ENGINE)
    text = TextModel.of(model, ["a", "b", "[UNK]"])
    for ask in (text.log_likelihood, text.perplexity, text.infill, text.viterbi):
        with pytest.raises(UserError, match="lone surrogate"):
            ask("a [MASK] \ud800")


def test_samples_differ_from_call_to_call_unless_seeded() -> None:
    model, text = grey_model(), Model(random_hmm(2, 50, 0).circuit(9), ENGINE).text
    images, mask = np.zeros((40, 2, 2, 1), np.uint8), np.ones((2, 2), bool)
    x = np.full((1, 30), -1)
    for ask in (
        lambda **seed: model.sample(100, **seed),
        lambda **seed: model.inpaint(images, mask, **seed),
        lambda **seed: text.infill(x, **seed),
    ):
        assert (ask() != ask()).any()
        np.testing.assert_array_equal(ask(seed=5), ask(seed=5))
        assert (ask(seed=5) != ask(seed=6)).any()


# Models: circuits by hand, tables by name, text by string.


def test_a_circuit_by_hand_becomes_a_model_of_images(tmp_path: Path) -> None:
    circuit = hclt([-1, 0, 1, 2], 2, 3, seed=0)
    plain = pj.Model(circuit)
    assert plain.image_shape is None and plain.engine.name in ("torch", "julia")
    model = pj.Model(circuit, image_shape=(2, 2, 1))
    assert model.sample(3).shape == (3, 2, 2, 1)
    model.save(tmp_path / "own.h5")
    again = pj.load(tmp_path / "own.h5")
    assert again.image_shape == (2, 2, 1) and again.circuit.meta["domain"] == "images"
    for wrong, message in (
        ((2, 3, 1), "does not fit the circuit's 4 variables"),
        ((2, 2), "expected height, width and channels"),
        (4, "expected height, width and channels"),
        ((2, 2, 1.0), "must be a whole number"),
        ((4, -1, -1), "must be a whole number"),
    ):
        with pytest.raises(UserError, match=message):
            pj.Model(circuit, image_shape=wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="reads 3 variables, but the circuit has 4"):
        pj.Model(circuit, codec=TableCodec(np.array([2, 2, 2], np.int32)))


def test_files_without_a_domain_are_recognised(tmp_path: Path) -> None:
    image = {"image_height": 1, "image_width": 2, "image_channels": 1, "colour": "rgb"}
    text = {"token": "words", "tokenizer": "words", "stride": 2, "joined": 1}
    hmm = random_hmm(2, 3, 0).circuit(4)
    for circuit, meta, kind in (
        (hclt([-1, 0], 2, 2, seed=0), image, ImageCodec),
        (hmm, text, TextCodec),
        (hclt([-1, 0], 2, 2, seed=0), {}, TableCodec),
    ):
        Model(replace(circuit, meta=meta), ENGINE).save(tmp_path / "old.h5")
        assert isinstance(pj.load(tmp_path / "old.h5").codec, kind)
    with pytest.raises(UserError, match="the domain is 'sounds'"):
        Model(replace(hmm, meta={"domain": "sounds"}), ENGINE)
    for damaged in ("x", 0, 1.5, -1):
        with pytest.raises(UserError, match="image_height is"):
            Model(replace(hmm, meta={**image, "image_height": damaged}), ENGINE)
    for key, damaged in (("stride", "x"), ("stride", 0), ("end", 3), ("joined", "no")):
        with pytest.raises(UserError, match="meta: stride"):
            Model(replace(hmm, meta={**text, key: damaged}), ENGINE)


def test_tables_by_name(tmp_path: Path) -> None:
    values = {"colour": ("red", "green", "blue"), "size": (10, 20, 30, 40)}
    model = table_model(columns=("sick", "colour", "size"), values=values)
    rows = np.array([[1, 2, -1], [-1, 0, 3]])
    expected = model.log_likelihood(rows)
    table = {
        "sick": [1, np.nan],
        "size": [np.nan, 40],
        "colour": np.array(["blue", "red"]),
    }
    np.testing.assert_array_equal(model.log_likelihood(table), expected)
    kinds = [("size", "i4"), ("colour", "U9"), ("sick", "i1")]
    structured = np.array([(-1, "blue", 1), (40, "red", -1)], kinds)
    np.testing.assert_array_equal(model.log_likelihood(structured), expected)
    drawn = model.sample(4, structured, seed=0)
    assert drawn.shape == (2, 4) and drawn.dtype.names == ("sick", "colour", "size")
    assert (drawn["colour"] == np.array([["blue"], ["red"]])).all()
    assert (drawn["size"][1] == 40).all() and set(drawn["size"][0]) <= {10, 20, 30, 40}
    codes = model.sample(4, rows, seed=0)
    np.testing.assert_array_equal(np.array(values["size"])[codes[..., 2]], drawn["size"])
    bits = -model.log_likelihood(rows).mean() / np.log(2)
    assert model.evaluate(table) == pytest.approx(bits)
    model.save(tmp_path / "table.h5")
    again = pj.load(tmp_path / "table.h5")
    np.testing.assert_array_equal(again.log_likelihood(table), expected)
    assert again.sample(5, seed=1).dtype == model.sample(5, seed=1).dtype


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sick": [1]}, "there is no column 'size'"),
        ({"sick": [1], "size": [10], "age": [3]}, "column 'age' is not in the circuit"),
        (
            {"sick": [1], "size": [15]},
            "column 'size', row 0: 15 is not one of its values: 10, 20, 30",
        ),
        ({"sick": [1, 0], "size": [10]}, "one-dimensional and of one length"),
        ({"sick": [[1]], "size": [10]}, "one-dimensional and of one length"),
        ({"sick": ["yes"], "size": [10]}, "column 'sick': expected integers"),
        ({"sick": [0.5], "size": [10]}, "column 'sick': the value at"),
        ({"sick": [2], "size": [10]}, "row 0, variable 0 is 2"),
    ],
    ids=str,
)
def test_tables_that_do_not_fit(table: Any, message: str) -> None:
    circuit = hclt([-1, 0], 2, [2, 3], seed=0)
    codec = TableCodec(circuit.categories, ("sick", "size"), {"size": (10, 20, 30)})
    with pytest.raises(UserError, match=message):
        Model(circuit, ENGINE, codec=codec).log_likelihood(table)


def test_names_of_columns_that_do_not_fit() -> None:
    sizes = np.array([2, 3], np.int32)
    for columns, values, message in (
        (("a",), {}, "expected 2 different names, got 1"),
        (("a", "a"), {}, "expected 2 different names, got 2, 1 of them different"),
        (("a", "b"), {"c": (1, 2)}, "no column 'c'"),
        (("a", "b"), {"b": (1, 2)}, "needs 3 different values, got 2"),
        (("a", "b"), {"b": (1, 2, 2)}, "got 3, 2 of them different"),
    ):
        with pytest.raises(UserError, match=message):
            TableCodec(sizes, columns, values)
    for edges, message in (
        ({2: (0.0, 1.0)}, "no column 2"),
        ({0: (0.0, 1.0)}, "column 0 needs 3 ascending numbers"),
        ({0: (0.0, 1.0, 1.0)}, "column 0 needs 3 ascending numbers"),
        ({0: (0.0, float("nan"), 1.0)}, "column 0 needs 3 ascending numbers"),
    ):
        with pytest.raises(UserError, match=message):
            TableCodec(sizes, edges=edges)
    circuit = hclt([-1, 0], 2, 2, seed=0)
    with pytest.raises(UserError, match="columns have no names"):
        Model(circuit, ENGINE).log_likelihood({"a": [1]})
    for damaged in ("{", "3", "[[1], [2]]"):
        for field in ("values", "edges"):
            with pytest.raises(UserError, match="values or edges of the table are damaged"):
                Model(replace(circuit, meta={"domain": "table", field: damaged}), ENGINE)


def test_data_frames() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    values = {"colour": ("red", "green", "blue")}
    model = table_model(columns=("sick", "colour", "size"), values=values)
    expected = model.log_likelihood(np.array([[1, 2, -1], [-1, 0, 3]]))
    plain = {"colour": ["blue", "red"], "size": [None, 3], "sick": [1, None]}
    frame = pandas.DataFrame(plain)
    for table in (frame, frame.convert_dtypes(), frame.astype({"colour": "category"})):
        np.testing.assert_array_equal(model.log_likelihood(table), expected)
    frame["sick"] = ["yes", None]
    with pytest.raises(UserError, match="column 'sick': expected integers"):
        model.log_likelihood(frame)


WORDS = ("<unk>", "the", "cat", "sat")


def text_model(**settings: Any) -> Model:
    circuit = random_hmm(2, 4, 0).circuit(5)
    codec = TextCodec(4, 5, 5, vocabulary=Vocabulary(WORDS), **settings)
    return Model(circuit, ENGINE, codec=codec)


def test_questions_in_strings() -> None:
    model = text_model()
    text = model.text
    ids = np.array([[1, 2, -1, 0], [3, -1, -1, -1]])
    strings = ["the cat [MASK] dog", "sat"]
    np.testing.assert_array_equal(text.log_likelihood(strings), text.log_likelihood(ids))
    np.testing.assert_allclose(model.log_likelihood(strings), text.log_likelihood(ids), rtol=1e-5)
    assert text.perplexity("the cat sat") == text.perplexity([[1, 2, 3]])
    assert (
        text.perplexity(strings) == text.perplexity(ids) == pytest.approx(model.evaluate(strings))
    )
    np.testing.assert_array_equal(
        text.token_distribution("the cat", 2), text.token_distribution([[1, 2]], 2)
    )
    constraint = pj.Constraint.any_of([[1, 2]], 3)
    np.testing.assert_allclose(
        text.phrase_probability(["the", "the cat"], constraint),
        text.phrase_probability([[1], [1, 2]], constraint),
    )
    drawn = text.infill("the [MASK] [MASK]", 5, seed=0)
    ids = text.infill([[1, -1, -1]], 5, seed=0)[0]
    assert drawn == [" ".join(WORDS[i] for i in row) for row in ids]
    both = text.infill(["the [MASK]", "[MASK] cat sat"], 2, seed=0)
    assert [[len(line.split()) for line in lines] for lines in both] == [[2, 2], [3, 3]]
    best, value = text.viterbi("the [MASK] sat")
    row, same = text.viterbi([[1, -1, 3]])
    assert best == " ".join(WORDS[i] for i in row[0]) and value == same
    for ask in (text.perplexity, text.log_likelihood):
        with pytest.raises(UserError, match="not a single token"):
            ask("  ")
    with pytest.raises(UserError, match="more than the model's window of 5"):
        model.log_likelihood("the cat sat the cat sat")


def test_samples_of_text_end_where_texts_end() -> None:
    model = text_model(end=3)
    rows = Model(model.circuit, ENGINE, codec=TextCodec(4, 5, 5)).sample(50, seed=0)
    lines = model.sample(50, seed=0)
    assert (rows == 3).any()
    for row, line in zip(rows.tolist(), lines, strict=True):
        assert line.split() == [WORDS[i] for i in row[: row.index(3) if 3 in row else 5]]


def test_text_keeps_its_tokens_when_it_is_saved(tmp_path: Path) -> None:
    model = text_model(unit="words", end=3)
    (tmp_path / "a").mkdir()
    model.save(tmp_path / "a/model.h5")
    model.save(tmp_path / "a/again.h5")
    again = pj.load(tmp_path / "a/again.h5")
    assert again.text.perplexity("the cat") == model.text.perplexity("the cat")
    assert repr(again) == repr(model) and len(repr(again.text.vocabulary)) < 80
    circuit = model.circuit
    other = Model(circuit, ENGINE, codec=TextCodec(4, 5, 5, vocabulary=Vocabulary(tuple("abcd"))))
    with pytest.raises(UserError, match="belongs to another model"):
        other.save(tmp_path / "a/other.h5")
    assert not (tmp_path / "a/other.h5").exists()
    tokens = tmp_path / "a/tokens.json"
    for content, message in (
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"tokenizer": "words", "sha256": "", "vocabulary": ["a"]}', "has 1 strings"),
    ):
        tokens.write_text(content)
        with pytest.raises(UserError, match=message):
            pj.load(tmp_path / "a/model.h5")
    tokens.unlink()
    bare = pj.load(tmp_path / "a/model.h5")
    assert bare.sample(2, seed=0).shape == (2, 5)
    assert bare.text.perplexity([[1, 2]]) == model.text.perplexity([[1, 2]])
    with pytest.raises(UserError, match=r"tokens\.json is missing"):
        bare.text.perplexity("the cat")


def test_text_questions_to_other_circuits_are_refused() -> None:
    with pytest.raises(UserError, match=r"does not model text: .* not a homogeneous HMM"):
        _ = grey_model().text
    with pytest.raises(UserError, match="does not model images"):
        text_model().bits_per_dim(np.zeros((1, 2, 2, 1), int))
    with pytest.raises(UserError, match="does not model images"):
        text_model().inpaint(np.zeros((1, 2, 2, 1), int), np.zeros((2, 2), bool))


def test_a_run_s_folder_is_opened_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"holds no model\.h5"):
        Model.load(tmp_path / "run")
    grey_model().save(tmp_path / "run/model.h5")
    x = np.array([[0, 1, 2, 0]])
    for opened in (Model.load(tmp_path / "run"), pj.load(str(tmp_path / "run/model.h5"))):
        np.testing.assert_array_equal(opened.log_likelihood(x), grey_model().log_likelihood(x))
