"""Frames survive whatever way the stream cuts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiroaster.workers.protocol import FrameReader, encode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4), st.integers(1, 9))
def test_messages_come_out_as_they_went_in(messages: list[dict[str, object]], piece: int) -> None:
    stream = b"".join(map(encode, messages))
    reader = FrameReader()
    found = [m for i in range(0, len(stream), piece) for m in reader.feed(stream[i : i + piece])]
    assert found == messages
    assert FrameReader().feed(stream) == messages


def test_values_of_numpy_are_json() -> None:
    assert FrameReader().feed(encode({"n": np.int64(3), "list": np.array([1.5])})) == [{"n": 3, "list": [1.5]}]


def test_what_is_no_frame() -> None:
    with pytest.raises(ValueError, match="a frame of 1,633,771,873 bytes"):
        FrameReader().feed(b"aaaaaaaa")


@pytest.mark.parametrize("value", [object(), {1, 2}, 1 << 70, "\udc80"])
def test_what_is_not_json(value: object) -> None:
    with pytest.raises(TypeError):
        encode({"value": value})
