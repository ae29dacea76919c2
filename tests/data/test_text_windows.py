"""Windows over token streams: full ones over joined documents, padded ones inside documents."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyjuice_bridge.data import TokenStream, windows
from pyjuice_bridge.errors import UserError


def stream_of(sizes: list[int]) -> TokenStream:
    """Documents of these sizes; token t of the stream is t."""
    ends = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    return TokenStream(np.arange(ends[-1], dtype=np.int32), ends)


SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=8).filter(any)
LENGTH = st.integers(1, 9)


@given(SIZES, LENGTH, st.integers(1, 15))
def test_joined_windows_are_all_full_ones(sizes: list[int], length: int, stride: int) -> None:
    stream = stream_of(sizes)
    starts = [s for s in range(0, len(stream), stride) if s + length <= len(stream)]
    if not starts:
        with pytest.raises(UserError, match="do not fit"):
            windows(stream, length, stride)
        return
    found = windows(stream, length, stride)
    assert found.x.dtype == np.int32
    assert found.starts.dtype == np.int64
    assert found.starts.tolist() == starts
    assert found.x.tolist() == [list(range(s, s + length)) for s in starts]
    assert found.lengths.tolist() == [length] * len(starts)
    assert len(found) == len(starts)
    assert np.shares_memory(found.x, stream.tokens)
    assert not found.x.flags.writeable


@given(SIZES, LENGTH)
def test_separate_windows_without_overlap_are_the_stream(sizes: list[int], length: int) -> None:
    stream = stream_of(sizes)
    found = windows(stream, length, length, joined=False)
    assert found.x[found.x >= 0].tolist() == stream.tokens.tolist()


@given(SIZES, LENGTH, st.integers(1, 15))
def test_separate_windows_stay_inside_documents(sizes: list[int], length: int, stride: int) -> None:
    stream = stream_of(sizes)
    expected, starts = [], []
    for begin, end in zip(stream.documents, stream.documents[1:], strict=False):
        start = int(begin)
        while start < end:
            piece = list(range(start, min(start + length, int(end))))
            expected.append(piece + [-1] * (length - len(piece)))
            starts.append(start)
            if start + length >= end:
                break
            start += stride
    found = windows(stream, length, stride, joined=False)
    assert found.x.tolist() == expected
    assert found.starts.tolist() == starts
    assert found.lengths.tolist() == [sum(t >= 0 for t in row) for row in expected]
    assert not found.x.flags.writeable


def test_stride_one_takes_no_memory_for_tokens() -> None:
    stream = stream_of([1 << 18])
    tracemalloc.start()
    found = windows(stream, 32, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.x.shape == ((1 << 18) - 31, 32)
    assert peak < 3 * found.starts.nbytes


def test_bad_windows() -> None:
    with pytest.raises(UserError, match="length 0 and stride 1"):
        windows(stream_of([3]), 0, 1)
    with pytest.raises(UserError, match="length 2 and stride 0"):
        windows(stream_of([3]), 2, 0, joined=False)
    with pytest.raises(UserError, match="without tokens"):
        windows(stream_of([0]), 2, 1, joined=False)
