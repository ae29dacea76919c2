"""Pictures as cameras and programs leave them: depth, transparency, orientation, size."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyjuice_bridge.data import load_dataset
from pyjuice_bridge.data.folders import read_picture
from pyjuice_bridge.errors import UserError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 9, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 9), np.uint8)

pytestmark = pytest.mark.usefixtures("own_cache")


def png(
    pixels: np.ndarray, kind: int, depth: int, *, claim: tuple[int, int] | None = None
) -> bytes:
    """A PNG file by hand: Pillow writes no colour of 16 bits."""

    def chunk(name: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)

    height, width = claim or pixels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (6, 4), (0, 1), (4, 2)])
def test_sixteen_bits_are_refused(tmp_path: Path, kind: int, channels: int) -> None:
    path = tmp_path / "x.png"
    deep = RNG.integers(0, 1 << 16, (6, 9, channels)).astype(">u2")
    path.write_bytes(png(deep, kind, 16))
    with pytest.raises(UserError, match=r"x\.png has Pillow mode .*more than 8 bits per channel"):
        read_picture(path)


def test_sixteen_bits_of_other_formats_are_refused(tmp_path: Path) -> None:
    deep = RNG.integers(0, 1 << 16, (6, 9, 3)).astype(">u2")
    ppm = tmp_path / "x.ppm"
    ppm.write_bytes(b"P6 9 6 65535\n" + deep.tobytes())
    tags = [(256, 9), (257, 6), (258, 16), (259, 1), (262, 2), (273, 200), (277, 3), (278, 6)]
    tags += [(279, deep.nbytes), (284, 1)]
    entries = b"".join(
        struct.pack("<HHII", tag, 3 if tag not in (273, 279) else 4, 3 if tag == 258 else 1, v)
        for tag, v in tags
    ).replace(struct.pack("<HHII", 258, 3, 3, 16), struct.pack("<HHII", 258, 3, 3, 150))
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    tiff = tiff.ljust(150, b"\0") + struct.pack("<HHH", 16, 16, 16)
    (tmp_path / "x.tif").write_bytes(tiff.ljust(200, b"\0") + deep.astype("<u2").tobytes())
    for name in ("x.ppm", "x.tif"):
        with pytest.raises(UserError, match="more than 8 bits per channel"):
            read_picture(tmp_path / name)
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "y.tif")
    with pytest.raises(UserError, match="Pillow mode F"):
        read_picture(tmp_path / "y.tif")


def test_opaque_pictures_lose_their_alpha_and_transparent_ones_are_refused(tmp_path: Path) -> None:
    opaque = np.full((6, 9), 255, np.uint8)
    for pixels in (np.dstack([COLOUR, opaque]), np.dstack([GREY, opaque])):
        for name in ("x.png", "x.tif"):
            Image.fromarray(pixels).save(tmp_path / name)
            found = read_picture(tmp_path / name)
            np.testing.assert_array_equal(found, pixels[..., :-1])
        pixels[3, 4, -1] = 254
        Image.fromarray(pixels).save(tmp_path / "x.png")
        with pytest.raises(UserError, match="transparent pixels: flatten it"):
            read_picture(tmp_path / "x.png")
    palette = Image.fromarray(COLOUR).quantize(8)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "p.png"), palette.convert("RGB"))
    palette.save(tmp_path / "p.png", transparency=int(np.asarray(palette)[0, 0]))
    with pytest.raises(UserError, match="transparent pixels"):
        read_picture(tmp_path / "p.png")


@pytest.mark.parametrize("ending", ["tif", "jpg"])
def test_other_colour_spaces_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    Image.fromarray(COLOUR).convert("CMYK").save(path)
    with pytest.raises(UserError, match="Pillow mode CMYK"):
        read_picture(path)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, COLOUR),
        (2, COLOUR[:, ::-1]),
        (3, COLOUR[::-1, ::-1]),
        (6, COLOUR[::-1].transpose(1, 0, 2)),
        (8, COLOUR.transpose(1, 0, 2)[::-1]),
    ],
)
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_orientation_is_applied(tmp_path: Path, orientation: int, turned, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(COLOUR).save(tmp_path / f"x.{ending}", exif=exif, **options)
    np.testing.assert_array_equal(read_picture(tmp_path / f"x.{ending}"), turned)


@pytest.mark.parametrize("ending", ["gif", "tif", "webp", "png"])
def test_several_frames_are_refused(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(COLOUR), Image.fromarray(COLOUR[::-1].copy())]
    frames[0].save(tmp_path / f"x.{ending}", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="several frames or pages"):
        read_picture(tmp_path / f"x.{ending}")


@pytest.mark.parametrize("claim", [(10_000, 10_000), (50_000, 50_000)])
def test_decompression_bombs(tmp_path: Path, claim: tuple[int, int]) -> None:
    (tmp_path / "x.png").write_bytes(png(GREY[..., None], 0, 8, claim=claim))
    with pytest.raises(UserError, match=r"x\.png cannot be read as a picture \(Image size"):
        load_dataset(tmp_path)


def test_same_size_and_time_but_other_pixels(tmp_path: Path) -> None:
    """The cache of decoded pictures goes by content."""
    folder = tmp_path / "p"
    folder.mkdir()
    for i in range(5):
        Image.new("L", (4, 4), 10 + i).save(folder / f"{i}.bmp")
    first = load_dataset(folder)
    stat = (folder / "0.bmp").stat()
    Image.new("L", (4, 4), 99).save(folder / "0.bmp")
    os.utime(folder / "0.bmp", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = load_dataset(folder)
    assert (folder / "0.bmp").stat().st_size == stat.st_size
    everything = [np.concatenate([d.train, d.valid, d.test]).max() for d in (first, again)]
    assert everything == [14, 99]


@pytest.mark.parametrize("damage", ["cut", "flipped", "checksum"])
def test_a_damaged_cache_is_written_again(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    for i in range(5):
        Image.new("L", (4, 4), 10 + i).save(folder / f"{i}.png")
    first = load_dataset(folder).fingerprint
    (cached,) = Path(os.environ["XDG_CACHE_HOME"]).rglob("*.npy")
    raw = cached.read_bytes()
    if damage == "checksum":
        cached.with_suffix(".sha256").unlink()
    cached.write_bytes(raw[:-3] if damage == "cut" else raw[:-1] + bytes([raw[-1] ^ 1]))
    assert load_dataset(folder).fingerprint == first
    assert cached.read_bytes() == raw
