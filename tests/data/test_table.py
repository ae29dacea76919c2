"""Tables: every source, what cells mean, what is refused, and the 20 binary sets in miniature."""

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.data import bins, get_dataset, load_table, table_names
from pyjuice_bridge.data.table import TableDataset
from pyjuice_bridge.data.table_codes import MOST_CATEGORIES
from pyjuice_bridge.errors import UserError

RNG = np.random.default_rng(0)
CELLS = RNG.integers(-1, 3, (60, 3)).astype(np.int64)
CELLS[:2] = [[2, 2, 2], [0, 1, 2]]


def whole(data: TableDataset) -> np.ndarray:
    cells = np.concatenate([data.train, data.valid, data.test])
    return cells[np.lexsort(cells.T)]


def same_rows(data: TableDataset, cells: np.ndarray) -> None:
    np.testing.assert_array_equal(whole(data), cells[np.lexsort(cells.T)])


def forms(folder: Path) -> dict[str, object]:
    """One table in every form."""
    floats = np.where(CELLS < 0, np.nan, CELLS)
    made: dict[str, object] = {
        "ints": CELLS,
        "int8": CELLS.astype(np.int8),
        "floats": floats,
        "masked": np.ma.array(np.where(CELLS < 0, 7, CELLS), mask=CELLS < 0),
        "strings": np.where(CELLS < 0, "NA", CELLS.astype(str)),
        "mapping": {"Train": floats},
        "frame": pd.DataFrame(floats, columns=["x0", "x1", "x2"]),
        "frames": {"train": pd.DataFrame(CELLS, columns=["x0", "x1", "x2"])},
    }
    np.save(folder / "a.npy", CELLS)
    np.savez(folder / "a.npz", rows=floats)
    np.savetxt(folder / "a.data", CELLS, fmt="%d", delimiter=",")
    rows = [",".join("" if c < 0 else str(c) for c in row) for row in CELLS]
    (folder / "bare.csv").write_text("\n".join(rows))
    tokens = ["NA", "nan", " -1 ", ""]
    mixed = [
        ",".join(tokens[i % 4] if c < 0 else f"{c}.0" if i % 3 else f" {c}" for c in row)
        for i, row in enumerate(CELLS)
    ]
    (folder / "a.csv").write_text("x0, x1,x2\r\n" + "\r\n".join(mixed) + "\r\n\r\n", newline="")
    return made | {
        name: folder / name for name in ("a.npy", "a.npz", "a.data", "bare.csv", "a.csv")
    }


def test_every_form_is_the_same_table(tmp_path: Path) -> None:
    first = load_table(CELLS)
    same_rows(first, CELLS)
    assert first.categories.tolist() == [3, 3, 3]
    assert first.categories.dtype == first.train.dtype == np.int32
    assert first.counts == {"train": 48, "valid": 6, "test": 6}
    for source in forms(tmp_path).values():
        assert load_table(source).fingerprint == first.fingerprint


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    write = pytest.importorskip("pyarrow.parquet").write_table
    columns = {
        "x0": pyarrow.array([None if c < 0 else int(c) for c in CELLS[:, 0]], pyarrow.int16()),
        "x1": [None if c < 0 else float(c) for c in CELLS[:, 1]],
        "x2": CELLS[:, 2],
    }
    write(pyarrow.table(columns), tmp_path / "t.parquet")
    assert load_table(tmp_path / "t.parquet").fingerprint == load_table(CELLS).fingerprint
    words = ["b", None, "a", "c"] * 5
    kinds = {
        "plain": pyarrow.array(words),
        "large": pyarrow.array(words, pyarrow.large_string()),
        "view": pyarrow.array(words, pyarrow.string_view()),
        "categories": pyarrow.array(words).dictionary_encode(),
        "flag": pyarrow.array([True, None, False, True] * 5),
    }
    write(pyarrow.table(kinds), tmp_path / "s.parquet")
    data = load_table(tmp_path / "s.parquet")
    expected = np.array([[1, 1, 1, 1, 1], [-1] * 5, [0] * 5, [2, 2, 2, 2, 1]] * 5)
    same_rows(data, expected)
    assert data.values == dict.fromkeys(("plain", "large", "view", "categories"), ("a", "b", "c"))
    assert data.categories.tolist() == [3, 3, 3, 3, 2]
    for cell in (b"a", [1], {"a": 1}, date(2017, 1, 1)):
        write(pyarrow.table({"x": pyarrow.array([cell, cell])}), tmp_path / "b.parquet")
        says = f"column x holds a {type(cell).__name__}: give integers, true and false"
        with pytest.raises(UserError, match=says):
            load_table(tmp_path / "b.parquet")


def test_words_become_values_of_train(tmp_path: Path) -> None:
    for split, rows in {
        "train": ["red,1,true,x", "blue,0,false,3", "red,NA,,2+", "green,2,TRUE,x"],
        "valid": ["blue,-1,False,2+"],
        "test": ["red,1,true,", " green ,2,true,3"],
    }.items():
        (tmp_path / f"{split}.csv").write_text("\n".join(["colour,size,flag,more", *rows]))
    data = load_table(tmp_path)
    assert data.columns == ("colour", "size", "flag", "more")
    assert data.values == {"colour": ("blue", "green", "red"), "more": ("2+", "3", "x")}
    assert data.categories.tolist() == [3, 3, 2, 3]
    assert data.train.tolist() == [[2, 1, 1, 2], [0, 0, 0, 1], [2, -1, -1, 0], [1, 2, 1, 2]]
    assert data.valid.tolist() == [[0, -1, 0, 0]]
    assert data.test.tolist() == [[2, 1, 1, -1], [1, 2, 1, 1]]
    assert data.meta["sources"] == {s: f"{s}.csv" for s in ("train", "valid", "test")}
    for row, says in {
        "pink,1,true,x": "column colour holds 'pink', which train lacks: give train every value",
        "red,3,true,x": "column size holds 3, more than any value of train (2)",
        "red,big,true,x": "column size holds 'big', but only numbers in train",
        "red,1,true": "row 2 has 3 cells and the first has 4",
    }.items():
        (tmp_path / "test.csv").write_text(f"colour,size,flag,more\n{row}\n")
        with pytest.raises(UserError) as error:
            load_table(tmp_path)
        assert says in str(error.value)


@pytest.mark.parametrize(
    ("lines", "columns", "first"),
    [
        (["a,b", "1,2", "0,1"], ("a", "b"), [1, 2]),
        (["1,2", "0,1", "1,1"], ("x0", "x1"), [1, 2]),
        (["a,b", "x,y", "x,z"], ("a", "b"), [0, 0]),
        (["x,y", "x,z", "w,y"], ("x0", "x1"), [1, 0]),
        (["a,a", "b,c", "b,c"], ("x0", "x1"), [0, 0]),
        (["a,1", "b,2", "a,0"], ("x0", "x1"), [0, 1]),
    ],
)
def test_a_line_of_names(tmp_path: Path, lines: list[str], columns, first: list[int]) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\ufeff" + "\n".join(lines))
    data = load_table_all(path)
    assert data.columns == columns
    assert data.train[0].tolist() == first


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["0,1,2", "1,0,1", "0,0,1"], "numbers the columns from 0, as pandas does"),
        ([",a,b", "0,1,0", "1,0,1"], "'a' over a column of numbers, and is no line of names"),
        (["a,a,b", "0,1,0", "1,0,1"], "'a' over a column of numbers"),
        (["a,1,b", "x,1,0", "y,0,1"], "'b' over a column of numbers"),
    ],
)
def test_a_line_that_is_neither_names_nor_values(tmp_path: Path, lines: list[str], says) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=says):
        load_table(path)


def load_table_all(path: Path) -> TableDataset:
    """The table with its rows in train, in their order: valid and test repeat them."""
    folder = path.parent / "splits"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        (folder / f"{split}.csv").write_bytes(path.read_bytes())
    return load_table(folder)


def test_shards_repeat_the_names(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / split).mkdir()
        for i in range(2):
            (tmp_path / split / f"{i}.csv").write_text(f"a,b\n{i},1\n1,{i}\n")
    data = load_table(tmp_path)
    assert data.columns == ("a", "b")
    assert data.train.tolist() == [[0, 1], [1, 0], [1, 1], [1, 1]]
    (tmp_path / "train" / "1.csv").write_text("a,b,c\n0,1,1\n")
    with pytest.raises(UserError, match=r"1\.csv has other columns than"):
        load_table(tmp_path)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(10, 60), seed=st.integers(0, 3), share=st.sampled_from([None, 0.2, 0.3]))
def test_every_row_in_one_split(rows: int, seed: int, share: float | None) -> None:
    cells = np.stack([np.arange(rows), np.arange(rows) % 2], axis=1)
    data = load_table(cells, seed=seed, valid=share, test=share)
    assert sorted(whole(data)[:, 0].tolist()) == list(range(rows))
    count = max(1, round((share or 0.1) * rows))
    assert data.counts == {"train": rows - 2 * count, "valid": count, "test": count}
    other = load_table(cells, seed=seed + 1, valid=share, test=share)
    np.testing.assert_array_equal(other.test, data.test)


def test_categories_are_those_of_all_rows_before_the_split() -> None:
    """A rare value that only the rows for test have is still a category."""
    cells = np.zeros((200, 1), int)
    for rare in range(0, 200, 7):
        cells[:] = 0
        cells[rare] = 5
        assert load_table(cells).categories.tolist() == [6]


def test_booleans_have_two_values_and_limits_keep_order() -> None:
    data = load_table(np.zeros((50, 2), bool))
    assert data.categories.tolist() == [2, 2]
    cells = np.arange(50)[:, None]
    small = load_table({"train": cells, "valid": cells, "test": cells}, limit=7, seed=2)
    assert small.counts == {"train": 7, "valid": 7, "test": 7}
    assert (np.diff(small.train[:, 0]) > 0).all()
    assert small.categories.tolist() == [50]


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        (
            np.array([[0.5], [1]]),
            "column x0 holds 0.5, not a whole number: set 'bins' for measurements, or bin its",
        ),
        (np.array([[np.inf], [1]]), "column x0 holds"),
        (np.array([[-2], [1]]), "column x0 holds -2 to 1: values are 0 to 65,535, and -1"),
        (np.array([[2**63], [1]], np.uint64), "column x0 holds 1 to 9223372036854775808"),
        (np.array([[MOST_CATEGORIES], [1]]), "values are 0 to 65,535"),
        (np.array([[-1, 0], [-1, 1]]), "column x0 has 0 categories in train"),
        (np.array(["0.5", "1"])[:, None], "holds 0.5, not a whole number"),
        (np.zeros((0, 3), int), "0 rows of 3 columns"),
        (np.zeros((3, 0), int), "0 columns"),
        (np.zeros(3, int), "is int64 of shape (3,): a table is an array [N, D]"),
        (np.zeros((3, 2), complex), "is complex128"),
        (np.array([[{}]], object), "is object"),
        ([[1, 2]], "a list cannot be read"),
        ({"train": [[1, 2]]}, "array train is list of shape ?"),
        ({"test": CELLS}, "give train"),
        ({"train": CELLS, "test": CELLS[:, :2]}, "60 rows of 2 columns"),
        (CELLS[:1], "cannot take 1 test rows out of 1"),
    ],
)
def test_what_is_no_table(cells: object, says: str) -> None:
    with pytest.raises(UserError) as error:
        load_table(cells)  # type: ignore[arg-type]
    assert says in str(error.value)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no table or path nltsc .*did you mean nltcs"):
        load_table("nltsc")
    with pytest.raises(UserError, match="digits is images, not table: use"):
        load_table("digits")
    with pytest.raises(UserError, match=r"valid is 3: give a share"):
        load_table(CELLS, valid=3)
    with pytest.raises(UserError, match=r"valid split of its own: leave out valid = 0\.1"):
        load_table({"train": CELLS, "valid": CELLS}, valid=0.1)
    with pytest.raises(UserError, match="limit is 0"):
        load_table(CELLS, limit=0)
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text(f"a,{split}\n1,1\n0,0\n")
    with pytest.raises(UserError, match=r"the columns of train \(a, train"):
        load_table(tmp_path)
    (tmp_path / "train.csv").unlink()
    (tmp_path / "test.csv").unlink()
    (tmp_path / "a.csv").write_text("a,a\n1,2\n")
    (tmp_path / "b.csv").write_text("")
    with pytest.raises(UserError, match="of 2 tables, holds nothing: give train"):
        load_table(tmp_path)
    with pytest.raises(UserError, match=r"b\.csv is empty"):
        load_table(tmp_path / "b.csv")
    (tmp_path / "x.txt").write_text("1")
    with pytest.raises(UserError, match=r"a table is one kind of file, \.csv"):
        load_table(tmp_path / "x.txt")
    np.save(tmp_path / "o.npy", np.array([[{}]], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"o\.npy cannot be read"):
        load_table(tmp_path / "o.npy")


def test_the_binary_sets_in_miniature(tmp_path: Path, monkeypatch) -> None:
    """Comma-separated 0 and 1; a column may be constant in train and not in valid, as in msweb."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(table_names()) == 20
    folder = tmp_path / "target" / "debd"
    folder.mkdir(parents=True)
    cells = {"train": [[0, 1], [0, 0]], "valid": [[1, 1]], "test": [[0, 1]]}
    for name in ("nltcs", "msweb"):
        for split, rows in cells.items():
            np.savetxt(folder / f"{name}.{split}.data", rows, fmt="%d", delimiter=",")
    for name in ("nltcs", "debd/nltcs"):
        for root in (folder, folder.parent):
            data = load_table(name, root=root)
            assert data.name == "nltcs"
            assert data.categories.tolist() == [2, 2]
            assert {s: getattr(data, s).tolist() for s in cells} == cells
            assert data.meta["sources"]["valid"] == "nltcs.valid.data"
    with pytest.raises(
        UserError, match=r"kdd is incomplete in .* \(no kdd\.train\.data\): put kdd"
    ):
        load_table("kdd", root=folder)
    with pytest.raises(UserError, match=r"ad is not on this machine: put ad\.train\.data"):
        load_table("ad")
    with pytest.raises(UserError, match=r"ad is in no package: put ad\.train\.data"):
        get_dataset("ad")
    with pytest.raises(UserError, match="no table or path other/nltcs"):
        load_table("other/nltcs")


def test_fingerprint_sees_everything() -> None:
    base = {"train": CELLS, "valid": CELLS[:3], "test": CELLS[3:6]}
    words = np.array([["a"], ["b"]])
    sources = [
        base,
        {**base, "valid": CELLS[:4]},
        {**base, "train": CELLS[::-1]},
        {"train": words, "valid": words, "test": words},
        {s: np.array([["a"], ["c"]]) for s in base},
    ]
    assert len({load_table(source).fingerprint for source in sources}) == len(sources)
    record = load_table(base).record()
    assert record["rows"] == {"train": 60, "valid": 3, "test": 3}
    assert record["columns"] == ["x0", "x1", "x2"]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.integers(2, 9),
)
def test_bins_hold_every_number_and_their_codes_lead_back(values: list[float], count: int) -> None:
    numbers = np.array([*values, np.nan])
    edges = bins.cut(numbers[:-1], count)
    found = bins.codes(numbers, edges, "x")
    assert found[-1] == -1
    assert len(edges) <= count + 3
    assert found[:-1].min() >= 1  # the outer bins are for other data
    assert found[:-1].max() <= len(edges) - 3
    ends = np.asarray(edges)
    assert (ends[found[:-1]] <= numbers[:-1]).all()
    assert (numbers[:-1] < ends[found[:-1] + 1]).all()
    np.testing.assert_array_equal(bins.codes(bins.middles(found, edges), edges, "x"), found)
    widths = np.exp(bins.log_widths(np.arange(len(edges) - 1), edges))
    np.testing.assert_allclose(widths.sum(), ends[-1] - ends[0], rtol=1e-9)


def test_bins_hold_about_equally_many() -> None:
    edges = bins.cut(RNG.normal(size=1000), 8)
    sizes = np.histogram(RNG.normal(size=20_000), edges)[0] / 20_000
    assert len(edges) == 11
    np.testing.assert_allclose(sizes[1:-1], 1 / 8, atol=0.04)
    assert sizes[[0, -1]].max() < 0.01


def test_measurements_are_cut_by_train_alone_and_categories_stay(tmp_path: Path) -> None:
    heat = RNG.normal(size=50).round(3)
    lines = [f"{'NA' if i == 3 else h},{i % 3}" for i, h in enumerate(heat)]
    (tmp_path / "train.csv").write_text("\n".join(["heat,kind", *lines]))
    (tmp_path / "test.csv").write_text("heat,kind\n0.25,1\n-1,0\n")
    with pytest.raises(UserError, match="set 'bins' for measurements"):
        load_table(tmp_path)
    data = load_table(tmp_path, bins=5, valid=0.2)
    assert data.categories.tolist() == [7, 3]
    assert (np.concatenate([data.train, data.valid])[:, 0] == -1).sum() == 1
    expected = np.searchsorted(data.edges[0], [0.25, -1.0], side="right") - 1
    assert data.test[:, 0].tolist() == expected.tolist()  # -1 is a measurement here
    assert data.fingerprint != load_table(tmp_path, bins=4, valid=0.2).fingerprint
    (tmp_path / "test.csv").write_text("heat,kind\n900,1\n")
    with pytest.raises(UserError, match=r"column heat holds 900, far from all that train has"):
        load_table(tmp_path, bins=5)
    tall = np.arange(600).reshape(300, 2) // [1, 8]
    assert list(load_table(tall, bins=5).edges) == [0]
    with pytest.raises(UserError, match="bins is 1"):
        load_table(tmp_path, bins=1)
