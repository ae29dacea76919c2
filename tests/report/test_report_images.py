import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.report import grid_png
from pyjuice_bridge.report.images import HIDDEN_COLOUR, brighten, paint


def decode(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


@given(
    n=st.integers(1, 7),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    columns=st.integers(1, 5),
    scale=st.integers(1, 3),
    gap=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_every_image_stands_at_its_place_and_the_rest_is_transparent(
    n, height, width, channels, columns, scale, gap, seed
):
    images = np.random.default_rng(seed).integers(
        0, 256, (n, height, width, channels), dtype=np.uint8
    )
    sheet = decode(grid_png(images, columns, scale, gap=gap))
    seen = np.zeros(sheet.shape[:2], bool)
    for index, image in enumerate(images):
        row, column = divmod(index, min(columns, n))
        top, left = row * (height + gap) * scale, column * (width + gap) * scale
        place = np.s_[top : top + height * scale, left : left + width * scale]
        for channel in range(3):
            expected = np.kron(image[..., channel % channels], np.ones((scale, scale)))
            assert np.array_equal(sheet[place][..., channel], expected)
        seen[place] = True
    assert np.array_equal(sheet[..., 3] == 255, seen)
    assert np.array_equal(sheet[..., 3] == 0, ~seen)


def test_few_grey_levels_are_stretched_to_full_brightness():
    images = np.array([0, 8, 16, 17], np.uint8).reshape(1, 2, 2, 1)
    assert decode(grid_png(images, 1, white=16))[..., 0].ravel().tolist() == [0, 127, 255, 255]
    assert brighten(images, 255) is images


def test_hidden_pixels_are_painted_and_the_others_kept():
    images = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 1)
    hidden = np.zeros((2, 3, 3), bool)
    hidden[0, 1, 2] = True
    painted = paint(images, hidden)
    assert painted.shape == (2, 3, 3, 3)
    assert tuple(painted[0, 1, 2]) == HIDDEN_COLOUR
    assert np.array_equal(painted[~hidden], images.repeat(3, -1)[~hidden])
    assert images[0, 1, 2, 0] == 5
    shared = paint(images, hidden[0])
    assert tuple(shared[1, 1, 2]) == HIDDEN_COLOUR


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 3), np.uint8),
        np.zeros((2, 3, 3, 2), np.uint8),
        np.zeros((0, 3, 3, 1), np.uint8),
        np.zeros((2, 3, 3, 1), np.float32),
    ],
)
def test_an_array_of_another_kind_is_refused(images):
    with pytest.raises(UserError, match=r"images: expected uint8 \[n, height, width, 1 or 3\]"):
        grid_png(images, 2)


def test_impossible_numbers_are_refused():
    images = np.zeros((2, 3, 3, 1), np.uint8)
    with pytest.raises(UserError, match="columns: must be at least 1, found 0"):
        grid_png(images, 0)
    with pytest.raises(UserError, match="scale: must be at least 1, found -1"):
        grid_png(images, 1, -1)
