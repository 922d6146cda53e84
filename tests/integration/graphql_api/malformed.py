"""Malformed requests from a seeded generator: request n is always the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Malformed", "malformed"]

_QUERIES = (
    "{ run { name } }",
    'query A($t: String = "x", $n: Int) { echo(text: $t, number: $n) runs(first: $n) { edges { cursor } } }',
    'mutation { start(name: "x") { name } }',
    "query A { echo } query B { run { ...f } } fragment f on Run { name again { name } }",
    "{ __schema { types { name } } }",
)
_TYPES = (
    *["application/json"] * 12,
    "application/json; charset=utf-8",
    "application/json; charset=latin-1",
    "application/json; charset=\xff",
    "application/json, application/json",
    "application/json; boundary",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=",
    "",
    ";",
    "json",
    "a/" + "b" * 5000,
)
_ACCEPTS = (
    "*/*",
    "application/json",
    "application/graphql-response+json",
    "",
    "application/json;q=x",
    "a/b;q=1e999",
    ",;=",
)
_SCRAPS = (
    b"\x00", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xef\xbb\xbf", b"\\ud800", b"\\u0000", b"{", b"}", b"[", b"]",
    b'"', b"NaN", b"Infinity", b"1e999", b"-0", b"9" * 400, b"[" * 200, b'{"a":' * 200, b"null", b"//",
    b"\n" * 50, b"\\", b",",
)  # fmt: skip


@dataclass(frozen=True)
class Malformed:
    """The body and headers of one POST."""

    number: int
    body: bytes
    headers: list[tuple[bytes, bytes]]


def malformed(number: int) -> Malformed:
    """Request n."""
    chance = random.Random(number)
    body = json.dumps(_parameters(chance)).encode()
    for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
        body = chance.choice(_MUTATIONS)(body, chance)
    headers = [
        (b"content-type", chance.choice(_TYPES).encode("latin-1")),
        (b"accept", chance.choice(_ACCEPTS).encode()),
    ]
    if chance.random() < 0.05:
        headers.append(chance.choice(headers))
    if chance.random() < 0.05:
        headers.append(
            (
                chance.choice((b"content-encoding", b"x-request-id", b"authorization")),
                chance.randbytes(9).hex().encode(),
            )
        )
    return Malformed(number, body, headers)


def _parameters(chance: random.Random) -> object:
    if chance.random() < 0.1:
        return _any(chance, 4)
    given: dict[str, object] = {"query": chance.choice(_QUERIES)}
    for name in ("query", "variables", "operationName", "extensions", "id", "\ud800"):
        if chance.random() < 0.2:
            given[name] = _any(chance, 3)
    if chance.random() < 0.3:
        given["variables"] = {"t": _any(chance, 2), "n": _any(chance, 1)}
    if isinstance(given["query"], str) and chance.random() < 0.4:
        given["query"] = _broken_text(given["query"], chance)
    return given


def _any(chance: random.Random, levels: int) -> Any:
    kind = chance.randrange(10 if levels else 8)
    if kind == 8:
        return [_any(chance, levels - 1) for _ in range(chance.randrange(4))]
    if kind == 9:
        return {_text(chance): _any(chance, levels - 1) for _ in range(chance.randrange(4))}
    return (
        None, True, chance.randint(-(2**70), 2**70), chance.uniform(-1e308, 1e308), float("nan"), _text(chance), "", 0
    )[kind]  # fmt: skip


def _text(chance: random.Random) -> str:
    return "".join(
        chr(chance.choice((chance.randrange(32, 127), chance.randrange(0x11000)))) for _ in range(chance.randrange(9))
    )


def _broken_text(text: str, chance: random.Random) -> str:
    place = chance.randrange(len(text) + 1)
    extra = chance.choice(
        ("{", "}", "(", "$", "...", "@", '"""', "#", "\x00", "!", "&", "x" * 300, "1" * 300, " { a" * 300, "on", "")
    )
    return text[:place] + extra + text[place + chance.randrange(4) :]


def _cut(body: bytes, chance: random.Random) -> bytes:
    return body[: chance.randrange(len(body) + 1)]


def _flip(body: bytes, chance: random.Random) -> bytes:
    if not body:
        return body
    place = chance.randrange(len(body))
    return body[:place] + bytes([body[place] ^ 1 << chance.randrange(8)]) + body[place + 1 :]


def _insert(body: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(body) + 1)
    return body[:place] + chance.choice(_SCRAPS) + body[place:]


def _double(body: bytes, chance: random.Random) -> bytes:
    return chance.choice(
        (body + body, b"[" + body + b"]", b'{"query":' + body + b"}", body[::-1], chance.randbytes(40))
    )


_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (_cut, _flip, _insert, _insert, _double)
