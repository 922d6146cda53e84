"""Clients of subscriptions for tests: a WebSocket that speaks graphql-transport-ws, and a reader of event streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.integration.graphql_api.running import Api

__all__ = ["Socket", "StreamEvent", "numbers", "opened", "streamed"]

WAIT_SECONDS = 60


class Socket:
    """One connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, type_: str, id_: str | None = None, payload: Any = None) -> None:
        message = {"type": type_, "id": id_, "payload": payload}
        self.connection.send(json.dumps({name: value for name, value in message.items() if value is not None}))

    def receive(self) -> dict[str, Any]:
        """The next message. Raises ConnectionClosed."""
        message: dict[str, Any] = json.loads(self.connection.recv(timeout=WAIT_SECONDS))
        return message

    def init(self, payload: Any = None) -> None:
        self.send("connection_init", payload=payload)
        assert self.receive() == {"type": "connection_ack"}

    def subscribe(self, id_: str, query: str, **variables: Any) -> None:
        self.send("subscribe", id_, {"query": query, "variables": variables})

    def payloads(self, id_: str) -> Iterator[dict[str, Any]]:
        """The payloads of an operation until it completes; no other operation may send any."""
        while (message := self.receive())["type"] != "complete":
            assert (message["type"], message["id"]) == ("next", id_), message
            yield message["payload"]
        assert message["id"] == id_

    def closed(self) -> int:
        """The code with which the server closes the connection; earlier messages are ignored."""
        with pytest.raises(ConnectionClosed) as closed:
            self._read_all()
        assert closed.value.rcvd is not None, "the connection was lost, not closed"
        return closed.value.rcvd.code

    def _read_all(self) -> None:
        while True:
            self.receive()


@contextmanager
def opened(
    api: Api,
    *,
    init: bool = True,
    protocol: str | None = "graphql-transport-ws",
    **headers: str,
) -> Iterator[Socket]:
    """A connection, by default after its `connection_init`."""
    with connect(
        f"ws://127.0.0.1:{api.port}/graphql",
        subprotocols=[protocol] if protocol else None,  # type: ignore[list-item]
        additional_headers=headers,
        origin=None,
        compression=None,
        max_size=None,
        open_timeout=WAIT_SECONDS,
        ping_interval=None,
        close_timeout=5,
    ) as connection:
        socket = Socket(connection)
        if init:
            socket.init()
        yield socket


@dataclass(frozen=True)
class StreamEvent:
    """One event of a stream; a comment has no name."""

    name: str | None
    id: str | None
    data: Any


@contextmanager
def streamed(
    api: Api,
    query: str,
    variables: dict[str, Any] | None = None,
    method: str = "POST",
    *,
    signs_of_life: bool = False,
    **headers: str,
) -> Iterator[Iterator[StreamEvent]]:
    """An event stream, over POST or GET; by default without its keep-alives."""
    named = {"accept": "text/event-stream", **{name.replace("_", "-"): value for name, value in headers.items()}}
    parameters = {"query": query, "variables": variables or {}}
    if method == "GET":
        asked: dict[str, Any] = {"params": {"query": query, "variables": json.dumps(variables or {})}}
    else:
        asked = {"json": parameters}
    with api.http.stream(method, api.url, headers=named, timeout=WAIT_SECONDS, **asked) as answer:
        if answer.status_code != 200:
            answer.read()
            raise httpx.HTTPStatusError(answer.text, request=answer.request, response=answer)
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield (event for event in _events(answer.iter_lines()) if signs_of_life or event.name is not None)


def _events(lines: Iterator[str]) -> Iterator[StreamEvent]:
    name, id_, data = None, None, None
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            id_ = value
        elif field == "data":
            data = value
        elif not line:
            yield StreamEvent(name, id_, json.loads(data) if data else None)
            name, id_, data = None, None, None


def numbers(batches: list[dict[str, Any]]) -> list[int]:
    """The numbers of the events in batches."""
    return [event["seq"] for batch in batches for event in batch["events"]]
