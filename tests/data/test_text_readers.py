"""Text files, folders, WikiText as lines and as parquet, on a few lines in the true formats."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyjuice_bridge.data import text_wiki
from pyjuice_bridge.data.text_readers import own, paragraphs, strings
from pyjuice_bridge.data.text_wiki import articles, is_title, lines_of
from pyjuice_bridge.errors import UserError

WIKI_TOKENS = (
    " \n"
    " = Robert <unk> = \n"
    " \n"
    " Robert <unk> is an English film , television and theatre actor . \n"
    " \n"
    " = = Career = = \n"
    " \n"
    " = = = 2000 – 2005 = = = \n"
    " \n"
    " In 2000 <unk> had a guest @-@ starring role ; 1 @,@ 200 saw it . \n"
    " = not a heading = \n"
    " \n"
    " = Du Fu = \n"
    " \n"
    " Du Fu ( Chinese : 杜甫 ) was a poet of the Tang dynasty . \n"
    " \n"
)
ARTICLES = [WIKI_TOKENS[: WIKI_TOKENS.index(" = Du Fu")], WIKI_TOKENS[WIKI_TOKENS.index(" = Du") :]]


def parts_of(path: Path) -> dict[str, list[str]]:
    return {name: list(part.documents()) for name, part in own(path).parts.items()}


def test_titles() -> None:
    titles = [line for line in WIKI_TOKENS.splitlines() if is_title(line)]
    assert titles == [" = Robert <unk> = ", " = not a heading = ", " = Du Fu = "]
    assert is_title(" = A = B = \n")
    assert not is_title(" = = \n")
    for line in ("= Du Fu =", " = Du Fu =", "= Du Fu = ", " = = Du Fu = ", " =  = "):
        assert not is_title(line)


@pytest.mark.parametrize("ending", ["tokens", "raw"])
def test_wikitext_lines(tmp_path: Path, ending: str) -> None:
    for split in ("train", "valid", "test"):
        (tmp_path / f"wiki.{split}.{ending}").write_text(WIKI_TOKENS, "utf-8")
    assert parts_of(tmp_path) == dict.fromkeys(("train", "valid", "test"), ARTICLES)
    assert parts_of(tmp_path / f"wiki.train.{ending}") == {"all": ARTICLES}


@pytest.mark.parametrize(
    "lines",
    [
        " x \n = a + b = \n \n",
        " \n = a + b = \n c \n",
        " \n= a + b =\n \n",
        " \n = a + b =\n \n",
        " \n = = a + b = = \n \n",
    ],
)
def test_lines_like_headings_are_text(lines: str) -> None:
    whole = f" \n = Title = \n \n Text . \n{lines}"
    assert list(articles(whole.splitlines(keepends=True))) == [whole]


@given(st.lists(st.sampled_from([" \n", " = A = \n", " = = b = = \n", " words . \n"]), max_size=12))
def test_articles_keep_every_line(lines: list[str]) -> None:
    found = list(articles(lines))
    assert "".join(found) == "".join(lines)
    between = sum(
        is_title(line)
        and not "".join(lines[max(0, i - 1) : i]).strip()
        and not "".join(lines[i + 1 : i + 2]).strip()
        for i, line in enumerate(lines)
    )
    assert len(found) == max(between, bool(lines))


def write_parquet(path: Path, rows: list[str | None], column: str = "text") -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({column: rows}), path)


def test_wikitext_parquet(tmp_path: Path) -> None:
    """The hub's rows: a line each, blank ones empty, an article may go on in the next file."""
    rows = [line if line.strip() else "" for line in WIKI_TOKENS.splitlines(keepends=True)]
    write_parquet(tmp_path / "train-00000-of-00002.parquet", rows[:5])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", rows[5:])
    for split in ("validation", "test"):
        write_parquet(tmp_path / f"{split}-00000-of-00001.parquet", rows)
    found = parts_of(tmp_path)
    whole = [
        "".join(" \n" if line == "\n" else line for line in text.splitlines(keepends=True))
        for text in found["train"]
    ]
    assert whole == ARTICLES
    assert found["train"] == found["valid"] == found["test"]


def test_other_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", ["One document.", None, "Another\none."])
    assert [text for text in parts_of(tmp_path / "x.parquet")["all"] if text] == [
        "One document.",
        "Another\none.",
    ]
    write_parquet(tmp_path / "y.parquet", ["a"], column="content")
    with pytest.raises(UserError, match="has no column text"):
        parts_of(tmp_path / "y.parquet")
    write_parquet(tmp_path / "z.parquet", [1, 2])  # type: ignore[list-item]
    with pytest.raises(UserError, match="column text of int64"):
        parts_of(tmp_path / "z.parquet")
    (tmp_path / "w.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="cannot be read as parquet"):
        parts_of(tmp_path / "w.parquet")


def test_parquet_strings_of_every_kind(tmp_path: Path) -> None:
    """As Polars (string_view) and pandas (categories) write them."""
    pyarrow = pytest.importorskip("pyarrow")
    rows = pyarrow.array(["One.", "Two.", None, "One."])
    kinds = [pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()]
    for column in [*(rows.cast(kind) for kind in kinds), rows.dictionary_encode()]:
        write_parquet(tmp_path / "x.parquet", column)
        assert parts_of(tmp_path / "x.parquet")["all"] == ["One.", "Two.", "", "One."]
    for column in (rows.cast(pyarrow.binary()), pyarrow.nulls(3)):
        write_parquet(tmp_path / "x.parquet", column)
        with pytest.raises(UserError, match=r"column text of .*: it must hold strings"):
            parts_of(tmp_path / "x.parquet")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(text_wiki.importlib, "import_module", absent)
    (tmp_path / "w.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"needs pyarrow.*pip install -e '\.\[text\]'"):
        parts_of(tmp_path / "w.parquet")


def test_text_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "book.txt").write_text("\ufeffa b\nc\n\n \nd\r\ne", "utf-8")
    assert parts_of(tmp_path / "one" / "book.txt") == {"all": ["a b\nc\n", "d\ne"]}
    assert parts_of(tmp_path / "one") == {"all": ["a b\nc\n", "d\ne"]}
    many = tmp_path / "many"
    (many / "deep").mkdir(parents=True)
    (many / "b.txt").write_text("second\n\nstill second\n")
    (many / "a.txt").write_text("first\n")
    (many / "deep" / "c.txt").write_text("third\n")
    (many / ".hidden.txt").write_text("no\n")
    assert parts_of(many) == {"all": ["first\n", "second\n\nstill second\n", "third\n"]}


def test_folders_with_splits(tmp_path: Path) -> None:
    flat, deep = tmp_path / "flat", tmp_path / "deep"
    flat.mkdir()
    for name in ("train", "dev", "test"):
        (flat / f"{name}.txt").write_text(f"{name} 1\n\n{name} 2\n")
        (deep / name).mkdir(parents=True)
        for i in (1, 2):
            (deep / name / f"{i}.txt").write_text(f"{name} {i}\n")
    expected = {
        split: [f"{name} 1\n", f"{name} 2\n"]
        for split, name in (("train", "train"), ("valid", "dev"), ("test", "test"))
    }
    found = parts_of(deep)
    assert found == expected
    assert parts_of(flat).keys() == found.keys()
    assert parts_of(flat)["valid"] == ["dev 1\n", "dev 2\n"]


def test_content_follows_bytes_and_reader(tmp_path: Path) -> None:
    def content(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return own(tmp_path / name).parts["all"].content()

    assert content("a.txt", "x") == content("b.txt", "x")
    assert content("a.txt", "x") != content("a.txt", "y")
    assert content("a.txt", "x") != content("a.raw", "x")
    one, two = (strings(source).parts["all"].content() for source in (["ab", "c"], ["a", "bc"]))
    assert one != two


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no files that end in"):
        own(tmp_path)
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8"):
        parts_of(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        list(lines_of(tmp_path))
    (tmp_path / "b.raw").write_text("x")
    with pytest.raises(UserError, match=r"\.raw and \.txt files: keep one kind"):
        own(tmp_path)
    with pytest.raises(UserError, match="lists trainer were given; give train"):
        strings({"trainer": ["a"]})
    with pytest.raises(UserError, match="train must be a list of strings"):
        strings({"train": "abc"})
    with pytest.raises(UserError, match="text: it must be a list of strings"):
        strings([1])  # type: ignore[list-item]


@given(st.lists(st.sampled_from(["a\n", "b c\n", "\n", "  \n"]), max_size=10))
def test_paragraphs_keep_the_words(lines: list[str]) -> None:
    found = list(paragraphs(lines))
    assert "".join(found).split() == "".join(lines).split()
    assert all(line.strip() for text in found for line in text.splitlines())
