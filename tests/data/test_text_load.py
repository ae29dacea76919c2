"""Text as streams: splits by document, vocabularies, limits, the cache of token ids."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_text_readers import ARTICLES, WIKI_TOKENS
from test_text_tokenizers import PIECES, save_bert

from pyjuice_bridge.data import (
    TextDataset,
    TokenStream,
    load_text,
    text_cache,
    text_names,
    text_tokenizers,
)
from pyjuice_bridge.data.splits import Division, Found, divided
from pyjuice_bridge.data.text_load import limited, split_documents
from pyjuice_bridge.errors import UserError

SPLITS = ("train", "valid", "test")

pytestmark = pytest.mark.usefixtures("own_cache")


def numbered(count: int) -> list[str]:
    """Documents that can be told apart: document i is i words "i"."""
    return [" ".join([str(i)] * (1 + i % 3)) for i in range(count)]


def texts(data: TextDataset) -> dict[str, list[str]]:
    streams = {split: getattr(data, split) for split in SPLITS}
    return {
        split: [data.decode(stream.document(d)) for d in range(stream.document_count)]
        for split, stream in streams.items()
    }


def stream_of(sizes: list[int]) -> TokenStream:
    ends = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return TokenStream(np.arange(ends[-1], dtype=np.int32), ends)


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=30), st.floats(0.01, 0.6), st.integers(0, 9)
)
def test_splits_divide_documents(sizes: list[int], share: float, seed: int) -> None:
    stream = stream_of(sizes)
    count = max(1, round(share * len(sizes)))
    if count >= len(sizes):
        return
    found = Found({"all": stream, "test": stream_of([1])}, {"all": "a text", "test": "another"})
    documents = Division("documents", lambda s: s.document_count, split_documents)

    def split() -> list[TokenStream]:
        sizes_of = {"valid": lambda whole, left: count}
        done = divided("x", found, documents, sizes_of, {}, seed)
        assert done.sources["valid"] == f"{count} documents of a text, by seed"
        return [done.parts["train"], done.parts["valid"]]

    parts = split()
    assert parts[1].document_count == count
    documents_of = [p.document(d).tolist() for p in parts for d in range(p.document_count)]
    expected = [stream.document(d).tolist() for d in range(stream.document_count)]
    assert sorted(documents_of) == expected
    assert all(np.all(np.diff(p.tokens) > 0) for p in parts)
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(parts, split(), strict=True))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.integers(1, 60), st.integers(0, 9))
def test_limit_keeps_whole_documents_but_one(sizes: list[int], limit: int, seed: int) -> None:
    stream = stream_of(sizes)
    found = limited(stream, limit, seed)
    assert len(found) == min(limit, len(stream))
    assert found.documents[0] == 0
    assert found.documents[-1] == len(found)
    whole = [stream.document(d).tolist() for d in range(stream.document_count)]
    kept = [found.document(d).tolist() for d in range(found.document_count)]
    assert all(document in whole for document in kept[:-1])
    assert any(kept[-1] == document[: len(kept[-1])] for document in whole)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(10, 40), seed=st.integers(0, 3))
def test_every_document_in_exactly_one_split(count: int, seed: int) -> None:
    found = texts(load_text(numbered(count), tokenizer="words", vocabulary=999, seed=seed))
    heads = [text.split()[0] for part in found.values() for text in part]
    known = [head for head in heads if head != "<unk>"]
    assert len(heads) == count
    assert sorted(known, key=int) == sorted((t.split()[0] for t in found["train"]), key=int)
    assert len(found["test"]) == len(found["valid"]) == max(1, round(count / 10))


def test_seed_moves_validation_only() -> None:
    one, same, other = (
        load_text({"train": numbered(40)}, tokenizer="words", seed=seed, valid=0.25)
        for seed in (1, 1, 2)
    )
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.valid.document_count == 10
    assert one.test.document_count == 4
    assert one.test.tokens.shape == other.test.tokens.shape
    assert texts(one)["train"] != texts(other)["train"]


def test_own_splits_are_kept() -> None:
    source = {"train": ["a b", "c"], "valid": ["a"], "test": ["c d", "b"]}
    data = load_text(source, tokenizer="words")
    assert texts(data) == {
        "train": ["a b <eos>", "c <eos>"],
        "valid": ["a <eos>"],
        "test": ["c <unk> <eos>", "b <eos>"],
    }
    assert data.meta["sources"] == {s: f"list {s}" for s in SPLITS}
    assert (
        data.origins()
        == "documents: 2 train (list train), 1 valid (list valid), 2 test (list test)"
    )
    assert data.record()["tokens"] == {"train": 5, "valid": 2, "test": 5}
    with pytest.raises(UserError, match=r"valid split of its own: leave out valid = 0\.2"):
        load_text(source, tokenizer="words", valid=0.2)


def test_words_of_the_training_split_by_frequency() -> None:
    source = {"train": ["b a b <unk> c", "c b"], "valid": ["b d d d"], "test": ["<unk> a"]}
    data = load_text(source, tokenizer="words")
    assert data.vocabulary == ["<unk>", "b", "c", "<eos>", "a"]
    assert data.unit == "words"
    assert data.valid.tokens.tolist() == [1, 0, 0, 0, 3]
    small = load_text(source, tokenizer="words", vocabulary=3)
    assert small.vocabulary == ["<unk>", "b", "c"]
    assert small.train.tokens.tolist() == [1, 0, 1, 0, 2, 0, 2, 1, 0]
    assert small.test.tokens.tolist() == [0, 0, 0]
    assert small.fingerprint != data.fingerprint
    with pytest.raises(UserError, match="vocabulary is 1: it limits tokenizer words"):
        load_text(source, tokenizer="words", vocabulary=1)


def test_wikitext_counts_as_usual(tmp_path: Path) -> None:
    """Words and one ``<eos>`` for every line, blank ones too, as in the published counts."""
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    for split in SPLITS:
        (folder / f"wiki.{split}.tokens").write_text(WIKI_TOKENS, "utf-8")
    data = load_text("wikitext2", tokenizer="words", root=tmp_path)
    expected = [w for line in WIKI_TOKENS.splitlines() for w in [*line.split(), "<eos>"]]
    assert data.decode(data.train.tokens) == " ".join(expected)
    assert data.train.document_count == len(ARTICLES)
    assert len(data.vocabulary) == len(set(expected))
    assert data.meta["variant"] == "tokens"
    assert load_text(folder, tokenizer="words").fingerprint == data.fingerprint
    with pytest.raises(UserError, match="valid split of its own"):
        load_text("wikitext2", tokenizer="words", root=tmp_path, valid=0.5)
    (tmp_path / "wikitext-2-raw").mkdir()
    with pytest.raises(UserError, match="several versions"):
        load_text("wikitext2", root=tmp_path, tokenizer="words")
    (folder / "wiki.valid.tokens").unlink()
    with pytest.raises(UserError, match=r"is incomplete in .*: put wiki\.train\.tokens"):
        load_text("wikitext2", root=folder, tokenizer="words")
    with pytest.raises(UserError, match="wikitext103 is not on this machine: put wiki"):
        load_text("wikitext103")


def test_raw_wikitext_in_word_pieces(tmp_path: Path) -> None:
    for split in SPLITS:
        raw = WIKI_TOKENS.replace("<unk>", "Boulter")
        (tmp_path / f"wiki.{split}.raw").write_text(raw, "utf-8")
    folder = save_bert(tmp_path / "bert")
    data = load_text("wikitext2", root=tmp_path, tokenizer=folder)
    assert data.meta["variant"] == "raw"
    assert data.vocabulary == PIECES
    assert data.train.tokens.min() >= 0
    assert data.tokenizer["source"] == str(folder)


def test_word_pieces_of_strings(tmp_path: Path) -> None:
    source = {"train": ["The cats sat.", ""], "valid": ["the mat"], "test": ["a cat"]}
    data = load_text(source, tokenizer=save_bert(tmp_path / "bert"))
    assert data.train.tokens.dtype == np.int32
    assert data.train.documents.tolist() == [0, 5]
    assert texts(data)["train"] == ["the cats sat."]
    assert data.decode(np.array([7, -1, 8, 9, -1])) == "the cats"
    with pytest.raises(UserError, match="vocabulary is 50"):
        load_text(source, tokenizer=tmp_path / "bert", vocabulary=50)


def test_limit() -> None:
    data = load_text(numbered(60), tokenizer="words", limit=9)
    assert [len(getattr(data, split)) for split in SPLITS] == [9, 9, 9]
    assert set(data.vocabulary) <= {"<unk>", "<eos>", *map(str, range(60))}
    assert data.record()["limit"] == 9


def forbid_tokenising(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(text_cache, "_write", fail)


def test_tokens_are_kept_by_content(tmp_path: Path, own_cache: Path, monkeypatch) -> None:
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join(numbered(20)))
    first = load_text(file, tokenizer="words")
    (copy := tmp_path / "elsewhere").mkdir()
    (copy / "book.txt").write_bytes(file.read_bytes())
    assert len(list((own_cache / "tokens").iterdir())) == 1
    with monkeypatch.context() as patch:
        forbid_tokenising(patch)
        again = load_text(copy / "book.txt", tokenizer="words")
        load_text(file, tokenizer="words", seed=1, vocabulary=5)
    assert again.fingerprint == first.fingerprint
    file.write_text(file.read_text() + "\n\nmore")
    changed = load_text(file, tokenizer="words")
    sizes = [sum(data.record()["tokens"].values()) for data in (first, changed)]
    assert sizes[1] == sizes[0] + 2
    assert not list((own_cache / "tokens").glob(".*"))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize(
    "damage", ["all.tokens", "all.documents.npy", "vocabulary.json", "checksums.json"]
)
def test_damaged_cache_is_made_anew(own_cache: Path, damage: str, flipped: bool) -> None:
    first = load_text(numbered(20), tokenizer="words")
    (folder,) = (own_cache / "tokens").iterdir()
    raw = (folder / damage).read_bytes()
    half = len(raw) // 2
    changed = raw[:half] + bytes([raw[half] ^ 1]) + raw[half + 1 :] if flipped else raw[:half]
    (folder / damage).write_bytes(changed)
    again = load_text(numbered(20), tokenizer="words")
    assert again.fingerprint == first.fingerprint
    assert (folder / damage).read_bytes() == raw
    assert [path.name for path in (own_cache / "tokens").iterdir()] == [folder.name]


def test_failed_tokenising_leaves_nothing(own_cache: Path, monkeypatch) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(text_cache, "_write", disk_full)
        with pytest.raises(UserError, match=r"No space left on device.*XDG_CACHE_HOME"):
            load_text(numbered(20), tokenizer="words")
    assert list((own_cache / "tokens").iterdir()) == []
    assert load_text(numbered(20), tokenizer="words").train.document_count == 16


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_cache_that_cannot_be_written(own_cache: Path) -> None:
    own_cache.mkdir(parents=True)
    own_cache.chmod(0o500)
    with pytest.raises(UserError, match="cannot be written"):
        load_text(numbered(20), tokenizer="words")


def test_batches_do_not_change_tokens(monkeypatch) -> None:
    whole = load_text(numbered(40), tokenizer="words").fingerprint
    monkeypatch.setattr(text_tokenizers, "_BATCH_CHARACTERS", 7)
    monkeypatch.setattr(text_cache, "_LAYOUT", "another key")
    assert load_text(numbered(40), tokenizer="words").fingerprint == whole


def test_fingerprint_sees_everything() -> None:
    base = {"train": ["a b", "c"], "valid": ["a"], "test": ["c"]}
    others = [
        {**base, "train": ["a b c"]},
        {**base, "train": ["a b", "d"]},
        {**base, "valid": ["b"]},
        {**base, "valid": ["c"], "test": ["a"]},
        {**base, "train": ["a", "b", "c"]},
    ]
    prints = {load_text(source, tokenizer="words").fingerprint for source in (base, *others)}
    assert len(prints) == 1 + len(others)


def test_mistakes() -> None:
    with pytest.raises(UserError, match="did you mean wikitext2"):
        load_text("wikitext-2")
    with pytest.raises(UserError, match="no text or path"):
        load_text("some long text " * 1000)
    with pytest.raises(UserError, match="a int cannot be read"):
        load_text(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"valid is 1\.5: give a share"):
        load_text(numbered(3), valid=1.5)
    with pytest.raises(UserError, match="limit is 0"):
        load_text(numbered(3), limit=0)
    with pytest.raises(UserError, match="cannot take 1 test documents out of 1"):
        load_text(["only one"], tokenizer="words")
    with pytest.raises(UserError, match="not a single token"):
        load_text({"train": ["a"], "valid": [" "]}, tokenizer="words")
    with pytest.raises(UserError, match="data root /surely/not/here is not a folder"):
        load_text("brown", root="/surely/not/here")
    assert set(text_names()) == {"wiki_leads", "brown", "gensim_wiki", "wikitext2", "wikitext103"}
