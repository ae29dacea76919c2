"""Window features against a plain loop over every window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyjuice_bridge.data.text import TokenStream, windows
from pyjuice_bridge.errors import UserError
from pyjuice_bridge.teachers.base import Embeddings
from pyjuice_bridge.teachers.text_features import PrefixFeatures, SuffixFeatures, TokenFeatures
from pyjuice_bridge.teachers.text_states import TokenStates

DIM = 3


def stored(tokens, shards=3, start=True, seed=0):
    rng = np.random.default_rng(seed)
    array = rng.normal(size=(tokens, DIM)).astype(np.float16)
    cuts = np.sort(rng.integers(1, tokens, shards - 1)) if tokens > 1 else []
    first = rng.normal(size=DIM).astype(np.float16) if start else None
    return TokenStates(np.split(array, cuts), first), array


def naive(kind, array, start, offsets, starts, lengths, length):
    """Every vector by itself; the last token's where a window has ended."""
    firsts = set(offsets[:-1].tolist())
    out = np.empty((len(starts), length, DIM), np.float32)
    for i, (begin, size) in enumerate(zip(starts, lengths, strict=True)):
        for t in range(length):
            token = begin + min(t, size - 1)
            if kind is SuffixFeatures:
                out[i, t] = array[token : begin + size].astype(np.float64).mean(0)
            elif kind is TokenFeatures:
                out[i, t] = array[token]
            else:
                out[i, t] = start if token in firsts else array[token - 1]
    return out


@pytest.mark.parametrize("kind", [SuffixFeatures, TokenFeatures, PrefixFeatures])
@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(lambda s: sum(s) >= 6),
    length=st.integers(1, 6),
    stride=st.integers(1, 7),
    joined=st.booleans(),
    data=st.data(),
)
def test_equal_to_every_window_by_itself(kind, sizes, length, stride, joined, data):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    stream = TokenStream(np.zeros(offsets[-1], np.int32), offsets)
    states, array = stored(len(stream))
    cut = windows(stream, length, stride, joined=joined)
    more = {"documents": offsets} if kind is PrefixFeatures else {}
    features = kind(states, cut.starts, length, cut.lengths, **more)
    assert isinstance(features, Embeddings) and features.shape == (len(cut), length, DIM)
    expected = naive(kind, array, states.start, offsets, cut.starts, cut.lengths, length)

    low = data.draw(st.integers(0, length - 1))
    positions = slice(low, data.draw(st.integers(low, length)))
    rows = np.array(data.draw(st.lists(st.integers(0, len(cut) - 1), max_size=5)), np.int64)
    for chosen in (rows, slice(1, None), slice(None)):
        found = features.read(positions, chosen)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected[chosen][:, positions])
    np.testing.assert_array_equal(features.read(slice(None), slice(None)), expected)


def test_rows_are_read_in_chunks(monkeypatch):
    states, array = stored(40)
    starts = np.arange(0, 35)
    monkeypatch.setattr("pyjuice_bridge.teachers.text_features._CHUNK_FLOATS", 2 * DIM * 5)
    found = SuffixFeatures(states, starts, 5).read(slice(None), slice(None))
    lengths = np.full(35, 5)
    offsets = np.array([0, 40])
    expected = naive(SuffixFeatures, array, None, offsets, starts, lengths, 5)
    np.testing.assert_array_equal(found, expected)


def test_positions_in_any_order():
    states, _ = stored(10)
    features = SuffixFeatures(states, np.array([0, 4]), 5)
    whole = features.read(slice(None), slice(None))
    np.testing.assert_array_equal(features.read(slice(None, None, -2), slice(None)), whole[:, ::-2])


def test_one_document_without_offsets():
    states, array = stored(6)
    found = PrefixFeatures(states, np.array([0, 3]), 3).read(slice(None), slice(None))
    np.testing.assert_array_equal(found[0], np.stack([states.start, array[0], array[1]]))
    np.testing.assert_array_equal(found[1], array[2:5])


def test_refusals():
    states, _ = stored(6, start=False)
    with pytest.raises(UserError, match="causal model"):
        PrefixFeatures(states, np.array([0]), 3)
    with pytest.raises(UserError, match="outside the 6 tokens"):
        SuffixFeatures(states, np.array([4]), 3)
    with pytest.raises(UserError, match="1 to 3 tokens"):
        SuffixFeatures(states, np.array([4]), 3, np.array([0]))
    SuffixFeatures(states, np.array([4]), 3, np.array([2]))
