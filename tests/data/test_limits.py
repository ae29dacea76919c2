"""Files that claim or unpack to far more than they hold, and text that is none."""

import gzip
import io
import os
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_formats import idx_bytes

from pyjuice_bridge.data import catalogue, load_dataset, load_table, load_text
from pyjuice_bridge.data.formats import read_idx, read_npz_array
from pyjuice_bridge.data.text_tokenizers import WordPieces, Words
from pyjuice_bridge.data.text_wiki import parquet_documents
from pyjuice_bridge.data.unpickle import load_arrays
from pyjuice_bridge.errors import UserError

MIB = 1 << 20
BOMB = 300 * MIB

pytestmark = pytest.mark.usefixtures("own_cache")


def refused_within(memory: int, read: Callable[[], object]) -> str:
    """The sentence with which a read is refused, which must not take so much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as error:
            read()
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    return str(error.value)


def zeros(stream: io.BufferedIOBase, size: int) -> None:
    for _ in range(size >> 20):
        stream.write(bytes(1 << 20))


def header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    stream = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, fields)
    return stream.getvalue()


def test_gzip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with gzip.open(path, "wb", 5) as stream:
        stream.write(idx_bytes(np.zeros((1, 1, 1), np.uint8)))
        zeros(stream, BOMB)
    assert path.stat().st_size < BOMB // 200
    assert "which no data set does" in refused_within(300 * MIB, lambda: read_idx(path))


@pytest.mark.parametrize("read", [load_dataset, load_table])
def test_npz_bomb(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "x.npz"
    archive = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=5)
    with archive, archive.open("train.npy", "w") as stream:
        stream.write(header((BOMB // 64, 8, 8)))
        zeros(stream, BOMB)
    assert path.stat().st_size < BOMB // 200
    assert "which no data set does" in refused_within(20 * MIB, lambda: read(path))


def test_arrays_that_claim_more_than_there_is(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(header((37 << 24, 8, 8)) + bytes(1000))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("train.npy", header((37 << 24, 8, 8)) + bytes(1000))
    for name in ("x.npy", "x.npz"):
        for read in (load_dataset, load_table):
            says = refused_within(20 * MIB, lambda read=read, name=name: read(tmp_path / name))
            assert "cannot be read as" in says


def test_npz_members_that_are_no_arrays(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("train.npy", "no array")
        archive.writestr("notes.txt", "no array either")
        archive.writestr("objects.npy", header((1,), "|O") + b"x" * 8)
    with pytest.raises(UserError, match="train cannot be read as an array"):
        load_dataset(tmp_path / "x.npz")
    with pytest.raises(UserError, match="objects cannot be read as an array"):
        read_npz_array(tmp_path / "x.npz", "objects")
    with pytest.raises(UserError, match=r"no array named notes \(it holds train, objects\)"):
        read_npz_array(tmp_path / "x.npz", "notes")


def test_idx_of_many_dimensions(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"\7")
    with pytest.raises(UserError, match="at most 8 dimensions"):
        read_idx(tmp_path / "x")


@pytest.mark.parametrize("opcode", [b"r\xff\xff\xff\xff", b"p4294967295\n"])
def test_pickles_that_ask_for_a_large_memo(tmp_path: Path, opcode: bytes) -> None:
    (tmp_path / "b").write_bytes(b"\x80\x02}" + opcode + b".")
    says = refused_within(20 * MIB, lambda: load_arrays(tmp_path / "b"))
    assert "4294967295 memorised objects" in says


def test_parquet_bombs_and_text_that_is_none(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    write = pytest.importorskip("pyarrow.parquet").write_table
    path = tmp_path / "x.parquet"
    words = pyarrow.array(["word " * (MIB // 5)])
    repeated = pyarrow.DictionaryArray.from_arrays(np.zeros(400, np.int32), words)
    write(pyarrow.table({"text": repeated}), path)
    assert path.stat().st_size < MIB
    documents = parquet_documents([path])
    says = refused_within(20 * MIB, lambda: all(len(text) for text in documents))
    assert "which no data set does" in says
    same = pyarrow.array(np.zeros(8 * MIB, np.int8))
    write(pyarrow.table({f"x{i}": same for i in range(9)}), path)
    assert path.stat().st_size < MIB
    assert "which no data set does" in refused_within(20 * MIB, lambda: load_table(path))
    broken = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [None, *map(pyarrow.py_buffer, (b"\0\0\0\0\2\0\0\0", b"\xff\xfe"))]
    )
    for column in ("text", "x"):
        write(pyarrow.table({column: broken}), path)
        with pytest.raises(UserError, match="cannot be read as parquet"):
            load_text(path, tokenizer="words") if column == "text" else load_table(path)


def test_lone_surrogates() -> None:
    says = "character 2 of 'a \\\\ud800b' is the lone surrogate U\\+D800, which is no character"
    with pytest.raises(UserError, match=says):
        load_text({"train": ["a", "a \ud800b"]}, tokenizer="words")
    with pytest.raises(UserError, match=says):
        Words().encode(["a \ud800b"])


def test_lone_surrogates_in_tables() -> None:
    with pytest.raises(UserError, match=r"column x1: character 1 of .* is the lone surrogate"):
        load_table(np.array([["a", "b\udfff"], ["c", "d"]] * 10))


def test_lone_surrogates_in_word_pieces(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("test_text_tokenizers")
    pieces = WordPieces(tokenizers.save_bert(tmp_path / "bert"))
    with pytest.raises(UserError, match=r"lone surrogate U\+DFFF"):
        pieces.encode(["the cat \udfff"])


def test_names_that_no_file_can_have() -> None:
    for load in (load_dataset, load_text, load_table):
        for name in ("a\0b", "x" * 5000, "~nobody-at-all/x"):
            with pytest.raises(UserError, match="There is no"):
                load(name)


def test_masked_pixels_are_refused() -> None:
    images = np.ma.array(np.zeros((9, 4, 4), np.uint8))
    assert len(load_dataset(images).train) == 7
    images[2, 3, 3] = np.ma.masked
    with pytest.raises(UserError, match="array train has masked pixels"):
        load_dataset(images)


def test_every_address_is_https_and_every_file_has_a_sha256() -> None:
    for entry in catalogue.SETS.values():
        urls = [file.url for file in entry.files if file.url] + [a.url for a in entry.archives]
        assert all(url.startswith("https://") for url in urls), entry.name
        sums = [file.sha256 for file in entry.files] + [a.sha256 for a in entry.archives]
        assert all(len(s) == 64 and int(s, 16) for s in sums), entry.name
        assert sums or entry.by_hand or entry.reader == "natural"
        assert entry.about.isascii()


@pytest.mark.parametrize("encoding", ["cp437", "cp1251", "cp932", "ascii", "utf-8"])
def test_the_list_of_sets_prints_on_every_code_page(encoding: str) -> None:
    command = [sys.executable, "-m", "pyjuice_bridge", "data", "list"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120, check=True)
    lines = done.stdout.decode(encoding).splitlines()
    assert {line.split(" ")[0] for line in lines if line} == {*catalogue.SETS, "A"}
    assert done.stderr == b""
