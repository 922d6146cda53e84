"""The protocol graphql-transport-ws: close codes, order of messages, and the limits of a connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from flexiroaster.config import load_settings
from flexiroaster.errors import NotFoundError
from flexiroaster.service.admin import tokens
from flexiroaster.service.admin.tokens import Role
from graphql_api.transport.websocket import Limits
from tests.integration.graphql_api.following import opened, streamed
from tests.integration.graphql_api.running import Api, serving
from tests.unit.graphql_api.small_schema import schema as small_schema
from tests.waiting import eventually


def ended_by(api: Api, *frames: str, init: bool = True) -> int:
    """The close code that follows these frames."""
    with opened(api, init=init) as socket:
        for frame in frames:
            socket.connection.send(frame)
        return socket.closed()


SILENCE = "subscription { silence { number } }"
SUBSCRIBE = json.dumps({"type": "subscribe", "id": "1", "payload": {"query": SILENCE}})
INIT = '{"type": "connection_init"}'


@pytest.mark.parametrize(
    ("frames", "init", "code"),
    [
        ((SUBSCRIBE,), False, 4401),
        ((INIT,), True, 4429),
        ((SUBSCRIBE, SUBSCRIBE), True, 4409),
        (("[]",), True, 4400),
        (("null",), True, 4400),
        (('{"id": []}',), True, 4400),
        (('{"type": "subscribe", "id": [], "payload": {"query": "{ echo }"}}',), True, 4400),
        (('{"type": "subscribe", "id": "1", "payload": {"query": 7}}',), True, 4400),
        (('{"type": "next", "id": "1"}',), True, 4400),
        (('{"type": "connection_init", "payload": {"authorization": "Bearer nothing"}}',), False, 4403),
        (('{"type": "connection_init", "payload": {"authorization": 7}}',), False, 4400),
    ],
)
def test_each_violation_has_its_close_code(api: Api, frames: tuple[str, ...], init: bool, code: int) -> None:
    assert ended_by(api, *frames, init=init) == code


def test_a_connection_without_connection_init_is_closed(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = load_settings(database_url=f"sqlite:///{tmp_path_factory.mktemp('limits') / 'api.db'}")
    with serving(settings, small_schema, limits=Limits(init_seconds=0.2)) as api, opened(api, init=False) as socket:
        assert socket.closed() == 4408


def test_a_connection_can_end_while_its_operations_begin(api: Api) -> None:
    """`asyncio.wait_for` would occasionally lose the cancellation of one of them and hang."""
    for _ in range(100):
        assert ended_by(api, SUBSCRIBE, SUBSCRIBE) == 4409


@pytest.mark.parametrize("protocol", [None, "graphql-ws", "soap"])
def test_other_subprotocols_are_closed(api: Api, protocol: str | None) -> None:
    with opened(api, init=False, protocol=protocol) as socket:
        assert socket.closed() == 4406


def test_pings_are_answered_before_and_after_the_beginning(api: Api) -> None:
    with opened(api, init=False) as socket:
        socket.send("ping")
        assert socket.receive() == {"type": "pong"}
        socket.init()
        socket.send("ping", payload={"at": 1})
        assert socket.receive() == {"type": "pong", "payload": {"at": 1}}
        socket.send("pong", payload={"at": 1})
        socket.subscribe("1", "subscription { clock(ticks: 2) { number } }")
        assert list(socket.payloads("1")) == [{"data": {"clock": {"number": number}}} for number in (0, 1)]


def test_an_id_can_be_used_again_once_its_operation_has_ended(api: Api) -> None:
    with opened(api) as socket:
        for _ in range(3):
            socket.subscribe("1", "{ run { name } }")
            assert list(socket.payloads("1")) == [{"data": {"run": {"name": "r"}}}]
            socket.subscribe("1", SILENCE)
            socket.send("complete", "1")
        socket.send("complete", "never there")
        socket.subscribe("1", "{ nothing }")
        refused = socket.receive()
        assert (refused["type"], refused["id"]) == ("error", "1")
        assert refused["payload"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"


def test_errors_within_data_come_as_a_payload(api: Api) -> None:
    with opened(api) as socket:
        socket.subscribe("1", 'query { missing(name: "x") broken(text: "secret") }')
        (payload,) = socket.payloads("1")
    assert payload["data"] == {"missing": None, "broken": None}
    codes = {error["path"][0]: error["extensions"]["code"] for error in payload["errors"]}
    assert codes == {"missing": NotFoundError.code, "broken": "INTERNAL"}
    assert "secret" not in json.dumps(payload)


@pytest.fixture
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server with room for two connections of two operations each."""
    settings = load_settings(database_url=f"sqlite:///{tmp_path_factory.mktemp('narrow') / 'api.db'}")
    with serving(settings, small_schema, limits=Limits(connections=2, operations=2)) as api:
        yield api


def test_the_operations_of_a_connection_are_limited(narrow: Api) -> None:
    with opened(narrow) as socket:
        socket.subscribe("1", SILENCE)
        socket.subscribe("2", SILENCE)
        socket.subscribe("3", "{ run { name } }")
        refused = socket.receive()
        assert (refused["type"], refused["id"]) == ("error", "3")
        socket.send("complete", "1")
        socket.subscribe("4", "{ run { name } }")
        assert list(socket.payloads("4")) == [{"data": {"run": {"name": "r"}}}]


def test_the_connections_of_a_server_are_limited(narrow: Api) -> None:
    with opened(narrow), opened(narrow):
        with pytest.raises(ConnectionClosed) as refused, opened(narrow):
            pass
        assert refused.value.rcvd is not None
        assert refused.value.rcvd.code == 1013
        assert narrow.alive()
    eventually(lambda: lets_in(narrow))  # once the server sees that they have gone


def lets_in(api: Api, payload: dict[str, str] | None = None) -> bool:
    try:
        with opened(api, init=False) as socket:
            socket.init(payload)
    except ConnectionClosed:
        return False
    return True


def test_the_connections_of_a_viewer_are_limited(tmp_path: Path) -> None:
    """The limit covers sockets and event streams, so that one token cannot lock out all others."""
    settings = load_settings(database_url=f"sqlite:///{tmp_path / 'each.db'}")
    with serving(settings, small_schema, limits=Limits(connections_each=2)) as api:
        names = ("greedy", "other")
        greedy, other = (
            {"authorization": f"Bearer {tokens.create(api.installation, name, Role.VIEWER)}"} for name in names
        )
        with streamed(api, SILENCE, **greedy), opened(api, init=False) as first, opened(api, init=False) as second:
            first.init(greedy)
            second.send("connection_init", payload=greedy)
            assert second.closed() == 1013
            with pytest.raises(httpx.HTTPStatusError) as refused, streamed(api, SILENCE, **greedy):
                pass
            assert refused.value.response.status_code == 503
            with opened(api, init=False) as third:
                third.init(other)
        eventually(lambda: lets_in(api, greedy))


def test_pages_of_other_sites_are_refused(api: Api) -> None:
    with pytest.raises(InvalidStatus) as refused, opened(api, Origin="https://elsewhere.example"):
        pass
    assert refused.value.response.status_code == 403


def test_tokens_open_a_connection_and_end_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = load_settings(database_url=f"sqlite:///{tmp_path_factory.mktemp('tokens') / 'api.db'}")
    with serving(settings, small_schema, limits=Limits(check_seconds=0.2)) as api:
        bearer = f"Bearer {tokens.create(api.installation, 'watcher', Role.VIEWER)}"
        with opened(api, init=False) as socket:
            socket.send("connection_init")
            assert socket.closed() == 4403
        with opened(api, init=False) as socket:
            socket.init({"Authorization": bearer})
            socket.subscribe("1", "{ viewer }")
            assert list(socket.payloads("1")) == [{"data": {"viewer": "watcher viewer"}}]
            socket.subscribe("1", 'mutation { start(name: "x") { name } }')
            refused = socket.receive()
            assert refused["type"] == "error"
            assert refused["payload"][0]["extensions"]["code"] == "FORBIDDEN"
        with opened(api, Authorization=bearer) as socket:
            tokens.revoke(api.installation, "watcher")
            assert socket.closed() == 4403
