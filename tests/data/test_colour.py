"""Colour codings against every one of the 2^24 colours and against brute-force sums."""

import math

import numpy as np
import pytest

from pyjuice_bridge.data.colour import COLOURS, get_colour
from pyjuice_bridge.errors import UserError

LOSSY = ("ycbcr_lossy", "ycocg_lossy")


def all_colours(parts: int = 64):
    """Every 8-bit colour once, in chunks uint8 [1, 1, n, 3]."""
    size = 256**3 // parts
    for start in range(0, 256**3, size):
        c = np.arange(start, start + size)
        yield np.stack([c >> 16, c >> 8, c], axis=-1).astype(np.uint8)[None, None]


def test_reversible_on_all_colours() -> None:
    colour = get_colour("ycocg_r")
    low = np.full(3, 1 << 14)
    high = np.zeros(3, int)
    for pixels in all_colours():
        codes = colour.encode(pixels)
        assert (colour.decode(codes) == pixels).all()
        assert colour.inside(codes).all()
        low = np.minimum(low, codes.min(axis=(0, 1, 2)))
        high = np.maximum(high, codes.max(axis=(0, 1, 2)))
    assert low.tolist() == [0, 0, 0]
    assert tuple(high + 1) == colour.categories == (256, 511, 511)


def total_mass(colour, tables) -> float:
    """Sum of p'(f(x)) over all colours x, for independent channels."""
    total = 0.0
    for pixels in all_colours():
        codes = colour.encode(pixels)[0, 0]
        total += float(np.prod([t[codes[:, i]] for i, t in enumerate(tables)], axis=0).sum())
    return total


def channel_tables(colour):
    rng = np.random.default_rng(5)
    return [rng.dirichlet(np.ones(c)) for c in colour.categories]


def test_mass_of_rgb_is_one() -> None:
    colour = get_colour("rgb")
    assert total_mass(colour, channel_tables(colour)) == pytest.approx(1.0, abs=1e-9)


def test_mass_of_reversible_is_one_minus_mass_outside() -> None:
    colour = get_colour("ycocg_r")
    tables = channel_tables(colour)
    outside = 0.0
    for y in range(0, 256):
        grid = np.stack(
            np.broadcast_arrays(y, np.arange(511)[:, None], np.arange(511)), axis=-1
        ).astype(np.int16)
        out = ~colour.inside(grid[None])[0]
        outside += float(tables[0][y] * (tables[1][:, None] * tables[2] * out).sum())
    assert 0.5 < outside < 0.9
    assert total_mass(colour, tables) == pytest.approx(1 - outside, abs=1e-9)


@pytest.mark.parametrize("name", LOSSY)
def test_mass_of_lossy_with_correction(name: str) -> None:
    colour = get_colour(name)
    tables = channel_tables(colour)
    kept = np.flatnonzero(colour.preimages)
    inside = (tables[0][kept >> 16] * tables[1][(kept >> 8) & 255] * tables[2][kept & 255]).sum()
    corrected = 0.0
    for pixels in all_colours():
        codes = colour.encode(pixels)[0, 0].astype(int)
        p = tables[0][codes[:, 0]] * tables[1][codes[:, 1]] * tables[2][codes[:, 2]]
        packed = codes @ np.array([1 << 16, 1 << 8, 1])
        corrected += float((p / colour.preimages[packed]).sum())
    assert corrected == pytest.approx(inside, abs=1e-9)
    assert inside < 1


@pytest.mark.parametrize(
    ("name", "colours", "bits"), [("ycbcr_lossy", 4.15e6, 0.675), ("ycocg_lossy", 4.24e6, 0.663)]
)
def test_colours_kept_and_mean_correction(name: str, colours: float, bits: float) -> None:
    counts = COLOURS[name].preimages.astype(np.int64)
    assert counts.sum() == 256**3
    assert (counts > 0).sum() == pytest.approx(colours, rel=2e-3)
    mean = (counts * np.log2(np.maximum(counts, 1))).sum() / 256**3 / 3
    assert mean == pytest.approx(bits, abs=1e-3)


def test_ycbcr_is_rounded_bt709() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 9, 9, 3), np.uint8)
    weights = np.array([[0.2126, 0.7152, 0.0722], [-0.1146, -0.3854, 0.5], [0.5, -0.4542, -0.0458]])
    exact = pixels @ weights.T + [0, 128, 128]
    codes = get_colour("ycbcr_lossy").encode(pixels)
    assert np.abs(codes - exact.clip(0, 255)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("name", LOSSY)
def test_log_preimage_sums_over_pixels(name: str) -> None:
    colour = get_colour(name)
    images = np.random.default_rng(2).integers(0, 256, (3, 4, 5, 3), np.uint8)
    codes = colour.encode(images)
    packed = codes.astype(int) @ np.array([1 << 16, 1 << 8, 1])
    expected = [sum(math.log(colour.preimages[p]) for p in image.flat) for image in packed]
    np.testing.assert_allclose(colour.log_preimage(codes), expected, rtol=1e-12)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_decoding_is_close(name: str) -> None:
    colour = get_colour(name)
    images = np.random.default_rng(2).integers(0, 256, (1, 64, 64, 3), np.uint8)
    back = colour.decode(colour.encode(images)).astype(int)
    assert np.abs(back - images).max() <= 2


def test_bad_input() -> None:
    with pytest.raises(UserError, match="use rgb for grey"):
        get_colour("ycocg_r").encode(np.zeros((1, 2, 2, 1), np.uint8))
    with pytest.raises(UserError, match="choose one of rgb"):
        get_colour("hsv")
    outside = np.array([[[[0, 510, 510]]]], np.int16)
    with pytest.raises(UserError, match="1 pixels have ycocg_r codes"):
        get_colour("ycocg_r").log_preimage(outside)
