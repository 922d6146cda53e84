"""Server-sent event streams over GraphQL and REST: the same limits, the same timeouts, the same end."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import httpx
import pytest
from sqlalchemy import delete

from flexiroaster.config import Settings
from flexiroaster.errors import StoreError
from flexiroaster.service.admin import tokens
from flexiroaster.service.admin.tokens import Role, Viewer
from flexiroaster.service.installation import Installation
from flexiroaster.store import tables
from flexiroaster.web import streams
from graphql_api.transport.websocket import Limits
from tests.integration.rest_compat.client import Rest, assert_error, serving
from tests.waiting import eventually

EVENTS = "subscription ($id: ID!) { executionEvents(executionId: $id) { events { seq } } }"
Opens = Callable[..., AbstractContextManager[httpx.Response]]


@pytest.fixture(scope="module")
def closed(rest_settings: Settings) -> Iterator[Rest]:
    """A server that requires tokens and allows two connections for each."""
    with serving(rest_settings, executor=False, limits=Limits(connections_each=2)) as running:
        running.http.headers["authorization"] = f"Bearer {tokens.create(running.installation, 'root', Role.ADMIN)}"
        yield running


class Follower(NamedTuple):
    """A viewer and their token."""

    name: str
    secret: str


@pytest.fixture
def follower(closed: Rest) -> Follower:
    name = f"follower-{uuid.uuid4().hex[:8]}"
    return Follower(name, tokens.create(closed.installation, name, Role.VIEWER))


def over_graphql(rest: Rest, execution_id: str, secret: str) -> AbstractContextManager[httpx.Response]:
    asked = {"query": EVENTS, "variables": {"id": execution_id}}
    headers = {"accept": "text/event-stream", "authorization": f"Bearer {secret}"}
    return rest.http.stream("POST", "/graphql", json=asked, headers=headers)


def over_rest(rest: Rest, execution_id: str, secret: str) -> AbstractContextManager[httpx.Response]:
    headers = {"authorization": f"Bearer {secret}"}
    return rest.http.stream("GET", f"/api/executions/{execution_id}/events", headers=headers)


either = pytest.mark.parametrize("opens", [over_graphql, over_rest], ids=["GraphQL", "REST"])


def told(live: httpx.Response) -> Iterator[str]:
    """The events of a stream, without keep-alives. Keep a reference: a collected reader closes its stream."""
    assert live.status_code == 200, live.read()
    return (line for line in live.iter_lines() if line and not line.startswith(":"))


def refused(answer: AbstractContextManager[httpx.Response]) -> httpx.Response:
    with answer as response:
        assert response.status_code != 200
        response.read()
    return response


def test_the_streams_of_a_viewer_over_both_apis_are_limited(closed: Rest, follower: Follower) -> None:
    execution_id = closed.start(closed.pipeline())
    other = tokens.create(closed.installation, "other", Role.VIEWER)
    with (
        over_graphql(closed, execution_id, follower.secret) as one,
        over_rest(closed, execution_id, follower.secret) as two,
    ):
        kept = [told(each) for each in (one, two)]
        assert all(next(each) for each in kept)
        over = refused(over_rest(closed, execution_id, follower.secret))
        assert assert_error(over, 503) == "You already have 2 open connections"
        over = refused(over_graphql(closed, execution_id, follower.secret))
        assert (over.status_code, over.json()["errors"][0]["extensions"]["code"]) == (503, "OVERLOADED")
        with over_rest(closed, execution_id, other) as third:
            assert third.status_code == 200
    eventually(lambda: may_open(closed, execution_id, follower.secret))  # once the server sees that the client has gone


def may_open(rest: Rest, execution_id: str, secret: str) -> bool:
    with over_rest(rest, execution_id, secret) as again:
        return again.status_code == 200


def test_the_streams_of_all_viewers_together_are_limited(
    closed: Rest, follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution_id = closed.start(closed.pipeline())
    eventually(lambda: closed.server.config.app.state.event_streams.open == 0)  # those of other tests have ended
    monkeypatch.setattr(streams, "MAX_STREAMS", 1)
    with over_graphql(closed, execution_id, follower.secret) as live:
        lines = told(live)
        assert next(lines)
        over = refused(over_rest(closed, execution_id, follower.secret))
        assert assert_error(over, 503) == "Too many streams are open, try again later"


@either
def test_a_stream_ends_with_its_token(
    closed: Rest, follower: Follower, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "CHECK_SECONDS", 0.01)
    execution_id = closed.start(closed.pipeline())
    with opens(closed, execution_id, follower.secret) as live:
        lines = told(live)
        assert next(lines)  # it has no driver: the stream stays open
        tokens.revoke(closed.installation, follower.name)
        assert "event: complete" not in list(lines)


@either
def test_a_stream_stays_open_while_its_token_cannot_be_checked(
    closed: Rest, follower: Follower, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "CHECK_SECONDS", 0.01)
    execution_id = closed.start(closed.pipeline())
    asked = threading.Semaphore(0)
    authenticate = tokens.authenticate

    def away(installation: Installation, secret: str) -> Viewer:
        if secret != follower.secret:
            return authenticate(installation, secret)
        asked.release()
        raise StoreError("cannot reach the database")

    with opens(closed, execution_id, follower.secret) as live:
        lines = told(live)
        assert next(lines)
        monkeypatch.setattr(tokens, "authenticate", away)
        for _ in range(3):  # a stream that had ended would not ask again
            assert asked.acquire(timeout=60)


def test_the_stream_of_a_deleted_execution_ends(
    closed: Rest, follower: Follower, caplog: pytest.LogCaptureFixture
) -> None:
    execution_id = closed.start(closed.pipeline())
    with over_rest(closed, execution_id, follower.secret) as live:
        lines = told(live)
        assert next(lines) == "id: 1"
        with closed.installation.database.write() as connection:
            connection.execute(delete(tables.events).where(tables.events.c.execution_id == execution_id))
            connection.execute(delete(tables.executions).where(tables.executions.c.id == execution_id))
        list(lines)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
