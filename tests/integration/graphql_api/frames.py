"""Malformed WebSocket frames from a seeded generator: frame n is always the same."""

from __future__ import annotations

import json
import random
from typing import Any

__all__ = ["frame"]

_PAYLOADS: tuple[Any, ...] = (
    {"query": "{ run { name } }"},
    {"query": "subscription { clock { number } }"},
    {"query": "query A { echo } query B { echo }", "operationName": "C"},
    {"query": "{ run { name", "variables": {}},
    {"query": "{ echo(text: $x) }", "variables": []},
    {"query": 7},
    {"query": "subscription { clock { number } broken }"},
    {"query": "query ($n: Int) { runs(first: $n) { edges { cursor } } }", "variables": {"n": 2**70}},
    {"query": "{ a" * 500},
    {},
    [],
    None,
    "x",
    {"authorization": ["Bearer"]},
)
_IDS: tuple[Any, ...] = ("1", "1", "2", "", None, {}, [], 7, "x" * 5000, "\ud800", "\x00", '"')
_TYPES: tuple[Any, ...] = (
    "subscribe", "subscribe", "subscribe", "complete", "complete", "ping", "pong", "connection_init", "connection_ack",
    "next", "error", "start", "stop", "connection_terminate", "", None, {}, 7,
)  # fmt: skip
_SCRAPS = (
    "[]", "null", '{"id": []}', "{}", "1", '"x"', "", " ", "\x00", "{", "[" * 30_000, '{"a":' * 10_000,
    "NaN", '{"type": "subscribe", "id": NaN}', "true", '{"type":"ping","type":"pong"}', "﻿{}", "1" * 60_000,
    '{"type": "ping", "payload": []}', '{"type": "ping", "payload": {"a": ' + "[" * 100 + "]" * 100 + "}}",
)  # fmt: skip


def frame(number: int) -> str | bytes:
    """Frame n: text or binary, some larger than the server accepts."""
    chance = random.Random(number)
    if number % 3 == 0:
        return chance.choice(_SCRAPS)
    text = json.dumps(_message(chance))
    kind = chance.randrange(10)
    if kind == 0:
        return text.encode()  # well-formed, but binary
    if kind == 1:
        return chance.randbytes(chance.randrange(200))
    if kind == 2:
        return text[: chance.randrange(len(text))]
    if kind == 3 and number % 20 == 0:
        return text + " " * 70_000
    return text


def _message(chance: random.Random) -> dict[str, Any]:
    message = {"type": chance.choice(_TYPES), "id": chance.choice(_IDS), "payload": chance.choice(_PAYLOADS)}
    for name in list(message):
        if chance.random() < 0.1:
            del message[name]
    return message
