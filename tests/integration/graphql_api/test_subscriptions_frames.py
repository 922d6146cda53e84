"""The server answers any frame or closes its connection with a code; nothing else is affected.

`FAULT_TRIALS=full` sends the 2,000 frames of the promise, otherwise a quarter.
"""

from __future__ import annotations

import logging
import socket as sockets
from concurrent.futures import ThreadPoolExecutor

import pytest
from websockets.exceptions import ConnectionClosed

from tests.faults.tiers import trials
from tests.integration.graphql_api.following import opened
from tests.integration.graphql_api.frames import frame
from tests.integration.graphql_api.running import Api

FRAMES = trials(500, 2_000)
CLIENTS = 4
TOO_BIG = 1009
CUT_OFF = 0
EXPECTED_CODES = {4400, 4401, 4409, 4429, TOO_BIG, 1007, CUT_OFF}
"""1007: text that is not UTF-8. Anything else, 1011 above all, is ours to mend. The client sends a ping behind each
frame: where the server has closed before that comes, TCP's reset may overtake the code.
"""


def test_malformed_frames_end_their_own_connection_only(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    def send(number: int) -> int | None:
        """Send a frame; return the close code, or None if the connection stays open."""
        try:
            with opened(api, init=number % 4 != 0) as socket:
                socket.connection.send(frame(number))
                socket.send("ping")
                while socket.receive()["type"] != "pong":
                    pass
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else CUT_OFF
        finally:
            if number % 100 == 0:
                assert api.alive()
        return None

    with ThreadPoolExecutor(CLIENTS) as clients:
        codes = list(clients.map(send, range(FRAMES)))
    unexpected = {number: code for number, code in enumerate(codes) if code not in EXPECTED_CODES | {None}}
    assert not unexpected
    assert codes.count(4400) > 0
    assert codes.count(4400) + codes.count(CUT_OFF) > FRAMES / 4  # most are malformed,
    assert codes.count(None) > FRAMES / 20  # and some are not, so the server did look at them
    assert errors_of_the_server(caplog) == []
    assert api.data('{ echo(text: "fine") }') == {"echo": "fine"}


def test_invalid_bytes_end_their_own_connection_only(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """Bytes below the protocol: reserved bits, wrong masks, endless fragments, a client that just disconnects."""
    upgrade = (
        b"GET /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
    )
    endings = (
        b"", b"\xff\xff", b"\x81\x05hello", b"\x01\x80abcd", b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\x80abcd", b"\x89\xfe\x00\x80abcd" + b"x" * 128, b"\x88\x81abcdx", b"\x88\x82abcd\x00\x00",
        b"\xf1\x80abcd",
        b"\x81\x82abcd\x9e\x9c",  # not UTF-8
    )  # fmt: skip
    for ending in endings * 3:
        with sockets.create_connection(("127.0.0.1", api.port), timeout=30) as raw:
            raw.sendall(upgrade)
            assert raw.recv(1000).startswith(b"HTTP/1.1 101")
            raw.sendall(ending)
    assert api.alive()
    assert errors_of_the_server(caplog) == []


def errors_of_the_server(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The logged errors, without those of the client's library about disconnections."""
    return [r for r in caplog.records if r.levelno >= logging.ERROR and not r.name.startswith("websockets.client")]
