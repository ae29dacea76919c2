import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers import ArrayEmbeddings, PixelTeacher, PixelWindows, default_patch
from pyjuice_bridge.teachers.base import neighbours


def images(shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape).astype(np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(1, 4, 6, 1), (3, 6, 4, 3), (2, 6, 6, 2)]),
    st.sampled_from([1, 2]),
    st.integers(0, 3),
    st.sampled_from(["zero", "edge"]),
    st.data(),
)
def test_windows_are_cut_where_they_should_be(shape, patch, ring, padding, data):
    x = images(shape)
    n, height, width, _ = shape
    found = PixelWindows(x, patch=patch, ring=ring, padding=padding)
    rows, positions, dim = found.shape
    assert (rows, positions) == (n, height * width // patch**2)
    start = data.draw(st.integers(0, positions))
    stop = data.draw(st.integers(start, positions))
    chosen = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=4)), np.int64)
    part = found.read(slice(start, stop), chosen)
    assert part.shape == (len(chosen), stop - start, dim) and part.dtype == np.float32
    mode = {"zero": "constant", "edge": "edge"}[padding]
    padded = np.pad(x, [(0, 0), (ring, ring), (ring, ring), (0, 0)], mode=mode)
    side = patch + 2 * ring
    for k, position in enumerate(range(start, stop)):
        r, c = (v * patch for v in divmod(position, width // patch))
        expected = padded[chosen, r : r + side, c : c + side].reshape(len(chosen), dim) / 255
        np.testing.assert_allclose(part[:, k], expected, rtol=1e-6)


def test_weights_fall_with_the_distance_from_the_square():
    x = np.full((1, 12, 12, 1), 255, np.uint8)
    window = PixelWindows(x, patch=2, ring=3, sigma=1.5).read(slice(14, 15), slice(None))
    window = window.reshape(8, 8)
    np.testing.assert_allclose(window[3:5, 3:5], 1)
    assert window[2, 4] == pytest.approx(np.exp(-1 / 4.5))
    assert window[0, 7] == pytest.approx(np.exp(-18 / 4.5))
    np.testing.assert_array_equal(window, window[::-1, ::-1])
    np.testing.assert_array_equal(window, window.T)


def test_all_patches_together_are_the_image():
    x = images((2, 8, 8, 3))
    patches = PixelTeacher(patch=4).embed(x).reshape(2, 2, 2, 4, 4, 3) * 255
    np.testing.assert_array_equal(patches.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape).round(), x)


def test_array_embeddings():
    array = np.random.default_rng(0).normal(size=(7, 5, 3)).astype(np.float16)
    found = ArrayEmbeddings(array)
    assert found.shape == (7, 5, 3)
    for rows in (slice(2, 6), np.array([6, 0, 0])):
        part = found.read(slice(1, 4), rows)
        assert part.dtype == np.float32
        np.testing.assert_array_equal(part, array[rows, 1:4])
    assert found.read(slice(2, 2), slice(None)).shape == (7, 0, 3)


def test_default_patches_are_the_papers():
    assert [default_patch(n, n) for n in (28, 32, 64, 8)] == [4, 4, 8, 2]


def test_neighbourhoods_of_a_grid():
    found = {}
    for positions, members in neighbours((3, 4)):
        for position, around in zip(positions, members, strict=True):
            found[int(position)] = around.tolist()
    assert sorted(found) == list(range(12))
    for position, around in found.items():
        r, c = divmod(position, 4)
        near = {i for i in range(12) if max(abs(i // 4 - r), abs(i % 4 - c)) <= 1}
        assert around[0] == position and set(around) == near and len(around) == len(near)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"patch": 3}, "do not tile"),
        ({"patch": 0}, "do not tile"),
        ({"ring": -1}, "negative"),
        ({"padding": "mirror"}, "mirror"),
        ({"sigma": 0.0}, "sigma"),
    ],
)
def test_refusals(arguments, words):
    with pytest.raises(UserError, match=words):
        PixelWindows(images((1, 4, 4, 1)), **arguments)
