"""Downloads from a server on this machine, packages, archives, natural crops, codecs."""

import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyjuice_bridge.data import catalogue, files, load_dataset, natural, sources
from pyjuice_bridge.data.catalogue import Photo, photographs
from pyjuice_bridge.data.codecs import codec_bits, mosaic
from pyjuice_bridge.data.files import UnreachableError, download
from pyjuice_bridge.data.packages import Package
from pyjuice_bridge.errors import UserError

CONTENT = np.random.default_rng(0).integers(0, 256, 50_000, np.uint8).tobytes()


def check(path: Path) -> None:
    files.verify(path, hashlib.sha256(CONTENT).hexdigest())


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files``; understands open ranges; can break off after some bytes."""

    def do_GET(self) -> None:
        content = self.server.files.get(self.path)
        self.server.ranges.append(self.headers.get("Range"))
        if content is None:
            self.send_error(404)
            return
        start = 0
        asked = self.headers.get("Range")
        if asked and self.server.resumes:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.server.breaks_after])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    made.files = {"/x": CONTENT}
    made.ranges = []
    made.resumes = True
    made.breaks_after = 1 << 30
    made.base = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.mark.parametrize("resumes", [True, False])
def test_broken_download_goes_on(server, tmp_path: Path, resumes: bool) -> None:
    path = tmp_path / "x"
    server.breaks_after = 20_000
    with pytest.raises(UnreachableError):
        download(f"{server.base}/x", path, check)
    assert not path.exists()
    server.breaks_after, server.resumes = 1 << 30, resumes
    download(f"{server.base}/x", path, check)
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=20000-"]
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_complete_part_and_wrong_bytes(server, tmp_path: Path) -> None:
    path = tmp_path / "x"
    (tmp_path / "x.part").write_bytes(CONTENT)
    download(f"{server.base}/x", path, check)
    assert path.read_bytes() == CONTENT
    path.unlink()
    with pytest.raises(UserError, match=f"not the published ones.*not the expected {'0' * 64}"):
        download(f"{server.base}/x", path, lambda path: files.verify(path, "0" * 64))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnreachableError, match="404"):
        download(f"{server.base}/none", path, check)


def _tar(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in (name, "folder/readme.html"):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _zip(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "make"), [("a.tar.gz", _tar), ("a.zip", _zip)])
def test_archives(server, tmp_path: Path, monkeypatch, kind: str, make) -> None:
    packed = make("../folder/data_batch_1", b"one")
    server.files[f"/{kind}"] = packed
    archive = catalogue.Archive(
        f"{server.base}/{kind}", hashlib.sha256(packed).hexdigest(), "*batch*"
    )
    entry = replace(catalogue.SETS["cifar10"], archives=(archive,))
    folder = tmp_path / "cifar10"
    folder.mkdir()
    sources.get_archives(entry, folder)
    assert sorted(p.name for p in folder.iterdir()) == [f"{kind}.done", "data_batch_1"]
    assert (folder / "data_batch_1").read_bytes() == b"one"
    server.files.clear()
    sources.get_archives(entry, folder)
    with pytest.raises(UserError, match="no package carries it"):
        sources.get_archives(entry, tmp_path / "elsewhere")


def test_files_from_the_address_when_no_package(server, tmp_path: Path, monkeypatch) -> None:
    import gzip

    packed = gzip.compress(CONTENT)
    server.files["/f.gz"] = packed
    file = catalogue.PublishedFile(
        "f",
        hashlib.sha256(CONTENT).hexdigest(),
        "inside/f",
        f"{server.base}/f.gz",
    )
    label = replace(file, name="g")
    no_client = Package("apt", "surely-no-such-package")
    monkeypatch.setenv("PATH", str(tmp_path))
    entry = replace(catalogue.SETS["mnist"], package=no_client, files=(file,), labels=(label,))
    folder = sources.get_files(entry, tmp_path / "mnist")
    assert sorted(p.name for p in folder.iterdir()) == ["f", "g"]
    assert (folder / "f").read_bytes() == CONTENT
    (folder / "f").write_bytes(b"changed")
    with pytest.raises(UserError, match="delete it and get it again"):
        sources.get_files(entry, folder)
    server.files.clear()
    with pytest.raises(UserError, match=r"apt-get, which is not on this machine.*404.*by hand"):
        sources.get_files(entry, tmp_path / "other")


def _photos(folder: Path, monkeypatch, count: int) -> list[Photo]:
    """Photographs in an installed package made here, each of one hue with its own pattern."""
    package = folder / "site" / "photo_pack"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(str(folder / "site"))
    photos = []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 20, (140, 200, 3)) + 10 * i
        Image.fromarray(pixels.astype(np.uint8)).save(package / f"{i}.png")
        digest = hashlib.sha256((package / f"{i}.png").read_bytes()).hexdigest()
        photos.append(Photo(Package("pip", "photo-pack"), f"photo_pack/{i}.png", digest))
    return photos


def test_crops_do_not_share_photographs(tmp_path: Path, monkeypatch) -> None:
    photos = _photos(tmp_path, monkeypatch, 12)
    folder = natural.build(tmp_path / "natural_patches", photos)
    again = natural.build(tmp_path / "second", photos)
    assert (folder / "crops.npy").read_bytes() == (again / "crops.npy").read_bytes()
    data = load_dataset("natural_patches", root=tmp_path, valid=7, seed=3)
    of_split = [
        {round((float(c.mean()) - 9.5) / 10) for c in split}
        for split in (data.train, data.valid, data.test)
    ]
    assert [len(data.valid), len(data.test)] == [7, 6]
    assert len(data.train) == 11 * 6 - 2 * 6
    assert set.union(*of_split) == set(range(12))
    assert sum(map(len, of_split)) == 12
    with pytest.raises(UserError, match="ask for fewer"):
        load_dataset("natural_patches", root=tmp_path, valid=66)


def test_crops_tile_the_reduced_photograph(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (140, 200, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    reduced = pixels.reshape(70, 2, 100, 2, 3).astype(float).mean(axis=(1, 3))
    crops = natural.photo_crops(tmp_path / "p.png")
    assert crops.shape == (6, 32, 32, 3)
    assert np.abs(crops[4] - reduced[32:64, 32:64]).max() <= 0.5 + 1e-6


def test_links_and_copies_count_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    (tmp_path / "c").write_bytes(b"other")
    (tmp_path / "d").symlink_to("c")
    (tmp_path / "broken").symlink_to("nowhere")
    found = natural.distinct_files(sorted(tmp_path.iterdir()))
    assert sorted(p.name for p in found.values()) == ["a", "c"]


def test_photograph_list() -> None:
    photos = photographs()
    assert len({photo.sha256 for photo in photos}) == len(photos) == 42
    assert len(natural.photos_for_test(len(photos))) == 6


def test_mosaic_holds_every_image_once() -> None:
    images = np.random.default_rng(0).integers(1, 256, (7, 4, 6, 3), np.uint8)
    picture = mosaic(images)
    rows, columns = picture.shape[0] // 4, picture.shape[1] // 6
    tiles = picture.reshape(rows, 4, columns, 6, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 4, 6, 3)
    np.testing.assert_array_equal(tiles[:7], images)
    assert not tiles[7:].any()


@pytest.mark.parametrize("channels", [1, 3])
def test_codec_bits_of_noise_and_of_nothing(channels: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 32, 32, channels), np.uint8)
    for bits in codec_bits(noise).values():
        assert 7.99 < bits < 8.6
    for bits in codec_bits(np.full_like(noise, 9)).values():
        assert bits < 0.1
    with pytest.raises(UserError, match="Codecs need"):
        codec_bits(noise[:0])
