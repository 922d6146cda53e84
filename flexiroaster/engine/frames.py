"""Frames: JSON messages over a stream socket, each prefixed with its length in four bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

__all__ = ["FrameReader", "encode"]

MAX_FRAME_BYTES = 512 * 1024**2
_PREFIX = 4
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def encode(message: Mapping[str, Any]) -> bytes:
    """Encode one frame. Raises TypeError if the message is not JSON; dates, UUIDs and numpy values are allowed."""
    body = orjson.dumps(message, option=_OPTIONS)
    return len(body).to_bytes(_PREFIX, "big") + body


class FrameReader:
    """Reassembles frames from the chunks of a stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Add a chunk and return the messages it completes. Raises ValueError for invalid frames."""
        self._buffer += data
        messages: list[dict[str, Any]] = []
        start = 0
        while (body := start + _PREFIX) <= len(self._buffer):
            length = int.from_bytes(self._buffer[start:body], "big")
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length:,} bytes is too large")
            end = body + length
            if end > len(self._buffer):
                break
            messages.append(orjson.loads(memoryview(self._buffer)[body:end]))
            start = end
        del self._buffer[:start]
        return messages
