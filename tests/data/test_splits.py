"""Split names, for folders of pictures, arrays, texts and tables alike."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyjuice_bridge.data import load_dataset, load_table, load_text
from pyjuice_bridge.data.splits import by_split, split_called
from pyjuice_bridge.errors import UserError

pytestmark = pytest.mark.usefixtures("own_cache")


SIZES = {"train": 30, "valid": 4, "test": 3}
NAMES = [
    {"train": "train", "valid": "valid", "test": "test"},
    {"train": "training", "valid": "validation", "test": "testing"},
    {"train": "Train", "valid": "VAL", "test": "Test"},
    {"train": "TRAINING", "valid": "dev", "test": "test"},
    {"train": "train", "valid": "eval", "test": "Testing"},
]


def pixels(split: str) -> np.ndarray:
    start = {"train": 0, "valid": 100, "test": 200}[split]
    values = np.arange(start, start + SIZES[split], dtype=np.uint8)
    return np.broadcast_to(values[:, None, None], (SIZES[split], 4, 4))


def pictures(folder: Path, names: dict[str, str]) -> object:
    for split, name in names.items():
        (folder / name).mkdir()
        for i, image in enumerate(pixels(split)):
            Image.fromarray(image.copy()).save(folder / name / f"{i:02}.png")
    return folder


def npz(folder: Path, names: dict[str, str]) -> object:
    np.savez(folder / "x.npz", labels=np.zeros(3), **{n: pixels(s) for s, n in names.items()})
    return folder / "x.npz"


def arrays(_: Path, names: dict[str, str]) -> object:
    return {name: pixels(split) for split, name in names.items()}


def texts(folder: Path, names: dict[str, str]) -> object:
    for split, name in names.items():
        text = "\n\n".join(f"{split} {i}" for i in range(SIZES[split]))
        (folder / f"{name}.txt").write_text(text)
    return folder


def text_folders(folder: Path, names: dict[str, str]) -> object:
    for split, name in names.items():
        (folder / name).mkdir()
        for i in range(SIZES[split]):
            (folder / name / f"{i:02}.txt").write_text(f"{split} {i}")
    return folder


def lists(_: Path, names: dict[str, str]) -> object:
    return {name: [f"{split} {i}" for i in range(SIZES[split])] for split, name in names.items()}


def parquet(folder: Path, names: dict[str, str]) -> object:
    pyarrow = pytest.importorskip("pyarrow")
    write = pytest.importorskip("pyarrow.parquet").write_table
    for split, name in names.items():
        rows = [f"{split} {i}" for i in range(SIZES[split])]
        for k in range(2):
            write(pyarrow.table({"text": rows[k::2]}), folder / f"{name}-0000{k}-of-00002.parquet")
    return folder


def tables(folder: Path, names: dict[str, str]) -> object:
    for split, name in names.items():
        rows = pixels(split)[:, 0] % 4
        np.savetxt(folder / f"my-{name}.csv", rows, fmt="%d", delimiter=",")
    return folder


IMAGES = (pictures, npz, arrays)
TEXTS = (texts, text_folders, lists, parquet)


def load(source: object, make: Callable[..., object]) -> object:
    if make in IMAGES:
        return load_dataset(source)
    return load_table(source) if make is tables else load_text(source, tokenizer="words")


@pytest.mark.parametrize("make", [*IMAGES, *TEXTS, tables])
@pytest.mark.parametrize("names", NAMES)
def test_every_spelling_of_every_split(tmp_path: Path, make, names: dict[str, str]) -> None:
    data = load(make(tmp_path, names), make)
    assert data.counts == SIZES
    assert data.meta["sources"].keys() == SIZES.keys()
    for split in SIZES:
        assert names[split] in data.meta["sources"][split] or make in (parquet, text_folders)
        assert f"{SIZES[split]} {split} (" in data.origins()
    if make in IMAGES:
        for split in SIZES:
            np.testing.assert_array_equal(getattr(data, split)[..., 0], pixels(split))


@pytest.mark.parametrize("make", [*IMAGES, *TEXTS, tables])
@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"train": "train", "test": "test1"}, "test1.* looks like a split"),
        ({"train": "train_2", "test": "test"}, "train_2.* looks like a split"),
        ({"train": "train", "test": "tset"}, "tset.* looks like a split"),
        ({"train": "trian", "test": "tset"}, "looks like a split"),
        ({"train": "train", "test": "test_images"}, "test_images.* looks like a split"),
        ({"train": "Training", "valid": "train"}, "both name the train split: keep one"),
        ({"valid": "dev", "test": "test"}, "train"),
    ],
)
def test_what_looks_like_a_split_is_refused(tmp_path: Path, make, names, says: str) -> None:
    source = make(tmp_path, names)
    with pytest.raises(UserError, match=says):
        load(source, make)


@pytest.mark.parametrize("make", [pictures, texts, text_folders, tables])
def test_data_beside_splits_is_not_dropped(tmp_path: Path, make) -> None:
    make(tmp_path, {"train": "train", "valid": "more", "test": "test"})
    (tmp_path / "README.txt").write_text("About.")
    with pytest.raises(UserError, match=r"more.* is in none of them: call it train, valid or test"):
        load(tmp_path, make)


def test_pictures_beside_split_folders_are_not_dropped(tmp_path: Path) -> None:
    pictures(tmp_path, {"train": "train", "test": "test"})
    Image.new("L", (4, 4)).save(tmp_path / "loose.png")
    with pytest.raises(UserError, match=r"loose\.png is in none of them"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("make", [pictures, npz, arrays, lists])
def test_one_split_of_two_names_is_refused(tmp_path: Path, make) -> None:
    source = make(tmp_path, {"train": "train", "valid": "Train", "test": "test"})
    with pytest.raises(UserError, match="which are one split: keep one"):
        load(source, make)


def test_splits_further_down_are_not_pooled(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    pictures(tmp_path / "digits", {"train": "train", "test": "test"})
    with pytest.raises(UserError, match=r"has no folder train, but .*digits/train"):
        load_dataset(tmp_path)
    (tmp_path / "digits" / "train").rename(tmp_path / "digits" / "bus")
    (tmp_path / "digits" / "bus" / "00.png").rename(tmp_path / "digits" / "bus" / "train_00.png")
    with pytest.raises(UserError, match=r"train_00\.png.*: name the folder that holds"):
        load_dataset(tmp_path)
    (tmp_path / "digits" / "bus" / "train_00.png").rename(tmp_path / "digits" / "bus" / "0.png")
    assert sum(load_dataset(tmp_path).counts.values()) == SIZES["train"] + SIZES["test"]


@pytest.mark.parametrize("make", [arrays, lists, tables])
def test_numbers_of_any_type(tmp_path: Path, make) -> None:
    source = make(tmp_path, {"train": "train"})
    options = {"tokenizer": "words"} if make is lists else {}
    load_it = {arrays: load_dataset, lists: load_text, tables: load_table}[make]
    plain = load_it(source, seed=3, limit=5, **options)
    other = load_it(source, seed=np.int64(3), limit=np.uint8(5), **options)
    assert other.fingerprint == plain.fingerprint
    assert json.loads(json.dumps(other.record())) == json.loads(json.dumps(plain.record()))
    for name, values in {"seed": (-1, 1.5, "1"), "limit": (0, 2.5), "valid": ("x", -1)}.items():
        for value in values:
            with pytest.raises(UserError, match=f"{name} is {value}: give a"):
                load_it(source, **{name: value}, **options)


def test_names_of_classes_are_no_splits(tmp_path: Path) -> None:
    """One folder that resembles a split among others that do not is a class."""
    for name in ("brain", "heart", "vest"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="brain looks like a split"):
        by_split({name: [name] for name in ("brain", "heart", "vest")}, "x")
    assert by_split({name: [name] for name in ("brain", "heart")}, "x") == {"": ["brain", "heart"]}
    assert split_called("Val") == "valid"
    assert split_called("value") is None


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints", "__MACOSX", ".git"])
@pytest.mark.parametrize("make", [pictures, texts, text_folders, tables])
def test_hidden_folders_are_skipped(tmp_path: Path, make, hidden: str) -> None:
    make(tmp_path, NAMES[0])
    whole = load(tmp_path, make).fingerprint
    (tmp_path / hidden).mkdir()
    make(tmp_path / hidden, NAMES[0])
    (tmp_path / "train").mkdir(exist_ok=True)
    (tmp_path / "train" / hidden).mkdir()
    make(tmp_path / "train" / hidden, NAMES[0])
    assert load(tmp_path, make).fingerprint == whole


def test_splits_that_are_made_say_where_from(tmp_path: Path) -> None:
    pictures(tmp_path, {"train": "training"})
    assert load_dataset(tmp_path, seed=5).meta["sources"] == {
        "train": "training/",
        "valid": "2 images of training/, by seed",
        "test": "3 images of training/, the same for every seed",
    }


def test_few_files_do_not_become_splits_in_silence(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"{name}\n\nmore\n")
    with pytest.raises(UserError, match="of which whole ones would become the splits"):
        load_text(tmp_path, tokenizer="words")
    for name in "defghijk":
        (tmp_path / f"{name}.txt").write_text(f"{name}\n\nmore\n")
    data = load_text(tmp_path, tokenizer="words")
    assert data.counts == {"train": 9, "valid": 1, "test": 1}
    assert "11 files of" in data.meta["sources"]["train"]
    assert "each one document" in data.meta["sources"]["train"]
    assert data.meta["document"] == "file"


def test_documents_are_the_same_in_every_split(tmp_path: Path) -> None:
    for name, count in (("train", 2), ("test", 1)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.txt").write_text("one\n\ntwo\n\nthree\n")
    with pytest.raises(UserError, match="cannot take"):
        load_text(tmp_path, tokenizer="words", valid=0.9)
    assert load_text(tmp_path, tokenizer="words").counts == {"train": 1, "valid": 1, "test": 1}
