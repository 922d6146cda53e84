"""The wire format of a batch of messages: `{"from": "...", "messages": [["events:x1", {"seq": 7}], ...]}`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import orjson

from flexiroaster.coordination.bus.base import Envelope, Message

__all__ = ["pack", "unpack"]


def pack(origin: str, batch: Sequence[Envelope], most_bytes: int) -> Iterator[bytes]:
    """Encode the batch as JSON texts of at most `most_bytes` each, if every message keeps to its own limit."""
    head = b'{"from":' + orjson.dumps(origin) + b',"messages":['
    room = most_bytes - len(head) - 2
    parts: list[bytes] = []
    used = 0
    for topic, payload in batch:
        part = b"[" + orjson.dumps(topic) + b"," + payload + b"]"
        if parts and used + len(part) + 1 > room:
            yield head + b",".join(parts) + b"]}"
            parts, used = [], 0
        parts.append(part)
        used += len(part) + 1
    if parts:
        yield head + b",".join(parts) + b"]}"


def unpack(text: bytes, origin: str) -> list[Message]:
    """Decode the messages of others; return none for a batch that `origin` sent. An unreadable batch is a gap."""
    try:
        batch = orjson.loads(text)
        if batch["from"] == origin:
            return []
        return [Message(str(topic), dict(payload), gap=not topic) for topic, payload in batch["messages"]]
    except (ValueError, KeyError, TypeError):
        return [Message("", gap=True)]
