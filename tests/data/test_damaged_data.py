"""Every reader of a user's file, on damaged files: one sentence says why they are refused."""

import gzip
import hashlib
import json
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_formats import idx_bytes, planes, python2_pickle
from test_text_readers import WIKI_TOKENS

from pyjuice_bridge.data import load_dataset, load_table, load_text
from pyjuice_bridge.data.formats import (
    map_npy,
    read_batch,
    read_cifar_bin,
    read_csv_images,
    read_idx,
    read_npz_array,
)
from pyjuice_bridge.data.text_corpora import brown_samples, lead_sections
from pyjuice_bridge.data.text_markup import dump_articles
from pyjuice_bridge.data.text_tokenizers import WordPieces
from pyjuice_bridge.errors import UserError

MUTANTS = 40
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 8, 8, 3), np.uint8)
TABLE = RNG.integers(0, 3, (40, 4))


@pytest.fixture(autouse=True)
def offline(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def mutants(raw: bytes, seed: int) -> Iterator[bytes]:
    """Cut, flipped, repeated and overwritten copies, half of them near the start or the end."""
    rng = np.random.default_rng(seed)
    for kind in range(MUTANTS):
        copy = bytearray(raw)
        near = len(raw) if kind % 2 else min(len(raw), 200)
        place = (
            int(rng.integers(near)) if kind % 4 else max(0, len(raw) - 1 - int(rng.integers(near)))
        )
        end = place + int(rng.integers(1, 9))
        if kind % 5 == 0:
            del copy[place:]
        elif kind % 5 == 1:
            copy[place] ^= 1 << int(rng.integers(8))
        elif kind % 5 == 2:
            copy[place:end] = rng.bytes(end - place)
        elif kind % 5 == 3:
            copy[place:end] = b"\xff" * (end - place)
        else:
            copy[place:place] = copy[: int(rng.integers(len(raw)))]
        yield bytes(copy)


def npy(folder: Path) -> Path:
    np.save(folder / "x.npy", IMAGES)
    return folder / "x.npy"


def npz(folder: Path, *, packed: bool = False) -> Path:
    (np.savez_compressed if packed else np.savez)(folder / "x.npz", train=IMAGES, test=IMAGES[:3])
    return folder / "x.npz"


def idx(folder: Path, *, packed: bool = False) -> Path:
    raw = idx_bytes(IMAGES[..., 0])
    (folder / "x").write_bytes(gzip.compress(raw, mtime=0) if packed else raw)
    return folder / "x"


def csv_images(folder: Path) -> Path:
    np.savetxt(folder / "x.csv", RNG.integers(0, 17, (5, 65)), fmt="%d", delimiter=",")
    return folder / "x.csv"


def batch(folder: Path, *, protocol: int) -> Path:
    raw = {b"data": planes(RNG.integers(0, 256, (2, 32, 32, 3), np.uint8)), b"labels": [1, 2]}
    (folder / "b").write_bytes(pickle.dumps(raw, protocol=protocol))
    return folder / "b"


def old_batch(folder: Path) -> Path:
    (folder / "b").write_bytes(python2_pickle(np.zeros((2, 3072), np.uint8)))
    return folder / "b"


def cifar_bin(folder: Path) -> Path:
    (folder / "b.bin").write_bytes(RNG.bytes(3073 * 2))
    return folder / "b.bin"


def picture(ending: str, mode: str = "RGB") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "p").mkdir()
        for i in range(4):
            Image.fromarray(IMAGES[i]).convert(mode).save(folder / "p" / f"{i}.{ending}")
        return folder / "p" / f"2.{ending}"

    return make


def text(ending: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / f"t.{ending}").write_text(content, "utf-8")
        return folder / f"t.{ending}"

    return make


def text_parquet(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [f"Document {i}, näher." for i in range(30)]
    parquet.write_table(pyarrow.table({"text": rows}), folder / "t.parquet")
    return folder / "t.parquet"


def table_parquet(folder: Path) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {f"c{i}": TABLE[:, i] for i in range(3)} | {"s": ["a", None, "b", "ü"] * 10}
    parquet.write_table(pyarrow.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


def table_npy(folder: Path) -> Path:
    np.save(folder / "t.npy", TABLE)
    return folder / "t.npy"


def table_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "t.npz", train=TABLE, test=TABLE[:3])
    return folder / "t.npz"


def table_csv(folder: Path) -> Path:
    rows = [f'{a},{b},true,"x {c}"' for a, b, c, _ in TABLE]
    (folder / "t.csv").write_text("\n".join(["a,b,c,d", *rows, ",NA,false,"]))
    return folder / "t.csv"


def natural_record(folder: Path) -> Path:
    return natural(folder) / "build.json"


def natural_crops(folder: Path) -> Path:
    return natural(folder) / "crops.npy"


def natural_photo(folder: Path) -> Path:
    return natural(folder) / "photo.npy"


def natural(folder: Path) -> Path:
    np.save(folder / "crops.npy", RNG.integers(0, 256, (12, 32, 32, 3), np.uint8))
    np.save(folder / "photo.npy", np.repeat(np.arange(4, dtype=np.int32), 3))
    photographs = [{"id": i, "test": i == 0, "crops": 3} for i in range(4)]
    checksum = hashlib.sha256((folder / "crops.npy").read_bytes()).hexdigest()
    record = {"photographs": photographs, "pillow": "1", "crops_sha256": checksum}
    (folder / "build.json").write_text(json.dumps(record))
    return folder


def tokenizer(folder: Path) -> Path:
    from test_text_tokenizers import save_bert

    return save_bert(folder / "bert") / "tokenizer.json"


def leads(folder: Path) -> Path:
    (folder / "l.json").write_text(json.dumps({f"t{i}": {"extract": "Text."} for i in range(9)}))
    return folder / "l.json"


def dump(folder: Path) -> Path:
    import bz2

    page = "<page><title>A</title><ns>0</ns><text>A is a letter.</text></page>"
    (folder / "d.bz2").write_bytes(bz2.compress(f"<mediawiki>{page * 5}</mediawiki>".encode()))
    return folder / "d.bz2"


def words(path: Path) -> object:
    return load_text(path, tokenizer="words").record()


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "npy": (npy, lambda p: load_dataset(p).fingerprint),
    "npz": (npz, lambda p: load_dataset(p).fingerprint),
    "npz packed": (lambda f: npz(f, packed=True), lambda p: load_dataset(p).fingerprint),
    "npz batch": (lambda f: npz(f), lambda p: read_npz_array(p, "train").sum()),
    "idx": (idx, read_idx),
    "idx packed": (lambda f: idx(f, packed=True), read_idx),
    "csv images": (csv_images, lambda p: read_csv_images(p, 8, "digits")),
    "pickle 2": (lambda f: batch(f, protocol=2), lambda p: read_batch(p, 32).images.sum()),
    "pickle 5": (lambda f: batch(f, protocol=5), lambda p: read_batch(p, 32).images.sum()),
    "pickle of Python 2": (old_batch, lambda p: read_batch(p, 32).images.sum()),
    "cifar bin": (cifar_bin, lambda p: read_cifar_bin(p, 1).images.sum()),
    **{
        f"{ending} {mode}": (picture(ending, mode), lambda p: load_dataset(p.parent).fingerprint)
        for ending in ("png", "jpg", "bmp", "gif", "webp", "tif", "ppm")
        for mode in ("RGB", "L")
    },
    "text": (text("txt", "Ein Absatz, größer.\n\n" * 30), words),
    "wikitext": (text("tokens", WIKI_TOKENS * 6), words),
    "text parquet": (text_parquet, words),
    "table parquet": (table_parquet, lambda p: load_table(p).record()),
    "table npy": (table_npy, lambda p: load_table(p).record()),
    "table npz": (table_npz, lambda p: load_table(p).record()),
    "table csv": (table_csv, lambda p: load_table(p).record()),
    "natural build.json": (
        natural_record,
        lambda p: load_dataset("natural_patches", root=p.parent).record(),
    ),
    "natural crops.npy": (
        natural_crops,
        lambda p: load_dataset("natural_patches", root=p.parent).record(),
    ),
    "natural photo.npy": (
        natural_photo,
        lambda p: load_dataset("natural_patches", root=p.parent).record(),
    ),
    "tokenizer": (tokenizer, lambda p: WordPieces(p.parent).encode(["the cat"])),
    "lead sections": (leads, lambda p: list(lead_sections(p))),
    "dump": (dump, lambda p: list(dump_articles(p))),
    "brown": (
        text("txt", "# ca01\n\tThe/at jury/nn ./.\n# ca02\nx/y"),
        lambda p: list(brown_samples(p)),
    ),
    "words": (npy, map_npy),
}


@pytest.mark.parametrize("name", ["crops.npy", "photo.npy"])
def test_natural_patches_with_flipped_bits_are_refused(tmp_path: Path, name: str) -> None:
    path = natural(tmp_path) / name
    raw = bytearray(path.read_bytes())
    raw[-4] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError, match=rf"{name}.*delete it and get it"):
        load_dataset("natural_patches", root=tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_damage_is_told_in_one_sentence(tmp_path: Path, name: str) -> None:
    if name == "tokenizer":
        pytest.importorskip("transformers")
    make, read = READERS[name]
    path = make(tmp_path)
    read(path)
    refused, tracebacks = 0, []
    for mutant in mutants(path.read_bytes(), seed=len(name)):
        path.write_bytes(mutant)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                read(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
            assert len(str(error)) < 1000
        except Exception as error:
            tracebacks.append(f"{type(error).__name__}: {error} on {mutant[:60]!r}")
    assert tracebacks == []
    assert refused > 0
    shutil.rmtree(tmp_path)
