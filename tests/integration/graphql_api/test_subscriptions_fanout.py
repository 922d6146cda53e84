"""Many subscribers: a batch is read and encoded once, and a stalled subscriber does not affect the others."""

from __future__ import annotations

import json
import socket as sockets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from flexiroaster.config import load_settings
from flexiroaster.service.admin import tokens
from flexiroaster.service.admin.tokens import Role
from flexiroaster.service.executions import executions
from flexiroaster.web import server
from graphql_api import operations
from graphql_api.transport.websocket import Limits
from tests.integration.graphql_api.following import numbers
from tests.integration.graphql_api.live import EVENTS, Live, LiveSocket, living
from tests.waiting import eventually

STALLED_SECONDS = 0.5
LARGE = EVENTS.replace("message", " ".join(f"m{number}: message" for number in range(40)))
"""So many copies of each event that no buffer on the way holds them all."""


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    settings = load_settings(database_url=f"sqlite:///{tmp_path / 'api.db'}", executor_workers=1)
    with living(settings, tmp_path) as running:
        yield running
        running.open_gate()


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """A server that soon disconnects a client that does not read; on a busy machine also a slow one."""
    monkeypatch.setattr(server, "STALLED_SECONDS", STALLED_SECONDS)
    settings = load_settings(database_url=f"sqlite:///{tmp_path / 'api.db'}", executor_workers=1)
    with living(settings, tmp_path, limits=Limits(send_seconds=STALLED_SECONDS)) as running:
        yield running
        running.open_gate()


def followed(live: Live, execution_id: str, after: str | None = None) -> list[int]:
    """The numbers of all events after a cursor; a disconnected client reconnects, as in docs/subscriptions.md."""
    found: list[int] = []
    for _ in range(100):
        with suppress(ConnectionClosed), live.socket() as socket:
            for batch in socket.batches(execution_id, after):
                found += numbers([batch])
                after = batch["cursor"]
            return found
    raise AssertionError("it is cut off again and again")


def test_a_payload_is_encoded_once_for_equal_subscriptions(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their cursors may differ, their roles may not: never across roles."""
    executed: list[tuple[str, object]] = []
    original = operations.execute_operation

    def counted(*arguments: Any) -> Any:
        if arguments[-1] is not None:
            executed.append((str(arguments[3].viewer.role), arguments[-1]))
        return original(*arguments)

    monkeypatch.setattr(operations, "execute_operation", counted)
    secrets = {role: tokens.create(live.api.installation, role.value, role) for role in (Role.VIEWER, Role.ADMIN)}
    live.api.http.headers["authorization"] = f"Bearer {secrets[Role.ADMIN]}"
    execution_id = live.start("waits", *["nothing"] * 20)

    def follow(role: Role) -> list[int]:
        with live.socket({"authorization": f"Bearer {secrets[role]}"}) as socket:
            return numbers(list(socket.batches(execution_id)))

    roles = [Role.VIEWER] * 10 + [Role.ADMIN] * 10
    with ThreadPoolExecutor(20) as clients:
        followed = [clients.submit(follow, role) for role in roles]
        eventually(lambda: live.streams.feeds == 1)
        live.open_gate()
        found = [each.result() for each in followed]
    assert found == [found[0]] * 20
    assert len(executed) == len(set(executed))  # the same payload for the same role: never again
    assert {role for role, _ in executed} == {"viewer", "admin"}


@contextmanager
def narrow(live: Live) -> Iterator[sockets.socket]:
    """A connection with a small receive buffer."""
    with sockets.socket() as raw:
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 2048)
        raw.connect(("127.0.0.1", live.api.port))
        yield raw


def connections(live: Live) -> int:
    return len(live.api.server.server_state.connections)


def finished(live: Live) -> tuple[str, list[int]]:
    """An ended execution with more events than a buffer holds, and their numbers."""
    execution_id = live.start("prints", arguments={"count": 600, "size": 500})
    executions.wait(live.api.installation, execution_id, 60)
    return execution_id, [event.seq for event in executions.events(live.api.installation, execution_id)]


def test_a_socket_that_is_not_read_is_disconnected_and_can_resume(impatient: Live) -> None:
    execution_id, everything = finished(impatient)
    impatient.api.http.close()  # only the connections of the test are to count
    url = impatient.api.url.replace("http", "ws")
    with narrow(impatient) as raw:
        options: dict[str, Any] = {"subprotocols": ["graphql-transport-ws"], "compression": None, "max_queue": 1}
        limits: dict[str, Any] = {"max_size": None, "close_timeout": 0, "open_timeout": 60, "ping_interval": None}
        with connect(url, sock=raw, **options, **limits) as connection:
            socket = LiveSocket(connection)
            socket.init()
            stream = socket.results("1", LARGE, id=execution_id)
            first = next(stream)["executionEvents"]
            assert followed(impatient, execution_id) == everything  # no other process waits for it
            eventually(lambda: connections(impatient) == 0)  # it is gone, with all that waited for it
            eventually(lambda: impatient.streams.feeds == 0)
    rest = followed(impatient, execution_id, first["cursor"])
    assert numbers([first]) + rest == everything


def test_an_event_stream_that_is_not_read_is_disconnected_and_can_resume(impatient: Live) -> None:
    execution_id, everything = finished(impatient)
    impatient.api.http.close()  # only the connections of the test are to count
    body = json.dumps({"query": LARGE, "variables": {"id": execution_id}})
    head = (
        "POST /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with narrow(impatient) as raw:
        raw.sendall((head + body).encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 200")
        assert followed(impatient, execution_id) == everything
        eventually(lambda: connections(impatient) == 0)
        eventually(lambda: impatient.streams.feeds == 0)
